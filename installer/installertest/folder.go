// Package installertest makes small installer folders for tests: the shape of
// the real one, a disk of a few MiB with true partition tables and LUKS2
// headers, and nothing in it that boots.
package installertest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/digest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/seal"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/sh"
)

const mib = 1 << 20

// Folder is an installer folder in the making. A test changes what it wants
// and then calls [Folder.Write].
type Folder struct {
	Manifest    manifest.Manifest
	Table       layout.Table
	Disk        *Disk  // content, without the partition table until Write
	CommandLine string // of the boot image
	Machines    measurements.Machines
	Files       map[string][]byte // further files
	Modes       map[string]fs.FileMode
}

// New returns a folder in which every check passes.
func New() *Folder {
	hash := func(b byte) string { return strings.Repeat(fmt.Sprintf("%02x", b), 32) }
	f := &Folder{Modes: map[string]fs.FileMode{"image.key": 0o600}}
	f.Machines = measurements.Machines{TEE: "none", VCPUs: []int{2}, CPUModels: []string{"EPYC-v4"}, GuestFeatures: []uint64{1}}
	f.CommandLine = "root=/dev/mapper/cc-root ro cc.root=luks+verity:" + hash(0xa1) + ":8192 cc.app=luks+verity:" + hash(0xb2) +
		":8192 cc.config=verity:" + hash(0xc3) + ":4096 console=ttyS0"
	f.Files = map[string][]byte{
		"image.key":       []byte(strings.Repeat("k", 32)),
		"config/tee.conf": []byte("# comment\nTEE_TYPE=\"none\"\n"),
	}
	f.Manifest = manifest.Manifest{
		Schema: manifest.Schema, Name: "cc-base", Profile: "test", Distribution: "debian", Suite: "trixie", Kernel: "6.12.0",
		CommandLine: f.CommandLine,
	}
	f.Manifest.Disk = manifest.Disk{File: "cc-base.qcow2", GUID: guid(0), SectorSize: layout.Sector}
	f.Table.GUID = guid(0)
	verity := func(b byte, offset int64) *manifest.Verity {
		return &manifest.Verity{RootHash: hash(b), HashOffset: offset, Salt: "00"}
	}
	parts := []manifest.Partition{
		{Label: "cc-esp", TypeGUID: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", Size: 2 * mib, ContentSize: 2 * mib},
		{Label: "cc-root", Size: 4 * mib, ContentSize: 3*mib + 512, Encrypted: true, ReadOnly: true, Mount: "/", Verity: verity(0xa1, 8192)},
		{Label: "cc-app", Size: 2 * mib, ContentSize: 2 * mib, Encrypted: true, ReadOnly: true, Mount: "/opt/cc", Verity: verity(0xb2, 8192)},
		{Label: "cc-config", Size: 1 * mib, ContentSize: 64 << 10, ReadOnly: true, Mount: "/etc/cc/config", Verity: verity(0xc3, 4096)},
		{Label: "cc-dynamic", Size: 3 * mib, Encrypted: true, Mount: "/var/lib/cc"},
	}
	start := int64(mib)
	for i := range parts {
		p := &parts[i]
		p.Number, p.GUID, p.Start = i+1, guid(byte(i+1)), start
		if p.TypeGUID == "" {
			p.TypeGUID = guid(byte(i + 100))
		}
		start += p.Size
		e := layout.Entry{Number: p.Number, Label: p.Label, TypeGUID: p.TypeGUID, GUID: p.GUID, Start: p.Start, Size: p.Size}
		if p.ReadOnly {
			e.Attributes = layout.ReadOnly
		}
		f.Table.Entries = append(f.Table.Entries, e)
	}
	f.Manifest.Disk.Partitions = parts
	f.Manifest.Disk.VirtualSize = start + mib
	f.Disk = NewDisk(f.Manifest.Disk.VirtualSize)

	noise := rand.NewChaCha8([32]byte{1})
	for _, p := range parts {
		// Half of the content is noise, the middle stays a hole.
		content := f.Disk.Bytes[p.Start : p.Start+p.ContentSize]
		noise.Read(content[:len(content)/4])
		noise.Read(content[len(content)*3/4:])
		if p.Encrypted && p.ContentSize > 0 {
			copy(content, LUKS2(LUKS2JSON()))
		}
	}
	f.Digest()
	return f
}

// Plain makes the image one without encryption, which an installation writes as
// it is: a volume that is encrypted gets keys of its own, which takes a real one
// and cryptsetup (see [Folder.Seal]).
func (f *Folder) Plain() *Folder {
	for i := range f.Manifest.Disk.Partitions {
		p := &f.Manifest.Disk.Partitions[i]
		if p.Encrypted = p.Label == "cc-dynamic"; p.Encrypted {
			continue
		}
		if content := f.Disk.Bytes[p.Start : p.Start+p.ContentSize]; header.IsLUKS(content) {
			clear(content[:4096])
		}
	}
	f.CommandLine = strings.ReplaceAll(f.CommandLine, "luks+verity", "verity")
	f.Manifest.CommandLine = f.CommandLine
	f.Digest()
	return f
}

// Seal makes the encrypted volumes real ones, which the installer's image.key
// opens. The disk grows by their headers.
func (f *Folder) Seal(t testing.TB, tools sh.Runner, dir string) *Folder {
	t.Helper()
	old, shift := f.Disk, int64(0)
	f.Disk = NewDisk(f.Manifest.Disk.VirtualSize + 2*seal.HeaderSize)
	for i := range f.Manifest.Disk.Partitions {
		p := &f.Manifest.Disk.Partitions[i]
		content := old.Bytes[p.Start : p.Start+p.ContentSize]
		if p.Encrypted && p.ContentSize > 0 {
			plain := filetest.Noise(byte(i), int(p.ContentSize)/seal.SectorSize*seal.SectorSize)
			file := filetest.Write(t, filepath.Join(dir, p.Label), plain)
			e := seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha512", UUID: strings.ToLower(p.GUID)}
			if err := seal.Encrypt(t.Context(), tools, file, f.Files["image.key"], e); err != nil {
				t.Fatal(err)
			}
			content = filetest.Read(t, file)
			p.Size += seal.HeaderSize
		}
		p.Start += shift
		p.ContentSize = int64(len(content))
		copy(f.Disk.Bytes[p.Start:], content)
		if p.Encrypted && p.ContentSize > 0 {
			shift += seal.HeaderSize
		}
		f.Table.Entries[i].Start, f.Table.Entries[i].Size = p.Start, p.Size
	}
	f.Manifest.Disk.VirtualSize += shift
	f.Digest()
	return f
}

// Digest records the digests of the content as it is now.
func (f *Folder) Digest() {
	for i := range f.Manifest.Disk.Partitions {
		p := &f.Manifest.Disk.Partitions[i]
		if p.ContentSize > 0 {
			p.SHA256 = digest.Bytes(f.Disk.Bytes[p.Start : p.Start+p.ContentSize])
		}
	}
}

// Partition returns the partition with the label, to be changed.
func (f *Folder) Partition(label string) *manifest.Partition {
	i := slices.IndexFunc(f.Manifest.Disk.Partitions, func(p manifest.Partition) bool { return p.Label == label })
	return &f.Manifest.Disk.Partitions[i]
}

// Write writes the folder to dir, which must exist.
func (f *Folder) Write(dir string) error {
	if err := f.Table.Write(f.Disk, f.Manifest.Disk.VirtualSize); err != nil {
		return err
	}
	files := maps.Clone(f.Files)
	files["cc-base.qcow2"] = Qcow2(f.Disk.Bytes, 16)
	if _, own := files["cc-base.efi"]; !own {
		files["cc-base.efi"] = boottest.UKI(f.CommandLine)
	}
	if _, own := files[measurements.File]; !own {
		if err := f.measure(files); err != nil {
			return err
		}
	}
	m := f.Manifest
	if m.Files == nil {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			m.Files = append(m.Files, manifest.File{Path: name, Size: int64(len(files[name])), SHA256: digest.Bytes(files[name])})
		}
	}
	raw, err := m.Encode()
	if err != nil {
		return err
	}
	files["manifest.json"] = raw
	var sums bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&sums, "%s  %s\n", digest.Bytes(files[name]), name)
	}
	files["SHA256SUMS"] = sums.Bytes()
	for name, data := range files {
		path := filepath.Join(dir, name)
		mode := f.Modes[name]
		if mode == 0 {
			mode = 0o644
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, mode); err != nil {
			return err
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	return nil
}

// measure adds the measurements of the boot image, the disk and the firmware
// among files. What cannot be measured has none in its files.
func (f *Folder) measure(files map[string][]byte) error {
	in, err := measurements.Load(f.Manifest, f.Disk, slices.Sorted(maps.Keys(files)), func(name string) ([]byte, error) { return files[name], nil })
	if err != nil {
		return err
	}
	in.Program, in.Machines = digest.Bytes(nil), f.Machines
	doc, err := measurements.Compute(in)
	if err != nil {
		files[measurements.File], files[measurements.RVPSFile] = []byte("{}\n"), []byte("{}\n")
		return nil
	}
	if files[measurements.File], err = doc.Encode(); err != nil {
		return err
	}
	files[measurements.RVPSFile], err = doc.RVPS()
	return err
}

func guid(n byte) string { return fmt.Sprintf("0CC0BA5E-0000-4000-8000-0000000000%02X", n) }

// Disk is a disk in memory, as far as a partition table writer needs one.
type Disk struct {
	Bytes []byte
	pos   int64
}

// NewDisk returns a disk of zeros; size in bytes.
func NewDisk(size int64) *Disk { return &Disk{Bytes: make([]byte, size)} }

// ReadAt implements [io.ReaderAt].
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(d.Bytes).ReadAt(p, off)
}

