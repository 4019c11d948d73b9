package manifest

// What green does not prove: that a manifest describes the image beside it, or
// that it is the signed one. Only the format is checked here; contents are the
// installer's and the artefact tests' business.

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const mib = 1 << 20

// sample returns a manifest that passes every check.
func sample() Manifest {
	hash := strings.Repeat("a1", 32)
	return Manifest{
		Schema: Schema, Name: Name, Profile: "default", Distribution: "debian", Suite: "trixie", Kernel: "6.12.0-amd64",
		SourceDateEpoch: 1767225600, CommandLine: `cc.keys=tpm root=/dev/mapper/cc-root ro x="<&>"`,
		CommandLines: map[string]string{
			"tpm": `cc.keys=tpm root=/dev/mapper/cc-root ro x="<&>"`, "snp": `cc.keys=snp root=/dev/mapper/cc-root ro x="<&>"`, "attested": "ro cc.keys=attested",
		},
		Disk: Disk{
			File: "cc-base.qcow2", GUID: "8838B6BD-4A64-5071-99BA-D628892CD8BE", SectorSize: 512, VirtualSize: 8 * mib,
			Partitions: []Partition{
				{Number: 1, Label: "cc-esp", TypeGUID: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", GUID: "DEA949C3-45A6-5EB9-BF9B-1365E4FC877B",
					Start: mib, Size: 2 * mib, ContentSize: 2 * mib, SHA256: hash},
				{Number: 2, Label: "cc-root", TypeGUID: "CA7D7CCB-63ED-4C53-861C-1742536059CC", GUID: "3D1FBB4A-3A87-58A9-9403-4D7952DEB57A",
					Start: 3 * mib, Size: 2 * mib, ContentSize: mib, SHA256: hash, Encrypted: true, ReadOnly: true, Mount: "/",
					Verity: &Verity{RootHash: hash, HashOffset: 8192, Salt: "04df"}},
				{Number: 3, Label: "cc-dynamic", TypeGUID: "6229E8D9-6D18-5389-A180-E8461AC96685", GUID: "0A80DFEC-9FF1-5CA9-BBE0-11A3D198F52F",
					Start: 5 * mib, Size: 2 * mib, Encrypted: true, Mount: "/mnt/dynamic"},
			},
		},
		Files: []File{{Path: "cc-base.qcow2", Size: 4096, SHA256: hash}, {Path: "config/os.conf", SHA256: hash}},
	}
}

func encode(t testing.TB, m Manifest) []byte {
	t.Helper()
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	minimal := sample()
	minimal.Disk.Partitions, minimal.Files, minimal.CommandLines = nil, nil, nil
	empty := sample()
	empty.Files = []File{}
	for name, want := range map[string]Manifest{"everything": sample(), "no partitions and files": minimal, "an empty list": empty} {
		raw := encode(t, want)
		got, err := Read(bytes.NewReader(raw))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if !bytes.HasSuffix(raw, []byte("}\n")) || !bytes.Equal(raw, encode(t, got)) {
			t.Errorf("%s: the second encoding differs from the first", name)
		}
	}
	if !bytes.Contains(encode(t, sample()), []byte(`\"<&>\"`)) {
		t.Error("a command line is escaped beyond what JSON asks for")
	}
}

