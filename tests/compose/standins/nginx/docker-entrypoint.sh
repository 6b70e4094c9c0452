#!/bin/sh
# As the official image: templates are filled in from the environment, only when nginx itself is started.
set -e
if [ "$1" = nginx ] || [ "$1" = nginx-debug ]; then
    templates="${NGINX_ENVSUBST_TEMPLATE_DIR:-/etc/nginx/templates}"
    suffix="${NGINX_ENVSUBST_TEMPLATE_SUFFIX:-.template}"
    output="${NGINX_ENVSUBST_OUTPUT_DIR:-/etc/nginx/conf.d}"
    # shellcheck disable=SC2016
    names=$(env | cut -d= -f1 | grep -E "${NGINX_ENVSUBST_FILTER:-}" | sed 's/.*/${&}/' | tr '\n' ' ')
    if [ ! -w "$output" ]; then
        echo "$0: ERROR: $output is not writable" >&2
    else
        find "$templates" -follow -type f -name "*$suffix" | while read -r template; do
            name="${template#"$templates/"}"
            mkdir -p "$output/$(dirname "$name")"
            envsubst "$names" < "$template" > "$output/${name%"$suffix"}"
        done
    fi
fi
exec "$@"
