package build

// What green does not prove: nothing is built here. The boot image, disk and
// firmware are a few KiB each, made by the tests; that the document of a real
// build is computed from it again is for the last test, which needs one.

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/installertest"
	"cc-base/tasks/boot"
	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/conf"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/firmware"
	"cc-base/tasks/lab"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/sbom"
	"cc-base/tasks/tee/ovmf/ovmftest"
	"cc-base/tasks/tee/snp"
)

// lay writes a file and the folders above it.
func lay(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, file, data)
}

// packed is an output folder as the package stage leaves it, as far as the
// measurements go, with or without firmware for confidential guests.
func packed(t *testing.T, firmware ...string) (*Build, manifest.Manifest) {
	t.Helper()
	b := testBuild(t)
	f := installertest.New()
	m := f.Manifest
	m.CommandLines = map[string]string{}
	for _, profile := range b.Config.KeyProfiles() {
		m.CommandLines[profile] = f.CommandLine + " cc.keys=" + profile
	}
	m.CommandLine = m.CommandLines["tpm"]
	if err := f.Table.Write(f.Disk, m.Disk.VirtualSize); err != nil {
		t.Fatal(err)
	}
	lay(t, b.out(m.Disk.File), installertest.Qcow2(f.Disk.Bytes, 16))
	keys, _, err := boot.LoadOrMakeKeys(b.secureBootDir(), time.Unix(m.SourceDateEpoch, 0).UTC())
	if err != nil {
		t.Fatal(err)
	}
	uki, err := boot.Sign(boottest.UKI(m.CommandLine), keys["db"])
	if err != nil {
		t.Fatal(err)
	}
	lay(t, b.out(measurements.UKI), uki)
	lay(t, b.scratch("vmlinuz"), []byte(boottest.Kernel().Data))
	for _, name := range []string{"OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "OVMF_CODE_4M.secboot.fd"} {
		lay(t, filepath.Join(b.Tools.Dir, "usr/share/OVMF", name), []byte(name))
	}
	for _, name := range firmware {
		image := ovmftest.SNP().Image()
		if name == measurements.TDXFirmware {
			image = ovmftest.TDX().Image()
		}
		lay(t, b.scratch(name), image)
	}
	for _, e := range b.enrolments() {
		image := []byte(e.name)
		if e.name == measurements.TDXEnrolled {
			image = ovmftest.TDX().Image()
			image[100] ^= 1 // in the variables
		}
		lay(t, e.file, image)
	}
	return b, m
}

// finish writes measurements and the manifest that lists them.
func finish(t *testing.T, b *Build, m manifest.Manifest) {
	t.Helper()
	if err := b.measure(m); err != nil {
		t.Fatal(err)
	}
	files := b.measured()
	for _, name := range []string{measurements.File, measurements.RVPSFile, measurements.UKI} {
		files[name] = b.out(name)
	}
	for name, file := range files {
		data := filetest.Read(t, file)
		m.Files = append(m.Files, manifest.File{Path: name, Size: int64(len(data)), SHA256: digest.Bytes(data)})
	}
	slices.SortFunc(m.Files, func(a, b manifest.File) int { return strings.Compare(a.Path, b.Path) })
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	lay(t, b.out("manifest.json"), text)
}

