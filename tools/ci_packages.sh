#!/bin/sh
# Debian packages that some tests want: without them these tests say NOT RUN. For a machine that may install packages.
# Not among them: Go (the loader of compose.yaml) and npm (the Node snippet); Debian's are too old and too large.
set -eu
missing=""
command -v curl >/dev/null || missing="$missing curl"
command -v kcat >/dev/null || missing="$missing kcat"
# Debian's nginx has its stream module in a package of its own.
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing="$missing nginx"
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing="$missing libnginx-mod-stream"
command -v openssl >/dev/null || missing="$missing openssl"
command -v psql >/dev/null || missing="$missing postgresql-client"
# A PostgreSQL with TLS: the wheel's is built without.
set -- /usr/lib/postgresql/*/bin/initdb
[ -e "$1" ] || missing="$missing postgresql"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "NOT INSTALLED:$missing (root and apt-get are needed); the tests that use them will say NOT RUN" >&2
  exit 0
fi
# No service is started by being installed (invoke-rc.d asks policy-rc.d); an existing policy stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
# No database is made by being installed.
[ -e /etc/postgresql-common/createcluster.conf ] || {
  mkdir -p /etc/postgresql-common
  echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
}
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
