#!/bin/sh
# Is there a disk to install to, and does the image's partition table fit it?
# Options: --json, --tap.
. "$(dirname -- "$0")/common.sh"

cc_check device "$@"
