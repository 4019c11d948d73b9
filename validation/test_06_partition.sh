#!/bin/sh
# Are the partitions those of the design, and do they hold what was built?
# Options: --json, --tap.
. "$(dirname -- "$0")/common.sh"

cc_check partition "$@"
