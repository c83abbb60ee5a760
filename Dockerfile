# The session image: the adapter, the embedded engine, and Python.

FROM docker.io/library/rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
RUN cargo build --release --locked

FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir --parents /mnt/data
COPY --from=build /src/target/release/session-adapter /usr/local/bin/session-adapter
COPY entrypoint.sh /usr/local/bin/entrypoint.sh
EXPOSE 2000
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s CMD ["session-adapter", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
