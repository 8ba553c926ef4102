# A static binary and nothing else, run by an unprivileged user. Without a shell there is
# nothing to run a HEALTHCHECK with: ask /healthz and /readyz on REACTOR_HTTP_ADDR.
FROM golang:1.26 AS build
WORKDIR /src
# Modules first: they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# What `reactor version` says.
ARG VERSION=container
# The same as make build.
RUN CGO_ENABLED=0 go build -trimpath -tags nethttpomithttp2 -ldflags "-s -w -X main.version=${VERSION}" -o /reactor ./cmd/reactor

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /reactor /reactor
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/reactor"]
CMD ["run"]
