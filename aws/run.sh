#!/usr/bin/env bash
# Runs `kwb` in a task of its own beside the bridge: ./aws/run.sh <subdomain> -- kwb doctor
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
hand_over run "$@"
