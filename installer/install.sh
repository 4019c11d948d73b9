#!/bin/sh
# Installs cc-base on a disk. It verifies this folder before anything in it
# runs, then hands over to cc-install, which does the work and asks before it
# writes.
#
#   ./install.sh /dev/target [--yes] [--dry-run] [--allow-plain]
#   ./install.sh --list-devices
#   ./install.sh --verify /dev/target
#   ./install.sh --uninstall NAME
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

stop() {
	printf 'install.sh: %s\n' "$1" >&2
	exit 1
}

usage() {
	cat <<'END'
usage: ./install.sh DEVICE [--name NAME] [--yes] [--dry-run] [--recipient KEY.asc]
                    [--site FILE] [--image-key FILE] [--allow-plain] [--disk-only]
       ./install.sh --list-devices [--json]
       ./install.sh --verify DEVICE [--json]
       ./install.sh --uninstall NAME [--wipe] [--yes]
       AUTO_SELECT=true ./install.sh [--yes] …   chooses the best free disk
       PREFER_NVME=true, PREFER_SSD=true          the same, with that class first
       DEBUG=true                                 shows every device with every rule
END
}

verify_folder() (
	cd -- "$here" || exit 1
	sha256sum -c --quiet SHA256SUMS >&2 || stop 'a file is not the one that was built; nothing was written'
	[ -f SHA256SUMS.asc ] || exit 0
	if ! command -v gpg >/dev/null; then
		printf 'install.sh: warning: gpg is missing, the signature was not checked\n' >&2
		exit 0
	fi
	answer=$(gpg --batch --no-tty --status-fd 1 --verify SHA256SUMS.asc SHA256SUMS 2>/dev/null || :)
	if printf '%s\n' "$answer" | grep -q '^\[GNUPG:\] GOODSIG '; then
		exit 0
	fi
	# A key that gpg does not know proves nothing either way; anything else is
	# a bad, expired or revoked signature.
	printf '%s\n' "$answer" | grep -q '^\[GNUPG:\] NO_PUBKEY ' || stop 'the signature of SHA256SUMS is not good; nothing was written'
	printf 'install.sh: warning: gpg does not know the key that signed this installer\n' >&2
)

case "${1-}" in
-h | --help) usage && exit 0 ;;
esac
verify_folder
case "${1-}" in
--list-devices) shift && exec "$here/cc-install" list-devices "$@" ;;
--verify) shift && exec "$here/cc-install" verify "$@" ;;
--uninstall) shift && exec "$here/cc-install" uninstall "$@" ;;
esac
exec "$here/cc-install" install "$@"
