package vault

import (
	"context"
	"fmt"
	"strconv"
)

// Runner runs cryptsetup.
type Runner interface {
	// Run starts the program at an absolute path, waits, and returns its
	// standard output and exit status. Each secret is readable, once, at
	// /proc/self/fd/3 and following; stdin is no secret's way, so that two can
	// be given. The error is for a program that did not run or was killed.
	Run(ctx context.Context, secrets [][]byte, stdin []byte, program string, args ...string) (stdout string, status int, err error)
}

const cryptsetup = "/usr/sbin/cryptsetup"

// wrongKey is cryptsetup(8), RETURN CODES: no permission (bad passphrase).
const wrongKey = 2

// tool changes a LUKS2 header that lies in a file of its own. The file is in
// the guest's memory: nobody else can change it between two calls, as a host
// can change a disk.
type tool struct {
	run  Runner
	file string
	hash string // of key derivation
}

func (t tool) do(ctx context.Context, secrets [][]byte, stdin []byte, action string, args ...string) error {
	all := append([]string{action, "--batch-mode", "--disable-locks"}, args...)
	_, status, err := t.run.Run(ctx, secrets, stdin, cryptsetup, all...)
	if err != nil {
		return fmt.Errorf("running cryptsetup %s: %w", action, err)
	}
	if status != 0 {
		return fmt.Errorf("cryptsetup %s failed (exit status %d)", action, status)
	}
	return nil
}

// addKey puts another passphrase into slot. Both have full entropy, so the
// derivation is the cheapest that cryptsetup allows.
func (t tool) addKey(ctx context.Context, known []byte, knownSlot string, fresh []byte, slot string) error {
	return t.do(ctx, [][]byte{known, fresh}, nil, "luksAddKey",
		"--key-slot="+knownSlot, "--new-key-slot="+slot,
		"--key-file=/proc/self/fd/3", "--keyfile-size="+strconv.Itoa(len(known)),
		"--new-keyfile-size="+strconv.Itoa(len(fresh)),
		"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--hash="+t.hash,
		t.file, "/proc/self/fd/4")
}

func (t tool) killSlot(ctx context.Context, slot string) error {
	return t.do(ctx, nil, nil, "luksKillSlot", t.file, slot)
}

// putToken writes a token, over one that is there.
func (t tool) putToken(ctx context.Context, id string, token []byte) error {
	return t.do(ctx, nil, token, "token", "import", "--token-id="+id, "--token-replace", "--json-file=-", t.file)
}

func (t tool) removeToken(ctx context.Context, id string) error {
	return t.do(ctx, nil, nil, "token", "remove", "--token-id="+id, t.file)
}
