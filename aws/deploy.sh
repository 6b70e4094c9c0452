#!/usr/bin/env bash
# Brings a stage up on AWS, or up to date: ENVIRONMENT=dev ./aws/deploy.sh <subdomain> [image_tag]
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
hand_over deploy "$@"
