package pcr_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/binary"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/boot"
	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/tpm/pcr"
)

type section = boottest.Section

// every has one of each section that systemd-stub knows.
func every() []section {
	return []section{
		{Name: ".text", Data: "\x90\x90\x90"}, {Name: ".hwids", Data: "hardware"}, {Name: ".dtbauto", Data: "tree, chosen"}, {Name: ".profile", Data: "ID=main\n"}, {Name: ".pcrpkey", Data: "a public key"},
		{Name: ".pcrsig", Data: "a signature"}, {Name: ".sbat", Data: "sbat,1\n"}, {Name: ".uname", Data: "6.12.0"}, {Name: ".dtb", Data: "tree"}, {Name: ".splash", Data: "a picture"},
		{Name: ".ucode", Data: "microcode"}, {Name: ".initrd", Data: "initrd"}, {Name: ".cmdline", Data: "ro quiet"}, {Name: ".osrel", Data: "ID=debian\n"}, boottest.Kernel(),
	}
}

func read(t testing.TB, uki []byte) pcr.Image {
	t.Helper()
	m, err := pcr.ReadUKI(uki)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// comparePCR11 holds the prediction against boot.PCR11, which is held against
// systemd-measure.
func comparePCR11(t *testing.T, uki []byte) {
	t.Helper()
	phases := []string{"enter-initrd", "leave-initrd", "sysinit", "ready"}
	for n := range len(phases) + 1 {
		want, err := boot.PCR11(uki, phases[:n]...)
		if err != nil {
			t.Fatal(err)
		}
		log := predict(t, pcr.Boot{Image: read(t, uki), Phases: phases[:n]})
		if got := replay(t, log, pcr.SHA256)[11]; !bytes.Equal(got, want[:]) {
			t.Errorf("after %v: %s, want %x", phases[:n], got, want)
		}
	}
}

func TestPCR11IsThatOfBoot(t *testing.T) {
	t.Parallel()
	comparePCR11(t, boottest.PE(every()...))
	comparePCR11(t, boottest.PE(boottest.Kernel(), section{Name: ".cmdline", Data: "ro"}))
}

func TestTheBuiltImageIsPredicted(t *testing.T) {
	t.Parallel()
	built := lab.Built(t)
	uki := filetest.Read(t, built.Path("cc-base.efi"))
	comparePCR11(t, uki)
	key, made, err := boot.LoadOrMakeKey(built.Path("keys", "secureboot"), "db", time.Time{})
	if err != nil || made {
		t.Fatal(made, err)
	}
	m := read(t, uki)
	if !bytes.Equal(m.Signer, key.Cert.Raw) {
		t.Error("its signer is not the project's key")
	}
	owner, err := pcr.ParseGUID(pcr.DefaultOwner)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(predict(t, pcr.Boot{Image: m, SecureBoot: pcr.Enrolled(key.Cert, owner)}).Of(7)); n != 7 {
		t.Errorf("%d events of PCR 7", n)
	}
}

func TestASignatureChangesNothingButTheSigner(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	unsigned := boottest.PE(every()...)
	signed := sign(t, unsigned, key)
	a, b := read(t, unsigned), read(t, signed)
	if a.Signer != nil || !bytes.Equal(b.Signer, key.Cert.Raw) {
		t.Error("the signer is not found")
	}
	b.Signer = nil
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("signing changes what is measured: %s", diff)
	}
}

