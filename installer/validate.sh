#!/bin/sh
# Checks this installer and this host; writes nothing.
#
#   ./validate.sh [AREA...] [--json | --tap]
#
# The areas are bundle, device, keys, apps, partition and measurements; no area
# means all.
# validation/test_0N_*.sh check one area each.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
(cd -- "$here" && sha256sum -c --quiet SHA256SUMS >&2)
exec "$here/cc-install" check "$@"
