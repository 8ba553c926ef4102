# make help lists what there is. Two commands do everything on a fresh machine:
#   make demo
#   make test
SHELL := bash
.DEFAULT_GOAL := help

# Where go.dev's instructions put Go; sudo's PATH does not lead there.
export PATH := $(PATH):/usr/local/go/bin

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# docker-compose 1.29, or the plugin of newer Dockers.
COMPOSE ?= $(shell command -v docker-compose || echo docker compose)

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Install what is missing (Debian packages; says what it does)
	@scripts/setup.sh

.PHONY: build
build: ## Build bin/reactor
	@scripts/build.sh bin/reactor '$(VERSION)'

.PHONY: lab
lab: build ## Build bin/reactor-lab too: demo, bench and chaos
	cd lab && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../bin/reactor-lab ./cmd/reactor-lab

.PHONY: demo
demo: ## Watch the main job: insert rows, see them fire
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory lab
	@./bin/reactor-lab demo

.PHONY: test
test: setup ## Lint, fuzz shortly, and run all tests on real servers
	@scripts/test.sh

.PHONY: lint
lint: ## Only vet, staticcheck, gofumpt and the modules
	@scripts/test.sh lint

.PHONY: fuzz
fuzz: ## Only the fuzzers, for longer: FUZZ_TIME=10m make fuzz
	@scripts/test.sh fuzz

.PHONY: fmt
fmt: ## Format the code
	go tool -modfile=tools/go.mod gofumpt -w .

.PHONY: chaos
chaos: setup lab ## Destroy a deployment of its own, seed after seed: CHAOS='--seed 7 --runs 1' make chaos
	@./bin/reactor-lab chaos $(CHAOS)

.PHONY: bench
bench: ## Run the benchmarks of the stages, six times for benchstat: make bench COUNT=6
	go test -run '^$$' -bench . -benchmem -count $(or $(COUNT),1) ./...
	cd lab && go test -run '^$$' -bench . -benchmem -count $(or $(COUNT),1) ./...

.PHONY: measure
measure: setup ## Measure all that docs/benchmarks.md has tables of (half an hour)
	@scripts/benchmarks.sh

.PHONY: screenshots
screenshots: setup ## Draw all pages into bin/screenshots, and those of docs/page.md (five minutes)
	cd lab && go test -vet=off -count 1 -timeout 10m ./internal/browser -screenshots '$(CURDIR)/bin/screenshots'
	cp bin/screenshots/readme.png bin/screenshots/overview-dark.png bin/screenshots/overview-phone.png docs/page/

.PHONY: up
up: ## Start the containers: Postgres, mosquitto and one instance
	VERSION=$(VERSION) $(COMPOSE) up --build postgres mosquitto job-publisher-single

.PHONY: image-test
image-test: ## Build the image twice, and check it (needs Docker)
	scripts/image-test.sh

.PHONY: dist
dist: ## Make all that a release consists of, in dist/
	scripts/dist.sh $(VERSION)

.PHONY: package-test
package-test: ## Install, start, kill, upgrade and purge the Debian package under systemd (needs Docker)
	scripts/package-test.sh

.PHONY: down
down: ## Stop and remove the containers; the data stays
	$(COMPOSE) down