func TestEachMalformedFieldIsNamed(t *testing.T) {
	t.Parallel()
	root := func(m *Manifest) *Partition { return &m.Disk.Partitions[1] }
	tests := []struct {
		name   string
		change func(*Manifest)
		want   string
	}{
		{"another schema", func(m *Manifest) { m.Schema = 2 }, "schema 2, this program reads 1"},
		{"another product", func(m *Manifest) { m.Name = "other" }, `name "other", expected cc-base`},
		{"a time before 1970", func(m *Manifest) { m.SourceDateEpoch = -1 }, "source date epoch -1"},
		{"a UKI's command line of no profile", func(m *Manifest) { m.CommandLine = "cc.keys=tpm" }, "the UKI's command line is that of no key profile"},
		{"an unknown profile", func(m *Manifest) { m.CommandLines["none"] = "cc.keys=none" }, `malformed command line of key profile "none"`},
		{"a profile under another name", func(m *Manifest) { m.CommandLines["snp"] = m.CommandLine }, `malformed command line of key profile "snp"`},
		{"a line without a profile", func(m *Manifest) { m.CommandLines["snp"] = "ro" }, `malformed command line of key profile "snp"`},
		{"a line with two profiles", func(m *Manifest) { m.CommandLines["snp"] = "cc.keys=snp cc.keys=tpm" }, `malformed command line of key profile "snp"`},
		{"two lines for one profile", func(m *Manifest) { m.CommandLines["snp"] = "cc.keys=snp\nro" }, `malformed command line of key profile "snp"`},
		{"no disk file", func(m *Manifest) { m.Disk.File = "" }, `disk file ""`},
		{"a disk file in another folder", func(m *Manifest) { m.Disk.File = "../cc-base.qcow2" }, `disk file "../cc-base.qcow2"`},
		{"a disk file below the folder", func(m *Manifest) { m.Disk.File = "a/b" }, `disk file "a/b"`},
		{"a disk GUID in lower case", func(m *Manifest) { m.Disk.GUID = strings.ToLower(m.Disk.GUID) }, "disk GUID"},
		{"a disk GUID with a line end", func(m *Manifest) { m.Disk.GUID += "\n" }, "disk GUID"},
		{"4096-byte sectors", func(m *Manifest) { m.Disk.SectorSize = 4096 }, "sector size 4096, only 512 is built"},
		{"sectors of no size", func(m *Manifest) { m.Disk.SectorSize = 0 }, "sector size 0"},
		{"a disk of half a sector", func(m *Manifest) { m.Disk.VirtualSize += 256 }, "disk of 8388864 bytes"},
		{"a disk of no size", func(m *Manifest) { m.Disk.VirtualSize = 0 }, "disk of 0 bytes"},
		{"a disk that ends before its partitions", func(m *Manifest) { m.Disk.VirtualSize = 6 * mib }, "partitions end at 7340032, the disk at 6291456"},
		{"no label", func(m *Manifest) { root(m).Label = "" }, `partition "": malformed or repeated label`},
		{"a label that is a path", func(m *Manifest) { root(m).Label = "../x" }, `partition "../x": malformed`},
		{"a label that no GPT holds", func(m *Manifest) { root(m).Label = strings.Repeat("a", 37) }, `partition "aaa`},
		{"a label given twice", func(m *Manifest) { root(m).Label = "cc-esp" }, `partition "cc-esp": malformed or repeated label`},
		{"a partition number of 0", func(m *Manifest) { m.Disk.Partitions[0].Number = 0 }, "partition cc-esp: number 0 out of order"},
		{"a partition number given twice", func(m *Manifest) { root(m).Number = 1 }, "partition cc-root: number 1 out of order"},
		{"a malformed partition GUID", func(m *Manifest) { root(m).GUID = "3D1FBB4A" }, "partition cc-root: malformed GUID"},
		{"a malformed type GUID", func(m *Manifest) { root(m).TypeGUID = "" }, "partition cc-root: malformed GUID"},
		{"a partition GUID given twice", func(m *Manifest) { root(m).GUID = m.Disk.Partitions[0].GUID }, "partition cc-root: repeated GUID"},
		{"the disk's GUID for a partition", func(m *Manifest) { root(m).GUID = m.Disk.GUID }, "partition cc-root: repeated GUID"},
		{"a negative start", func(m *Manifest) { m.Disk.Partitions[0].Start = -512 }, "partition cc-esp: bad extent -512+2097152"},
		{"overlapping partitions", func(m *Manifest) { root(m).Start -= 512 }, "partition cc-root: bad extent"},
		{"a start within a sector", func(m *Manifest) { root(m).Start++ }, "partition cc-root: bad extent"},
		{"a size within a sector", func(m *Manifest) { root(m).Size++ }, "partition cc-root: bad extent"},
		{"a partition of no size", func(m *Manifest) { root(m).Size = 0 }, "partition cc-root: bad extent"},
		{"an end beyond all numbers", func(m *Manifest) {
			m.Disk.Partitions[2].Start, m.Disk.Partitions[2].Size = 1<<62, 1<<62
		}, "partition cc-dynamic: bad extent 4611686018427387904+4611686018427387904"},
		{"the largest size", func(m *Manifest) { m.Disk.Partitions[2].Size = math.MaxInt64 - 511 }, "partition cc-dynamic: bad extent"},
		{"negative content", func(m *Manifest) { root(m).ContentSize = -1 }, "partition cc-root: content of -1 bytes"},
		{"content larger than the partition", func(m *Manifest) { root(m).ContentSize = 3 * mib }, "partition cc-root: content of 3145728 bytes in 2097152"},
		{"content without a digest", func(m *Manifest) { root(m).SHA256 = "" }, "partition cc-root: malformed sha256"},
		{"a digest in upper case", func(m *Manifest) { root(m).SHA256 = strings.ToUpper(root(m).SHA256) }, "partition cc-root: malformed sha256"},
		{"a digest of nothing", func(m *Manifest) { m.Disk.Partitions[2].SHA256 = root(m).SHA256 }, "partition cc-dynamic: sha256 of no content"},
		{"a short root hash", func(m *Manifest) { root(m).Verity.RootHash = "a1" }, "partition cc-root: malformed verity"},
		{"a hash tree at the start", func(m *Manifest) { root(m).Verity.HashOffset = 0 }, "partition cc-root: malformed verity"},
		{"a hash tree behind the content", func(m *Manifest) { root(m).Verity.HashOffset = mib }, "partition cc-root: malformed verity"},
		{"half a byte of salt", func(m *Manifest) { root(m).Verity.Salt = "04d" }, "partition cc-root: malformed verity"},
		{"a salt that is not hexadecimal", func(m *Manifest) { root(m).Verity.Salt = "salt" }, "partition cc-root: malformed verity"},
		{"a file without a digest", func(m *Manifest) { m.Files[0].SHA256 = "" }, `file "cc-base.qcow2": malformed entry`},
		{"a file of negative size", func(m *Manifest) { m.Files[0].Size = -1 }, `file "cc-base.qcow2": malformed entry`},
		{"files out of order", func(m *Manifest) { m.Files[0], m.Files[1] = m.Files[1], m.Files[0] }, `file "cc-base.qcow2": out of order`},
		{"a file given twice", func(m *Manifest) { m.Files[1] = m.Files[0] }, `file "cc-base.qcow2": out of order`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := sample()
			tt.change(&m)
			got, err := Read(bytes.NewReader(encode(t, m)))
			if err == nil || !strings.Contains(err.Error(), "manifest: "+tt.want) {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
			if diff := cmp.Diff(Manifest{}, got); diff != "" {
				t.Errorf("a refused manifest is returned:\n%s", diff)
			}
		})
	}
}

func TestAllProblemsAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	m := sample()
	m.Schema, m.Disk.SectorSize, m.Files[1].Size = 3, 1, -1
	_, err := Read(bytes.NewReader(encode(t, m)))
	want := "manifest: schema 3, this program reads 1\nmanifest: sector size 1, only 512 is built\nmanifest: file \"config/os.conf\": malformed entry"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestPathsThatLeaveTheFolderAreRefused(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"", ".", "..", "../x", "/etc/passwd", "a/../../x", "a/../x", "a//x", "./x", "a/", "a\x00b", "a\nb"} {
		m := sample()
		m.Files = []File{{Path: p, SHA256: strings.Repeat("0", 64)}}
		if _, err := Read(bytes.NewReader(encode(t, m))); err == nil {
			t.Errorf("the path %q is accepted", p)
		}
	}
	for _, p := range []string{"x", "a/x", "..x", "a/..x", "ä b", "-x"} {
		m := sample()
		m.Files = []File{{Path: p, SHA256: strings.Repeat("0", 64)}}
		if _, err := Read(bytes.NewReader(encode(t, m))); err != nil {
			t.Errorf("the path %q is refused: %v", p, err)
		}
	}
}

func TestOnlyTheWrittenFormIsRead(t *testing.T) {
	t.Parallel()
	good := string(encode(t, sample()))
	tests := []struct{ name, text, want string }{
		{"nothing", "", "EOF"},
		{"not JSON", "schema: 1", "invalid character"},
		{"a part", good[:len(good)/2], "unexpected EOF"},
		{"another type", strings.Replace(good, `"schema": 1`, `"schema": "1"`, 1), "cannot unmarshal"},
		{"a number beyond int64", strings.Replace(good, `"size": 4096`, `"size": 9223372036854775808`, 1), "cannot unmarshal"},
		{"an unknown field", strings.Replace(good, `"schema": 1`, `"schema": 1, "trusted": true`, 1), "unknown field"},
		{"a second document", good + "{}", "data after the end"},
		{"bytes behind it", good + "x", "data after the end"},
		{"a field given twice", strings.Replace(good, `"schema": 1`, `"schema": 7, "schema": 1`, 1), "not in the form"},
		{"a field in another case", strings.Replace(good, `"profile"`, `"PROFILE"`, 1), "not in the form"},
		{"a field left out", strings.Replace(good, `  "profile": "default",`+"\n", "", 1), "not in the form"},
		{"a command line under two names", strings.Replace(good, `"snp": `, `"snp": "x", "snp": `, 1), "not in the form"},
		{"profiles out of order", strings.Replace(strings.Replace(good, `"attested": "ro cc.keys=attested",`, "", 1), `"commandLines": {`, `"commandLines": { "tpm": "cc.keys=tpm", "attested": "ro cc.keys=attested",`, 1), "not in the form"},
		{"null for a text", strings.Replace(good, `"default"`, "null", 1), "not in the form"},
		{"other white space", strings.ReplaceAll(good, "  ", "\t"), "not in the form"},
		{"too much", good + strings.Repeat(" ", maxSize), "larger than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := Read(strings.NewReader(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	broken := errors.New("I/O error")
	if _, err := Read(io.MultiReader(strings.NewReader(good), failing{broken})); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestAPartitionIsFoundByItsLabel(t *testing.T) {
	t.Parallel()
	d := sample().Disk
	if p, ok := d.Partition("cc-root"); !ok || p.Number != 2 {
		t.Errorf("got %+v, %v", p, ok)
	}
	if p, ok := d.Partition("cc-none"); ok || p != (Partition{}) {
		t.Errorf("got %+v, %v", p, ok)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add([]byte(`{"schema":1,"disk":{"sectorSize":-512,"partitions":[{"start":-1,"size":9223372036854775807}]}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Read(bytes.NewReader(raw))
		if err != nil {
			return
		}
		if !bytes.Equal(encode(t, m), raw) {
			t.Fatal("what was read is not what would be written")
		}
		end := int64(0)
		for _, p := range m.Disk.Partitions {
			if p.Start < end || p.Size <= 0 || p.ContentSize > p.Size {
				t.Fatalf("partition %+v behind %d", p, end)
			}
			end = p.Start + p.Size
		}
		if end < 0 || end > m.Disk.VirtualSize {
			t.Fatalf("partitions end at %d of %d", end, m.Disk.VirtualSize)
		}
	})
}
