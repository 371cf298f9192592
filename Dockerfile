# syntax=docker/dockerfile:1
#
#   docker build -t processor .
#
# The image holds one static program and the authorities of TLS; it has no shell.
# It runs as nobody in particular and writes to no file, so that its root may be
# read-only. Only without nats.url, where the NATS server is part of the process,
# it needs a volume at /data.

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -ldflags="-s -w" -o /out/processor ./cmd/processor
RUN mkdir /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/processor /usr/local/bin/processor
COPY --from=build --chown=65532:65532 /out/data /data
ENV PATH=/usr/local/bin
USER 65532:65532
WORKDIR /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["processor", "health"]
ENTRYPOINT ["processor"]
CMD ["run"]
