# shellcheck shell=bash
# What deploy.sh, update.sh, run.sh and destroy.sh share. Bash 3.2 is enough; everything else is aws/deployment in Python.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV_AWS:-$root/.venv-aws}
lock=$root/requirements/aws.txt

fail() {
  printf 'error: %s\n' "$1" >&2
  printf 'hint: %s\n' "$2" >&2
  exit 2
}

# The newest Python that the tests cover, of those that are here and can make environments.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer, able to make virtual environments, is needed." \
    "Install it, or name it: PYTHON=/path/to/python3.12 $0 …"
}

# .venv-aws, made once for each lock: everything in it was named there with its hash.
prepare() {
  local wanted python
  wanted=$(cksum <"$lock")
  if [ -f "$venv/.ready" ] && [ "$(cat "$venv/.ready")" = "$wanted" ]; then
    return
  fi
  python=$(find_python)
  printf 'Preparing %s, once\n' "$venv" >&2
  "$python" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock" >&2 ||
    fail "What $lock names could not be installed." "Is there a way to the package index from here?"
  printf '%s\n' "$wanted" >"$venv/.ready"
}

# PYTHONSAFEPATH: nothing in the folder that somebody happens to be in is imported.
hand_over() {
  prepare
  PYTHONSAFEPATH=1 PYTHONPATH="$root/aws:$root/src" exec "$venv/bin/python" -m deployment "$@"
}
