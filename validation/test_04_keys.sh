#!/bin/sh
# Is the image key safe, and are the encrypted volumes what they claim to be?
# Options: --json, --tap.
. "$(dirname -- "$0")/common.sh"

# shellcheck disable=SC2034 # read by common.sh
guest_checks='boot.identity-key boot.machine-id boot.monitor'
cc_check keys "$@"
