# shellcheck shell=sh
# Read by the tests beside it. Runs the checks of one area with cc-install, which
# lies one folder up in the unpacked installer. Inside a debug image, where these
# scripts lie beside cc-guest, it runs those of the guest that the test names in
# guest_checks.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

cc_check() {
	if [ -x "$here/../cc-guest" ]; then
		shift
		# shellcheck disable=SC2086 # a list of names
		exec "$here/../cc-guest" check "$@" $guest_checks
	fi
	if [ ! -x "$here/../cc-install" ]; then
		printf '%s: cc-install is not in the folder above\n' "$0" >&2
		exit 2
	fi
	exec "$here/../cc-install" check "$@"
}
