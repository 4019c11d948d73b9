package varstore_test

// What green does not prove: no firmware reads the stores here. That OVMF starts
// what db vouches for and refuses the rest is shown by the boots in tasks/lab;
// for firmware with its variables within ([varstore.Bake]) nothing is shown but
// that the bytes are right, because whether such a build enforces Secure Boot is
// its own matter.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"cc-base/tasks/boot"
	"cc-base/tasks/boot/varstore"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
)

// The templates of the tools tree.
const (
	empty     = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	microsoft = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
	stateless = "/usr/share/ovmf/OVMF.fd"
)

// keySet makes certificates in dir and returns their files and, by variable,
// their DER. They are on an elliptic curve, unlike those of a build: RSA keys
// take seconds here, and nothing in this package looks into a certificate.
func keySet(t testing.TB, dir string) (varstore.Keys, map[string][]byte) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	der, files := map[string][]byte{}, map[string]string{}
	for _, name := range boot.KeyNames() {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test " + name},
			NotBefore: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), NotAfter: time.Date(2056, 1, 1, 0, 0, 0, 0, time.UTC),
		}
		der[name], err = x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der[name]})
		files[name] = filetest.Write(t, filepath.Join(dir, name+".crt"), text)
	}
	return varstore.Keys{PK: files["PK"], KEK: files["KEK"], DB: files["db"]}, der
}

func x509Entry(der []byte) []varstore.Entry {
	return []varstore.Entry{{Kind: varstore.X509, Owner: varstore.Owner(), Data: der}}
}

// nothing is what dbx holds.
func nothing() []byte {
	sum := sha256.Sum256(nil)
	return sum[:]
}

func enrolled(t *testing.T, data []byte, der map[string][]byte) {
	t.Helper()
	got, err := varstore.List(data)
	if err != nil {
		t.Fatal(err)
	}
	want := varstore.Store{On: true, PK: x509Entry(der["PK"]), KEK: x509Entry(der["KEK"]), DB: x509Entry(der["db"])}
	want.DBX = got.DBX
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the store (-want +got):\n%s", diff)
	}
	if len(got.DBX) != 1 || got.DBX[0].Kind != varstore.SHA256 || !bytes.Equal(got.DBX[0].Data, nothing()) {
		t.Errorf("dbx is %+v", got.DBX)
	}
}

// twice makes the file at two times of day, fails the test unless the bytes are
// equal, and returns them.
func twice(t *testing.T, make func(out string) error, dir string) []byte {
	t.Helper()
	out := filepath.Join(dir, "out.fd")
	var files [2][]byte
	for i := range files {
		if i > 0 {
			time.Sleep(time.Second) // the smallest unit of a time in a store
		}
		if err := make(out); err != nil {
			t.Fatal(err)
		}
		files[i] = filetest.Read(t, out)
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("equal keys have given different bytes")
	}
	return files[0]
}

func TestOurKeysAndNoOthersAreEnrolled(t *testing.T) {
	t.Parallel()
	tools, tmp := lab.Tools(t)
	keys, der := keySet(t, filepath.Join(tmp, "keys"))
	for _, template := range []string{empty, microsoft} {
		data := twice(t, func(out string) error { return varstore.Enrol(t.Context(), tools, template, out, keys) }, tmp)
		enrolled(t, data, der)
		if before := filetest.Read(t, filepath.Join(tools.Dir, template)); len(data) != len(before) {
			t.Errorf("%s: %d bytes have become %d", template, len(before), len(data))
		}
		// Not as variables that were marked deleted, either, nor in the spare
		// copy behind the store: firmware may take one up again.
		for _, name := range []string{"Microsoft", "Debian"} {
			if bytes.Contains(data, []byte(name)) {
				t.Errorf("%s: the name %s is still in it", template, name)
			}
		}
	}
	filetest.Only(t, tmp, "keys", "out.fd")
}