func newKey(t testing.TB) boot.Key {
	t.Helper()
	key, _, err := boot.LoadOrMakeKey(t.TempDir(), "db", time.Unix(1767225600, 0))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, file []byte, key boot.Key) []byte {
	t.Helper()
	signed, err := boot.Sign(file, key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// What the kernel gets as initrd depends on sections that are not .initrd.
func TestSectionsThatTheStubPassesOnAreInTheInitrd(t *testing.T) {
	t.Parallel()
	base := []section{boottest.Kernel(), {Name: ".cmdline", Data: "ro"}, {Name: ".initrd", Data: "initrd"}}
	seen := map[string]string{}
	for _, more := range []section{{Name: ".uname", Data: "x"}, {Name: ".osrel", Data: "x"}, {Name: ".pcrsig", Data: "x"}, {Name: ".pcrpkey", Data: "x"}, {Name: ".profile", Data: "x"}, {Name: ".ucode", Data: "x"}} {
		m := read(t, boottest.PE(append(base[:3:3], more)...))
		d := m.Initrd[pcr.SHA256].String()
		if other, twice := seen[d]; twice {
			t.Errorf("%s and %s give the same initrd", more.Name, other)
		}
		seen[d] = more.Name
	}
	if alone := read(t, boottest.PE(base...)).Initrd[pcr.SHA256].String(); seen[alone] != ".uname" {
		t.Errorf("a section that is not passed on changes the initrd: %v", seen)
	}
	if m := read(t, boottest.PE(base[:2]...)); m.Initrd != nil || len(predict(t, pcr.Boot{Image: m}).Of(9)) != 1 {
		t.Error("an image without an initrd has one measured")
	}
}

func brokenImages(t testing.TB) map[string][]byte {
	le := binary.LittleEndian
	key := newKey(t)
	signed := sign(t, boottest.PE(every()...), key)
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(signed)
		f(b)
		return b
	}
	const opt = 64 + 4 + 20
	f, err := pe.NewFile(bytes.NewReader(signed))
	if err != nil {
		t.Fatal(err)
	}
	table := f.OptionalHeader.(*pe.OptionalHeader64).DataDirectory[4].VirtualAddress
	other := sign(t, boottest.PE(append(every(), section{Name: ".other", Data: "x"})...), key)
	return map[string][]byte{
		"empty":                     nil,
		"no kernel":                 boottest.PE(section{Name: ".cmdline", Data: "ro"}),
		"a kernel that is no PE":    boottest.PE(section{Name: ".cmdline", Data: "ro"}, section{Name: ".linux", Data: "kernel"}),
		"no command line":           boottest.PE(boottest.Kernel()),
		"a line with an end":        boottest.PE(boottest.Kernel(), section{Name: ".cmdline", Data: "ro\n"}),
		"a line with a tab":         boottest.PE(boottest.Kernel(), section{Name: ".cmdline", Data: "ro\tquiet"}),
		"a line that is no text":    boottest.PE(boottest.Kernel(), section{Name: ".cmdline", Data: "ro \xff"}),
		"signed, then changed":      change(func(b []byte) { b[len(b)/2]++ }),
		"signature beyond the end":  change(func(b []byte) { le.PutUint32(b[opt+112+36:], 1<<31) }),
		"signature not at the end":  change(func(b []byte) { le.PutUint32(b[opt+112+32:], table-8) }),
		"signature of no length":    change(func(b []byte) { le.PutUint32(b[table:], 0) }),
		"signature too long":        change(func(b []byte) { le.PutUint32(b[table:], 1<<31) }),
		"signature of another kind": change(func(b []byte) { le.PutUint16(b[table+6:], 1) }),
		"another image's signature": append(bytes.Clone(signed[:table]), other[len(other)-(len(signed)-int(table)):]...),
		"a broken signature":        change(func(b []byte) { b[len(b)-20]++ }),
		"headers beyond the end":    change(func(b []byte) { le.PutUint32(b[opt+60:], 1<<31) }),
		"no headers":                change(func(b []byte) { le.PutUint32(b[opt+60:], 0) }),
		"no data directory":         change(func(b []byte) { le.PutUint32(b[opt+108:], 0) }),
		"a gap":                     change(func(b []byte) { le.PutUint32(b[opt+60:], 512) }),
	}
}

func TestAnImageThatCannotBeMeasuredIsRefused(t *testing.T) {
	t.Parallel()
	for name, b := range brokenImages(t) {
		if _, err := pcr.ReadUKI(b); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			faulttest.Want(t, err, fault.BootImage)
		}
	}
}

