package measurements_test

// What green does not prove: that a machine measures what the document says. The
// packages beside tasks/measurements hold the numbers against other calculators
// and recorded logs; here is shown that each stands in the right row, that
// nothing else has a row, and that a changed file or number is found. No report
// of SEV-SNP or TDX silicon was ever compared with a row. That Trustee takes
// rvps.json is read off its source, not tried.

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/installertest"
	"cc-base/tasks/boot"
	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/boot/measured"
	"cc-base/tasks/boot/varstore"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
	"cc-base/tasks/lab"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/tee/ovmf/ovmftest"
	"cc-base/tasks/tee/snp"
	"cc-base/tasks/tee/tdx"
	"cc-base/tasks/tpm/pcr"
)

func line(profile string) string { return "cc.root=luks+verity:ab:4096 cc.keys=" + profile + " ro <&>" }

// shipped returns a disk with the partition table of a small image.
func shipped(t testing.TB) *installertest.Disk {
	t.Helper()
	f := installertest.New()
	if err := f.Table.Write(f.Disk, f.Manifest.Disk.VirtualSize); err != nil {
		t.Fatal(err)
	}
	return f.Disk
}

// sample is an image for all key profiles whose boot image on the disk is of the
// first one, with firmware for both TEEs.
func sample(t testing.TB, profiles ...string) measurements.Inputs {
	t.Helper()
	if len(profiles) == 0 {
		profiles = []string{"tpm", "snp", "attested"}
	}
	m := manifest.Manifest{
		Schema: manifest.Schema, Name: "cc-base", Profile: "minimal", SourceDateEpoch: 1767225600,
		CommandLine: line(profiles[0]), CommandLines: map[string]string{},
		Disk: manifest.Disk{File: "cc-base.qcow2", GUID: "0CC0BA5E-0000-4000-8000-000000000000", VirtualSize: 14 << 20},
	}
	for _, p := range profiles {
		m.CommandLines[p] = line(p)
	}
	return measurements.Inputs{
		Manifest: m, UKI: boottest.UKI(m.CommandLine), Disk: shipped(t),
		Firmware: map[string][]byte{
			measurements.SNPFirmware:   ovmftest.SNP().Image(),
			measurements.TDXFirmware:   ovmftest.TDX().Image(),
			"firmware/OVMF_CODE_4M.fd": []byte("code"),
		},
		Program: strings.Repeat("c0", 32),
		Machines: measurements.Machines{
			TEE: "auto", VCPUs: []int{1, 4}, CPUModels: []string{"EPYC-v4", "EPYC-Genoa"}, GuestFeatures: []uint64{0x1, 0x21},
		},
	}
}