// WriteAt implements [io.WriterAt]; the disk does not grow.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(d.Bytes)) {
		return 0, io.ErrShortWrite
	}
	return copy(d.Bytes[off:], p), nil
}

// Read implements [io.Reader].
func (d *Disk) Read(p []byte) (int, error) {
	n, err := d.ReadAt(p, d.pos)
	d.pos += int64(n)
	return n, err
}

// Seek implements [io.Seeker].
func (d *Disk) Seek(off int64, whence int) (int64, error) {
	d.pos = map[int]int64{io.SeekStart: 0, io.SeekCurrent: d.pos, io.SeekEnd: int64(len(d.Bytes))}[whence] + off
	return d.pos, nil
}

// Sync does nothing.
func (d *Disk) Sync() error { return nil }

// Stat is not supported.
func (d *Disk) Stat() (fs.FileInfo, error) { return nil, fs.ErrInvalid }

// Close does nothing.
func (d *Disk) Close() error { return nil }

// Qcow2 returns an image of version 3 with clusters of 2^bits bytes, as far as
// one cluster can hold its first-level table, that leaves out clusters of zeros.
func Qcow2(disk []byte, bits uint) []byte {
	cluster := 1 << bits
	be := binary.BigEndian
	clusters := (len(disk) + cluster - 1) / cluster
	tables := (clusters + cluster/8 - 1) / (cluster / 8)
	head := make([]byte, (2+tables)*cluster) // header, first-level table, second-level tables
	be.PutUint32(head, 0x514649fb)
	be.PutUint32(head[4:], 3)
	be.PutUint32(head[20:], uint32(bits))
	be.PutUint64(head[24:], uint64(len(disk)))
	be.PutUint32(head[36:], uint32(tables))
	be.PutUint64(head[40:], uint64(cluster))
	be.PutUint32(head[96:], 4)
	be.PutUint32(head[100:], 104)
	out := head
	for i := range tables {
		be.PutUint64(out[cluster+8*i:], uint64((2+i)*cluster)|1<<63)
	}
	for i := range clusters {
		data := disk[i*cluster : min((i+1)*cluster, len(disk))]
		if bytes.Count(data, []byte{0}) == len(data) {
			continue
		}
		be.PutUint64(out[2*cluster+8*i:], uint64(len(out))|1<<63)
		out = append(out, data...)
		out = append(out, make([]byte, cluster-len(data))...)
	}
	return out
}
