package pcr_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"cc-base/tasks/boot"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
	"cc-base/tasks/tpm/pcr"
	"cc-base/tasks/vm"
)

// recordEnv names a folder: the two boots behind the recorded logs are made
// again and their results put there. What belongs in testdata is copied by hand.
const recordEnv = "CC_PCR_RECORD"

// owner is the signature owner of the recorded Secure Boot variables.
const owner = "6f1d2a64-3c53-4b0c-9e0b-2f1f6d5d1c5e"

// TestRecord boots the recorder under OVMF with swtpm: from the ESP of the
// built image's disk without Secure Boot, with .pcrpkey and .pcrsig in the UKI;
// then with Secure Boot on and only our certificate enrolled.
func TestRecord(t *testing.T) {
	out := os.Getenv(recordEnv)
	if out == "" {
		t.Skipf("%s is not set: the recorded logs are in testdata", recordEnv)
	}
	for _, name := range []string{"plain", "secureboot"} {
		record(t, out, name)
	}
}

func record(t *testing.T, out, name string) {
	tools, dir := lab.Tools(t)
	image := lab.Built(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()

	tools = tools.With(image.Out)
	u := boot.UKI{
		Kernel: image.Path("scratch", "vmlinuz"), Release: image.Manifest.Kernel, OSRelease: image.Path("scratch", "os-release"),
		Initrd:      filetest.Write(t, filepath.Join(dir, "initrd"), recorderInitrd(t, dir)),
		CommandLine: "console=ttyS0 loglevel=3 no_timer_check panic=1 rdinit=/recorder cc.test=" + name, Epoch: image.Manifest.SourceDateEpoch,
	}
	if name == "plain" {
		u.PCRPublicKey = filetest.Write(t, filepath.Join(dir, "key.pem"), []byte("-----BEGIN PUBLIC KEY-----\nnot one\n-----END PUBLIC KEY-----\n"))
		u.PCRSignature = []byte(`{"sha256":[]}`)
	}
	uki := filepath.Join(dir, name+".efi")
	if err := boot.BuildUKI(ctx, tools, u, uki); err != nil {
		t.Fatal(err)
	}
	code, vars, extra := "/usr/share/OVMF/OVMF_CODE_4M.fd", filepath.Join(tools.Dir, "usr/share/OVMF/OVMF_VARS_4M.fd"), []string(nil)
	if name == "secureboot" {
		key, _, err := boot.LoadOrMakeKey(image.Path("keys", "secureboot"), "db", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		signed, err := boot.Sign(filetest.Read(t, uki), key)
		if err != nil {
			t.Fatal(err)
		}
		filetest.Write(t, uki, signed)
		cert := image.Path("keys", "secureboot", "db.crt")
		code, vars = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", filepath.Join(dir, "vars.fd")
		extra = []string{"-global", "driver=cfi.pflash01,property=secure,value=on"}
		err = sh.Do(ctx, tools, "virt-fw-vars", "--input", "/usr/share/OVMF/OVMF_VARS_4M.fd", "--output", vars,
			"--set-pk", owner, cert, "--add-kek", owner, cert, "--add-db", owner, cert, "--secure-boot")
		if err != nil {
			t.Fatal(err)
		}
		filetest.Write(t, filepath.Join(out, name+".der"), key.Cert.Raw)
	}
	raw := image.Raw(t, tools, dir)
	esp, _ := image.Manifest.Disk.Partition("cc-esp")
	if err := sh.Do(ctx, tools, "mcopy", "-o", "-i", fmt.Sprintf("%s@@%d", raw, esp.Start), uki, "::EFI/BOOT/BOOTX64.EFI"); err != nil {
		t.Fatal(err)
	}
	// A socket's path may have 107 bytes; t.TempDir is longer.
	machine, err := os.MkdirTemp("", "pcr")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(machine)
	m := &vm.Machine{
		Runner: tools.With(machine), Dir: machine, MemoryMiB: 1024, TPM: true, Extra: extra,
		Firmware: vm.Firmware{Code: code, Vars: vars}, Disks: []vm.Disk{{Path: raw, Format: "raw"}},
		ConsoleLog: filepath.Join(out, name+".console"),
	}
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	var log, pcrs strings.Builder
	for _, line := range m.Lines() {
		if text, ok := strings.CutPrefix(line, "log "); ok {
			log.WriteString(text)
		}
		if text, ok := strings.CutPrefix(line, "pcr "); ok {
			pcrs.WriteString(text + "\n")
		}
	}
	events, err := base64.StdEncoding.DecodeString(log.String())
	if err != nil || len(events) == 0 {
		t.Fatalf("%d bytes of log: %v\n%s", len(events), err, strings.Join(m.Lines(), "\n"))
	}
	disk, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	const gptEnd = 34 * 512 // protective MBR, header, 128 entries
	filetest.Write(t, filepath.Join(out, name+".log.gz"), pack(t, events))
	filetest.Write(t, filepath.Join(out, name+".pcrs"), []byte(pcrs.String()))
	filetest.Write(t, filepath.Join(out, name+".gpt.gz"), pack(t, readN(t, disk, gptEnd)))
	filetest.Write(t, filepath.Join(out, name+".vars.gz"), pack(t, filetest.Read(t, vars)))
	inputs, err := pcr.ReadUKI(filetest.Read(t, uki))
	if err != nil {
		t.Fatal(err)
	}
	measured, err := json.MarshalIndent(inputs, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, filepath.Join(out, name+".json"), append(measured, '\n'))
}

// recorderInitrd returns an initrd that holds testdata/recorder, built.
func recorderInitrd(t *testing.T, dir string) []byte {
	t.Helper()
	program := filepath.Join(dir, "recorder")
	err := sh.Host{}.Run(t.Context(), sh.Cmd{
		Name: "go", Args: []string{"build", "-trimpath", "-ldflags=-s -w", "-o", program, "./testdata/recorder"},
		Env: append(os.Environ(), "CGO_ENABLED=0"),
	})
	if err != nil {
		t.Fatal(err)
	}
	body := filetest.Read(t, program)
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	err = w.WriteHeader(&cpio.Header{Name: "recorder", Mode: cpio.TypeReg | 0o755, Size: int64(len(body))})
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readN(t *testing.T, r io.Reader, n int64) []byte {
	t.Helper()
	b, err := io.ReadAll(io.LimitReader(r, n))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pack(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
