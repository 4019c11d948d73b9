package gpu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mode is the confidential-computing mode of a GPU.
type Mode string

// The modes. Devtools leaves the GPU open to debuggers and fails attestation.
const (
	ModeOff      Mode = "off"
	ModeOn       Mode = "on"
	ModeInvalid  Mode = "invalid"
	ModeDevtools Mode = "devtools"
	ModeUnread   Mode = "" // see ModeReading.Reason
)

// ModeReading is the mode, or the reason why it is not known.
type ModeReading struct {
	Mode   Mode   `json:"mode,omitempty"`
	Reason string `json:"reason,omitempty"` // set exactly when Mode is not
}

// String returns the mode, or that it was not read and why.
func (r ModeReading) String() string {
	if r.Mode == ModeUnread {
		return "not read: " + r.Reason
	}
	return string(r.Mode)
}

// Registers reads the registers of a device.
type Registers interface {
	// Read32 returns the 32-bit register at the offset in BAR0 of the function
	// at the PCI address. It must not write.
	Read32(address string, offset int64) (uint32, error)
}

// Offsets in BAR0 (NVIDIA gpu-admin-tools, query_cc_mode_hopper and
// query_cc_mode_blackwell).
const (
	registerBoot        = 0x000000 // identity of the chip; all ones when nothing answers
	registerCCHopper    = 0x1182cc
	registerCCBlackwell = 0x000590
	ccMask              = 0x3
)

// ReadModes sets Mode of every GPU among the functions.
func ReadModes(functions []Function, registers Registers) {
	for i, f := range functions {
		if f.Kind == GPU {
			functions[i].Mode = ReadMode(f, registers)
		}
	}
}

// ReadMode reads the mode of a GPU. It looks only where it knows the register:
// for an unknown model the answer is the reason.
func ReadMode(f Function, registers Registers) ModeReading {
	mode, err := readMode(f, registers)
	if err != nil {
		return ModeReading{Reason: err.Error()}
	}
	return ModeReading{Mode: mode}
}

func readMode(f Function, registers Registers) (Mode, error) {
	var offset int64
	switch {
	case f.Kind != GPU:
		return "", errors.New("an NVSwitch has no mode of its own that is read here")
	case f.Model.Arch == Hopper:
		offset = registerCCHopper
	case f.Model.Arch == Blackwell:
		offset = registerCCBlackwell
	case f.Model.Known():
		return "", fmt.Errorf("%s GPUs have no confidential-computing mode", f.Model.Arch)
	default:
		return "", fmt.Errorf("device id %s is not in the table, so its register is not known", f.ID)
	}
	// A sleeping device answers all ones, of which the mask would make
	// devtools.
	if strings.HasPrefix(f.Power, "D3") {
		return "", fmt.Errorf("the GPU is asleep (power state %s) and is not woken for this", f.Power)
	}
	boot, err := registers.Read32(f.Address, registerBoot)
	if err != nil {
		return "", err
	}
	if boot == ^uint32(0) {
		return "", errors.New("BAR0 reads as all ones: " + silence(f))
	}
	value, err := registers.Read32(f.Address, offset)
	if err != nil {
		return "", err
	}
	switch {
	case value == ^uint32(0):
		return "", errors.New("the register reads as all ones: " + silence(f))
	case value>>16 == 0xbadf || value>>16 == 0xbad0:
		return "", fmt.Errorf("the GPU refuses to show the register (it answers %#08x)", value)
	}
	return []Mode{ModeOff, ModeOn, ModeInvalid, ModeDevtools}[value&ccMask], nil
}

func silence(f Function) string {
	if f.Driver == "" {
		return "no driver is bound, and the device's memory decoding may be off; it is not switched on for this"
	}
	return "the device does not answer to the host (driver " + f.Driver + ")"
}

// Sysfs are the registers as the kernel maps them in
// /sys/bus/pci/devices/ADDRESS/resource0. The file is opened read-only and
// mapped without the right to write. Read32's errors are reasons that a user
// can act on.
type Sysfs struct {
	Root string // the root folder, / in earnest
}

// Read32 implements [Registers].
func (s Sysfs) Read32(address string, offset int64) (value uint32, err error) {
	name := filepath.Join(s.Root, devicesDir, address, "resource0")
	f, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return 0, s.reason(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, s.reason(err)
	}
	if offset+4 > info.Size() {
		return 0, fmt.Errorf("BAR0 has %d bytes, the register is at %#x", info.Size(), offset)
	}
	page := int64(os.Getpagesize())
	start := offset / page * page
	mem, err := unix.Mmap(int(f.Fd()), start, int(min(page, info.Size()-start)), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, s.reason(err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(mem)) }()
	// A device that vanishes under the mapping must cost this answer, not the
	// program.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			value, err = 0, errors.New("reading BAR0 raised a bus error")
		}
	}()
	// One load of 32 bits: a register is not read byte by byte.
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&mem[offset-start]))), nil
}

// reason says what an error of opening or mapping resource0 means
// (Linux drivers/pci/mmap.c, pci-sysfs.c pci_mmap_resource).
func (s Sysfs) reason(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the kernel offers no file resource0 for it")
	case errors.Is(err, syscall.EACCES):
		return errors.New("no permission to open BAR0: run as root")
	case errors.Is(err, syscall.EPERM):
		if mode := Lockdown(os.DirFS(s.Root)); mode != "" && mode != "none" {
			return fmt.Errorf("the kernel's lockdown (%s) forbids to map BAR0", mode)
		}
		if os.Geteuid() == 0 {
			// Met on a host whose kernel has lockdown built in and securityfs hidden.
			return errors.New("the kernel permits not even root to map BAR0: lockdown, whose mode it does not show, or a container")
		}
		return errors.New("not permitted to map BAR0: run as root, outside containers")
	case errors.Is(err, syscall.EINVAL):
		return errors.New("the bound driver holds BAR0 for itself (CONFIG_IO_STRICT_DEVMEM)")
	case errors.Is(err, syscall.ENODEV):
		return errors.New("this file system does not map BAR0")
	}
	return fmt.Errorf("BAR0 cannot be read: %w", err)
}

// Lockdown returns the kernel's lockdown mode: none, integrity or
// confidentiality, or "" when the kernel does not tell.
func Lockdown(root fs.FS) string {
	b, err := fs.ReadFile(root, "sys/kernel/security/lockdown")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), "[")
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}