func document(t *testing.T, b *Build) measurements.Document {
	t.Helper()
	doc, err := measurements.Read(filetest.Read(t, b.out(measurements.File)))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestTheStageWritesRowsForTheFirmwareThatIsThere(t *testing.T) {
	for _, test := range []struct {
		firmware []string
		snp      bool
		files    int // of firmware
		shown    string
	}{
		{nil, false, 4, "not in the measurements: snp: firmware/OVMF.amdsev.fd was not there"},
		{[]string{measurements.SNPFirmware, measurements.TDXFirmware}, true, 7, "not in the measurements: tdx: the image has no key profile attested"},
	} {
		b, m := packed(t, test.firmware...)
		var shown bytes.Buffer
		b.log = newLog(&shown, io.Discard)
		finish(t, b, m)
		doc := document(t, b)
		// The shipped table, and the machine of the profile minimal, which is in it.
		want := 7 * 4 * 2
		if !test.snp {
			want = 0
		}
		if len(doc.SNP) != want || len(doc.TDX) != 0 || len(doc.TPM) != 2 || len(doc.Firmware) != test.files {
			t.Errorf("%v: %d SNP, %d TDX, %d TPM rows, firmware %v", test.firmware, len(doc.SNP), len(doc.TDX), len(doc.TPM), doc.Firmware)
		}
		if !strings.Contains(shown.String(), test.shown) {
			t.Errorf("%v: it does not say %q:\n%s", test.firmware, test.shown, &shown)
		}
		if code, err := b.codeDigest("tasks/build", "package"); err != nil || doc.Program != code {
			t.Errorf("program %s, want %s, %v", doc.Program, code, err)
		}
	}
}

func TestFirmwareAndCertificatesMakeTheStageRunAndTravel(t *testing.T) {
	first, _ := packed(t)
	if s := packageStage(); !slices.Contains(s.reads, "firmware") {
		t.Errorf("new firmware does not make %s run", s.name)
	}
	before, err := packageFacts(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(first.certificate("KEK")); err != nil {
		t.Fatal(err)
	}
	again, err := packageFacts(first)
	if err != nil {
		t.Fatal(err)
	}
	if d := changes(before, again); len(d) != 1 || d[0].Input != "secure boot certificate KEK" || d[0].To != toBeMade {
		t.Errorf("a certificate to be made: %v", d)
	}

	b, m := packed(t, measurements.SNPFirmware)
	report := firmware.Report{Schema: firmware.Schema, Images: []firmware.Got{{File: "OVMF.amdsev.fd", Package: firmware.Package{Name: "ovmf-amdsev", Version: "2026.08-1"}}}}
	text, err := report.Encode()
	if err != nil {
		t.Fatal(err)
	}
	lay(t, b.firmwareReport(), text)
	finish(t, b, m)
	if f := document(t, b).Firmware[0]; f.File != measurements.SNPFirmware || f.Package != "ovmf-amdsev 2026.08-1" {
		t.Errorf("%+v", f)
	}
	if err := VerifyMeasurements(b.Options, io.Discard); err != nil {
		t.Error(err)
	}
	lay(t, b.imageKeyFile(), []byte("key"))
	lay(t, b.out(sbom.CycloneDXFile), []byte("{}"))
	lay(t, b.out(sbom.SPDXFile), []byte("{}"))
	lay(t, b.scratch("cc-install"), []byte("program"))
	entries, err := b.installerEntries()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	for _, want := range []string{"measurements.json", "rvps.json", "firmware/OVMF.amdsev.fd", "secureboot/PK.crt", "secureboot/KEK.crt", "secureboot/db.crt"} {
		if !slices.Contains(names, "installer/"+want) {
			t.Errorf("%s is not in the installer", want)
		}
	}
	if slices.Contains(names, "installer/"+measurements.TDXFirmware) || slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".key") && n != "installer/image.key" }) {
		t.Errorf("too much is in the installer: %v", names)
	}
}

func TestTheMachineOfTheConfigurationIsInTheTable(t *testing.T) {
	b := testBuild(t)
	c := b.Config
	c.TEE.VCPUs, c.TEE.CPUModel, c.TEE.Type = 6, "EPYC-Milan-v2", "sev-snp"
	c.TEE.Measure = conf.Measure{VCPUs: []int{8, 2}, CPUModels: []string{"EPYC-Genoa"}, GuestFeatures: []uint64{0x21, 1}}
	want := measurements.Machines{TEE: "sev-snp", VCPUs: []int{2, 6, 8}, CPUModels: []string{"EPYC-Genoa", "EPYC-Milan-v2"}, GuestFeatures: []uint64{1, 0x21}}
	if diff := cmp.Diff(want, machines(c)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{8, 2}, c.TEE.Measure.VCPUs); diff != "" {
		t.Errorf("the configuration was changed: %s", diff)
	}
	c.TEE.VCPUs, c.TEE.CPUModel = 8, "auto"
	if m := machines(c); len(m.VCPUs) != 2 || len(m.CPUModels) != 1 {
		t.Errorf("%+v", m)
	}
}

