package tdx_test

// What green does not prove: no TDX module measured anything here, and no quote
// was compared. MRTD agrees with two other calculators on real firmware. The
// events of the RTMRs are checked one by one against event logs that others
// published and against the sources named in the code; that a firmware of
// another version measures nothing else, and that systemd and Linux do what
// their sources say, only a guest's own log can show.

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/foxboron/go-uefi/authenticode"
	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/boot"
	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/lab"
	"cc-base/tasks/tee/ovmf"
	"cc-base/tasks/tee/ovmf/ovmftest"
	"cc-base/tasks/tee/tdx"
)

// kernel is a program without anything of interest in it.
func kernel() []byte { return []byte(boottest.Kernel().Data) }

// image is a unified kernel image with the sections that cc-base's have.
func image(line string) []byte {
	return boottest.PE(
		boottest.Section{Name: ".text", Data: "stub"}, boottest.Section{Name: ".osrel", Data: "ID=debian\n"}, boottest.Section{Name: ".cmdline", Data: line},
		boottest.Section{Name: ".initrd", Data: "initrd of odd lengt"}, boottest.Section{Name: ".uname", Data: "6.12.0"}, boottest.Kernel(),
		boottest.Section{Name: ".sbat", Data: "sbat,1\n"},
	)
}

// digest is what go-uefi says that firmware measures of a program.
func digest(t *testing.T, program []byte) tdx.Digest {
	t.Helper()
	p, err := authenticode.Parse(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	return tdx.Digest(p.Hash(crypto.SHA384))
}

func names(log tdx.Log) string {
	var out []string
	for _, e := range log {
		out = append(out, e.Name)
	}
	return strings.Join(out, "; ")
}

// event returns the digest of the event with that name.
func event(t *testing.T, log tdx.Log, name string) tdx.Digest {
	t.Helper()
	for _, e := range log {
		if e.Name == name {
			return e.Digest
		}
	}
	t.Fatalf("no event %q in %s", name, names(log))
	return tdx.Digest{}
}

// TestMRTDOfRealFirmware compares with what two other calculators agree on for
// a single pass, and with one of them for two passes.
func TestMRTDOfRealFirmware(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		firmware ovmftest.Real
		order    tdx.Order
		want     string
	}{
		{ovmftest.Trixie(), tdx.SinglePass, "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11"},
		{ovmftest.Bookworm(), tdx.SinglePass, "4c7206f0f483c524f12c366c711e9049030a8d47c471ee5aa9c4999a08de4057fb887fed0744d5631a212967fb231c47"},
		{ovmftest.Bookworm(), tdx.TwoPass, "acccbcc870a381adab0d3919d90a7f268ac3b0364771f202ed4bb4e892d045b33db3b32e6924cba830a724eed443f7e1"},
	} {
		t.Run(tt.firmware.Name, func(t *testing.T) {
			t.Parallel()
			if d, err := tdx.MRTD(tt.firmware.Read(t), tt.order); err != nil || d.String() != tt.want {
				t.Errorf("got %s, %v, want %s", d, err, tt.want)
			}
		})
	}
}

func TestMRTDIsThatOfTheCodeAlone(t *testing.T) {
	t.Parallel()
	image := ovmftest.TDX().Image()
	before, err := tdx.MRTD(image, tdx.SinglePass)
	if err != nil {
		t.Fatal(err)
	}
	other := slices.Clone(image)
	other[100] ^= 1 // in the variables
	if d, err := tdx.MRTD(other, tdx.SinglePass); err != nil || d != before {
		t.Errorf("other variables: %s, %v", d, err)
	}
	other[0x1000] ^= 1 // in the code
	if d, err := tdx.MRTD(other, tdx.SinglePass); err != nil || d == before {
		t.Errorf("other code: %s, %v", d, err)
	}
	if d, err := tdx.MRTD(image, tdx.TwoPass); err != nil || d == before {
		t.Errorf("two passes: %s, %v", d, err)
	}
	augmented := ovmftest.TDX()
	augmented.TDVF[2].Attributes = ovmf.PageAug
	if d, err := tdx.MRTD(augmented.Image(), tdx.SinglePass); err != nil || d == before {
		t.Errorf("with pages that are added later: %s, %v", d, err)
	}
	unmeasured := ovmftest.TDX()
	unmeasured.TDVF[0].Attributes = 0
	for name, bad := range map[string][]byte{"nothing": nil, "no metadata": ovmftest.SNP().Image(), "no measured section": unmeasured.Image()} {
		if _, err := tdx.MRTD(bad, tdx.SinglePass); err == nil {
			t.Errorf("%s: has an MRTD", name)
		}
	}
	if _, err := tdx.MRTD(image, 7); err == nil {
		t.Error("an unknown order was accepted")
	}
}

