// Package firmwaretest is a mirror of a small Debian archive for tests: a server
// on the loopback interface with packages and signed suites.
package firmwaretest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"cc-base/tasks/digest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/tee/ovmf/ovmftest"
)

// Archive is the mirror.
type Archive struct {
	*httptest.Server
	At      time.Time         // when the suites are a week from the end of their validity
	Signers []*openpgp.Entity // sign the suites that are made from now on
	Keyring string            // file with the public half of the first signer

	mu     sync.Mutex
	files  map[string][]byte
	broken map[string]bool // hang up in the middle
	asked  []string
}

// Package is a package with one file in it.
type Package struct {
	Name, Version string
	Header        tar.Header // of the file; the size is filled in
	Content       []byte
}

// File returns a package with a regular file.
func File(name, version, path string, content []byte) Package {
	return Package{name, version, tar.Header{Name: "./" + path, Typeflag: tar.TypeReg, Mode: 0o644}, content}
}

// SNP returns the package with firmware for SEV-SNP.
func SNP(version string) Package {
	return File("ovmf-amdsev", version, "usr/share/ovmf/OVMF.amdsev.fd", ovmftest.SNP().Image())
}

// TDX returns the package with firmware for TDX.
func TDX(version string) Package {
	return File("ovmf-inteltdx", version, "usr/share/ovmf/OVMF.inteltdx.ms.fd", ovmftest.TDX().Image())
}

// NewKey returns a key that was made a year before at; lifetime is in seconds, 0
// for ever.
func NewKey(t testing.TB, at time.Time, lifetime uint32) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Archive", "", "archive@test.invalid", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: lifetime, Time: func() time.Time { return at.AddDate(-1, 0, 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Keyring writes the keys' public halves to a file.
func Keyring(t testing.TB, keys ...*openpgp.Entity) string {
	t.Helper()
	var ring bytes.Buffer
	for _, k := range keys {
		if err := k.Serialize(&ring); err != nil {
			t.Fatal(err)
		}
	}
	return filetest.Write(t, filepath.Join(t.TempDir(), "keyring.gpg"), ring.Bytes())
}

// New returns a mirror whose suite testing has both packages in version 1.0-1.
func New(t testing.TB, at time.Time) *Archive {
	t.Helper()
	a := &Archive{At: at, files: map[string][]byte{}, broken: map[string]bool{}, Signers: []*openpgp.Entity{NewKey(t, at, 0)}}
	a.Keyring = Keyring(t, a.Signers...)
	a.Server = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.Close)
	a.Suite(t, "testing", a.Put(t, SNP("1.0-1")), a.Put(t, TDX("1.0-1")))
	return a
}

// Mirror is the archive's address.
func (a *Archive) Mirror() string { return a.URL + "/debian" }

func (a *Archive) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, "/debian/")
	a.asked = append(a.asked, name)
	data, ok := a.files[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if a.broken[name] {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// Requests returns what was asked for since the last call.
func (a *Archive) Requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.asked
	a.asked = nil
	return asked
}

// Serve serves data under a name.
func (a *Archive) Serve(name string, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files[name] = data
}

// Break hangs up in the middle of a file.
func (a *Archive) Break(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken[name] = true
}

// Change rewrites what is served under names that have the part; nil removes it.
func (a *Archive) Change(t testing.TB, part string, change func(data []byte) []byte) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	changed := false
	for name, data := range a.files {
		if !strings.Contains(name, part) {
			continue
		}
		changed = true
		if data = change(bytes.Clone(data)); data == nil {
			delete(a.files, name)
			continue
		}
		a.files[name] = data
	}
	if !changed {
		t.Fatalf("the mirror has no %s", part)
	}
}

// Put serves a package and returns its stanza of an index.
func (a *Archive) Put(t testing.TB, p Package) string {
	t.Helper()
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Nobody <nobody@test.invalid>\nDescription: test\n", p.Name, p.Version)
	var deb bytes.Buffer
	deb.WriteString("!<arch>\n")
	member(&deb, "debian-binary", []byte("2.0\n"))
	member(&deb, "control.tar.gz", tarball(t, tar.Header{Name: "./control", Typeflag: tar.TypeReg, Mode: 0o644}, []byte(control)))
	member(&deb, "data.tar.gz", tarball(t, p.Header, p.Content))
	name := fmt.Sprintf("pool/main/e/edk2/%s_%s_all.deb", p.Name, p.Version)
	a.Serve(name, deb.Bytes())
	return fmt.Sprintf("Package: %s\nSource: edk2\nVersion: %s\nArchitecture: all\nFilename: %s\nSize: %d\nSHA256: %s\nDescription: test\n more of it\n",
		p.Name, p.Version, name, deb.Len(), digest.Bytes(deb.Bytes()))
}

// member appends to an ar archive (ar(5)).
func member(w *bytes.Buffer, name string, data []byte) {
	fmt.Fprintf(w, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(data))
	w.Write(data)
	if len(data)%2 == 1 {
		w.WriteByte('\n')
	}
}

func tarball(t testing.TB, h tar.Header, content []byte) []byte {
	t.Helper()
	h.Size = int64(len(content))
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&h)
	if err == nil {
		_, err = w.Write(content)
	}
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Suite serves a suite with the stanzas as its index.
func (a *Archive) Suite(t testing.TB, name string, stanzas ...string) {
	t.Helper()
	a.Release(t, Release{Name: name, Stanzas: stanzas, Until: a.At.AddDate(0, 0, 7), ByHash: true})
}

// Release is a suite with everything that can be odd about it.
type Release struct {
	Name    string
	Says    string // what it calls itself, if something else
	Stanzas []string
	Until   time.Time
	ByHash  bool // the index can be had by its digest alone
}

// Release serves it.
func (a *Archive) Release(t testing.TB, r Release) {
	t.Helper()
	other := "Package: other\nVersion: 1\nArchitecture: all\nFilename: pool/o.deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n"
	var index bytes.Buffer
	z := gzip.NewWriter(&index)
	_, err := io.WriteString(z, strings.Join(append([]string{other}, r.Stanzas...), "\n"))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	sum := digest.Bytes(index.Bytes())
	folder := "dists/" + r.Name + "/main/binary-all/"
	if r.ByHash {
		a.Serve(folder+"by-hash/SHA256/"+sum, index.Bytes())
	} else {
		a.Serve(folder+"Packages.gz", index.Bytes())
	}
	if r.Says == "" {
		r.Says = r.Name
	}
	const form = "Mon, 02 Jan 2006 15:04:05 MST"
	text := fmt.Sprintf("Origin: Debian\nSuite: %s\nCodename: other\nDate: %s\nValid-Until: %s\n", r.Says, r.Until.AddDate(0, 0, -7).Format(form), r.Until.Format(form))
	if r.ByHash {
		text += "Acquire-By-Hash: yes\n"
	}
	text += fmt.Sprintf("MD5Sum:\n %032d %d main/binary-all/Packages.gz\nSHA256:\n %s %d main/binary-all/Packages.gz\n", 0, index.Len(), sum, index.Len())
	a.Sign(t, r.Name, text)
}

// Sign serves text as the suite's InRelease.
func (a *Archive) Sign(t testing.TB, suite, text string) {
	t.Helper()
	var keys []*packet.PrivateKey
	for _, s := range a.Signers {
		keys = append(keys, s.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, keys, &packet.Config{Time: func() time.Time { return a.At.AddDate(0, 0, -1) }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(w, text)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	a.Serve("dists/"+suite+"/InRelease", b.Bytes())
}
