// Package dynamic makes the writable volume at the first boot: LUKS2 with a
// key that never leaves the guest, and ext4 in it.
//
// The header is written last. A power cut before that leaves a partition that
// still looks blank, and the next boot begins anew; nothing can have been
// stored in it.
package dynamic

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"cc-base/overlays/cc-guest/internal/recovery"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
	"cc-base/tasks/seal/header"
)

const (
	// Label is the partition's, and the name of the mapped device.
	Label = "cc-dynamic"
	// Integrity is how a header names the sectors' authentication codes.
	Integrity = "hmac(sha256)"
	// HeaderSize is the space before the data, in bytes.
	HeaderSize = 16 << 20
	// copySize is one copy of the metadata, in bytes: four times what cryptsetup
	// takes by itself, so that a recovery key for many people fits.
	copySize = 64 << 10
	// sector is what a disk writes at once or not at all, in bytes.
	sector = 512
)

// Device is the partition.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Blank tells whether nothing was ever kept on the partition. The second copy
// of the metadata is written before the first one, and its first sector last,
// so a partition without either beginning holds no volume that ever was in use,
// whatever else lies there. One with a whole header of another size does.
func Blank(d io.ReaderAt) (bool, error) {
	start, second := make([]byte, sector), make([]byte, sector)
	for at, part := range map[int64][]byte{0: start, copySize: second} {
		if _, err := d.ReadAt(part, at); err != nil {
			return false, fmt.Errorf("reading %s: %w", Label, err)
		}
	}
	if header.IsLUKS(start) || !bytes.Equal(second, make([]byte, sector)) {
		return false, nil
	}
	_, err := header.Read(d)
	return err != nil, nil
}

// Maker formats the partition.
type Maker struct {
	Runner    vault.Runner
	Rules     header.Rules
	Integrity bool   // keep an authentication code for every sector
	Node      string // /dev/…
	UUID      string // of the volume; empty has cryptsetup draw one
	Work      string // folder in memory

	// Recipients are armoured OpenPGP keys, see [Recoverable].
	Recipients []string
}

// Make formats the partition, binds it to the source, and leaves it opened as
// /dev/mapper/cc-dynamic.
func (m Maker) Make(ctx context.Context, d Device, s vault.Source) (*vault.Vault, *vault.Open, error) {
	v, o, err := m.make(ctx, d, s)
	if err != nil {
		return nil, nil, fault.New(fault.GuestDynamic, fmt.Errorf("%s: %w", Label, err))
	}
	return v, o, nil
}

func (m Maker) make(ctx context.Context, d Device, s vault.Source) (*vault.Vault, *vault.Open, error) {
	first := make([]byte, 32)
	defer clear(first)
	if _, err := rand.Read(first); err != nil {
		return nil, nil, err
	}
	file := filepath.Join(m.Work, Label)
	if err := m.format(ctx, file, first); err != nil {
		return nil, nil, err
	}
	area, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	c, err := header.Parse(area)
	if err != nil {
		return nil, nil, err
	}
	v, err := vault.Load(Label, c, m.Rules, m.Work)
	if err != nil {
		return nil, nil, err
	}
	// Until the file system is there, the header stays in memory.
	v.Runner, v.Device = m.Runner, memory{}
	current, err := v.ByPassphrase(first, []string{"0"})
	if err != nil || current == nil {
		return nil, nil, errors.Join(errors.New("the volume does not open"), err)
	}
	defer current.Wipe()
	fresh, err := v.Bind(ctx, s, current)
	if err != nil {
		return nil, nil, err
	}
	if err := Recoverable(ctx, v, fresh, m.Recipients); err != nil {
		fresh.Wipe()
		return nil, nil, err
	}
	if err := m.fill(ctx, v, fresh, d); err != nil {
		fresh.Wipe()
		return nil, nil, err
	}
	return v, fresh, nil
}

// Recoverable sees to it that a volume has a recovery key, encrypted to the
// recipients, where there are any, and none for others. The message lies in the
// header, so that it can be had whatever state the machine is in; whether the
// key opens anything in the guest is for the caller.
func Recoverable(ctx context.Context, v *vault.Vault, o *vault.Open, recipients []string) error {
	want := recovery.Name(recipients)
	if _, have := v.Recovery(o.Key); have == want {
		return nil
	}
	if want == "" {
		return v.SetRecovery(ctx, o, nil, "", "")
	}
	key, message, err := recovery.New(recipients)
	if err != nil {
		return fmt.Errorf("making a recovery key: %w", err)
	}
	defer clear(key)
	return v.SetRecovery(ctx, o, key, message, want)
}

