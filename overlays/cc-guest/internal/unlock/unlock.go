// Package unlock opens the volumes in the initrd: LUKS2 where the command line
// says so, with a key that the machine gets from its own source, then dm-verity
// with the root hash of the command line. Whatever is doubtful is an error with
// one of the guest's codes; the caller powers the machine off.
//
// At the first boot the volumes open with the secret of the installation. They
// are then bound to the machine, and that secret is destroyed.
package unlock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/dm"
	"cc-base/overlays/cc-guest/internal/dynamic"
	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/source"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/overlays/cc-guest/internal/volume"
	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/fault"
	"cc-base/tasks/seal/header"
)

// KeyFile is the enrolment secret in sysfs: QEMU's
// -fw_cfg name=opt/org.cc-base/enroll,file=PATH.
const KeyFile = "firmware/qemu_fw_cfg/by_name/opt/org.cc-base/enroll/raw"

const (
	// maxKey bounds the secret in bytes; ours are far shorter.
	maxKey = 4096
	// maxTries is how often a recovery key may be typed.
	maxTries = 3
	// diskWait bounds the wait for the partitions. It is long because an
	// emulated machine is slow; a machine that is well never reaches it. It is
	// below the 90 s after which systemd gives up on the root's device, with
	// less to say about what is missing.
	diskWait = 60 * time.Second
)

// PCRs that systemd has reserved (systemd.io, TPM2 PCR Measurements): the boot
// phase goes to that of the boot image, volume keys to one of their own.
const (
	pcrPhase     = 11
	pcrVolumeKey = 15
)

// Partition is one of the disk's, opened for reading and writing.
type Partition interface {
	dynamic.Device
	// Size is in bytes.
	Size() (int64, error)
	io.Closer
}

// Measurer is the machine's TPM.
type Measurer interface {
	Extend(pcr int, data []byte) error
	ExtendSecret(pcr int, data, secret []byte) error
}

// Machine is what the key profile works with.
type Machine struct {
	Source vault.Source
	TPM    Measurer // nil where there is none
}

// Unlocker opens the volumes.
type Unlocker struct {
	Sys      fs.FS         // the root of sysfs
	Finder   volume.Finder // finds the partitions
	Runner   vault.Runner  // runs cryptsetup, veritysetup, dmsetup
	Settings settings.Settings
	Work     string // folder in memory for the headers

	// Test marks a test build, which starts nothing without the measured marker.
	Test bool
	// Open opens a partition, /dev/NAME.
	Open func(node string) (Partition, error)
	// Machine makes ready what a key profile needs. The instance is empty but in
	// profile attested.
	Machine func(ctx context.Context, profile string, i Instance) (Machine, error)
	// Ask shows a question on the console and returns what was typed.
	Ask func(ctx context.Context, question string) ([]byte, error)
	// Keep holds a secret for the rotation of the running system.
	Keep func(name string, secret []byte) error
	// Say prints one line on the console.
	Say func(line string)

	typed    []byte   // the recovery key that opened a volume
	instance Instance // of this boot
}

// Instance is what an operator knows a machine by.
type Instance struct {
	ID  string // UUID of cc-dynamic
	New bool   // cc-dynamic is still to be made
}

// Run opens every volume that line, the content of /proc/cmdline, names. The
// image's own command lines, one for each key profile, are in allowed: a line
// that is not one of them to the byte is refused, because firmware tables can
// add to it without changing the image.
func (u *Unlocker) Run(ctx context.Context, line, allowed string) (keystate.State, error) {
	params, err := u.params(line, allowed)
	if err != nil {
		return keystate.State{}, fault.New(fault.GuestCmdline, err)
	}
	nodes, err := u.find(ctx, params)
	if err != nil {
		return keystate.State{}, fault.New(fault.GuestVolume, err)
	}
	if params.Keys == cmdline.Attested {
		if u.instance, err = u.identify(params, nodes); err != nil {
			return keystate.State{}, err
		}
	}
	machine, err := u.Machine(ctx, params.Keys, u.instance)
	if err != nil {
		return keystate.State{}, err
	}
	defer func() { clear(u.typed) }()
	state := keystate.State{Profile: params.Keys, Integrity: u.integrity(params.Keys), Instance: u.instance.ID}
	for _, v := range params.Volumes() {
		one, err := u.verified(ctx, machine, v, "/dev/"+nodes[v.Name])
		if err != nil {
			return state, err
		}
		state.Volumes = append(state.Volumes, one)
	}
	one, err := u.writable(ctx, machine, params.Keys, "/dev/"+nodes[dynamic.Label])
	if err != nil {
		return state, err
	}
	state.Volumes = append(state.Volumes, one)
	if machine.TPM == nil {
		return state, nil
	}
	// From here on the TPM gives nothing back.
	if err := machine.TPM.Extend(pcrPhase, []byte("leave-initrd")); err != nil {
		return state, fault.New(fault.GuestTPM, err)
	}
	return state, nil
}

// identify finds out which instance the machine is: what the read-only volumes
// are bound to, else the writable volume's own name, else a new one. The order
// matters where the first boot was cut off after it had bound the former and
// before it had made the latter. None of this is trusted: it decides which key
// the operator is asked for, and a wrong one opens nothing.
func (u *Unlocker) identify(params cmdline.Params, nodes map[string]string) (Instance, error) {
	i, found := Instance{}, ""
	for _, v := range params.Volumes() {
		if !v.Encrypted || found != "" {
			continue
		}
		h, err := u.peek(v.Name, nodes[v.Name], false)
		if err != nil {
			return i, err
		}
		found = source.InstanceOf(h.Metadata().Tokens)
	}
	own, err := u.peek(dynamic.Label, nodes[dynamic.Label], u.integrity(params.Keys))
	if err != nil {
		return i, err
	}
	switch i.New = own == nil; {
	case found != "":
		i.ID = found
	case own != nil:
		i.ID = own.UUID()
	default:
		i.ID = uuid.NewString()
	}
	return i, nil
}

