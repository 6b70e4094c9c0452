#!/usr/bin/env bash
# Removes a stage and keeps its data, unless told otherwise: ./aws/destroy.sh <subdomain> [--delete-data]
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
hand_over destroy "$@"
