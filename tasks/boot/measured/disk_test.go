package measured_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"cc-base/tasks/boot/measured"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
)

// recorded is the beginning of the disk whose boot package pcr has a firmware's
// log of.
func recorded(t testing.TB) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(filetest.Read(t, filepath.Join("..", "..", "tpm", "pcr", "testdata", "plain.gpt.gz"))))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// diskBytes returns the first sectors of a disk with two partitions.
func diskBytes(t testing.TB) []byte {
	t.Helper()
	const size = 8 << 20
	table := &gpt.Table{
		LogicalSectorSize: 512, PhysicalSectorSize: 512, ProtectiveMBR: true, GUID: "5ca3360b-5de6-4fcf-b4ce-419cee433b51",
		Partitions: []*gpt.Partition{
			{Index: 1, Start: 2048, End: 4095, Type: gpt.EFISystemPartition, GUID: "5ca3360b-5de6-4fcf-b4ce-419cee433b52", Name: "cc-esp"},
			{Index: 3, Start: 4096, End: 8191, Type: gpt.LinuxFilesystem, GUID: "5ca3360b-5de6-4fcf-b4ce-419cee433b53", Name: "cc-root"},
		},
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := table.Write(f, size); err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 34*512)
	if _, err := f.ReadAt(out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestThePartitionTablesEventIsHeaderCountAndEntries(t *testing.T) {
	t.Parallel()
	disk := diskBytes(t)
	want := slices.Clone(disk[512 : 512+92])
	var entries []byte
	used := 0
	for e := disk[1024 : 1024+128*128]; len(e) > 0; e = e[128:] {
		if !bytes.Equal(e[:16], make([]byte, 16)) {
			entries = append(entries, e[:128]...)
			used++
		}
	}
	if used != 2 {
		t.Fatalf("the disk has %d partitions", used)
	}
	want = append(binary.LittleEndian.AppendUint64(want, 2), entries...)
	for name, data := range map[string][]byte{"disk": disk, "without its first sector": disk[512:], "longer": append(slices.Clone(disk), make([]byte, 5000)...)} {
		got, err := measured.PartitionTable(bytes.NewReader(data))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: not header, count and entries: %v", name, err)
		}
	}
}

// changed returns a disk's beginning whose table is changed by f, with right
// checksums unless f is to break them.
func changed(t testing.TB, checksums bool, f func(header, entries []byte)) []byte {
	b := bytes.Clone(recorded(t))
	header, entries := b[512:512+92], b[1024:]
	f(header, entries)
	if checksums {
		le := binary.LittleEndian
		le.PutUint32(header[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(header[16:], 0)
		le.PutUint32(header[16:], crc32.ChecksumIEEE(header))
	}
	return b
}

func brokenDisks(t testing.TB) map[string][]byte {
	le := binary.LittleEndian
	return map[string][]byte{
		"empty":              nil,
		"the header only":    recorded(t)[:1024],
		"no magic":           changed(t, false, func(h, _ []byte) { h[0] = 0 }),
		"qcow2":              append([]byte("QFI\xfb"), make([]byte, 2000)...),
		"cut in the header":  recorded(t)[:560],
		"cut in the entries": recorded(t)[:4000],
		"changed header":     changed(t, false, func(h, _ []byte) { h[60]++ }),
		"changed entry":      changed(t, false, func(_, e []byte) { e[130]++ }),
		"long header":        changed(t, true, func(h, _ []byte) { le.PutUint32(h[12:], 512) }),
		"entries of 256":     changed(t, true, func(h, _ []byte) { le.PutUint32(h[84:], 256) }),
		"no entries":         changed(t, true, func(h, _ []byte) { le.PutUint32(h[80:], 0) }),
		"4 G entries":        changed(t, true, func(h, _ []byte) { le.PutUint32(h[80:], 1<<32-1) }),
		"entries far away":   changed(t, true, func(h, _ []byte) { le.PutUint64(h[72:], 1<<60) }),
	}
}

func TestABrokenPartitionTableIsRefused(t *testing.T) {
	t.Parallel()
	for name, disk := range brokenDisks(t) {
		if _, err := measured.PartitionTable(bytes.NewReader(disk)); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			faulttest.Want(t, err, fault.DiskImage, "partition table")
		}
	}
}

func TestOnlyEntriesInUseAreMeasured(t *testing.T) {
	t.Parallel()
	all, err := measured.PartitionTable(bytes.NewReader(recorded(t)))
	if err != nil {
		t.Fatal(err)
	}
	fewer, err := measured.PartitionTable(bytes.NewReader(changed(t, true, func(_, e []byte) { clear(e[128:144]) })))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 92+8+5*128 || len(fewer) != len(all)-128 || fewer[92] != 4 {
		t.Errorf("%d bytes, and %d with an entry less", len(all), len(fewer))
	}
	if !bytes.Equal(fewer[92+8+128:], all[92+8+2*128:]) {
		t.Error("the entries behind it are other ones")
	}
}

func FuzzPartitionTable(f *testing.F) {
	f.Add(recorded(f))
	f.Add(diskBytes(f)[512:])
	for _, disk := range brokenDisks(f) {
		f.Add(disk)
	}
	f.Fuzz(func(t *testing.T, disk []byte) {
		// Checksums would keep a fuzzer out of what lies behind them.
		for _, disk := range [][]byte{disk, withChecksums(disk)} {
			if data, err := measured.PartitionTable(bytes.NewReader(disk)); err == nil && (len(data)-100)%128 != 0 {
				t.Errorf("%d bytes", len(data))
			}
		}
	})
}

// withChecksums returns a copy of a partition table with right checksums, as far
// as it can have any.
func withChecksums(data []byte) []byte {
	data = bytes.Clone(data)
	if len(data) < 1024 {
		return data
	}
	le := binary.LittleEndian
	header := data[512 : 512+92]
	lba, count, length := le.Uint64(header[72:]), uint64(le.Uint32(header[80:])), uint64(le.Uint32(header[84:]))
	if lba < 1<<20 && count <= 1024 && length <= 4096 && lba*512+count*length <= uint64(len(data)) {
		le.PutUint32(header[88:], crc32.ChecksumIEEE(data[lba*512:][:count*length]))
	}
	clear(header[16:20])
	le.PutUint32(header[16:], crc32.ChecksumIEEE(header))
	return data
}
