package snp

// What green does not prove: no processor measured anything here. The digests
// are compared with those of other calculators, which are themselves known to
// agree with reports of real guests of their time. A kernel that sets another
// register or feature bit at launch gives another digest, and only a report
// from such a host shows it. Bookworm's and OVMF.amdsev.fd's vectors run only
// where their images are (CC_TEST_FIRMWARE).

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
	"cc-base/tasks/tee/ovmf"
	"cc-base/tasks/tee/ovmf/ovmftest"
)

// digest reads a digest from hexadecimal.
func digest(t *testing.T, text string) Digest {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 48 {
		t.Fatalf("digest %q: %v", text, err)
	}
	return Digest(b)
}

func boot(t *testing.T, kernel, initrd, append string) *KernelHashes {
	t.Helper()
	k, err := HashBoot(strings.NewReader(kernel), strings.NewReader(initrd), append)
	if err != nil {
		t.Fatal(err)
	}
	return &k
}

// TestDigestsOfRealFirmware compares with sev-snp-measure 0.0.13.
func TestDigestsOfRealFirmware(t *testing.T) {
	t.Parallel()
	tests := []struct {
		firmware ovmftest.Real
		alone    string
		rows     map[Options]string
	}{
		{
			ovmftest.Trixie(),
			"52de7f3ba560307ec6c22a5cb001524d5e560467b5d618c715cfe3c6f1addcadb91563693fbfa433ae18c2412d739a95",
			map[Options]string{
				{VCPUs: 1, Model: "EPYC-v4", Features: 1}: "6eef547a9fcf5720c5c04883fe85788d29de46b55a51e554467029b554a3352e66d2f3c71b84cea937d19a1a6c41596f",
				{VCPUs: 4, Model: "EPYC-v4", Features: 1}: "676826e902524799a067f7c43b3ab0101dce73a2506d41436dd2f8472fa208081f11f9e65ca5d2439785732a0bfd8339",
			},
		},
		{
			ovmftest.Bookworm(),
			"ba2c811512ef868474f239a21f7d7057d65a20de87a003c4f116e4fb1573183bfbcd75c3e99b2f558575a5d0094f73c6",
			map[Options]string{
				{VCPUs: 1, Model: "EPYC-v4", Features: 1}: "11570979c77a0adb515761a702527c8b9e11554e730552621d950988613a3a75c6ff1703f540bd22a9beede8fe7a97e3",
				{VCPUs: 4, Model: "EPYC-v4", Features: 1}: "32ac9d7a17d28f7cd4404a4516d2f00519668c40ada2062351c36767e908eb3f090d66c33ab10f80150e00a4385b6d0f",
			},
		},
		{
			ovmftest.AMDSEV(),
			"9d0dd8be18c86e3fe3bf0038ed75ebf5340bee69fd2632c8ff9409964575960ae1f7e84be387d2e3467bc3508d1e4806",
			map[Options]string{
				{VCPUs: 1, Model: "EPYC-v4", Features: 1}:                                      "d74bd3ea40b240c3228edc5177ce6193561ebff633dbd0be76d6c143b876d65102425c0e2e8a930857c48daa5eacda58",
				{VCPUs: 4, Model: "EPYC-v4", Features: 1}:                                      "13a6ae9fbaa31c91ade309c36bd5214729438abac318e01176e02a97b8bec11a4bce86b4d2b1fba2ec0481dd24ff525f",
				{VCPUs: 4, Model: "Milan", Features: 1}:                                        "c995d6122aacbc0434128f0c63783f03b7caec3f8f4292948522a00c0395ff126f1633d8346a20aa85f8dd3bd8739a38",
				{VCPUs: 2, Model: "Milan", Features: 1, Kernel: boot(t, "kern", "initrd", "")}: "7d091400be2ae0807fe6f67ebe00a2b944df6352aa04f969488680fd61560e425f35f37ba6911ae398cedaa87447733c",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.firmware.Name, func(t *testing.T) {
			t.Parallel()
			image := tt.firmware.Read(t)
			if d, err := FirmwareDigest(image); err != nil || d.String() != tt.alone {
				t.Errorf("firmware alone: %s, %v, want %s", d, err, tt.alone)
			}
			for o, want := range tt.rows {
				if d, err := Launch(image, o); err != nil || d.String() != want {
					t.Errorf("%+v: %s, %v, want %s", o, d, err, want)
				}
			}
		})
	}
}

// public is firmware of virtee/sev-snp-measure's test suite, of which only the
// last 4 KiB are published: its metadata and the digest of its pages.
func public(t *testing.T) (Digest, ovmf.Firmware) {
	return digest(t, "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2c37faaa4b24af3aa16aff8c374c2a55c467a50da6d466b74"),
		ovmf.Firmware{ResetEIP: 0x80b004, HashTable: 0x810c00, SEV: []ovmf.SEVSection{
			{Address: 0x800000, Size: 0x9000, Type: ovmf.SecMemory},
			{Address: 0x80a000, Size: 0x3000, Type: ovmf.SecMemory},
			{Address: 0x80d000, Size: 0x1000, Type: ovmf.Secrets},
			{Address: 0x80e000, Size: 0x1000, Type: ovmf.CPUID},
			{Address: 0x80f000, Size: 0x1000, Type: ovmf.CallingArea},
			{Address: 0x810000, Size: 0x1000, Type: ovmf.KernelHashes},
			{Address: 0x811000, Size: 0xf000, Type: ovmf.SecMemory},
		}}
}

// TestDigestsOfPublishedVectors needs no image: the vectors are those of
// virtee/sev-snp-measure tests/test_guest.py for ovmf_AmdSev_suffix.bin.
func TestDigestsOfPublishedVectors(t *testing.T) {
	t.Parallel()
	start, fw := public(t)
	empty := boot(t, "", "", "console=ttyS0 loglevel=7")
	for _, tt := range []struct {
		kernel   *KernelHashes
		features uint64
		want     string
	}{
		{nil, 0x1, "19358ba9a7615534a9a1e2f0dfc29384dcd4dcb7062ff9c6013b26869a5fc6ecabe033c48dd6f6db5d6d76e7c5df632d"},
		{empty, 0x1, "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa"},
		{empty, 0x21, "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb28c653360fe4b3aba7e534442e7e1e17895dfe778d0228977"},
	} {
		base, err := start.sections(fw, tt.kernel)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := Signature("EPYC-v4")
		if err != nil {
			t.Fatal(err)
		}
		got := processors(base, 1, fw.ResetEIP, signature, tt.features)[0]
		if got.String() != tt.want {
			t.Errorf("kernel %t, features %#x: %s, want %s", tt.kernel != nil, tt.features, got, tt.want)
		}
	}
}

// TestDigestsOfAnotherHypervisor computes virtee/sev-snp-measure-go's vector
// for EC2, guest/testdata/ovmf_img_1.json, whose processors start with a few
// other registers: a second proof of sections and of the chain of processors.
func TestDigestsOfAnotherHypervisor(t *testing.T) {
	t.Parallel()
	d := digest(t, "a58211791a556a630a4319dc9e2ea96cc0e9784dd9f20a4fadf81b26c98d163fcdcb6703884bbbb80d7b1de45b3d84d0")
	// EC2 adds the CPUID page last.
	fw := ovmf.Firmware{SEV: []ovmf.SEVSection{
		{Address: 0x800000, Size: 0x9000, Type: ovmf.SecMemory},
		{Address: 0x80a000, Size: 0x3000, Type: ovmf.SecMemory},
		{Address: 0x80d000, Size: 0x1000, Type: ovmf.Secrets},
		{Address: 0x80f000, Size: 0x11000, Type: ovmf.SecMemory},
		{Address: 0x80e000, Size: 0x1000, Type: ovmf.CPUID},
	}}
	d, err := d.sections(fw, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, eip := range []uint32{bootEIP, 0x80b004} {
		page := vmsa(eip, 0, FeatureSNP)
		page[0x22], page[0x92] = 0x92, 0x83 // SS, TR
		if eip == bootEIP {
			page[0x12] = 0x9a // CS
		}
		clear(page[atMXCSR:])
		sum := sha512.Sum384(page[:])
		d = d.update(pageVMSA, &sum, vmsaAddress)
	}
	if want := "4c6e33087d08fa770259484dddbef367086a15c3e2cf10038dc97229d39c942671c2e22b300178f8de594a3f2fa59303"; d.String() != want {
		t.Errorf("got %s, want %s", d, want)
	}
}

func TestATableHasWhatLaunchesHave(t *testing.T) {
	t.Parallel()
	image := ovmftest.SNP().Image()
	kernel := boot(t, "uki", "", "")
	counts, models, features := []int{3, 1, 2}, []string{"EPYC-v4", "EPYC-Genoa"}, []uint64{0x1, 0x21}
	rows, err := Table(image, kernel, counts, models, features)
	if err != nil {
		t.Fatal(err)
	}
	var want []Row
	seen := map[Digest]bool{}
	for _, m := range models {
		for _, f := range features {
			for _, n := range counts {
				d, err := Launch(image, Options{VCPUs: n, Model: m, Features: f, Kernel: kernel})
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, Row{n, m, f, d})
				seen[d] = true
			}
		}
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Error(diff)
	}
	if len(seen) != len(rows) {
		t.Errorf("%d rows, %d digests: something that counts is not measured", len(rows), len(seen))
	}
	text, err := json.Marshal(rows[0])
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`{"vcpus":3,"cpuModel":"EPYC-v4","guestFeatures":1,"digest":"%s"}`, rows[0].Digest); string(text) != want {
		t.Errorf("as JSON: %s, want %s", text, want)
	}
	var back Row
	if err := json.Unmarshal(text, &back); err != nil || back != rows[0] {
		t.Errorf("from JSON: %+v, %v", back, err)
	}
	for _, bad := range []string{`{"digest":"00"}`, `{"digest":"zz"}`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s was taken for a digest", bad)
		}
	}
}

