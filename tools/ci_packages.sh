#!/bin/sh
# Debian packages that some tests want: without them these tests say NOT RUN. For a machine that may install packages.
set -eu
missing=""
command -v curl >/dev/null || missing="$missing curl"
command -v kcat >/dev/null || missing="$missing kcat"
command -v openssl >/dev/null || missing="$missing openssl"
command -v psql >/dev/null || missing="$missing postgresql-client"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "NOT INSTALLED:$missing (root and apt-get are needed); the tests that use them will say NOT RUN" >&2
  exit 0
fi
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
