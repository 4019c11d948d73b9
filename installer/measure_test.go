package main

// What green does not prove: the numbers are those of packages snp and tdx,
// with whose tests they stand and fall; here it is seen that the command gives
// them the right inputs and says what is wrong with others.

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/fault"
	"cc-base/tasks/lab"
	"cc-base/tasks/tee/ovmf/ovmftest"
	"cc-base/tasks/tee/snp"
	"cc-base/tasks/tee/tdx"
)

// measureFiles writes the files that the tests measure.
func measureFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"snp.fd": ovmftest.SNP().Image(), "tdx.fd": ovmftest.TDX().Image(),
		"kernel": []byte(boottest.Kernel().Data), "initrd": []byte("initrd"), "uki": boottest.UKI("quiet"), "text": []byte("text\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runMeasure runs the command with DIR in its arguments replaced.
func runMeasure(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	var out, log bytes.Buffer
	a := &app{out: &out, err: &log}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DIR", dir)
	}
	err := a.measure(t.Context(), args)
	return out.String(), err
}

func TestMeasureSNP(t *testing.T) {
	t.Parallel()
	dir := measureFiles(t)
	image := ovmftest.SNP().Image()
	hashes, err := snp.HashBoot(bytes.NewReader([]byte(boottest.Kernel().Data)), strings.NewReader("initrd"), "quiet")
	if err != nil {
		t.Fatal(err)
	}
	uki, err := snp.HashBoot(bytes.NewReader(boottest.UKI("quiet")), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		o    snp.Options
	}{
		{"--vcpus 2 --cpu-model EPYC-v4", snp.Options{VCPUs: 2, Model: "EPYC-v4", Features: 1}},
		{"--vcpus 1 --cpu-model Genoa --guest-features 0x21", snp.Options{VCPUs: 1, Model: "Genoa", Features: 0x21}},
		{"--vcpus 1 --cpu-model Milan --kernel DIR/uki", snp.Options{VCPUs: 1, Model: "Milan", Features: 1, Kernel: &uki}},
		{"--vcpus 1 --cpu-model Milan --kernel DIR/kernel --initrd DIR/initrd --append quiet", snp.Options{VCPUs: 1, Model: "Milan", Features: 1, Kernel: &hashes}},
	} {
		want, err := snp.Launch(image, tt.o)
		if err != nil {
			t.Fatal(err)
		}
		args := append([]string{"snp", "--firmware", "DIR/snp.fd"}, strings.Fields(tt.args)...)
		if got, err := runMeasure(t, dir, args...); err != nil || got != want.String()+"\n" {
			t.Errorf("%s: %q, %v, want %s", tt.args, got, err, want)
		}
		got, err := runMeasure(t, dir, append(args, "--json")...)
		var result map[string]any
		if err != nil || json.Unmarshal([]byte(got), &result) != nil {
			t.Errorf("%s: %s, %v", tt.args, got, err)
			continue
		}
		if result["digest"] != want.String() || result["vcpus"] != float64(tt.o.VCPUs) || result["cpuModel"] != tt.o.Model ||
			result["guestFeatures"] != float64(tt.o.Features) || result["kernelHashes"] != (tt.o.Kernel != nil) {
			t.Errorf("%s: %v", tt.args, result)
		}
	}
}