func TestARegisterIsTheFoldOfItsLog(t *testing.T) {
	t.Parallel()
	if (tdx.Log{}).Register() != (tdx.Digest{}) {
		t.Error("a register without events is not zero")
	}
	a, b := sha512.Sum384([]byte("a")), sha512.Sum384([]byte("b"))
	first := sha512.Sum384(append(make([]byte, 48), a[:]...))
	want := sha512.Sum384(append(first[:], b[:]...))
	log := tdx.Log{{Name: "a", Digest: a}, {Name: "b", Digest: b}}
	if got := log.Register(); got != want {
		t.Errorf("got %s, want %x", got, want)
	}
	text, err := json.Marshal(log[:1])
	if err != nil || string(text) != `[{"name":"a","digest":"`+hex.EncodeToString(a[:])+`"}]` {
		t.Errorf("as JSON: %s, %v", text, err)
	}
	var back tdx.Log
	if err := json.Unmarshal(text, &back); err != nil || len(back) != 1 || back[0] != log[0] {
		t.Errorf("from JSON: %+v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`[{"digest":"00"}]`), &back); err == nil {
		t.Error("a byte was taken for a digest")
	}
}

// TestEventsAreThoseOfPublishedLogs compares the digests of events that are the
// same on every machine with those seen in event logs of TDX guests.
func TestEventsAreThoseOfPublishedLogs(t *testing.T) {
	t.Parallel()
	rtmr1, err := tdx.RTMR1(tdx.Boot{Kernel: kernel()})
	if err != nil {
		t.Fatal(err)
	}
	one := []byte{1}
	rtmr0, err := tdx.RTMR0(tdx.Platform{HandOff: one, ConfigVolume: one, ACPI: tdx.ACPI{Loader: one, RSDP: one, Tables: one}, BootOrder: []byte{0, 0}, Boot: [][]byte{one}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		log        tdx.Log
		name, want string
	}{
		{rtmr1, "calling EFI application", "77a0dab2312b4e1e57a84d865a21e5b2ee8d677a21012ada819d0a98988078d3d740f6346bfe0abaa938ca20439a8d71"},
		{rtmr1, "separator", "394341b7182cd227c5c6b07ef8000cdfd86136c4292b8e576573ad7ed9ae41019f5818b4b971c9effc60e1ad9f1289f0"},
		{rtmr1, "exit boot services", "214b0bef1379756011344877743fdc2a5382bac6e70362d624ccf3f654407c1b4badf7d8f9295dd3dabdef65b27677e0"},
		{rtmr1, "exit boot services succeeded", "0a2e01c85deae718a530ad8c6d20a84009babe6c8989269e950d8cf440c6e997695e64d455c4174a652cd080f6230b74"},
		{rtmr0, "variable SecureBoot", "9dc3a1f80bcec915391dcda5ffbb15e7419f77eab462bbf72b42166fb70d50325e37b36f93537a863769bcf9bedae6fb"},
		{rtmr0, "variable PK", "6f2e3cbc14f9def86980f5f66fd85e99d63e69a73014ed8a5633ce56eca5b64b692108c56110e22acadcef58c3250f1b"},
		{rtmr0, "variable KEK", "d607c0efb41c0d757d69bca0615c3a9ac0b1db06c557d992e906c6b7dee40e0e031640c7bfd7bcd35844ef9edeadc6f9"},
		{rtmr0, "variable db", "08a74f8963b337acb6c93682f934496373679dd26af1089cb4eaf0c30cf260a12e814856385ab8843e56a9acea19e127"},
		{rtmr0, "variable dbx", "18cc6e01f0c6ea99aa23f8a280423e94ad81d96d0aeb5180504fc0f7a40cb3619dd39bd6a95ec1680a86ed6ab0f9828d"},
		{rtmr0, "variable BootOrder", "1dd6f7b457ad880d840d41c961283bab688e94e4b59359ea45686581e90feccea3c624b1226113f824f315eb60ae0a7c"},
	} {
		if got := event(t, tt.log, tt.name); got.String() != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestRTMR0HasItsEventsInOrder(t *testing.T) {
	t.Parallel()
	p := tdx.Platform{
		HandOff: []byte("h"), ConfigVolume: []byte("c"),
		SecureBoot:        tdx.SecureBoot{Mode: []byte{1}, PK: []byte("pk"), KEK: []byte("kek"), DB: []byte("db"), DBX: []byte("dbx")},
		ACPI:              tdx.ACPI{Loader: []byte("l"), RSDP: []byte("r"), Tables: []byte("t")},
		BootOrder:         []byte{1, 0, 0, 0},
		Boot:              [][]byte{[]byte("one"), []byte("zero")},
		AfterConfigVolume: tdx.Log{{Name: "boot menu"}}, AfterACPI: tdx.Log{{Name: "SMBIOS"}},
	}
	log, err := tdx.RTMR0(p)
	if err != nil {
		t.Fatal(err)
	}
	want := "TD hand-off block; configuration volume; boot menu; variable SecureBoot; variable PK; variable KEK; variable db; variable dbx; " +
		"separator; ACPI table loader; ACPI RSDP; ACPI tables; SMBIOS; variable BootOrder; boot variable 1 of BootOrder; boot variable 2 of BootOrder"
	if got := names(log); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	// UEFI_VARIABLE_DATA of db by hand.
	data, err := hex.DecodeString("cbb219d73a3d9645a3bcdad00e67656f" + "0200000000000000" + "0200000000000000" + "64006200" + "6462")
	if err != nil {
		t.Fatal(err)
	}
	if got := event(t, log, "variable db"); got != sha512.Sum384(data) {
		t.Errorf("variable db: %s", got)
	}
	for name, change := range map[string]func(*tdx.Platform){
		"no hand-off block":     func(p *tdx.Platform) { p.HandOff = nil },
		"no variables":          func(p *tdx.Platform) { p.ConfigVolume = nil },
		"no table loader":       func(p *tdx.Platform) { p.ACPI.Loader = nil },
		"no tables":             func(p *tdx.Platform) { p.ACPI.Tables = nil },
		"order without boot":    func(p *tdx.Platform) { p.Boot = nil },
		"boot without order":    func(p *tdx.Platform) { p.BootOrder = nil },
		"an RSDP that is empty": func(p *tdx.Platform) { p.ACPI.RSDP = []byte{} },
	} {
		q := p
		change(&q)
		if _, err := tdx.RTMR0(q); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
}

func TestRTMR1HasItsEventsInOrder(t *testing.T) {
	t.Parallel()
	uki := image("quiet")
	table := []byte("header, count and entries")
	for _, tt := range []struct {
		name string
		boot tdx.Boot
		want string
	}{
		{"kernel", tdx.Boot{Kernel: kernel()}, "kernel; calling EFI application; separator; exit boot services; exit boot services succeeded"},
		{"UKI", tdx.Boot{UKI: uki}, "UKI; calling EFI application; separator; kernel in the UKI; exit boot services; exit boot services succeeded"},
		{"UKI, Secure Boot", tdx.Boot{UKI: uki, SecureBoot: true}, "UKI; calling EFI application; separator; exit boot services; exit boot services succeeded"},
		{"disk", tdx.Boot{UKI: uki, GPT: table}, "calling EFI application; separator; partition table; UKI; kernel in the UKI; exit boot services; exit boot services succeeded"},
		{"disk, Secure Boot", tdx.Boot{UKI: uki, GPT: table, SecureBoot: true}, "calling EFI application; separator; partition table; UKI; exit boot services; exit boot services succeeded"},
	} {
		log, err := tdx.RTMR1(tt.boot)
		if err != nil || names(log) != tt.want {
			t.Errorf("%s: %s, %v\nwant %s", tt.name, names(log), err, tt.want)
		}
	}
	log, err := tdx.RTMR1(tdx.Boot{UKI: uki})
	if err != nil {
		t.Fatal(err)
	}
	if event(t, log, "UKI") != digest(t, uki) {
		t.Error("the UKI's event is not its own")
	}
	if event(t, log, "kernel in the UKI") != digest(t, kernel()) {
		t.Error("the inner kernel's event is not its own")
	}
	if log, err = tdx.RTMR1(tdx.Boot{UKI: uki, GPT: table}); err != nil || event(t, log, "partition table") != sha512.Sum384(table) {
		t.Errorf("the partition table is not measured as it was given: %v", err)
	}
}

func TestRTMR2OfAPlainKernel(t *testing.T) {
	t.Parallel()
	wide := func(s string) tdx.Digest {
		var b []byte
		for _, c := range []byte(s) {
			b = append(b, c, 0)
		}
		return sha512.Sum384(append(b, 0, 0))
	}
	kernel := kernel()
	for _, tt := range []struct {
		name string
		boot tdx.Boot
		want tdx.Log
	}{
		{"all three", tdx.Boot{Kernel: kernel, Initrd: []byte("i"), CommandLine: "quiet"}, tdx.Log{{Name: "command line", Digest: wide("quiet initrd=initrd")}, {Name: "initrd", Digest: sha512.Sum384([]byte("i"))}}},
		{"no initrd", tdx.Boot{Kernel: kernel, CommandLine: "quiet"}, tdx.Log{{Name: "command line", Digest: wide("quiet")}}},
		{"no command line", tdx.Boot{Kernel: kernel, Initrd: []byte("i")}, tdx.Log{{Name: "command line", Digest: wide(" initrd=initrd")}, {Name: "initrd", Digest: sha512.Sum384([]byte("i"))}}},
		{"neither", tdx.Boot{Kernel: kernel}, nil},
	} {
		got, err := tdx.RTMR2(tt.boot)
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", tt.name, err, diff)
		}
	}
}

func TestRTMR2OfAUKI(t *testing.T) {
	t.Parallel()
	// What the stub makes of it has neither white space at the ends nor
	// control characters.
	uki := image("\t root=x\nquiet \x00rest")
	log, err := tdx.RTMR2(tdx.Boot{UKI: uki})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, s := range []string{".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"} {
		want = append(want, "name of section "+s, "section "+s)
	}
	if got, want := names(log), strings.Join(append(want, "command line", "initrd"), "; "); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	plain, err := tdx.RTMR2(tdx.Boot{Kernel: kernel(), CommandLine: "root=x quiet"})
	if err != nil {
		t.Fatal(err)
	}
	if event(t, log, "command line") != event(t, plain, "command line") {
		t.Error("the command line is not what the stub makes of it")
	}
	if event(t, log, "section .initrd") != sha512.Sum384([]byte("initrd of odd lengt")) {
		t.Error("the section is not measured as it is")
	}
	if event(t, log, "name of section .osrel") != sha512.Sum384([]byte(".osrel\x00")) {
		t.Error("the name is not measured with its NUL")
	}

	only := boottest.PE(boottest.Kernel(), boottest.Section{Name: ".initrd", Data: "odd"})
	if log, err = tdx.RTMR2(tdx.Boot{UKI: only}); err != nil || event(t, log, "initrd") != sha512.Sum384([]byte("odd")) {
		t.Errorf("a single initrd is padded: %v", err)
	}
	if strings.Contains(names(log), "command line") {
		t.Error("a UKI without a command line has one measured")
	}
}

// TestTheSectionsAreThoseOfPCR11 makes PCR 11 of the logged sections' content:
// package boot knows the same order from the same header.
func TestTheSectionsAreThoseOfPCR11(t *testing.T) {
	t.Parallel()
	var all []boottest.Section
	for _, name := range []string{".hwids", ".dtbauto", ".profile", ".pcrpkey", ".pcrsig", ".sbat", ".uname", ".dtb", ".splash", ".ucode", ".initrd", ".cmdline", ".osrel"} {
		all = append(all, boottest.Section{Name: name, Data: "content of " + name})
	}
	all = append(all, boottest.Kernel())
	uki := boottest.PE(all...)
	want, err := boot.PCR11(uki)
	if err != nil {
		t.Fatal(err)
	}
	log, err := tdx.RTMR2(tdx.Boot{UKI: uki})
	if err != nil {
		t.Fatal(err)
	}
	content := map[tdx.Digest][]byte{}
	for _, s := range all {
		content[sha512.Sum384([]byte(s.Data))] = []byte(s.Data)
		content[sha512.Sum384([]byte(s.Name+"\x00"))] = []byte(s.Name + "\x00")
	}
	var pcr [32]byte
	for _, e := range log[:len(log)-2] {
		data, ok := content[e.Digest]
		if !ok {
			t.Fatalf("%s: not the content of a section", e.Name)
		}
		d := sha256.Sum256(data)
		pcr = sha256.Sum256(append(pcr[:], d[:]...))
	}
	if pcr != want {
		t.Errorf("PCR 11 by this order: %x, by package boot: %x", pcr, want)
	}
}

func TestWhatCannotBePredictedIsRefused(t *testing.T) {
	t.Parallel()
	uki, kernel := image("quiet"), kernel()
	for name, b := range map[string]tdx.Boot{
		"nothing":                  {},
		"two things":               {UKI: uki, Kernel: kernel},
		"a UKI with an initrd":     {UKI: uki, Initrd: []byte("i")},
		"a UKI with a line":        {UKI: uki, CommandLine: "quiet"},
		"a kernel on a disk":       {Kernel: kernel, GPT: []byte("table")},
		"a line with a newline":    {Kernel: kernel, CommandLine: "a\nb"},
		"a line that is not ASCII": {Kernel: kernel, CommandLine: "ä"},
	} {
		if _, err := tdx.RTMR1(b); err == nil {
			t.Errorf("%s: has an RTMR 1", name)
		}
		if _, err := tdx.RTMR2(b); err == nil {
			t.Errorf("%s: has an RTMR 2", name)
		}
	}
	if _, err := tdx.RTMR2(tdx.Boot{UKI: kernel}); err == nil {
		t.Error("a kernel was taken for a UKI")
	}
	if _, err := tdx.RTMR2(tdx.Boot{UKI: image("ä")}); err == nil {
		t.Error("a UKI's line that is not ASCII was accepted")
	}
	if _, err := tdx.RTMR1(tdx.Boot{Kernel: []byte("text")}); err == nil {
		t.Error("a text was taken for a kernel")
	}
}

// TestAUKIOfUkifyIsRead takes a UKI as the build makes them, with a boot
// manager in place of the kernel.
func TestAUKIOfUkifyIsRead(t *testing.T) {
	t.Parallel()
	tree, dir := lab.Tools(t)
	const program = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
	if _, err := os.Stat(filepath.Join(tree.Dir, program)); err != nil {
		lab.Absent(t, "%v", err)
	}
	for name, text := range map[string]string{"initrd": strings.Repeat("x", 1001), "os-release": "ID=debian\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "uki.efi")
	err := boot.BuildUKI(t.Context(), tree, boot.UKI{
		Kernel: program, Release: "6.12.0", Initrd: filepath.Join(dir, "initrd"), OSRelease: filepath.Join(dir, "os-release"),
		CommandLine: "root=/dev/mapper/cc-root ro", Epoch: 1767225600,
	}, out)
	if err != nil {
		t.Fatal(err)
	}
	uki, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	log, err := tdx.RTMR1(tdx.Boot{UKI: uki})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(tree.Dir, program))
	if err != nil {
		t.Fatal(err)
	}
	if event(t, log, "kernel in the UKI") != digest(t, data) {
		t.Error("the kernel in the UKI is not the one put in")
	}
	if log, err = tdx.RTMR2(tdx.Boot{UKI: uki}); err != nil || !strings.HasSuffix(names(log), "command line; initrd") {
		t.Errorf("RTMR 2: %s, %v", names(log), err)
	}
}

func TestTheHandOffBlockListsTheMemory(t *testing.T) {
	t.Parallel()
	image := ovmftest.TDX().Image()
	for _, tt := range []struct {
		memory uint64
		want   [][3]uint64 // kind, start, length
	}{
		{2 << 30, [][3]uint64{
			{0, 0x800000, 0x6000}, {7, 0x806000, 0x3000}, {0, 0x809000, 0x2000}, {7, 0x80b000, 0x5000}, {0, 0x810000, 0x10000}, {7, 0x820000, 2<<30 - 0x820000},
		}},
		{0xb0000000 - 4096, [][3]uint64{
			{0, 0x800000, 0x6000}, {7, 0x806000, 0x3000}, {0, 0x809000, 0x2000}, {7, 0x80b000, 0x5000}, {0, 0x810000, 0x10000}, {7, 0x820000, 0xb0000000 - 4096 - 0x820000},
		}},
		{0xb0000000, [][3]uint64{
			{0, 0x800000, 0x6000}, {7, 0x806000, 0x3000}, {0, 0x809000, 0x2000}, {7, 0x80b000, 0x5000}, {0, 0x810000, 0x10000}, {7, 0x820000, 0x80000000 - 0x820000}, {7, 1 << 32, 0x30000000},
		}},
	} {
		want := append([][3]uint64{{7, 0, 0x800000}}, tt.want...)
		b, err := tdx.HandOffBlock(image, tt.memory)
		if err != nil {
			t.Fatal(err)
		}
		le := binary.LittleEndian
		if le.Uint32(b[8:]) != 9 || le.Uint64(b[48:]) != 0x809000+uint64(len(b))+8 {
			t.Errorf("%#x: version %d, end %#x", tt.memory, le.Uint32(b[8:]), le.Uint64(b[48:]))
		}
		var got [][3]uint64
		for h := b[56:]; len(h) > 0; h = h[48:] {
			if le.Uint32(h) != 3|48<<16 || le.Uint32(h[28:]) != 7 {
				t.Errorf("%#x: header %#x, attributes %#x", tt.memory, le.Uint32(h), le.Uint32(h[28:]))
			}
			got = append(got, [3]uint64{uint64(le.Uint32(h[24:])), le.Uint64(h[32:]), le.Uint64(h[40:])})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%#x: %s", tt.memory, diff)
		}
	}
	noHome := ovmftest.TDX()
	noHome.TDVF = noHome.TDVF[:3]
	twice := ovmftest.TDX()
	twice.TDVF = append(twice.TDVF, twice.TDVF[4])
	small := ovmftest.TDX()
	for i := range uint32(40) {
		small.TDVF = append(small.TDVF, ovmf.TDVFSection{Address: 0x1000000 + uint64(i)*0x2000, Size: 0x1000, Type: ovmf.TempMemory})
	}
	small.TDVF[3].Size = 0x1000
	for name, try := range map[string]struct {
		image  []byte
		memory uint64
	}{
		"no memory":          {image, 0},
		"half a page":        {image, 1<<30 + 1},
		"too much":           {image, 1 << 50},
		"too little":         {image, 8 << 20},
		"no place":           {noHome.Image(), 1 << 30},
		"a section twice":    {twice.Image(), 1 << 30},
		"more than its room": {small.Image(), 1 << 30},
		"no image":           {nil, 1 << 30},
	} {
		if _, err := tdx.HandOffBlock(try.image, try.memory); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
}

func TestTheConfigurationVolumeIsTheVariables(t *testing.T) {
	t.Parallel()
	image := ovmftest.TDX().Image()
	got, err := tdx.ConfigVolume(image)
	if err != nil || !bytes.Equal(got, image[:4096]) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if _, err := tdx.ConfigVolume(ovmftest.SNP().Image()); err == nil {
		t.Error("firmware without one has one")
	}
}

func FuzzRTMR2(f *testing.F) {
	f.Add(image("quiet"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = tdx.RTMR1(tdx.Boot{UKI: data})
		_, _ = tdx.RTMR2(tdx.Boot{UKI: data})
	})
}