func TestEveryCPUModelOfTheConfigurationHasALaunchDigest(t *testing.T) {
	o := planOptions(t)
	o.Profile = "one"
	for _, model := range []string{"EPYC-v4", "EPYC-Milan", "EPYC-Milan-v2", "EPYC-Genoa", "EPYC-Turin"} {
		lay(t, filepath.Join(o.ConfigDir, "profiles/one.conf"), []byte("TEE_CPU_MODEL="+model+"\nMEASURE_CPU_MODELS=( "+model+" )\n"))
		if _, err := o.config(); err != nil {
			t.Error(err)
		}
		if _, err := snp.Signature(model); err != nil {
			t.Error(err)
		}
	}
}

func TestMeasuringTwiceGivesTheSameBytes(t *testing.T) {
	b, m := packed(t, measurements.SNPFirmware, measurements.TDXFirmware)
	finish(t, b, m)
	document, values := filetest.Read(t, b.out(measurements.File)), filetest.Read(t, b.out(measurements.RVPSFile))
	finish(t, b, m)
	if !bytes.Equal(document, filetest.Read(t, b.out(measurements.File))) || !bytes.Equal(values, filetest.Read(t, b.out(measurements.RVPSFile))) {
		t.Error("equal inputs have given different bytes")
	}
	for _, secret := range []string{b.Repo + "/", b.OutDir} {
		if bytes.Contains(document, []byte(secret)) {
			t.Errorf("it holds %s", secret)
		}
	}
}

func TestVerifyMeasurementsFindsEveryChangedFile(t *testing.T) {
	b, m := packed(t, measurements.SNPFirmware, measurements.TDXFirmware)
	finish(t, b, m)
	var out bytes.Buffer
	if err := VerifyMeasurements(b.Options, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "computed again and equal: 56 SEV-SNP rows, 0 TDX rows, 2 TPM rows") || !strings.Contains(out.String(), "not there: tdx: ") {
		t.Errorf("it says %q", &out)
	}
	change := func(old, new string) func([]byte) []byte {
		return func(data []byte) []byte { return bytes.Replace(data, []byte(old), []byte(new), 1) }
	}
	flip := func(at int) func([]byte) []byte {
		return func(data []byte) []byte { data[at] ^= 1; return data }
	}
	first := document(t, b).SNP[0].Digest
	for _, test := range []struct {
		name, file string
		change     func([]byte) []byte // nil removes the file
		code       fault.Code
		says       string
	}{
		{"a digest", "measurements.json", change(first, strings.Repeat("0", 96)), fault.Measurements, `measurements.json: snp[0].digest is "000`},
		{"a number of processors", "measurements.json", change(`"vcpus": 1,`, `"vcpus": 3,`), fault.Measurements, "snp[0].vcpus is 3, computed is 1"},
		{"the form", "measurements.json", change("\n", "\n\n"), fault.Damaged, "not in the form"},
		{"the program, which nothing can be compared with but the manifest", "measurements.json", change(document(t, b).Program, strings.Repeat("0", 64)), fault.Measurements, "measurements.json: its checksum"},
		{"reference values", "rvps.json", change("sample", "swid"), fault.Measurements, "rvps.json holds other"},
		{"the boot image's signature", "cc-base.efi", func(data []byte) []byte { data[len(data)-40] ^= 1; return data }, fault.BootImage, "signature"},
		{"the boot image's kernel", "cc-base.efi", change("\x00kernel", "\x00Kernel"), fault.BootImage, "signature"},
		{"firmware", "scratch/firmware/OVMF.amdsev.fd", flip(0), fault.Measurements, "firmware[0].sha256 is"},
		{"firmware that is gone", "scratch/firmware/OVMF.inteltdx.ms.fd", nil, fault.Measurements, "no such file"},
		{"a certificate that is gone", "keys/secureboot/PK.crt", nil, fault.Measurements, "no such file"},
		{"no document", "measurements.json", nil, fault.Measurements, "no such file"},
		{"no reference values", "rvps.json", nil, fault.Measurements, "no such file"},
		{"no manifest", "manifest.json", nil, fault.Measurements, "no such file"},
		{"a manifest that is none", "manifest.json", change("schema", "shema"), fault.Damaged, "manifest"},
		{"no disk", "cc-base.qcow2", nil, fault.Measurements, "no such file"},
		{"a disk that is none", "cc-base.qcow2", flip(0), fault.DiskImage, "not a qcow2 image"},
		{"the kernel that the boot image was made from", "scratch/vmlinuz", flip(0), fault.Measurements, "the kernel in cc-base.efi is not"},
	} {
		file := b.out(test.file)
		was := filetest.Read(t, file)
		if test.change == nil {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		} else {
			now := test.change(bytes.Clone(was))
			if bytes.Equal(now, was) {
				t.Errorf("%s: nothing was changed", test.name)
			}
			filetest.Write(t, file, now)
		}
		err := VerifyMeasurements(b.Options, io.Discard)
		if err == nil {
			t.Errorf("%s: no error", test.name)
		} else if f := fault.Of(err); f == nil || f.Code != test.code || !strings.Contains(err.Error(), test.says) || fault.Exit(err) != 1 {
			t.Errorf("%s: %v (exit status %d), want %s %q", test.name, err, fault.Exit(err), test.code, test.says)
		}
		filetest.Write(t, file, was)
	}
	if err := os.Remove(b.scratch("vmlinuz")); err != nil {
		t.Fatal(err)
	}
	if err := VerifyMeasurements(b.Options, io.Discard); err != nil {
		t.Errorf("without scratch files: %v", err)
	}
}

