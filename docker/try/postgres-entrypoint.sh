#!/usr/bin/env bash
# What the stand-in for the image `postgres` does at its start, as far as docker/compose.yaml relies on it: as root it
# makes the cluster in $PGDATA the first time, with $POSTGRES_USER, $POSTGRES_PASSWORD, $POSTGRES_DB and
# $POSTGRES_INITDB_ARGS, runs /docker-entrypoint-initdb.d/*.sql, and then is the server, as the user postgres.
set -euo pipefail

[ "${1:-}" = postgres ] || exec "$@"
if [ "$(id -u)" = 0 ]; then
    chown postgres: "$PGDATA" /var/run/postgresql
    chmod 0700 "$PGDATA"
    exec gosu postgres "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}"
    user=${POSTGRES_USER:-postgres}
    # shellcheck disable=SC2086 # several options
    initdb --username="$user" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-host=scram-sha-256 \
        --auth-local=trust ${POSTGRES_INITDB_ARGS:-}
    printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
    printf "listen_addresses = '*'\n" >>"$PGDATA/postgresql.conf"
    pg_ctl --wait start --options="-c listen_addresses=''"
    database=${POSTGRES_DB:-$user}
    [ "$database" = postgres ] || createdb --username="$user" "$database"
    for file in /docker-entrypoint-initdb.d/*.sql; do
        [ ! -e "$file" ] || psql --username="$user" --dbname="$database" --set=ON_ERROR_STOP=1 --file="$file"
    done
    pg_ctl --wait --mode=fast stop
fi
exec "$@"