func compute(t testing.TB, in measurements.Inputs) measurements.Document {
	t.Helper()
	doc, err := measurements.Compute(in)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func encode(t testing.TB, doc measurements.Document) []byte {
	t.Helper()
	data, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func rvps(t testing.TB, doc measurements.Document) []byte {
	t.Helper()
	data, err := doc.RVPS()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheDocumentOfASmallImage(t *testing.T) {
	t.Parallel()
	doc := compute(t, sample(t))
	golden.Compare(t, "measurements.json", string(encode(t, doc)))
	golden.Compare(t, "rvps.json", string(rvps(t, doc)))
}

func TestTheTableOfLaunchDigestsIsWhole(t *testing.T) {
	t.Parallel()
	in := sample(t)
	doc := compute(t, in)
	uki, err := boot.Sections(in.UKI)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[measurements.SNPRow]bool{}
	for _, profile := range []string{"attested", "snp"} {
		for _, vcpus := range in.Machines.VCPUs {
			for _, model := range in.Machines.CPUModels {
				for _, features := range in.Machines.GuestFeatures {
					hashes, err := snp.HashBoot(bytes.NewReader(uki[".linux"]), bytes.NewReader(uki[".initrd"]), line(profile))
					if err != nil {
						t.Fatal(err)
					}
					d, err := snp.Launch(in.Firmware[measurements.SNPFirmware], snp.Options{VCPUs: vcpus, Model: model, Features: features, Kernel: &hashes})
					if err != nil {
						t.Fatal(err)
					}
					row := measurements.SNPRow{
						Firmware: measurements.SNPFirmware, VCPUs: vcpus, CPUModel: model, GuestFeatures: features,
						BootMode: "direct", Profile: profile, Digest: d.String(),
					}
					seen[row] = true
					if !slices.Contains(doc.SNP, row) {
						t.Errorf("there is no row %s", row)
					}
				}
			}
		}
	}
	if len(seen) != len(doc.SNP) {
		t.Errorf("%d rows, want %d", len(doc.SNP), len(seen))
	}
	digests := map[string]bool{}
	for _, r := range doc.SNP {
		digests[r.Digest] = true
	}
	if len(digests) != len(doc.SNP) {
		t.Error("two rows have one digest: something is not measured")
	}
}

// A row is what a verifier accepts, and keys of a TPM that the host emulates
// are nothing that a TEE protects.
func TestWhichKeyProfilesGetRows(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		tee      string
		profiles []string
		snp, tdx string // key profiles of the rows, in order
	}{
		{"auto", []string{"tpm", "snp", "attested"}, "attested snp", "direct:attested"},
		{"auto", []string{"tpm", "snp"}, "snp", ""},
		{"auto", []string{"attested"}, "attested", "direct:attested disk:attested"},
		{"auto", []string{"tpm"}, "tpm", ""},
		{"sev-snp", []string{"tpm"}, "tpm", ""},
		{"sev-snp", []string{"snp"}, "snp", ""},
		{"tdx", []string{"attested"}, "", "direct:attested disk:attested"},
		{"none", []string{"tpm"}, "", ""},
	} {
		in := sample(t, test.profiles...)
		in.Machines.TEE = test.tee
		doc := compute(t, in)
		var forSNP, forTDX []string
		for _, r := range doc.SNP {
			forSNP = append(forSNP, r.Profile)
		}
		for _, r := range doc.TDX {
			forTDX = append(forTDX, r.BootMode+":"+r.Profile)
			if r.SecureBoot != (r.BootMode == "disk") {
				t.Errorf("%v: %s", test, r)
			}
		}
		if got := strings.Join(slices.Compact(forSNP), " "); got != test.snp {
			t.Errorf("%s, %v: SNP rows of %q, want %q", test.tee, test.profiles, got, test.snp)
		}
		if got := strings.Join(forTDX, " "); got != test.tdx {
			t.Errorf("%s, %v: TDX rows of %q, want %q", test.tee, test.profiles, got, test.tdx)
		}
		if len(doc.TPM) != 1 || doc.TPM[0].Profile != test.profiles[0] {
			t.Errorf("%s, %v: TPM rows %+v", test.tee, test.profiles, doc.TPM)
		}
	}
}

func TestTheTDXRowsAreThoseOfTheirBoots(t *testing.T) {
	t.Parallel()
	in := sample(t, "attested")
	doc := compute(t, in)
	uki, err := boot.Sections(in.UKI)
	if err != nil {
		t.Fatal(err)
	}
	table, err := measured.PartitionTable(in.Disk)
	if err != nil {
		t.Fatal(err)
	}
	mrtd, err := tdx.MRTD(in.Firmware[measurements.TDXFirmware], tdx.SinglePass)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range []tdx.Boot{
		{Kernel: uki[".linux"], Initrd: uki[".initrd"], CommandLine: line("attested")},
		{UKI: in.UKI, GPT: table, SecureBoot: true},
	} {
		one, errA := tdx.RTMR1(b)
		two, errB := tdx.RTMR2(b)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		r := doc.TDX[i]
		if r.MRTD != mrtd.String() || r.RTMR1 != one.Register().String() || r.RTMR2 != two.Register().String() {
			t.Errorf("%s: %+v", r, r)
		}
	}
	if i := slices.IndexFunc(doc.Firmware, func(f measurements.Firmware) bool { return f.File == measurements.TDXFirmware }); doc.Firmware[i].MRTD != mrtd.String() {
		t.Errorf("%+v", doc.Firmware)
	}
}

// Firmware with our keys has the same code, so the same MRTD, and is the one that
// starts the boot image on a disk.
func TestTheFirmwareWithOurKeysStartsTheDisk(t *testing.T) {
	t.Parallel()
	in := sample(t, "attested")
	shipped := in.Firmware[measurements.TDXFirmware]
	enrolled := bytes.Clone(shipped)
	enrolled[100] ^= 1 // in the variables
	in.Firmware[measurements.TDXEnrolled] = enrolled
	doc := compute(t, in)
	if direct, disk := doc.TDX[0], doc.TDX[1]; direct.Firmware != measurements.TDXFirmware || disk.Firmware != measurements.TDXEnrolled || direct.MRTD != disk.MRTD {
		t.Errorf("%+v, %+v", direct, disk)
	}
	i := slices.IndexFunc(doc.Firmware, func(f measurements.Firmware) bool { return f.File == measurements.TDXEnrolled })
	if f := doc.Firmware[i]; f.SHA256 != digest.Bytes(enrolled) || f.MRTD != doc.TDX[0].MRTD {
		t.Errorf("%+v", f)
	}
	enrolled[0x1000] ^= 1 // in the code
	_, err := measurements.Compute(in)
	faulttest.Want(t, err, fault.Measurements, "MRTDs differ")
	delete(in.Firmware, measurements.TDXFirmware)
	_, err = measurements.Compute(in)
	faulttest.Want(t, err, fault.Measurements, "MRTDs differ")
}

func TestRealFirmwareForTDXHasThePublishedMRTD(t *testing.T) {
	t.Parallel()
	in := sample(t)
	in.Firmware[measurements.TDXFirmware] = ovmftest.Trixie().Read(t)
	doc := compute(t, in)
	const want = "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11"
	if doc.TDX[0].MRTD != want {
		t.Errorf("MRTD %s", doc.TDX[0].MRTD)
	}
}

// The firmware of the tools tree can start an SEV-SNP guest and has no page for
// kernel hashes: a digest without them would be one that any kernel boots with.
func TestFirmwareThatCannotMeasureTheKernelIsRefused(t *testing.T) {
	t.Parallel()
	in := sample(t)
	in.Firmware[measurements.SNPFirmware] = ovmftest.Trixie().Read(t)
	_, err := measurements.Compute(in)
	faulttest.Want(t, err, fault.Measurements, measurements.SNPFirmware, "no page for kernel hashes")
}

func TestWhatCannotBeComputedIsSaidAndHasNoRow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*measurements.Inputs)
		snp    bool
		tdx    bool
		says   []string // what: why
	}{
		{"everything is there", func(*measurements.Inputs) {}, true, true, []string{"tdx rtmr0: it depends on", "tdx, disk boot: the boot image on the disk is of key profile tpm", "Secure Boot on: the certificates"}},
		{"no firmware for SEV-SNP", func(in *measurements.Inputs) { delete(in.Firmware, measurements.SNPFirmware) }, false, true, []string{"snp: firmware/OVMF.amdsev.fd was not there"}},
		{"no firmware for TDX", func(in *measurements.Inputs) { delete(in.Firmware, measurements.TDXFirmware) }, true, false, []string{"tdx: firmware/OVMF.inteltdx.ms.fd was not there"}},
		{"neither", func(in *measurements.Inputs) { clear(in.Firmware) }, false, false, []string{"snp: firmware", "tdx: firmware"}},
		{"no TEE", func(in *measurements.Inputs) { in.Machines.TEE = "none" }, false, false, []string{"snp: TEE_TYPE is none", "tdx: TEE_TYPE is none"}},
		{"an image that was never for TDX", func(in *measurements.Inputs) { delete(in.Manifest.CommandLines, "attested") }, true, false, []string{"tdx: the image has no key profile attested"}},
	} {
		in := sample(t)
		test.change(&in)
		doc := compute(t, in)
		if (len(doc.SNP) > 0) != test.snp || (len(doc.TDX) > 0) != test.tdx {
			t.Errorf("%s: %d and %d rows", test.name, len(doc.SNP), len(doc.TDX))
		}
		var said strings.Builder
		for _, n := range doc.NotComputed {
			fmt.Fprintf(&said, "%s: %s\n", n.What, n.Why)
		}
		for _, want := range test.says {
			if !strings.Contains(said.String(), want) {
				t.Errorf("%s: it does not say %q:\n%s", test.name, want, said.String())
			}
		}
	}
}