func TestAnOutputFolderOfNothingHasNoMeasurements(t *testing.T) {
	err := VerifyMeasurements(testBuild(t).Options, io.Discard)
	faulttest.Want(t, err, fault.Measurements, "manifest.json: no such file")
}

func TestTheBuiltImagesMeasurementsAreThoseOfItsFiles(t *testing.T) {
	image := lab.Built(t)
	o := Options{
		Repo: repo(t), ConfigDir: filepath.Join(repo(t), "config"), Profile: "minimal",
		OutDir: image.Out, CacheDir: os.Getenv("CC_CACHE_DIR"), Stderr: io.Discard,
	}
	var out bytes.Buffer
	if err := VerifyMeasurements(o, &out); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	b := &Build{Options: o}
	doc := document(t, b)
	// The firmware's digests are those of the installer's files.
	var want, got []string
	for _, f := range image.Manifest.Files {
		if strings.HasPrefix(f.Path, "firmware/") {
			want = append(want, f.Path+" "+f.SHA256)
		}
	}
	for _, f := range doc.Firmware {
		got = append(got, f.File+" "+f.SHA256)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// `mage tpm:pcrs` computes in another way what the document has in its rows.
	for _, row := range doc.TPM {
		var out bytes.Buffer
		if err := ShowPCRs(t.Context(), o, PCRs{JSON: true, SecureBoot: row.SecureBoot == "on"}, &out); err != nil {
			t.Fatal(err)
		}
		var shown struct {
			SecureBoot string
			PCRs       map[string]string
		}
		if err := json.Unmarshal(out.Bytes(), &shown); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		if shown.SecureBoot != row.SecureBoot {
			t.Errorf("Secure Boot is %s in tpm:pcrs and %s in the row", shown.SecureBoot, row.SecureBoot)
		}
		for _, p := range row.PCRs {
			if got := shown.PCRs[strconv.Itoa(p.PCR)]; got != p.SHA256 {
				t.Errorf("PCR %d with Secure Boot %s: tpm:pcrs has %s, the row %s", p.PCR, row.SecureBoot, got, p.SHA256)
			}
		}
	}
}
