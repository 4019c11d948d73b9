package snp

import (
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"

	"cc-base/tasks/tee/ovmf"
)

// KernelHashes is what QEMU's option kernel-hashes=on writes into the
// firmware's page, and the firmware then compares with what it is given to
// boot.
type KernelHashes struct {
	Kernel, Initrd, CommandLine [32]byte // SHA-256
}

// HashBoot computes the hashes of a direct boot. kernel is the file as it is,
// which may be a UKI: QEMU hashes it before it would change the setup header,
// which it does not do for an SEV guest (hw/i386/x86-common.c,
// x86_load_linux). initrd is nil when there is none. append is the argument of
// -append, empty when there is none; it is hashed with its final NUL
// (target/i386/sev.c, sev_add_kernel_loader_hashes).
func HashBoot(kernel, initrd io.Reader, append string) (KernelHashes, error) {
	if strings.ContainsRune(append, 0) {
		return KernelHashes{}, fmt.Errorf("the command line has a NUL in it")
	}
	out := KernelHashes{CommandLine: sha256.Sum256([]byte(append + "\x00")), Initrd: sha256.Sum256(nil)}
	for _, part := range []struct {
		name string
		from io.Reader
		to   *[32]byte
	}{{"kernel", kernel, &out.Kernel}, {"initrd", initrd, &out.Initrd}} {
		if part.from == nil {
			continue
		}
		h := sha256.New()
		if _, err := io.Copy(h, part.from); err != nil {
			return KernelHashes{}, fmt.Errorf("%s: %w", part.name, err)
		}
		h.Sum(part.to[:0])
	}
	return out, nil
}

// The GUIDs of the table and its entries (QEMU target/i386/sev.c).
const (
	hashTableGUID   = "9438d606-4f22-4cc9-b479-a793d411fd21"
	commandLineGUID = "97d02dd8-bd20-4c94-aa78-e7714d36ab2a"
	initrdGUID      = "44baf731-3a2f-4bd7-9af1-41e29169781d"
	kernelGUID      = "4de79437-abd2-427f-b835-d5b172d2045b"
)

// table returns the hash table: a GUID and length, then three entries of GUID,
// length and hash, in this order, padded to a multiple of 16 bytes that the
// length does not count.
func (k KernelHashes) table() []byte {
	const entry = 16 + 2 + 32
	const size = 16 + 2 + 3*entry
	var out []byte
	item := func(guid string, length int) {
		b := ovmf.GUIDBytes(uuid.MustParse(guid))
		out = append(out, b[:]...)
		out = append(out, byte(length), byte(length>>8))
	}
	item(hashTableGUID, size)
	item(commandLineGUID, entry)
	out = append(out, k.CommandLine[:]...)
	item(initrdGUID, entry)
	out = append(out, k.Initrd[:]...)
	item(kernelGUID, entry)
	out = append(out, k.Kernel[:]...)
	return append(out, make([]byte, -len(out)&15)...)
}

// page returns the firmware's page with the table at its place and zeros
// around it.
func (k KernelHashes) page(fw ovmf.Firmware, s ovmf.SEVSection) ([ovmf.PageSize]byte, error) {
	var page [ovmf.PageSize]byte
	table := k.table()
	// A table anywhere else would be measured and never read.
	at := int64(fw.HashTable) - int64(s.Address)
	if fw.HashTable == 0 || s.Size != ovmf.PageSize || at < 0 || at+int64(len(table)) > ovmf.PageSize {
		return page, fmt.Errorf("the firmware's table of kernel hashes at %#x is not inside its page at %#x of %#x bytes", fw.HashTable, s.Address, s.Size)
	}
	copy(page[at:], table)
	return page, nil
}