func FuzzReadUKI(f *testing.F) {
	f.Add(boottest.PE(every()...))
	for _, b := range brokenImages(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := pcr.ReadUKI(b)
		if err != nil {
			return
		}
		for _, d := range []pcr.Digests{m.Authenticode, m.Kernel, m.LoadOptions} {
			if len(d[pcr.SHA256]) != 32 || len(d[pcr.SHA384]) != 48 {
				t.Errorf("%v", d)
			}
		}
	})
}

// issued returns a certificate for the key of subject, issued by issuer as the
// certificate authority "ca".
func issued(t *testing.T, issuer, subject boot.Key, name string) *x509.Certificate {
	t.Helper()
	certificate := func(name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, IsCA: name == "ca", BasicConstraintsValid: true, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate(name), certificate("ca"), &subject.Private.PublicKey, issuer.Private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestAnImageThatTheFirmwareWouldRefuseHasNoPrediction(t *testing.T) {
	t.Parallel()
	ours, theirs := newKey(t), newKey(t)
	owner, err := pcr.ParseGUID(owner)
	if err != nil {
		t.Fatal(err)
	}
	unsigned := read(t, boottest.PE(every()...))
	signed := read(t, sign(t, boottest.PE(every()...), ours))
	on := pcr.Enrolled(ours.Cert, owner)
	with := func(f func(s *pcr.SecureBoot)) pcr.SecureBoot {
		s := on
		f(&s)
		return s
	}
	for _, test := range []struct {
		name, says string
		image      pcr.Image
		secure     pcr.SecureBoot
	}{
		{"unsigned", "not signed", unsigned, on},
		{"signed by another", "no certificate in db", signed, pcr.Enrolled(theirs.Cert, owner)},
		{"forbidden", "dbx forbids", signed, with(func(s *pcr.SecureBoot) { s.DBX = s.DB })},
		{"empty db", "no certificate in db", signed, with(func(s *pcr.SecureBoot) { s.DB = nil })},
		{"broken db", "cut short", signed, with(func(s *pcr.SecureBoot) { s.DB = s.DB[:20] })},
		{"db of contradictions", "contradict", signed, with(func(s *pcr.SecureBoot) { s.DB = s.DB[:100] })},
		{"broken dbx", "dbx", signed, with(func(s *pcr.SecureBoot) { s.DBX = s.DBX[:20] })},
		{"no platform key", "platform key", signed, with(func(s *pcr.SecureBoot) { s.PK = nil })},
		{"state 2", "state", signed, with(func(s *pcr.SecureBoot) { s.State = []byte{2} })},
	} {
		_, err := pcr.Predict(pcr.Boot{Image: test.image, SecureBoot: test.secure})
		if err == nil {
			t.Errorf("%s: no error", test.name)
			continue
		}
		faulttest.Want(t, err, fault.BootImage, test.says)
	}
	// Switched off, keys are measured and nothing is refused.
	off := with(func(s *pcr.SecureBoot) { s.State = []byte{0} })
	log := predict(t, pcr.Boot{Image: unsigned, SecureBoot: off})
	if len(log.Of(7)) != 6 || len(log.Of(4)) != 4 {
		t.Errorf("%d events of PCR 7, %d of PCR 4", len(log.Of(7)), len(log.Of(4)))
	}
	if diff := cmp.Diff(predict(t, pcr.Boot{Image: signed, SecureBoot: on}).Of(7)[1:6], log.Of(7)[1:6]); diff != "" {
		t.Errorf("the keys are measured otherwise: %s", diff)
	}
}

// Firmware also accepts what a certificate in db has issued the signer for.
func TestAnIssuerInDBAccepts(t *testing.T) {
	t.Parallel()
	ca, leaf := newKey(t), newKey(t)
	signed := read(t, sign(t, boottest.PE(every()...), leaf))
	signed.Signer = issued(t, ca, leaf, "leaf").Raw
	root := issued(t, ca, ca, "ca")
	g, err := pcr.ParseGUID(owner)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(predict(t, pcr.Boot{Image: signed, SecureBoot: pcr.Enrolled(root, g)}).Of(7)); n != 7 {
		t.Errorf("%d events of PCR 7", n)
	}
}
