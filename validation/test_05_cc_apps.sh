#!/bin/sh
# Are the CC applications sealed, and does the boot image fix their root hash?
# Options: --json, --tap.
. "$(dirname -- "$0")/common.sh"

cc_check apps "$@"