func TestKeysAreBakedIntoFirmwareAndItsCodeStays(t *testing.T) {
	t.Parallel()
	tools, tmp := lab.Tools(t)
	keys, der := keySet(t, filepath.Join(tmp, "keys"))
	data := twice(t, func(out string) error { return varstore.Bake(t.Context(), tools, stateless, out, keys) }, tmp)
	before := filetest.Read(t, filepath.Join(tools.Dir, stateless))
	enrolled(t, data, der)
	const volume = 0x84000 // of variables, in a build of 4 MiB
	if !bytes.Equal(data[volume:], before[volume:]) || len(data) != len(before) {
		t.Error("the code was changed")
	}
}

func TestAStoreIsNotFirmwareAndFirmwareIsNotAStore(t *testing.T) {
	t.Parallel()
	tools, tmp := lab.Tools(t)
	keys, _ := keySet(t, filepath.Join(tmp, "keys"))
	out := filepath.Join(tmp, "out.fd")
	faulttest.Want(t, varstore.Enrol(t.Context(), tools, stateless, out, keys), fault.BootImage, "this is firmware")
	faulttest.Want(t, varstore.Bake(t.Context(), tools, empty, out, keys), fault.BootImage, "no firmware")
	faulttest.Want(t, varstore.Enrol(t.Context(), tools, "/usr/share/OVMF/OVMF_CODE_4M.fd", out, keys), fault.BootImage, "virt-fw-vars")
	filetest.Only(t, tmp, "keys")
}

// writes plays virt-fw-vars, which it lets write something.
func writes(t *testing.T, data []byte) *sh.Recorder {
	return &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		if c.Name != "virt-fw-vars" {
			return "", nil
		}
		for i, arg := range c.Args {
			if arg == "--output" {
				filetest.Write(t, c.Args[i+1], data)
			}
		}
		return "", nil
	}}
}

func TestTheseCommandsEnrol(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, der := keySet(t, filepath.Join(dir, "keys"))
	run := writes(t, store(good(der)))
	if err := varstore.Enrol(t.Context(), run, empty, filepath.Join(dir, "vars.fd"), keys); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "enrol.argv", strings.ReplaceAll(run.Transcript(), dir, "DIR"))
	run = writes(t, append(store(good(der)), "code"...))
	if err := varstore.Bake(t.Context(), run, stateless, filepath.Join(dir, "baked.fd"), keys); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "bake.argv", strings.ReplaceAll(run.Transcript(), dir, "DIR"))
}

func TestWhatIsWrittenWrongGetsNoName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, der := keySet(t, filepath.Join(dir, "keys"))
	_, foreign := keySet(t, filepath.Join(dir, "foreign"))
	owner := varstore.Owner()
	for name, test := range map[string]struct {
		says   string
		change func(map[string][]byte)
	}{
		"another's platform key": {"PK", func(v map[string][]byte) { v["PK"] = list(x509Kind, owner, foreign["PK"]) }},
		"no KEK":                 {"KEK", func(v map[string][]byte) { delete(v, "KEK") }},
		"KEK in place of db":     {"db", func(v map[string][]byte) { v["db"] = v["KEK"] }},
		"a second db entry": {"db", func(v map[string][]byte) {
			v["db"] = append(bytes.Clone(v["db"]), list(x509Kind, owner, foreign["db"])...)
		}},
		"another owner":   {"db", func(v map[string][]byte) { v["db"] = list(x509Kind, uuid.Nil, der["db"]) }},
		"no dbx":          {"dbx", func(v map[string][]byte) { delete(v, "dbx") }},
		"a dbx with more": {"dbx", func(v map[string][]byte) { v["dbx"] = append(bytes.Clone(v["dbx"]), v["dbx"]...) }},
		"switched off":    {"off", func(v map[string][]byte) { v["SecureBootEnable"] = []byte{0} }},
		"half a list":     {"cut short", func(v map[string][]byte) { v["db"] = v["db"][:20] }},
	} {
		variables := good(der)
		test.change(variables)
		out := filetest.Write(t, filepath.Join(dir, "vars.fd"), []byte("as before"))
		err := varstore.Enrol(t.Context(), writes(t, store(variables)), empty, out, keys)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		faulttest.Want(t, err, fault.BootImage, test.says)
		if string(filetest.Read(t, out)) != "as before" {
			t.Errorf("%s: the file was changed", name)
		}
		filetest.Only(t, dir, "foreign", "keys", "vars.fd")
	}
	for _, garbage := range [][]byte{nil, []byte("x"), store(good(der))[:100]} {
		err := varstore.Enrol(t.Context(), writes(t, garbage), empty, filepath.Join(dir, "vars.fd"), keys)
		faulttest.Want(t, err, fault.BootImage)
	}
}

func TestAToolThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"virt-fw-vars", "cmp"} {
		dir := t.TempDir()
		keys, der := keySet(t, filepath.Join(dir, "keys"))
		good := writes(t, append(store(good(der)), "code"...))
		run := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
			if c.Name == tool {
				return "", errors.New("it broke")
			}
			return good.Answer(c)
		}}
		err := varstore.Bake(t.Context(), run, stateless, filepath.Join(dir, "out.fd"), keys)
		faulttest.Want(t, err, fault.BootImage, "it broke")
		filetest.Only(t, dir, "keys")
	}
}

func TestOneKeyCanBeAllThree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, der := keySet(t, filepath.Join(dir, "keys"))
	keys.PK, keys.KEK = keys.DB, keys.DB
	der["PK"], der["KEK"] = der["db"], der["db"]
	if err := varstore.Enrol(t.Context(), writes(t, store(good(der))), empty, filepath.Join(dir, "vars.fd"), keys); err != nil {
		t.Fatal(err)
	}
}

func TestKeysThatAreNotOneCertificateEachAreRefusedFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, der := keySet(t, filepath.Join(dir, "keys"))
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der["db"]})
	for name, text := range map[string][]byte{
		"empty": nil, "DER": der["db"], "two": append(bytes.Clone(one), one...),
		"a private key":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der["db"]}),
		"not a certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}),
	} {
		bad := keys
		bad.DB = filetest.Write(t, filepath.Join(dir, "bad.crt"), text)
		run := &sh.Recorder{}
		err := varstore.Enrol(t.Context(), run, empty, filepath.Join(dir, "out.fd"), bad)
		if err == nil || run.Transcript() != "" {
			t.Errorf("%s: %v; it ran %q", name, err, run.Transcript())
			continue
		}
		faulttest.Want(t, err, fault.BootImage, "bad.crt")
	}
	bad := keys
	bad.PK = filepath.Join(dir, "missing.crt")
	if err := varstore.Enrol(t.Context(), &sh.Recorder{}, empty, filepath.Join(dir, "out.fd"), bad); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	filetest.Only(t, dir, "bad.crt", "keys")
}

func TestTheOwnerNeverChanges(t *testing.T) {
	t.Parallel()
	// Another one would change every store, and PCR 7 with it.
	if got := varstore.Owner().String(); got != "98ad8fe2-93e0-5329-b992-f11e313b1a19" {
		t.Errorf("it is %s", got)
	}
}

func TestKindsThatAreNotOursKeepTheirNames(t *testing.T) {
	t.Parallel()
	variables := good(map[string][]byte{"PK": {1}, "KEK": {2}, "db": {3}})
	variables["db"] = list("826ca512-cf10-4ac9-b187-be01496631bd", uuid.Nil, make([]byte, 20)) // SHA-1
	got, err := varstore.List(store(variables))
	if err != nil {
		t.Fatal(err)
	}
	want := []varstore.Entry{{Kind: "826ca512-cf10-4ac9-b187-be01496631bd", Data: make([]byte, 20)}}
	if diff := cmp.Diff(want, got.DB); diff != "" {
		t.Error(diff)
	}
}

