# A static program, the certificates that it trusts, and nothing else. Built twice from the same files
# and base image, the layers are the same, byte for byte (scripts/image-test.sh).
ARG GO_VERSION=1.26
FROM golang:${GO_VERSION} AS build
WORKDIR /src
# Modules first: they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# What `reactor version` says.
ARG VERSION=container
# The time that all files get. A layer contains the times of its files and folders.
ARG SOURCE_DATE_EPOCH=0
RUN mkdir -p /root-of-image/etc/ssl/certs && \
    scripts/build.sh /root-of-image/reactor "${VERSION}" && \
    cp /etc/ssl/certs/ca-certificates.crt /root-of-image/etc/ssl/certs/ && \
    chmod -R u=rwX,go=rX /root-of-image && \
    find /root-of-image -exec touch -h -d "@${SOURCE_DATE_EPOCH}" {} +

FROM scratch
COPY --from=build /root-of-image /
# By number, so that Kubernetes can tell that it is not root (runAsNonRoot).
USER 65532:65532
# In a container, loopback is a network of its own: who shall reach health and metrics from outside
# publishes the port.
ENV REACTOR_HTTP_ADDR=:9883
EXPOSE 9883
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/reactor", "health"]
ENTRYPOINT ["/reactor"]
CMD ["run"]
