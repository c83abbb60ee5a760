# The session image: the adapter, the embedded engine, and Python with IPython.
#
#   PROFILE        minimal (default): Python, setuptools and IPython; data: numpy, pandas, matplotlib and pip too
#   APT_PACKAGES   more Debian packages, such as "gcc libc6-dev nodejs"
#   PIP_PACKAGES   more Python packages, such as "requests==2.32.3"
#
# The target `piston` puts the adapter in front of a real Piston instead, for where containers may
# be privileged:
#
#   PISTON_IMAGE      the Piston to build upon
#   PISTON_PACKAGES   what Piston is to install, such as "python=3.12.0 gcc=10.2.0"

ARG PISTON_IMAGE=ghcr.io/engineer-man/piston:latest

FROM docker.io/library/rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
# Not built, but the manifest names them.
COPY benches benches
COPY tests tests
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked \
    && cp target/dist/session-adapter /usr/local/bin/

# The bill of materials of the program: CycloneDX's JSON, without a time or a number of its own.
FROM docker.io/library/rust:1-slim-bookworm AS materials
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install --debug --quiet --locked --root /usr/local cargo-cyclonedx
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
COPY tests tests
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    SOURCE_DATE_EPOCH=0 cargo cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps \
        --target "$(rustc --print host-tuple)" --override-filename session-adapter.cdx

FROM docker.io/library/debian:bookworm-slim AS session
ARG PROFILE=minimal
ARG APT_PACKAGES=""
ARG PIP_PACKAGES=""
# What is installed stays as small as it comes:
# - Python's packages are wheels, for Debian's are years older and, with what they depend on, larger.
# - Pip goes again where it was not asked for, and so do the packages' own tests.
# - No program may give its caller more rights than it has: setuid and setgid bits go.
# - What a job leaves in /tmp, /var/tmp and /dev/shm is swept; nowhere else may everybody write.
#   But for the session's files, where any `--user` of the container may.
# Debian's packages are the newest of the release, with all security updates.
COPY requirements.txt requirements-ipython.txt /tmp/
# hadolint ignore=DL3008,DL3013,SC2086
RUN set -eu; \
    case "$PROFILE" in \
        minimal) ;; \
        data) PIP_PACKAGES="--requirement /tmp/requirements.txt $PIP_PACKAGES" ;; \
        *) echo "PROFILE is '$PROFILE': allowed are minimal, data"; exit 1 ;; \
    esac; \
    apt-get update; \
    apt-get install --yes --no-install-recommends python3 python3-setuptools tini \
        python3-pip $APT_PACKAGES; \
    install() { pip install --no-cache-dir --only-binary :all: --break-system-packages \
        --root-user-action ignore "$@"; }; \
    install --no-deps --requirement /tmp/requirements-ipython.txt; \
    [ -z "$PIP_PACKAGES" ] || install $PIP_PACKAGES; \
    find /usr/local/lib -type d -name tests ! -path '*/numpy/*' -prune -exec rm -r {} +; \
    [ "$PROFILE" = data ] || apt-get purge --yes --auto-remove python3-pip; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/* /tmp/* /root/.cache; \
    find / -xdev -type f -perm /6000 -exec chmod a-s {} +; \
    find / -xdev -type d -perm -0002 ! -path /tmp ! -path /var/tmp -exec chmod o-w {} +; \
    mkdir --mode 0777 /mnt/data
COPY --from=build --chmod=0755 /usr/local/bin/session-adapter /usr/local/bin/
COPY --from=materials --chmod=0644 /src/session-adapter.cdx.json /usr/local/share/sbom/
COPY --chmod=0755 entrypoint.sh /usr/local/bin/
# The data directory is the container's own. Who reaches the container is for its network to say:
# probes call it by its address, and Azure's pool by a name that is not known here.
ENV SESSION_DATA_DIR=/mnt/data ADOPT_DATA_DIR=true ADAPTER_LISTEN=0.0.0.0 ALLOW_HOST=*
EXPOSE 2000
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s CMD ["session-adapter", "healthcheck"]
# Process 1 collects what others leave, such as `docker exec`, and passes signals on.
#
# No USER: with root the engine gives jobs users of their own, which contains more than any
# one user could; only a small process stays root. With `--user` it starts only if
# ALLOW_WEAK_SANDBOX=true.
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/usr/local/bin/entrypoint.sh"]
ARG VERSION=0.1.0
ARG SOURCE=""
LABEL org.opencontainers.image.title="session-adapter" \
    org.opencontainers.image.description="Runs code for Azure Container Apps dynamic sessions, without privileges" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.version="${VERSION}"

FROM ${PISTON_IMAGE} AS piston
ARG PISTON_PACKAGES=""
# By Piston's own API, which checks what it downloads.
# hadolint ignore=DL3001
RUN set -eu; \
    [ -n "$PISTON_PACKAGES" ] || exit 0; \
    chown -R piston:piston /piston; \
    PISTON_BIND_ADDRESS=127.0.0.1:2001 node /piston_api/src & \
    for package in $PISTON_PACKAGES; do \
        node -e 'const [language, version] = process.argv[1].split("="); \
            const post = () => fetch("http://127.0.0.1:2001/api/v2/packages", { method: "POST", \
                headers: { "content-type": "application/json" }, \
                body: JSON.stringify({ language, version }) }); \
            const ask = tries => post().catch(error => { \
                if (tries === 0) throw error; \
                return new Promise(done => setTimeout(done, 100)).then(() => ask(tries - 1)); }); \
            ask(300).then(async answer => { \
                console.log(language, version, answer.status, await answer.text()); \
                process.exit(answer.ok ? 0 : 1); })' "$package"; \
    done; \
    kill "$!"
COPY --from=session /usr/bin/tini-static /usr/bin/tini
COPY --from=session /usr/local/bin/session-adapter /usr/local/bin/entrypoint.sh /usr/local/bin/
COPY --from=session /usr/local/share/sbom /usr/local/share/sbom
RUN mkdir -p /mnt/data && chmod 0777 /mnt/data
ENV SESSION_ENGINE=piston SESSION_DATA_DIR=/mnt/data ADOPT_DATA_DIR=true ADAPTER_LISTEN=0.0.0.0 ALLOW_HOST=*
EXPOSE 2000
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["session-adapter", "healthcheck"]
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/usr/local/bin/entrypoint.sh"]
CMD []
ARG VERSION=0.1.0
ARG SOURCE=""
LABEL org.opencontainers.image.title="session-adapter with Piston" \
    org.opencontainers.image.description="Runs code for Azure Container Apps dynamic sessions, on Piston; needs a privileged container" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.version="${VERSION}"

# What is built where no target is named.
FROM session