// FuzzList feeds variable stores, and signature lists in one that is well
// formed.
func FuzzList(f *testing.F) {
	variables := good(map[string][]byte{"PK": {1}, "KEK": {2}, "db": {3}})
	f.Add(store(variables), variables["db"])
	f.Add([]byte{}, []byte{})
	f.Add(store(nil), append(bytes.Clone(variables["db"]), variables["dbx"]...))
	f.Fuzz(func(t *testing.T, data, db []byte) {
		if _, err := varstore.List(data); err != nil && fault.Of(err).Code != fault.BootImage {
			t.Errorf("error is %v", err)
		}
		if len(db) > 1<<16 {
			return
		}
		variables := good(map[string][]byte{})
		variables["db"] = db
		got, err := varstore.List(store(variables))
		if err != nil {
			return
		}
		size := 0
		for _, e := range got.DB {
			size += len(e.Data)
		}
		if size > len(db) {
			t.Errorf("%d bytes of entries from %d", size, len(db))
		}
	})
}

const (
	x509Kind   = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"
	sha256Kind = "c1c41626-504c-4092-aca9-41f936934328"
)

// good returns the variables that a right store has.
func good(der map[string][]byte) map[string][]byte {
	owner := varstore.Owner()
	return map[string][]byte{
		"PK": list(x509Kind, owner, der["PK"]), "KEK": list(x509Kind, owner, der["KEK"]), "db": list(x509Kind, owner, der["db"]),
		"dbx": list(sha256Kind, owner, nothing()), "SecureBootEnable": {1},
	}
}

func guid(text string) []byte {
	id := uuid.MustParse(text)
	le, be := binary.LittleEndian, binary.BigEndian
	b := le.AppendUint32(nil, be.Uint32(id[:]))
	b = le.AppendUint16(b, be.Uint16(id[4:]))
	b = le.AppendUint16(b, be.Uint16(id[6:]))
	return append(b, id[8:]...)
}

// list returns an EFI_SIGNATURE_LIST of one signature.
func list(kind string, owner uuid.UUID, data []byte) []byte {
	le := binary.LittleEndian
	b := guid(kind)
	b = le.AppendUint32(b, uint32(28+16+len(data)))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, uint32(16+len(data)))
	b = append(b, guid(owner.String())...)
	return append(b, data...)
}

// store returns a firmware volume with the variables, as edk2 lays it out.
func store(variables map[string][]byte) []byte {
	le := binary.LittleEndian
	var vars []byte
	for name, data := range variables {
		vendor := "8be4df61-93ca-11d2-aa0d-00e098032b8c"
		switch name {
		case "db", "dbx":
			vendor = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
		case "SecureBootEnable":
			vendor = "f0a30bc7-af08-4556-99c4-001009c93a44"
		}
		wide := []byte{}
		for _, u := range append(utf16.Encode([]rune(name)), 0) {
			wide = le.AppendUint16(wide, u)
		}
		vars = le.AppendUint16(vars, 0x55aa)
		vars = append(vars, 0x3f, 0)
		vars = append(vars, make([]byte, 4+8+16+4)...) // attributes, count, time, key
		vars = le.AppendUint32(vars, uint32(len(wide)))
		vars = le.AppendUint32(vars, uint32(len(data)))
		vars = append(vars, guid(vendor)...)
		vars = append(vars, wide...)
		vars = append(vars, data...)
		vars = append(vars, make([]byte, -len(vars)&3)...)
	}
	const head, storeHead, least = 72, 28, 4096
	size := max(head+storeHead+len(vars), least)
	b := append(make([]byte, 16), guid("fff12b8d-7696-4c8b-a985-2747075b4f50")...)
	b = le.AppendUint64(b, uint64(size))
	b = append(b, "_FVH"...)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint16(b, head)
	b = append(b, make([]byte, head-len(b))...)
	b = append(b, guid("aaf32c78-947b-439a-a180-2e144ec37792")...)
	b = le.AppendUint32(b, uint32(size-head))
	b = append(b, 0x5a, 0xfe)
	b = append(b, make([]byte, 6)...)
	b = append(b, vars...)
	return append(b, bytes.Repeat([]byte{0xff}, size-len(b))...)
}
