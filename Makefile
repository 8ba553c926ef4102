# make help lists what there is. Two commands do everything on a fresh machine:
#   make demo
#   make test
SHELL := bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what is missing (Debian packages; says what it does)
	@scripts/setup.sh

.PHONY: build
build: ## Build bin/reactor
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/reactor ./cmd/reactor

.PHONY: demo
demo: setup build ## Watch the main job: insert rows, see them fire
	@./bin/reactor demo

.PHONY: test
test: setup ## Vet, lint, fuzz shortly, and run all tests on real servers
	@scripts/test.sh

.PHONY: fmt
fmt: ## Format the code
	go tool gofumpt -w .

.PHONY: bench
bench: ## Run the benchmarks of the packages
	go test -run '^$$' -bench . -benchmem ./timerwheel ./mqttsink ./internal/alarm

.PHONY: up
up: ## Start the containers: Postgres, mosquitto and one instance
	docker-compose up --build postgres mosquitto job-publisher-single

.PHONY: down
down: ## Stop the containers
	docker-compose down
