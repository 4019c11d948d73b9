#!/bin/sh
# Is the image key safe, and are the encrypted volumes what they claim to be?
# Options: --json, --tap.
. "$(dirname -- "$0")/common.sh"

cc_check keys "$@"