func TestWhatIsBootedIsMeasured(t *testing.T) {
	t.Parallel()
	image := ovmftest.SNP().Image()
	seen := map[Digest]string{}
	for name, k := range map[string]*KernelHashes{
		"nothing":              nil,
		"nothing in it":        boot(t, "", "", ""),
		"a kernel":             boot(t, "kernel", "", ""),
		"another kernel":       boot(t, "kernel2", "", ""),
		"with an initrd":       boot(t, "kernel", "initrd", ""),
		"the two exchanged":    boot(t, "initrd", "kernel", ""),
		"with a command line":  boot(t, "kernel", "", "quiet"),
		"with another one":     boot(t, "kernel", "", "quiet "),
		"with all three":       boot(t, "kernel", "initrd", "quiet"),
		"with init for initrd": boot(t, "kernel", "init", "quiet"),
	} {
		d, err := Launch(image, Options{VCPUs: 1, Model: "EPYC-v4", Features: 1, Kernel: k})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if other, twice := seen[d]; twice {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[d] = name
	}
	none, err := HashBoot(strings.NewReader("kernel"), nil, "")
	if err != nil || none != *boot(t, "kernel", "", "") {
		t.Errorf("no initrd is not an empty initrd: %v", err)
	}
}

// TestTheHashTableIsQEMUs compares the layout with a table written by hand
// TestTheHashTableIsQEMUs compares the GUIDs with QEMU's as bytes, so that a
// slip in one is named and not only a digest wrong.
func TestTheHashTableIsQEMUs(t *testing.T) {
	t.Parallel()
	k := KernelHashes{Kernel: [32]byte{1}, Initrd: [32]byte{2}, CommandLine: [32]byte{3}}
	got := hex.EncodeToString(k.table())
	for _, part := range []string{
		"06d63894224fc94cb479a793d411fd21a800",
		"d82dd09720bd944caa78e7714d36ab2a320003",
		"31f7ba442f3ad74b9af141e29169781d320002",
		"3794e74dd2ab7f42b835d5b172d2045b320001",
	} {
		if !strings.Contains(got, part) {
			t.Errorf("%s is not in %s", part, got)
		}
	}
	if len(k.table()) != 176 || !strings.HasSuffix(got, "0000000000000000") {
		t.Errorf("%d bytes, want 168 and 8 of zeros", len(k.table()))
	}
}

func TestWhatCannotBeMeasuredIsRefused(t *testing.T) {
	t.Parallel()
	plain := ovmftest.SNP()
	plain.SEV = plain.SEV[:6]
	noReset := ovmftest.SNP()
	noReset.ResetEIP = 0
	noMetadata := ovmftest.SNP()
	noMetadata.SEV = nil
	elsewhere := ovmftest.SNP()
	elsewhere.HashTable = 0x812000
	late := ovmftest.SNP()
	late.HashTable = 0x810fff - 170
	nowhere := ovmftest.SNP()
	nowhere.HashTable = 0
	wide := ovmftest.SNP()
	wide.SEV[6].Size = 0x2000
	double := ovmftest.SNP()
	double.SEV = append(double.SEV, double.SEV[6])
	kernel := boot(t, "kernel", "", "")
	good := Options{VCPUs: 2, Model: "EPYC-v4", Features: 1}
	with := func(change func(*Options)) Options { o := good; change(&o); return o }
	tests := []struct {
		name  string
		image []byte
		o     Options
		text  string
	}{
		{"a kernel without a page for its hashes", plain.Image(), with(func(o *Options) { o.Kernel = kernel }), "no page for kernel hashes"},
		{"a second processor without a reset vector", noReset.Image(), good, "no reset vector"},
		{"firmware without metadata", noMetadata.Image(), good, "no SEV metadata"},
		{"a hash table outside its page", elsewhere.Image(), with(func(o *Options) { o.Kernel = kernel }), "not inside its page"},
		{"a hash table beyond its page", late.Image(), with(func(o *Options) { o.Kernel = kernel }), "not inside its page"},
		{"no hash table", nowhere.Image(), with(func(o *Options) { o.Kernel = kernel }), "not inside its page"},
		{"two pages in one", wide.Image(), with(func(o *Options) { o.Kernel = kernel }), "not inside its page"},
		{"two hash tables", double.Image(), with(func(o *Options) { o.Kernel = kernel }), "two pages"},
		{"no processor", plain.Image(), with(func(o *Options) { o.VCPUs = 0 }), "want 1 to 4096"},
		{"too many processors", plain.Image(), with(func(o *Options) { o.VCPUs = 4097 }), "want 1 to 4096"},
		{"an unknown model", plain.Image(), with(func(o *Options) { o.Model = "EPYC-v9" }), `unknown CPU model "EPYC-v9"`},
		{"the host's model", plain.Image(), with(func(o *Options) { o.Model = "host" }), "unknown CPU model"},
		{"no SNP", plain.Image(), with(func(o *Options) { o.Features = 0x20 }), "bit 0"},
		{"no image", nil, good, "multiple of 4096"},
	}
	for _, tt := range tests {
		if _, err := Launch(tt.image, tt.o); err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.text)
		}
	}
	one := good
	one.VCPUs = 1
	if _, err := Launch(noReset.Image(), one); err != nil {
		t.Errorf("one processor without a reset vector: %v", err)
	}
	if _, err := FirmwareDigest(nil); err == nil {
		t.Error("no image has a digest")
	}
	broken := errors.New("broken")
	for _, readers := range [][2]io.Reader{{iotest.ErrReader(broken), nil}, {strings.NewReader(""), iotest.ErrReader(broken)}} {
		if _, err := HashBoot(readers[0], readers[1], ""); !errors.Is(err, broken) {
			t.Errorf("a file that cannot be read: %v", err)
		}
	}
	if _, err := HashBoot(strings.NewReader(""), nil, "a\x00b"); err == nil {
		t.Error("a NUL in the command line was accepted")
	}
}

