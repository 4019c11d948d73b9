#!/bin/sh
# Are the partitions those of the design, and do they hold what was built?
# Options: --json, --tap.
. "$(dirname -- "$0")/common.sh"

# shellcheck disable=SC2034 # read by common.sh
guest_checks='boot'
cc_check partition "$@"
