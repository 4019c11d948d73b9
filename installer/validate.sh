#!/bin/sh
# Looks at this host, writes the settings files, and checks this installer.
#
#   ./validate.sh [AREA...] [--dry-run] [--json | --tap]
#
# Without an area it first proposes /etc/cc/qemu/gpu_settings and
# network_settings (a line that is there stays; CC_SETTINGS_ROOT is another root
# folder), then runs every check. An ordinary user, and --dry-run, see the files
# and nothing is written. With areas only their checks run: bundle, device,
# keys, apps, partition, measurements.
# validation/test_0N_*.sh check one area each.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
(cd -- "$here" && sha256sum -c --quiet SHA256SUMS >&2)

dry='' areas='' status=0 root=${CC_SETTINGS_ROOT:-/}
for argument; do
	shift
	case $argument in
	--dry-run) dry=--dry-run && continue ;;
	-*) ;;
	*) areas=yes ;;
	esac
	set -- "$@" "$argument"
done
[ -w "$root" ] || dry=--dry-run
if [ -z "$areas" ]; then
	"$here/cc-install" detect --root "$root" ${dry:+"$dry"} >&2 || status=$?
fi
"$here/cc-install" check "$@" || exit
exit "$status"