// keySet makes Secure Boot keys in dir and returns the certificates and db.
func keySet(t testing.TB, dir string) (*pcr.Keys, boot.Key) {
	t.Helper()
	keys, _, err := boot.LoadOrMakeKeys(dir, time.Unix(1767225600, 0).UTC())
	if err != nil {
		t.Fatal(err)
	}
	return &pcr.Keys{PK: keys["PK"].Cert, KEK: keys["KEK"].Cert, DB: keys["db"].Cert}, keys["db"]
}

// values returns the registers of the row with that state of Secure Boot.
func values(t testing.TB, doc measurements.Document, secureBoot string) map[int]measurements.PCR {
	t.Helper()
	found := map[int]measurements.PCR{}
	for _, r := range doc.TPM {
		if r.SecureBoot == secureBoot {
			for _, p := range r.PCRs {
				found[p.PCR] = p
			}
		}
	}
	if want := []int{4, 5, 7, 9, 12, 13}; !slices.Equal(slices.Sorted(maps.Keys(found)), want) {
		t.Fatalf("Secure Boot %s: registers %v, want %v", secureBoot, found, want)
	}
	return found
}

// What virt-fw-vars writes for these keys is read back from a real variable
// store and predicted from, as the recorded boots of package pcr do.
func TestTheRegistersWithSecureBootAreThoseOfARealVariableStore(t *testing.T) {
	t.Parallel()
	tools, tmp := lab.Tools(t)
	in := sample(t)
	var db boot.Key
	in.Keys, db = keySet(t, filepath.Join(tmp, "keys"))
	var err error
	if in.UKI, err = boot.Sign(in.UKI, db); err != nil {
		t.Fatal(err)
	}
	cert := func(name string) string { return filepath.Join(tmp, "keys", name+".crt") }
	store := filepath.Join(tmp, "vars.fd")
	if err := varstore.Enrol(t.Context(), tools, "/usr/share/OVMF/OVMF_VARS_4M.fd", store, varstore.Keys{PK: cert("PK"), KEK: cert("KEK"), DB: cert("db")}); err != nil {
		t.Fatal(err)
	}
	b := pcr.Boot{}
	if b.SecureBoot, err = pcr.ReadVars(filetest.Read(t, store)); err != nil {
		t.Fatal(err)
	}
	if b.Image, err = pcr.ReadUKI(in.UKI); err != nil {
		t.Fatal(err)
	}
	if b.GPT, err = measured.PartitionTable(in.Disk); err != nil {
		t.Fatal(err)
	}
	log, err := pcr.Predict(b)
	if err != nil {
		t.Fatal(err)
	}
	want, err := log.Replay(pcr.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	doc := compute(t, in)
	on, absent := values(t, doc, "on"), values(t, doc, "absent")
	for n, p := range on {
		if p.SHA256 != want[n].String() {
			t.Errorf("PCR %d: %s, from the store %s", n, p.SHA256, want[n])
		}
		if changes := n == 4 || n == 7; (p.SHA256 != absent[n].SHA256) != changes || (p.SHA384 != absent[n].SHA384) != changes {
			t.Errorf("PCR %d: with Secure Boot %s, without %s", n, p.SHA256, absent[n].SHA256)
		}
	}
}

func TestAnImageThatItsOwnKeysRefuseIsAnError(t *testing.T) {
	t.Parallel()
	in := sample(t)
	in.Keys, _ = keySet(t, filepath.Join(t.TempDir(), "keys"))
	_, err := measurements.Compute(in)
	faulttest.Want(t, err, fault.BootImage, "not signed")
}

// Which registers a change reaches, and that it reaches no other: what a volume
// that is bound to some of them survives.
func TestAChangeReachesItsRegistersAndNoOther(t *testing.T) {
	t.Parallel()
	keys, db := keySet(t, filepath.Join(t.TempDir(), "keys"))
	otherKeys, otherDB := keySet(t, filepath.Join(t.TempDir(), "other"))
	build := func(kernel, line, initrd string, keys *pcr.Keys, db boot.Key) measurements.Document {
		t.Helper()
		in := sample(t, "tpm")
		in.Manifest.CommandLine, in.Manifest.CommandLines["tpm"] = line, line
		image := boottest.PE(
			boottest.Section{Name: ".linux", Data: string(boottest.PE(boottest.Section{Name: ".text", Data: kernel}))},
			boottest.Section{Name: ".osrel", Data: "ID=debian\n"}, boottest.Section{Name: ".cmdline", Data: line}, boottest.Section{Name: ".initrd", Data: initrd},
		)
		var err error
		if in.UKI, err = boot.Sign(image, db); err != nil {
			t.Fatal(err)
		}
		in.Keys = keys
		return compute(t, in)
	}
	all := func(d measurements.Document, secureBoot string) map[int]measurements.PCR {
		v := values(t, d, secureBoot)
		v[11] = measurements.PCR{SHA256: d.PCR11[0].SHA256, SHA384: d.PCR11[0].SHA384}
		return v
	}
	base := build("kernel", "quiet", "initrd", keys, db)
	for name, tt := range map[string]struct {
		doc        measurements.Document
		absent, on []int
	}{
		"the kernel":           {build("Kernel", "quiet", "initrd", keys, db), []int{4, 11}, []int{4, 11}},
		"the command line":     {build("kernel", "quite", "initrd", keys, db), []int{4, 9, 11}, []int{4, 9, 11}},
		"the initrd":           {build("kernel", "quiet", "Initrd", keys, db), []int{4, 9, 11}, []int{4, 9, 11}},
		"the Secure Boot keys": {build("kernel", "quiet", "initrd", otherKeys, otherDB), nil, []int{7}},
		"nothing":              {build("kernel", "quiet", "initrd", keys, db), nil, nil},
	} {
		for secureBoot, want := range map[string][]int{"absent": tt.absent, "on": tt.on} {
			before, after := all(base, secureBoot), all(tt.doc, secureBoot)
			var changed []int
			for n := range before {
				one, other := before[n].SHA256 != after[n].SHA256, before[n].SHA384 != after[n].SHA384
				if one != other {
					t.Errorf("%s: PCR %d changes in one bank alone", name, n)
				}
				if one {
					changed = append(changed, n)
				}
			}
			slices.Sort(changed)
			if !slices.Equal(changed, want) {
				t.Errorf("%s, Secure Boot %s: changes %v, want %v", name, secureBoot, changed, want)
			}
		}
	}
}

func TestEveryPartOfTheImageCounts(t *testing.T) {
	t.Parallel()
	in := sample(t)
	base := compute(t, in)
	for word, initrdOrKernel := range map[string]bool{"ID=debian": false, "\x00kernel": true, "\x00initrd": true} {
		at := bytes.LastIndex(in.UKI, []byte(word)) + len(word) - 1
		other := in
		other.UKI = bytes.Clone(in.UKI)
		other.UKI[at] ^= 1
		doc := compute(t, other)
		if doc.UKI == base.UKI {
			t.Errorf("%q: the digest is the same", word)
		}
		for i := range base.PCR11 {
			if doc.PCR11[i].SHA256 == base.PCR11[i].SHA256 || doc.PCR11[i].SHA384 == base.PCR11[i].SHA384 {
				t.Errorf("%q: PCR 11 after %s is the same", word, base.PCR11[i].After)
			}
		}
		if same := doc.SNP[0].Digest == base.SNP[0].Digest; same == initrdOrKernel {
			t.Errorf("%q: the launch digest is the same: %v", word, same)
		}
	}
	if first, last := base.PCR11[0], base.PCR11[len(base.PCR11)-1]; first.After != "uki" || last.After != "ready" || len(base.PCR11) != 5 {
		t.Errorf("%+v", base.PCR11)
	}
	other := in
	other.Disk = installertest.NewDisk(14 << 20)
	table := installertest.New().Table
	table.Entries[4].Size += 1 << 20
	if err := table.Write(other.Disk.(*installertest.Disk), 14<<20); err != nil {
		t.Fatal(err)
	}
	doc := compute(t, other)
	if doc.Disk == base.Disk || values(t, doc, "absent")[5] == values(t, base, "absent")[5] || values(t, doc, "absent")[4] != values(t, base, "absent")[4] {
		t.Error("a longer partition does not change PCR 5 alone")
	}
}

func TestPCR11IsThatOfTheBootImage(t *testing.T) {
	t.Parallel()
	in := sample(t)
	words := []string{"enter-initrd", "leave-initrd", "sysinit", "ready"}
	for n, p := range compute(t, in).PCR11 {
		want, err := boot.PCR11(in.UKI, words[:n]...)
		if err != nil {
			t.Fatal(err)
		}
		if p.SHA256 != fmt.Sprintf("%x", want) {
			t.Errorf("after %s: %s, want %x", p.After, p.SHA256, want)
		}
	}
}

func TestAnImageThatIsNotTheManifestsIsRefused(t *testing.T) {
	t.Parallel()
	text := line("tpm")
	for _, other := range []string{"", text + " ", text[1:], strings.ToUpper(text)} {
		in := sample(t)
		in.Manifest.CommandLine = other
		_, err := measurements.Compute(in)
		faulttest.Want(t, err, fault.BootImage, "not the manifest's")
	}
	section := func(name, data string) boottest.Section { return boottest.Section{Name: name, Data: data} }
	for says, image := range map[string][]byte{
		"not a PE file": []byte("#!/bin/sh\n"),
		"no .linux":     boottest.PE(section(".cmdline", text), section(".initrd", "i")),
		"no .initrd":    boottest.PE(section(".cmdline", text), boottest.Kernel()),
		"no .cmdline":   boottest.PE(section(".initrd", "i"), boottest.Kernel()),
		"MZ":            boottest.PE(section(".cmdline", text), section(".initrd", "i"), section(".linux", "kernel")),
	} {
		in := sample(t)
		in.UKI = image
		_, err := measurements.Compute(in)
		faulttest.Want(t, err, fault.BootImage, says)
	}
	in := sample(t)
	in.Disk = bytes.NewReader(make([]byte, 1<<20))
	_, err := measurements.Compute(in)
	faulttest.Want(t, err, fault.DiskImage, "there is no partition table")
}

func TestEqualFilesGiveEqualBytesAndReadBack(t *testing.T) {
	t.Parallel()
	one, two := compute(t, sample(t)), compute(t, sample(t))
	data := encode(t, one)
	if !bytes.Equal(data, encode(t, two)) || !bytes.Equal(rvps(t, one), rvps(t, two)) {
		t.Error("computed twice, it differs")
	}
	if !bytes.HasSuffix(data, []byte("}\n")) || !bytes.Contains(data, []byte(line("snp"))) {
		t.Errorf("no line end, or a command line is escaped: %s", data)
	}
	back, err := measurements.Read(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(one, back); diff != "" {
		t.Error(diff)
	}
}

func TestReadTakesNothingThatTheBuildDoesNotWrite(t *testing.T) {
	t.Parallel()
	doc := compute(t, sample(t))
	data := string(encode(t, doc))
	digest := doc.SNP[0].Digest
	for name, test := range map[string]struct{ text, says string }{
		"no JSON":               {"{", "unexpected end"},
		"nothing":               {"", "unexpected end"},
		"an empty object":       {"{}", "schema 0"},
		"the former schema":     {strings.Replace(data, `"schema": 2`, `"schema": 1`, 1), "schema 1, this program reads 2"},
		"a field more":          {strings.Replace(data, `"schema": 2,`, `"schema": 2, "x": 1,`, 1), `unknown field "x"`},
		"something behind":      {data + "{}", "after top-level value"},
		"another form":          {strings.Replace(data, "\n", "", 1), "not in the form"},
		"a field twice":         {strings.Replace(data, `"profile": "minimal",`, `"profile": "x", "profile": "minimal",`, 1), "not in the form"},
		"a digest of 95 digits": {strings.Replace(data, digest, digest[1:], 1), "snp row 1: launch digest"},
		"digits in upper case":  {strings.Replace(data, digest, strings.ToUpper(digest), 1), "lower-case"},
		"a row without MRTD":    {strings.Replace(data, `"mrtd": "`+doc.TDX[0].MRTD+`",`+"\n      \"rtmr1\"", `"mrtd": "",`+"\n      \"rtmr1\"", 1), "tdx row 1: MRTD"},
		"a register of letters": {strings.Replace(data, doc.TDX[0].RTMR2, strings.Repeat("g", 96), 1), "tdx row 1: RTMR2"},
		"a short PCR":           {strings.Replace(data, doc.TPM[0].PCRs[0].SHA256, "00", 1), "PCR 4"},
		"too much of it":        {strings.Repeat(" ", measurements.MaxSize+1), "larger than"},
	} {
		if test.text == data {
			t.Errorf("%s: nothing was changed", name)
		}
		_, err := measurements.Read([]byte(test.text))
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		faulttest.Want(t, err, fault.Damaged, test.says)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(encode(f, compute(f, sample(f))))
	f.Add([]byte(`{"schema":2}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := measurements.Read(raw)
		if err != nil {
			return
		}
		if same, err := d.Encode(); err != nil || !bytes.Equal(same, raw) {
			t.Error("what was read encodes as something else")
		}
	})
}

func TestVerifyNamesTheFirstFieldThatDiffers(t *testing.T) {
	t.Parallel()
	in := sample(t)
	good := compute(t, in)
	if _, err := measurements.Verify(encode(t, good), rvps(t, good), in); err != nil {
		t.Fatal(err)
	}
	zeros, long := strings.Repeat("0", 64), strings.Repeat("0", 96)
	for want, change := range map[string]func(d *measurements.Document){
		`name is "cc-x", computed is "cc-base"`:              func(d *measurements.Document) { d.Name = "cc-x" },
		`profile is "default", computed is "minimal"`:        func(d *measurements.Document) { d.Profile = "default" },
		"sourceDateEpoch is 1, computed is 1767225600":       func(d *measurements.Document) { d.SourceDateEpoch = 1 },
		`uki is "` + zeros:                                   func(d *measurements.Document) { d.UKI, d.Kernel = zeros, zeros },
		`kernel is "` + zeros:                                func(d *measurements.Document) { d.Kernel, d.Initrd = zeros, zeros },
		`initrd is "` + zeros:                                func(d *measurements.Document) { d.Initrd = zeros },
		`commandLines[1].line is "ro"`:                       func(d *measurements.Document) { d.CommandLines[1].Line = "ro" },
		"commandLines[2].disk is false, computed is true":    func(d *measurements.Document) { d.CommandLines[2].Disk = false },
		"disk.size is 7":                                     func(d *measurements.Document) { d.Disk.Size = 7 },
		`firmware[0].sha256 is "` + zeros:                    func(d *measurements.Document) { d.Firmware[0].SHA256 = zeros },
		"firmware has 2 entries, computed are 3":             func(d *measurements.Document) { d.Firmware = d.Firmware[:2] },
		`snp[3].digest is "` + long:                          func(d *measurements.Document) { d.SNP[3].Digest, d.SNP[4].Digest = long, long },
		"snp has 15 entries, computed are 16":                func(d *measurements.Document) { d.SNP = d.SNP[:15] },
		"snp has 17 entries, computed are 16":                func(d *measurements.Document) { d.SNP = append(d.SNP, d.SNP[0]) },
		`tdx[0].rtmr1 is "` + long:                           func(d *measurements.Document) { d.TDX[0].RTMR1 = long },
		`tpm[0].pcrs[2].sha384 is "` + long:                  func(d *measurements.Document) { d.TPM[0].PCRs[2].SHA384 = long },
		`pcr11[4].after is "later", computed is "ready"`:     func(d *measurements.Document) { d.PCR11[4].After = "later" },
		"notComputed has 0 entries, computed are":            func(d *measurements.Document) { d.NotComputed = []measurements.NotComputed{} },
		"snp[1].guestFeatures is 33, computed is 1":          func(d *measurements.Document) { d.SNP[1].GuestFeatures = 0x21 },
		`snp[8].profile is "attested", computed is "snp"`:    func(d *measurements.Document) { d.SNP[8].Profile = "attested" },
		`tdx[0].bootMode is "disk", computed is "direct"`:    func(d *measurements.Document) { d.TDX[0].BootMode = "disk" },
		`tpm[0].secureBoot is "on", computed is "absent"`:    func(d *measurements.Document) { d.TPM[0].SecureBoot = "on" },
		`disk.guid is "", computed is "0CC0BA5E`:             func(d *measurements.Document) { d.Disk.GUID = "" },
		`disk.partitionTable is "` + zeros:                   func(d *measurements.Document) { d.Disk.PartitionTable = zeros },
		`commandLines[0].sha256 is "` + zeros:                func(d *measurements.Document) { d.CommandLines[0].SHA256 = zeros },
		`firmware[1].mrtd is "` + long:                       func(d *measurements.Document) { d.Firmware[1].MRTD = long },
		"snp[0].vcpus is 8, computed is 1":                   func(d *measurements.Document) { d.SNP[0].VCPUs = 8 },
		`notComputed[0].why is "x", computed is "it depends`: func(d *measurements.Document) { d.NotComputed[0].Why = "x" },
	} {
		doc := compute(t, in)
		change(&doc)
		_, err := measurements.Verify(encode(t, doc), rvps(t, doc), in)
		if err == nil {
			t.Errorf("%s: no error", want)
			continue
		}
		faulttest.Want(t, err, fault.Measurements, "measurements.json: "+want)
	}
}

func TestVerifyFindsEveryOtherArtefact(t *testing.T) {
	t.Parallel()
	in := sample(t)
	doc := compute(t, in)
	for want, change := range map[string]func(*measurements.Inputs){
		"uki is":                  func(in *measurements.Inputs) { in.UKI = append(bytes.Clone(in.UKI), 0) },
		"disk.partitionTable is":  func(in *measurements.Inputs) { in.Disk = otherDisk(t) },
		"firmware[0].sha256 is":   func(in *measurements.Inputs) { in.Firmware[measurements.SNPFirmware] = otherFirmware() },
		"firmware has 3 entries":  func(in *measurements.Inputs) { delete(in.Firmware, "firmware/OVMF_CODE_4M.fd") },
		"commandLines[0].line is": func(in *measurements.Inputs) { in.Manifest.CommandLines["attested"] += " quiet" },
		"commandLines has 3":      func(in *measurements.Inputs) { delete(in.Manifest.CommandLines, "tpm") },
	} {
		other := sample(t)
		change(&other)
		_, err := measurements.Verify(encode(t, doc), rvps(t, doc), other)
		if err == nil {
			t.Errorf("%s: no error", want)
			continue
		}
		faulttest.Want(t, err, fault.Measurements, want)
	}
	_, err := measurements.Verify(encode(t, doc), append(rvps(t, doc), '\n'), in)
	faulttest.Want(t, err, fault.Measurements, "rvps.json holds other reference values")
	_, err = measurements.Verify([]byte("{}"), nil, in)
	faulttest.Want(t, err, fault.Damaged, "measurements.json", "schema 0")
}

func otherDisk(t *testing.T) *installertest.Disk {
	t.Helper()
	table, disk := installertest.New().Table, installertest.NewDisk(14<<20)
	table.GUID = "0CC0BA5E-0000-4000-8000-0000000000FF"
	if err := table.Write(disk, 14<<20); err != nil {
		t.Fatal(err)
	}
	return disk
}

func otherFirmware() []byte {
	image := ovmftest.SNP().Image()
	image[0] ^= 1
	return image
}

func TestReferenceValuesAreTheRowsInTheFormThatTrusteeTakes(t *testing.T) {
	t.Parallel()
	in := sample(t, "attested")
	doc := compute(t, in)
	var message map[string]string
	if err := json.Unmarshal(rvps(t, doc), &message); err != nil {
		t.Fatal(err)
	}
	if message["version"] != "0.1.0" || message["type"] != "sample" || len(message) != 3 {
		t.Errorf("%v", message)
	}
	payload, err := base64.StdEncoding.DecodeString(message["payload"])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string][]string
	if err := json.Unmarshal(payload, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"mr_td":     {doc.TDX[0].MRTD}, // once, though in both rows
		"rtmr_1":    {doc.TDX[0].RTMR1, doc.TDX[1].RTMR1},
		"rtmr_2":    {doc.TDX[0].RTMR2, doc.TDX[1].RTMR2},
		"tpm_pcr11": {doc.PCR11[2].SHA256, doc.PCR11[3].SHA256, doc.PCR11[4].SHA256},
	}
	for _, r := range doc.SNP {
		want["snp_launch_measurement"] = append(want["snp_launch_measurement"], r.Digest)
	}
	for _, r := range doc.SNP {
		var raw snp.Digest
		if err := raw.UnmarshalText([]byte(r.Digest)); err != nil {
			t.Fatal(err)
		}
		want["snp_launch_measurement"] = append(want["snp_launch_measurement"], base64.StdEncoding.EncodeToString(raw[:]))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	in.Machines.TEE = "none"
	if data := rvps(t, compute(t, in)); bytes.Contains(data, []byte("null")) {
		t.Errorf("a name without values: %s", data)
	}
}

func TestLoadTakesWhatIsMeasuredAndNothingElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, _ := keySet(t, dir)
	files := map[string][]byte{measurements.UKI: []byte("uki"), "firmware/a.fd": []byte("a"), "image.key": nil, "config/tee.conf": nil}
	for _, name := range boot.KeyNames() {
		files[measurements.Certificate(name)] = filetest.Read(t, filepath.Join(dir, name+".crt"))
	}
	var opened []string
	read := func(name string) ([]byte, error) {
		opened = append(opened, name)
		data, ok := files[name]
		if !ok {
			return nil, errors.New(name + " is not there")
		}
		return data, nil
	}
	in, err := measurements.Load(manifest.Manifest{Name: "x"}, nil, slices.Sorted(maps.Keys(files)), read)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"cc-base.efi", "firmware/a.fd", "secureboot/PK.crt", "secureboot/KEK.crt", "secureboot/db.crt"}, opened); diff != "" {
		t.Error(diff)
	}
	if string(in.UKI) != "uki" || string(in.Firmware["firmware/a.fd"]) != "a" || in.Manifest.Name != "x" {
		t.Errorf("%+v", in)
	}
	for _, c := range []struct{ got, want *x509.Certificate }{{in.Keys.PK, keys.PK}, {in.Keys.KEK, keys.KEK}, {in.Keys.DB, keys.DB}} {
		if !c.got.Equal(c.want) {
			t.Errorf("certificate %s, want %s", c.got.Subject, c.want.Subject)
		}
	}
	if in, err = measurements.Load(manifest.Manifest{}, nil, nil, read); err != nil || in.Keys != nil || len(in.Firmware) != 0 {
		t.Errorf("%+v, %v", in, err)
	}

	whole := maps.Clone(files)
	for says, change := range map[string]func(){
		"cc-base.efi is not there":        func() { delete(files, measurements.UKI) },
		"firmware/b.fd is not there":      func() {},
		"secureboot/KEK.crt is not there": func() { delete(files, measurements.Certificate("KEK")) },
		"not one certificate": func() {
			files[measurements.Certificate("db")] = append(bytes.Clone(whole[measurements.Certificate("db")]), "x"...)
		},
		"secureboot/PK.crt: x509": func() { files[measurements.Certificate("PK")] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"}) },
	} {
		clear(files)
		maps.Copy(files, whole)
		names := slices.Sorted(maps.Keys(files))
		if strings.Contains(says, "b.fd") {
			names = append(names, "firmware/b.fd")
		}
		change()
		if _, err := measurements.Load(manifest.Manifest{}, nil, names, read); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}