// TestModelsHaveQEMUsSignatures asks the tools tree's QEMU for family, model
// and stepping of every name.
func TestModelsHaveQEMUsSignatures(t *testing.T) {
	t.Parallel()
	tree, _ := lab.Tools(t)
	var ask strings.Builder
	ask.WriteString(`{"execute":"qmp_capabilities"}` + "\n")
	var asked []string
	for _, m := range Models() {
		if !strings.HasPrefix(m, "EPYC") {
			continue
		}
		asked = append(asked, m)
		fmt.Fprintf(&ask, `{"execute":"query-cpu-model-expansion","id":%q,"arguments":{"type":"full","model":{"name":%q}}}`+"\n", m, m)
	}
	ask.WriteString(`{"execute":"quit"}` + "\n")
	var out bytes.Buffer
	err := tree.Run(t.Context(), sh.Cmd{
		Name:  "qemu-system-x86_64",
		Args:  []string{"-machine", "none", "-accel", "tcg", "-display", "none", "-nodefaults", "-qmp", "stdio"},
		Stdin: strings.NewReader(ask.String()), Stdout: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		var reply struct {
			ID     string
			Return struct {
				Model struct {
					Props struct{ Family, Model, Stepping uint32 }
				}
			}
			Error *struct{ Desc string }
		}
		if err := json.Unmarshal([]byte(line), &reply); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if reply.ID == "" {
			continue
		}
		if reply.Error != nil {
			t.Logf("not compared, this QEMU does not know it: %s", reply.ID)
			continue
		}
		known[reply.ID] = true
		p := reply.Return.Model.Props
		// CPUID leaf 1, AMD publication 25481.
		want := (p.Family-15)<<20 | p.Model>>4<<16 | 15<<8 | p.Model&15<<4 | p.Stepping
		if got, err := Signature(reply.ID); err != nil || got != want {
			t.Errorf("%s: %#x, %v; QEMU says %#x", reply.ID, got, err, want)
		}
	}
	for _, m := range []string{"EPYC", "EPYC-v4", "EPYC-Rome", "EPYC-Milan-v2", "EPYC-Genoa"} {
		if !known[m] {
			t.Errorf("QEMU was not heard on %s: %s", m, out.String())
		}
	}
	if len(asked) < 15 {
		t.Errorf("only %d models", len(asked))
	}
}

func TestShortNamesAreModels(t *testing.T) {
	t.Parallel()
	for short, model := range map[string]string{"Rome": "EPYC-Rome", "Milan": "EPYC-Milan-v2", "Genoa": "EPYC-Genoa-v1", "Turin": "EPYC-Turin", "EPYC": "EPYC-IBPB"} {
		a, err := Signature(short)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := Signature(model); err != nil || a != b {
			t.Errorf("%s has %#x, %s has %#x, %v", short, a, model, b, err)
		}
	}
	for _, m := range Models() {
		if _, err := Signature(m); err != nil {
			t.Error(err)
		}
	}
	// From AMD's documents of the processors, for those that QEMU of the tools
	// tree does not know.
	if s, err := Signature("EPYC-Turin"); err != nil || s != 0xb00f00 {
		t.Errorf("Turin: %#x, %v", s, err)
	}
}