func TestMeasureTDX(t *testing.T) {
	t.Parallel()
	dir := measureFiles(t)
	single, err := tdx.MRTD(ovmftest.TDX().Image(), tdx.SinglePass)
	if err != nil {
		t.Fatal(err)
	}
	double, err := tdx.MRTD(ovmftest.TDX().Image(), tdx.TwoPass)
	if err != nil {
		t.Fatal(err)
	}
	boot := func(b tdx.Boot) [2]string {
		one, err := tdx.RTMR1(b)
		if err != nil {
			t.Fatal(err)
		}
		two, err := tdx.RTMR2(b)
		if err != nil {
			t.Fatal(err)
		}
		return [2]string{one.Register().String(), two.Register().String()}
	}
	uki := boottest.UKI("quiet")
	for _, tt := range []struct {
		args  string
		mrtd  tdx.Digest
		rtmrs [2]string
	}{
		{"", single, [2]string{}},
		{"--two-pass", double, [2]string{}},
		{"--uki DIR/uki", single, boot(tdx.Boot{UKI: uki})},
		{"--uki DIR/uki --secure-boot", single, boot(tdx.Boot{UKI: uki, SecureBoot: true})},
		{"--kernel DIR/kernel --initrd DIR/initrd --append quiet", single, boot(tdx.Boot{Kernel: []byte(boottest.Kernel().Data), Initrd: []byte("initrd"), CommandLine: "quiet"})},
	} {
		args := append([]string{"tdx", "--firmware", "DIR/tdx.fd"}, strings.Fields(tt.args)...)
		want := "mrtd  " + tt.mrtd.String() + "\n"
		if tt.rtmrs[0] != "" {
			want = "mrtd   " + tt.mrtd.String() + "\nrtmr1  " + tt.rtmrs[0] + "\nrtmr2  " + tt.rtmrs[1] + "\n"
		}
		if got, err := runMeasure(t, dir, args...); err != nil || got != want {
			t.Errorf("%s: %v\n%swant\n%s", tt.args, err, got, want)
		}
		got, err := runMeasure(t, dir, append(args, "--memory", "4G", "--json")...)
		var result struct {
			MRTD         string
			RTMR1, RTMR2 struct {
				Value  string
				Events []struct{ Name, Digest string }
			}
			RTMR0HandOffBlock, RTMR0ConfigVolume string
		}
		if err != nil || json.Unmarshal([]byte(got), &result) != nil {
			t.Errorf("%s: %s, %v", tt.args, got, err)
			continue
		}
		block, err := tdx.HandOffBlock(ovmftest.TDX().Image(), 4<<30)
		if err != nil {
			t.Fatal(err)
		}
		if result.MRTD != tt.mrtd.String() || result.RTMR1.Value != tt.rtmrs[0] || result.RTMR2.Value != tt.rtmrs[1] ||
			(len(result.RTMR1.Events) == 0) != (tt.rtmrs[0] == "") ||
			result.RTMR0HandOffBlock != tdx.Hash(block).String() || len(result.RTMR0ConfigVolume) != 96 {
			t.Errorf("%s: %+v", tt.args, result)
		}
	}
}

func TestMeasureOVMF(t *testing.T) {
	t.Parallel()
	dir := measureFiles(t)
	got, err := runMeasure(t, dir, "ovmf", "--firmware", "DIR/snp.fd")
	if err != nil {
		t.Fatal(err)
	}
	digest, err := snp.FirmwareDigest(ovmftest.SNP().Image())
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{digest.String(), "measures a kernel given to QEMU  yes", "starts TDX guests                no", "sev       kernel-hashes  0x810000  0x1000"} {
		if !strings.Contains(got, line) {
			t.Errorf("%q is not in\n%s", line, got)
		}
	}
	got, err = runMeasure(t, dir, "ovmf", "--firmware", "DIR/tdx.fd", "--json")
	var result ovmfResult
	if err != nil || json.Unmarshal([]byte(got), &result) != nil {
		t.Fatalf("%s, %v", got, err)
	}
	if !result.TDX || result.SNP || result.Direct || len(result.Sections) != 5 || result.Sections[0].Attributes != "measured" || result.Size != 16384 {
		t.Errorf("%+v", result)
	}
}

func TestMeasureSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := measureFiles(t)
	const s, x = "snp --firmware DIR/snp.fd --vcpus 1 --cpu-model EPYC-v4", "tdx --firmware DIR/tdx.fd"
	for _, tt := range []struct{ args, text string }{
		{"", "what? One of snp, tdx, ovmf, pcr, idblock"},
		{"sgx", `unknown "sgx"`},
		{"snp", "--firmware is missing"},
		{"snp --firmware DIR/snp.fd --cpu-model EPYC", "--vcpus is missing"},
		{"snp --firmware DIR/none --vcpus 1 --cpu-model EPYC", "no such file"},
		{"snp --firmware DIR/text --vcpus 1 --cpu-model EPYC", "text: firmware: byte 0x5:"},
		{"snp --firmware DIR/tdx.fd --vcpus 1 --cpu-model EPYC", "no SEV metadata"},
		{"snp --firmware DIR/snp.fd --vcpus x --cpu-model EPYC", `--vcpus "x" is not a number`},
		{"snp --firmware DIR/snp.fd --vcpus 0 --cpu-model EPYC", "want 1 to 4096"},
		{"snp --firmware DIR/snp.fd --vcpus 1 --cpu-model host", "unknown CPU model"},
		{s + " --guest-features many", "not a number such as 0x1"},
		{s + " --append quiet", "with --kernel only"},
		{s + " --kernel DIR/none", "no such file"},
		{s + " --kernel DIR/kernel --initrd DIR/none", "no such file"},
		{s + " more", `unexpected argument "more"`},
		{s + " --nonesuch", "flag provided but not defined"},
		{"tdx --firmware DIR/snp.fd", "no TDVF metadata"},
		{x + " --uki DIR/uki --kernel DIR/kernel", "two ways to boot"},
		{x + " --uki DIR/uki --append quiet", "a UKI brings its own"},
		{x + " --kernel DIR/kernel --gpt DIR/text", "go with --uki"},
		{x + " --uki DIR/uki --gpt DIR/text", "there is no partition table"},
		{x + " --kernel DIR/text", "not a PE file"},
		{x + " --uki DIR/kernel", "not a UKI"},
		{x + " --memory 4X", "want a number"},
		{x + " --memory 4GG", "want a number"},
		{x + " --memory 99999999999T", "want a number"},
		{x + " --memory 1", "want whole pages"},
		{x + " --qemu qemu -- -smp 2", "depends on the --memory too"},
		{x + " --memory 4G --qemu qemu", "go together"},
		{x + " --memory 4G -- -smp 2", "go together"},
		{x + " --memory 4G --uki DIR/uki --qemu qemu -- -smp 2", "goes with direct boot"},
		{x + " --memory 4G --qemu qemu -- -smp 2", "does not begin with a volume of variables"},
		{"ovmf --firmware DIR/text", "not a multiple of 4096"},
	} {
		out, err := runMeasure(t, dir, strings.Fields(tt.args)...)
		if err == nil || !strings.Contains(err.Error(), tt.text) || out != "" {
			t.Errorf("%s: %q, %v, want %s", tt.args, out, err, tt.text)
		}
		if fault.Exit(err) == 0 || fault.Of(err) == nil {
			t.Errorf("%s: no code for %v", tt.args, err)
		}
	}
	for _, args := range []string{"help", "--help", "snp --help", "tdx -h"} {
		out, err := runMeasure(t, dir, strings.Fields(args)...)
		if err != nil || !strings.Contains(out, "cc-install measure snp --firmware F") {
			t.Errorf("%s: %q, %v", args, out, err)
		}
	}
}

func TestSizesAreRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{"1": 1, "4096": 4096, "2K": 2048, "3M": 3 << 20, "4G": 4 << 30, "1T": 1 << 40} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "G", "-1", "1.5G", "1 G", "1g"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// The digests of the configuration volume and the boot option are those that
// others' event logs of TDX guests have for firmware of this version.
func TestMeasureTDXReadsTheHostsQEMU(t *testing.T) {
	t.Parallel()
	dir := measureFiles(t)
	tree, _ := lab.Tools(t, dir, os.TempDir())
	firmware := filepath.Join(tree.Dir, "usr/share/ovmf/OVMF.fd")
	rtmr0 := func(processors string) tdxRegister {
		t.Helper()
		var out bytes.Buffer
		a := &app{programs: tree, out: &out, err: io.Discard}
		err := a.measure(t.Context(), []string{
			"tdx", "--firmware", firmware, "--memory", "4G", "--kernel", filepath.Join(dir, "kernel"), "--append", "quiet",
			"--json", "--qemu", "qemu-system-x86_64", "--", "-machine", "q35,smm=off", "-nodefaults", "-smp", processors,
		})
		var result tdxResult
		if err != nil || json.Unmarshal(out.Bytes(), &result) != nil || result.RTMR0 == nil || result.RTMR1 == nil {
			t.Fatalf("%s, %v", out.String(), err)
		}
		return *result.RTMR0
	}
	two, four := rtmr0("2"), rtmr0("4")
	var names, changed []string
	for i, e := range two.Events {
		names = append(names, e.Name)
		if four.Events[i] != e {
			changed = append(changed, e.Name)
		}
	}
	wantNames := []string{
		"TD hand-off block", "configuration volume", "variable SecureBoot", "variable PK", "variable KEK", "variable db", "variable dbx",
		"separator", "ACPI table loader", "ACPI RSDP", "ACPI tables", "variable BootOrder", "boot variable 1 of BootOrder",
	}
	if diff := cmp.Diff(wantNames, names); diff != "" {
		t.Errorf("events: %s", diff)
	}
	if diff := cmp.Diff([]string{"ACPI table loader", "ACPI RSDP", "ACPI tables"}, changed); diff != "" {
		t.Errorf("what four processors change: %s", diff)
	}
	for at, want := range map[int]string{1: "344bc51c980ba621", 12: "23ada07f5261f12f"} {
		if got := two.Events[at].Digest.String(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s…", two.Events[at].Name, got, want)
		}
	}
	if two.Value != two.Events.Register() || two.Value == four.Value {
		t.Errorf("the register is %s with two processors and %s with four", two.Value, four.Value)
	}
}
