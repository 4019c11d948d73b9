package build

// What green does not prove: no firmware starts here. That OVMF starts what our
// keys have signed and refuses the rest is shown by the boots in tasks/lab; that
// the firmware for TDX reads the keys that are put into it is shown by nothing.

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/boot"
	"cc-base/tasks/boot/varstore"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/measurements"
	"cc-base/tasks/sh"
	"cc-base/tasks/tee/tdx"
	"cc-base/tasks/tpm/pcr"
)

// holdsKeys compares a variable store, or firmware with one, with the
// certificates in dir.
func holdsKeys(t *testing.T, name string, store []byte, dir string) {
	t.Helper()
	certs := map[string]*x509.Certificate{}
	for _, key := range boot.KeyNames() {
		block, _ := pem.Decode(filetest.Read(t, filepath.Join(dir, key+".crt")))
		if block == nil {
			t.Fatalf("%s.crt is not PEM", key)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs[key] = cert
	}
	owner, err := pcr.ParseGUID(varstore.Owner().String())
	if err != nil {
		t.Fatal(err)
	}
	want := pcr.Keys{PK: certs["PK"], KEK: certs["KEK"], DB: certs["db"]}.Enrolled(owner)
	got, err := pcr.ReadVars(store)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if diff := cmp.Diff(want, got); diff != "" || !got.On() {
		t.Errorf("%s: Secure Boot on: %v (-certificates +store):\n%s", name, got.On(), diff)
	}
	for _, other := range []string{"Microsoft", "Debian", "snakeoil"} {
		if bytes.Contains(store[:min(len(store), 0x84000)], []byte(other)) { // the variables
			t.Errorf("%s: the name %s is in it", name, other)
		}
	}
}

func TestTheBuildsKeysAreEnrolledInWhatIsThere(t *testing.T) {
	b := testBuild(t)
	tools, _ := lab.Tools(t, b.OutDir)
	b.Tools = tools
	if err := os.MkdirAll(b.secureBootDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := boot.LoadOrMakeKeys(b.secureBootDir(), time.Unix(1767225600, 0).UTC()); err != nil {
		t.Fatal(err)
	}
	enrol := func() map[string][]byte {
		t.Helper()
		if err := b.enrolKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
		made := map[string][]byte{}
		for _, e := range b.enrolments() {
			made[e.name] = filetest.Read(t, e.file)
			holdsKeys(t, e.name, made[e.name], b.secureBootDir())
		}
		return made
	}
	if made := enrol(); len(made) != 1 {
		t.Errorf("without firmware for TDX: %d files", len(made))
	}
	// OVMF.fd can start a TDX guest too; Microsoft's keys come first.
	shipped := b.scratch(measurements.TDXFirmware)
	if err := os.MkdirAll(filepath.Dir(shipped), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := sh.Do(t.Context(), tools, "virt-fw-vars", "--loglevel", "error", "--input", "/usr/share/ovmf/OVMF.fd", "--output", shipped, "--enroll-redhat", "--secure-boot"); err != nil {
		t.Fatal(err)
	}
	before := filetest.Read(t, shipped)
	if !bytes.Contains(before, []byte("Microsoft")) {
		t.Fatal("the firmware holds no keys of Microsoft")
	}
	first := enrol()
	time.Sleep(time.Second) // the smallest unit of a time in a store
	if diff := cmp.Diff(first, enrol()); diff != "" || len(first) != 2 {
		t.Errorf("%d files, which differ when they are made again", len(first))
	}
	was, errA := tdx.MRTD(before, tdx.SinglePass)
	is, errB := tdx.MRTD(first[measurements.TDXEnrolled], tdx.SinglePass)
	if errA != nil || errB != nil || was != is {
		t.Errorf("MRTD %s, %v, with our keys %s, %v", was, errA, is, errB)
	}
	for _, e := range b.enrolments() {
		if files := b.firmwareFiles(); files[e.name] != e.file {
			t.Errorf("the installer does not get %s", e.name)
		}
	}
	// Firmware that is gone has no copy with our keys.
	if err := os.Remove(shipped); err != nil {
		t.Fatal(err)
	}
	enrol()
	filetest.Only(t, b.scratch("enrolled"), "OVMF_VARS_4M.cc-base.fd")
}

func TestTheInstallersFirmwareHoldsTheBuildsKeys(t *testing.T) {
	image := lab.Built(t)
	seen := 0
	filetest.EachInTar(t, filetest.Gunzip(t, image.Path("nvidia-cc-installer.tar.gz")), func(h *tar.Header, r io.Reader) {
		name := strings.TrimPrefix(h.Name, "installer/")
		if name != secureBootVars && name != measurements.TDXEnrolled {
			return
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		holdsKeys(t, name, data, image.Path("keys", "secureboot"))
		seen++
	})
	if seen == 0 {
		t.Error("there is none")
	}
}
