# The session image: the adapter, the embedded engine, and Python.

FROM docker.io/library/rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
# Not built, but the manifest names them.
COPY benches benches
RUN cargo build --profile dist --locked \
    && mv target/dist/session-adapter /usr/local/bin/ \
    && rm -rf target "$CARGO_HOME/registry"

FROM docker.io/library/debian:bookworm-slim
# No program may give its caller more rights than it has: setuid and setgid bits go.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-setuptools \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && mkdir --parents /mnt/data
COPY --from=build /usr/local/bin/session-adapter /usr/local/bin/session-adapter
COPY entrypoint.sh /usr/local/bin/entrypoint.sh
EXPOSE 2000
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s CMD ["session-adapter", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
