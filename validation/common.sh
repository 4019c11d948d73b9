# shellcheck shell=sh
# Read by the tests beside it: finds cc-install, which lies one folder up in the
# unpacked installer, and runs the checks of one area.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

cc_check() {
	if [ ! -x "$here/../cc-install" ]; then
		printf '%s: cc-install is not in the folder above\n' "$0" >&2
		exit 2
	fi
	exec "$here/../cc-install" check "$@"
}
