#!/bin/sh
# Are the CC applications sealed, and does the boot image fix their root hash?
# Options: --json, --tap.
. "$(dirname -- "$0")/common.sh"

# shellcheck disable=SC2034 # read by common.sh
guest_checks='boot.ready boot.foreign-mounts'
cc_check apps "$@"
