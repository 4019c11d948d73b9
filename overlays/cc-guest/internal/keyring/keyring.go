// Package keyring keeps what opens the volumes in the kernel's keyring of
// root, between the initrd and the rotation of a running system: the TPM gives
// a secret back only before the initrd is left.
package keyring

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// prefix marks our keys.
const prefix = "cc-base:"

// possessorAll is KEY_POS_ALL of keyctl_setperm(3): nobody else, not even
// another process of root that has not linked the keyring, may read the key.
const possessorAll = 0x3f000000

// Put stores a secret under name, over a former one.
func Put(name string, secret []byte) error {
	if err := possess(); err != nil {
		return fmt.Errorf("keeping %s in the keyring: %w", name, err)
	}
	id, err := unix.AddKey("user", prefix+name, secret, unix.KEY_SPEC_USER_KEYRING)
	if err != nil {
		return fmt.Errorf("keeping %s in the keyring: %w", name, err)
	}
	if err := unix.KeyctlSetperm(id, possessorAll); err != nil {
		return fmt.Errorf("keeping %s in the keyring: %w", name, err)
	}
	return nil
}

// possess links root's keyring to the process's own, which systemd gives every
// service afresh: rights come with possession (keyrings(7)).
func possess() error {
	_, err := unix.KeyctlInt(unix.KEYCTL_LINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_SESSION_KEYRING, 0, 0)
	return err
}

// Get returns a secret. The caller wipes it.
func Get(name string) ([]byte, error) {
	if err := possess(); err != nil {
		return nil, fmt.Errorf("looking for %s in the keyring: %w", name, err)
	}
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", prefix+name, 0)
	if err != nil {
		return nil, fmt.Errorf("looking for %s in the keyring: %w", name, err)
	}
	secret := make([]byte, 4096)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, secret, len(secret))
	if err != nil || n > len(secret) {
		clear(secret)
		return nil, fmt.Errorf("reading %s from the keyring: %d bytes: %w", name, n, err)
	}
	return secret[:n], nil
}
