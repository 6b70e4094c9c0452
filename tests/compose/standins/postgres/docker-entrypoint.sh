#!/bin/bash
# As the official image of PostgreSQL 18: a first start makes the cluster and runs /docker-entrypoint-initdb.d.
set -Eeuo pipefail

if [ "${1:-}" != postgres ]; then
    exec "$@"
fi
if grep -q ' /var/lib/postgresql/data ' /proc/self/mountinfo; then
    echo "Error: from version 18 on, the volume is mounted at /var/lib/postgresql, not at /var/lib/postgresql/data" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
    find /run/postgresql \! -user postgres -exec chown postgres '{}' +
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
mkdir -p "$PGDATA"
chmod 700 "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    user="${POSTGRES_USER:-postgres}"
    password="${POSTGRES_PASSWORD:-}"
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        password="$(< "$POSTGRES_PASSWORD_FILE")"
    fi
    if [ -z "$password" ]; then
        echo "Error: Database is uninitialized and superuser password is not specified." >&2
        exit 1
    fi
    eval 'initdb --username="$user" --pwfile=<(printf "%s\n" "$password") '"${POSTGRES_INITDB_ARGS:-}"
    echo "host all all all ${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >> "$PGDATA/pg_hba.conf"
    shift
    # On the local socket alone, so that nobody takes it for ready.
    pg_ctl -D "$PGDATA" -o "$(printf '%q ' "$@" -c "listen_addresses=")" -w start
    export PGHOST=/run/postgresql
    psql=(psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --username "$user")
    database="${POSTGRES_DB:-$user}"
    if [ "$database" != postgres ]; then
        "${psql[@]}" --dbname postgres -c "CREATE DATABASE \"$database\""
    fi
    for file in /docker-entrypoint-initdb.d/*; do
        case "$file" in
            *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
            *.sql) echo "$0: running $file"; "${psql[@]}" --dbname "$database" -f "$file" ;;
        esac
    done
    unset PGHOST
    pg_ctl -D "$PGDATA" -m fast -w stop
    set -- postgres "$@"
fi
exec "$@"