// fill opens the volume, makes the file system and writes the header.
func (m Maker) fill(ctx context.Context, v *vault.Vault, o *vault.Open, d Device) error {
	if err := OpenMapped(ctx, m.Runner, v, o, m.Node); err != nil {
		return err
	}
	if err := m.mkfs(ctx); err != nil {
		return err
	}
	if err := write(d, v.Header.Bytes()); err != nil {
		return fmt.Errorf("writing the header: %w", err)
	}
	v.Device = d
	return nil
}

func (m Maker) format(ctx context.Context, file string, passphrase []byte) error {
	// cryptsetup wants the header's file to be there, with its space.
	if err := os.WriteFile(file, make([]byte, HeaderSize), 0o600); err != nil {
		return err
	}
	args := []string{
		"luksFormat", "--batch-mode", "--type=luks2", "--disable-locks", "--header=" + file,
		"--offset=" + strconv.Itoa(HeaderSize/512), "--cipher=" + m.Rules.Cipher,
		"--key-size=" + strconv.Itoa(m.Rules.KeyBits), "--hash=" + m.Rules.Hash,
		"--sector-size=" + strconv.Itoa(m.Rules.SectorSize), "--key-slot=0",
		"--luks2-metadata-size=" + strconv.Itoa(copySize),
		"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000",
		"--key-file=/proc/self/fd/3", "--keyfile-size=" + strconv.Itoa(len(passphrase)),
	}
	if m.UUID != "" {
		args = append(args, "--uuid="+m.UUID)
	}
	if m.Integrity {
		// Writing every sector first would take as long as the disk is large.
		// ext4 reads no block that it has not written, given mkfs's options.
		args = append(args, "--integrity=hmac-sha256", "--integrity-no-wipe")
	}
	return run(ctx, m.Runner, [][]byte{passphrase}, "/usr/sbin/cryptsetup", append(args, m.Node)...)
}

func (m Maker) mkfs(ctx context.Context) error {
	extended := "nodiscard"
	if m.Integrity {
		// A sector without an authentication code cannot be read, and mkfs reads
		// the beginning before it writes there; so would blkdiscard, unforced.
		err := run(ctx, m.Runner, nil, "/usr/sbin/blkdiscard", "--force", "--zeroout", "--offset=0", "--length="+strconv.Itoa(1<<20), "/dev/mapper/"+Label)
		if err != nil {
			return err
		}
		extended += ",lazy_itable_init=0,lazy_journal_init=0"
	}
	return run(ctx, m.Runner, nil, "/usr/sbin/mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-L", Label, "-E", extended, "/dev/mapper/"+Label)
}

// OpenMapped opens the volume for reading and writing, with its header from
// the copy that was judged.
func OpenMapped(ctx context.Context, r vault.Runner, v *vault.Vault, o *vault.Open, node string) error {
	return run(ctx, r, [][]byte{o.Passphrase}, "/usr/sbin/cryptsetup", "open", "--type=luks2", "--disable-locks",
		"--header="+v.File, "--key-slot="+o.Slot, "--tries=1",
		"--key-file=/proc/self/fd/3", "--keyfile-size="+strconv.Itoa(len(o.Passphrase)), node, v.Label)
}

func run(ctx context.Context, r vault.Runner, secrets [][]byte, program string, args ...string) error {
	_, status, err := r.Run(ctx, secrets, nil, program, args...)
	name := filepath.Base(program) + " " + args[0]
	if err != nil {
		return fmt.Errorf("running %s: %w", name, err)
	}
	if status != 0 {
		return fmt.Errorf("%s failed (exit status %d)", name, status)
	}
	return nil
}

// write puts a first header on the partition: keyslots and the second copy of
// the metadata, what [Blank] looks at, the first copy.
func write(d Device, area []byte) error {
	for _, part := range [][2]int{{copySize + sector, len(area)}, {copySize, copySize + sector}, {0, copySize}} {
		if _, err := d.WriteAt(area[part[0]:part[1]], int64(part[0])); err != nil {
			return err
		}
		if err := d.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// memory takes the writes to a header that is not on a disk yet.
type memory struct{}

func (memory) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (memory) Sync() error                            { return nil }