// peek reads and judges a volume's header; nil where cc-dynamic is blank.
func (u *Unlocker) peek(label, name string, integrity bool) (*header.Copy, error) {
	p, err := u.Open("/dev/" + name)
	if err != nil {
		return nil, fault.Newf(fault.GuestVolume, "%s: %w", label, err)
	}
	defer p.Close()
	if label == dynamic.Label {
		blank, err := dynamic.Blank(p)
		if err != nil {
			return nil, fault.New(fault.GuestVolume, err)
		}
		if blank {
			return nil, nil
		}
	}
	v, err := u.vault(label, p, integrity)
	if err != nil {
		return nil, err
	}
	return v.Header, nil
}

// givenInitrd is what OVMF adds to the command line when the host hands it kernel
// and initrd apart, so that the kernel's EFI stub asks for the latter (edk2
// OvmfPkg/Library/GenericQemuLoadImageLib). SNP's kernel hashes and TDX's RTMR2
// hold the initrd itself; with another one the guest gets no key.
const givenInitrd = " initrd=initrd"

func (u *Unlocker) params(line, allowed string) (cmdline.Params, error) {
	if strings.TrimSpace(allowed) == "" {
		return cmdline.Params{}, errors.New("the image holds no copy of its command line")
	}
	line = strings.TrimSuffix(line, "\n")
	if line == "" || !slices.Contains(strings.Split(strings.TrimSuffix(allowed, "\n"), "\n"), strings.TrimSuffix(line, givenInitrd)) {
		return cmdline.Params{}, errors.New("the command line is not one of the image")
	}
	params, err := cmdline.Parse(line)
	if err == nil && params.Keys == cmdline.TPM && strings.HasSuffix(line, givenInitrd) {
		// Its keys are bound to a boot image, which brings its initrd.
		err = errors.New("an initrd was given beside the boot image")
	}
	if err == nil && params.Test != u.Test {
		err = errors.New("cc.test is for test builds, and they for nothing else")
	}
	return params, err
}

func (u *Unlocker) find(ctx context.Context, params cmdline.Params) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, diskWait)
	defer cancel()
	labels := []string{dynamic.Label}
	for _, v := range params.Volumes() {
		labels = append(labels, v.Name)
	}
	return u.Finder.Find(ctx, labels)
}

// integrity tells whether cc-dynamic keeps authentication codes. auto is for
// those who must not trust the host with their disk.
func (u *Unlocker) integrity(profile string) bool {
	switch u.Settings.Keys.DynamicIntegrity {
	case "on":
		return true
	case "off":
		return false
	}
	return profile != cmdline.TPM
}

// verified opens a read-only volume.
func (u *Unlocker) verified(ctx context.Context, m Machine, v cmdline.Volume, node string) (keystate.Volume, error) {
	one := keystate.Volume{Label: v.Name, Node: node, Opened: keystate.Unencrypted}
	device := node
	if v.Encrypted {
		partition, err := u.Open(node)
		if err != nil {
			return one, fault.Newf(fault.GuestVolume, "%s: %w", v.Name, err)
		}
		defer partition.Close()
		if one, err = u.decrypt(ctx, m, v.Name, node, partition); err != nil {
			return one, err
		}
		device = "/dev/mapper/" + v.Name + "-luks"
	}
	if err := u.verify(ctx, v, device); err != nil {
		return one, fault.Newf(fault.GuestVerity, "%s: %w", v.Name, err)
	}
	return one, nil
}

// verify opens the verity layer of v and looks at what the kernel made of it.
func (u *Unlocker) verify(ctx context.Context, v cmdline.Volume, device string) error {
	_, status, err := u.Runner.Run(ctx, nil, nil, "/usr/sbin/veritysetup", "open", "--panic-on-corruption",
		"--hash-offset="+strconv.FormatInt(v.HashOffset, 10), device, v.Name, device, v.RootHash)
	if err != nil {
		return fmt.Errorf("running veritysetup: %w", err)
	}
	if status != 0 {
		return fmt.Errorf("veritysetup cannot open it (exit status %d)", status)
	}
	table, err := Table(ctx, u.Runner, v.Name)
	if err != nil {
		return err
	}
	return dm.CheckTable(v, table)
}

// Table returns the device-mapper table of a mapped device.
func Table(ctx context.Context, r vault.Runner, name string) (string, error) {
	table, status, err := r.Run(ctx, nil, nil, "/usr/sbin/dmsetup", "table", name)
	if err != nil {
		return "", fmt.Errorf("running dmsetup: %w", err)
	}
	if status != 0 {
		return "", fmt.Errorf("dmsetup does not know it (exit status %d)", status)
	}
	return table, nil
}

// readKey fills buffer with the image key and returns its length. It reads
// into the caller's buffer so that no copy is left that nobody wipes.
func readKey(sys fs.FS, buffer []byte) (int, error) {
	file, err := sys.Open(KeyFile)
	if err != nil {
		return 0, errors.New("no image key was given through fw_cfg opt/org.cc-base/enroll")
	}
	defer file.Close()
	n, err := io.ReadFull(file, buffer)
	switch {
	case err == nil:
		return 0, fmt.Errorf("the image key is longer than %d bytes", maxKey)
	case errors.Is(err, io.EOF):
		return 0, errors.New("the image key is empty")
	case !errors.Is(err, io.ErrUnexpectedEOF):
		return 0, fmt.Errorf("reading the image key: %w", err)
	}
	return n, nil
}
