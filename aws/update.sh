#!/usr/bin/env bash
# Changes a stage that runs, or takes it back: ./aws/update.sh <subdomain> [image_tag] [--rollback [release]]
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
hand_over update "$@"
