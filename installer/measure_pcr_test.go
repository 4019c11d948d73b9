package main

// Green here means: the flags are read, files are read within bounds, and what
// package pcr predicts is shown whole. That the prediction is right is shown by
// that package's tests.

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/boot"
	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/tpm/pcr"
)

// program returns cc-install with its standard output.
func program() (*app, *bytes.Buffer) {
	var out bytes.Buffer
	return &app{out: &out, err: &bytes.Buffer{}}, &out
}

// recordedFiles puts what package pcr has recorded into dir.
func recordedFiles(t *testing.T, dir string) (gpt, vars, log string) {
	t.Helper()
	unpack := func(name string) string {
		return filetest.Write(t, filepath.Join(dir, name), gunzip(t, filepath.Join("../tasks/tpm/pcr/testdata", name+".gz")))
	}
	return unpack("plain.gpt"), unpack("secureboot.vars"), unpack("plain.log")
}

func TestMeasurePCRShowsValuesAndEvents(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gpt, _, _ := recordedFiles(t, dir)
	raw := boottest.UKI("ro quiet")
	uki := filetest.Write(t, filepath.Join(dir, "uki"), raw)
	want, err := boot.PCR11(raw, "enter-initrd")
	if err != nil {
		t.Fatal(err)
	}
	a, out := program()
	if err := measurePCR(t.Context(), a, []string{"--uki", uki, "--gpt", gpt, "--phases", "enter-initrd", "--json"}); err != nil {
		t.Fatal(err)
	}
	var p struct {
		SecureBoot string
		PCRs       map[string]map[string]string
		Events     []struct {
			PCR     int
			Type    string
			What    string
			Digests map[string]string
		}
	}
	if err := json.Unmarshal(out.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if p.SecureBoot != "absent" || len(p.PCRs["sha256"]) != 7 || len(p.PCRs["sha384"]) != 7 || p.PCRs["sha256"]["11"] != fmt.Sprintf("%x", want) {
		t.Errorf("%s %v", p.SecureBoot, p.PCRs)
	}
	if e := p.Events[0]; e.PCR != 4 || e.Type != "EV_EFI_ACTION" || len(e.Digests["sha256"]) != 64 {
		t.Errorf("%+v", e)
	}
	a, out = program()
	if err := measurePCR(t.Context(), a, []string{"--uki", uki}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Secure Boot: absent", "PCR 12 sha256 " + strings.Repeat("0", 64), "EV_IPL", "section .cmdline", "variable dbx"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not show %q:\n%s", want, out)
		}
	}
	if strings.Contains(out.String(), "PCR 5 ") {
		t.Error("PCR 5 is there without a disk")
	}
}

func TestMeasurePCRWithSecureBoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, vars, _ := recordedFiles(t, dir)
	key, _, err := boot.LoadOrMakeKey(filepath.Join(dir, "keys"), "db", time.Unix(1767225600, 0))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := boot.Sign(boottest.UKI("ro"), key)
	if err != nil {
		t.Fatal(err)
	}
	uki := filetest.Write(t, filepath.Join(dir, "uki"), signed)
	der := filetest.Write(t, filepath.Join(dir, "db.der"), key.Cert.Raw)
	armoured := filetest.Write(t, filepath.Join(dir, "db.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: key.Cert.Raw}))
	pcr7 := func(args ...string) string {
		a, out := program()
		if err := measurePCR(t.Context(), a, append([]string{"--uki", uki, "--json"}, args...)); err != nil {
			t.Fatal(err)
		}
		var p struct {
			SecureBoot string
			PCRs       map[string]map[string]string
		}
		if err := json.Unmarshal(out.Bytes(), &p); err != nil || p.SecureBoot != "on" {
			t.Fatal(p.SecureBoot, err)
		}
		return p.PCRs["sha256"]["7"]
	}
	if pcr7("--secure-boot-cert", der) != pcr7("--secure-boot-cert", armoured, "--secure-boot-owner", pcr.DefaultOwner) {
		t.Error("the certificate's form or the default owner changes PCR 7")
	}
	if pcr7("--secure-boot-cert", der) == pcr7("--secure-boot-cert", der, "--secure-boot-owner", "6f1d2a64-3c53-4b0c-9e0b-2f1f6d5d1c5e") {
		t.Error("the owner is not measured")
	}
	// A store with another key refuses this image.
	a, _ := program()
	faulttest.Want(t, measurePCR(t.Context(), a, []string{"--uki", uki, "--vars", vars}), fault.BootImage, "db")
}

func TestMeasurePCRComparesWithALog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gpt, _, log := recordedFiles(t, dir)
	uki := filetest.Write(t, filepath.Join(dir, "uki"), boottest.UKI("ro"))
	a, out := program()
	err := measurePCR(t.Context(), a, []string{"--uki", uki, "--gpt", gpt, "--log", log})
	faulttest.Want(t, err, fault.Damaged)
	for _, want := range []string{"different (sha256): PCR 4, event 3", "different (sha384): PCR 9, event 1", "different (sha256): PCR 11, event 2"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out.String(), "PCR 5, event") || strings.Contains(out.String(), "PCR 7, event") {
		t.Errorf("what is equal is called different:\n%s", out)
	}
}

func TestMeasurePCRRefusesWrongArguments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	uki := filetest.Write(t, filepath.Join(dir, "uki"), boottest.UKI("ro"))
	junk := filetest.Write(t, filepath.Join(dir, "junk"), []byte("junk"))
	tests := []struct {
		args string
		code fault.Code
		says string
	}{
		{"", fault.Usage, "--uki is missing"},
		{"--uki U x", fault.Usage, `"x"`},
		{"--bank sha1", fault.Usage, "bank"},
		{"--uki U --vars J --secure-boot-cert J", fault.Usage, "two ways"},
		{"--uki U --secure-boot-owner x", fault.Usage, "belongs"},
		{"--uki U --log J --phases x", fault.Usage, "phases"},
		{"--uki U --phases a::b", fault.Usage, "empty word"},
		{"--uki /nowhere", fault.Usage, "/nowhere"},
		{"--uki J", fault.BootImage, "junk"},
		{"--uki U --vars J", fault.BootImage, "variable store"},
		{"--uki U --gpt J", fault.DiskImage, "partition table"},
		{"--uki U --gpt /nowhere", fault.Usage, "/nowhere"},
		{"--uki U --log J", fault.Damaged, "event log"},
		{"--uki U --secure-boot-cert J", fault.Usage, "certificate"},
	}
	for _, test := range tests {
		a, out := program()
		args := strings.Fields(strings.NewReplacer(" U", " "+uki, " J", " "+junk).Replace(test.args))
		err := measurePCR(t.Context(), a, args)
		if err == nil {
			t.Errorf("%q: no error", test.args)
			continue
		}
		faulttest.Want(t, err, test.code, test.says)
		if out.Len() > 0 {
			t.Errorf("%q: it printed %q", test.args, out)
		}
	}
}

func TestAFileAboveItsBoundIsRefused(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, make([]byte, 11), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := readBounded(file, 11); err != nil || len(b) != 11 {
		t.Error(len(b), err)
	}
	_, err := readBounded(file, 10)
	faulttest.Want(t, err, fault.Usage, "larger than 10")
}
