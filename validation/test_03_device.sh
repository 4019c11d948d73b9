#!/bin/sh
# Is there a disk to install to, and does the image's partition table fit it?
# Options: --json, --tap.
. "$(dirname -- "$0")/common.sh"

# shellcheck disable=SC2034 # read by common.sh
guest_checks='attestation gpu'
cc_check device "$@"
