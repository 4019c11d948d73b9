package signedtar_test

// What green does not prove: that zstd's decoder withstands every input; its
// memory is bounded here.

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"cc-base/tasks/sign"
	"cc-base/tasks/signedtar"
)

const kind = "a test's files"

// maker signs, and its public key tells that it did.
type maker struct {
	key    *sign.Key
	public []byte
}

func newMaker(t *testing.T) maker {
	t.Helper()
	key, err := sign.GenerateKey(t.TempDir(), sign.Spec{Name: "maker", Email: "maker@site.invalid"})
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	return maker{key, public}
}

func (m maker) sign(data []byte) ([]byte, error) {
	var b bytes.Buffer
	err := m.key.Detach(&b, bytes.NewReader(data), time.Time{})
	return b.Bytes(), err
}

func (m maker) archive(t *testing.T, kind string, files ...signedtar.File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := signedtar.Write(t.Context(), &b, kind, files, m.sign); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func some() []signedtar.File {
	return []signedtar.File{
		signedtar.DataOf("b/two", []byte(strings.Repeat("two", 1000))),
		signedtar.DataOf("a/one", []byte("one")),
		signedtar.DataOf("c", nil),
	}
}

// read returns the members that were good, and the first error, if it ends the archive.
func read(archive []byte, kind string, keys ...[]byte) (good []string, bad int, err error) {
	r, err := signedtar.Open(bytes.NewReader(archive), kind, keys)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	for {
		var b bytes.Buffer
		f, err := r.Next(&b)
		switch {
		case errors.Is(err, io.EOF):
			return good, bad, nil
		case signedtar.IsDigest(err):
			bad++
		case err != nil:
			return good, bad, err
		default:
			good = append(good, f.Name+"="+b.String()[:min(3, b.Len())])
		}
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	m, other := newMaker(t), newMaker(t)
	archive := m.archive(t, kind, some()...)
	good, bad, err := read(archive, kind, other.public, m.public)
	if want := []string{"a/one=one", "b/two=two", "c="}; err != nil || bad > 0 || !slices.Equal(good, want) {
		t.Errorf("%q, %d bad, %v", good, bad, err)
	}
}

func TestOnlyTheSignatureDiffersBetweenTwoArchives(t *testing.T) {
	m := newMaker(t)
	fixed := func([]byte) ([]byte, error) { return []byte("signature"), nil }
	var one, two bytes.Buffer
	files := some()
	if err := signedtar.Write(t.Context(), &one, kind, files, fixed); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(files)
	if err := signedtar.Write(t.Context(), &two, kind, files, fixed); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("the order in which files are given changes the archive")
	}
	if bytes.Equal(m.archive(t, kind, some()...), one.Bytes()) {
		t.Error("the signature is not in it")
	}
}

// rewritten changes the members of an archive, as somebody without the key can.
func rewritten(t *testing.T, archive []byte, change func(name string, data []byte) (keep bool, newName string, newData []byte), more ...string) []byte {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	to := tar.NewWriter(w)
	add := func(name string, data []byte) {
		t.Helper()
		if err := to.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := to.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for from := tar.NewReader(z); ; {
		h, err := from.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(from)
		if err != nil {
			t.Fatal(err)
		}
		if keep, name, data := change(h.Name, data); keep {
			add(name, data)
		}
	}
	for _, name := range more {
		add(name, []byte("more"))
	}
	if err := errors.Join(to.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func same(name string, data []byte) (bool, string, []byte) { return true, name, data }

func TestNothingIsTakenThatWasNotSigned(t *testing.T) {
	m, other := newMaker(t), newMaker(t)
	archive := m.archive(t, kind, some()...)
	on := func(which string, do func(name string, data []byte) (bool, string, []byte)) func(string, []byte) (bool, string, []byte) {
		return func(name string, data []byte) (bool, string, []byte) {
			if name == which {
				return do(name, data)
			}
			return true, name, data
		}
	}
	flip := func(name string, data []byte) (bool, string, []byte) { data[len(data)/2] ^= 1; return true, name, data }
	drop := func(string, []byte) (bool, string, []byte) { return false, "", nil }
	longer := func(name string, data []byte) (bool, string, []byte) { return true, name, append(data, 0) }
	for name, tt := range map[string]struct {
		archive []byte
		kind    string
		keys    [][]byte
		good    int
		bad     int
		want    string // of the error that ends it
	}{
		"no key":                     {archive, kind, nil, 0, 0, "no key"},
		"another key":                {archive, kind, [][]byte{other.public}, 0, 0, "another key"},
		"another kind":               {archive, "other files", [][]byte{m.public}, 0, 0, "not \"other files\""},
		"no zstd":                    {[]byte("PK\x03\x04"), kind, [][]byte{m.public}, 0, 0, "index.json"},
		"nothing":                    {nil, kind, [][]byte{m.public}, 0, 0, "unexpected EOF"},
		"cut off in the index":       {archive[:20], kind, [][]byte{m.public}, 0, 0, "unexpected EOF"},
		"index changed":              {rewritten(t, archive, on("index.json", flip)), kind, [][]byte{m.public}, 0, 0, "signature"},
		"no signature":               {rewritten(t, archive, on("index.json.asc", drop)), kind, [][]byte{m.public}, 0, 0, "index.json.asc must be"},
		"a content changed":          {rewritten(t, archive, on("a/one", flip)), kind, [][]byte{m.public}, 2, 1, ""},
		"a content longer":           {rewritten(t, archive, on("a/one", longer)), kind, [][]byte{m.public}, 0, 0, "of 4 bytes"},
		"a member less":              {rewritten(t, archive, on("a/one", drop)), kind, [][]byte{m.public}, 0, 0, "b/two"},
		"the last member less":       {rewritten(t, archive, on("c", drop)), kind, [][]byte{m.public}, 2, 0, "unexpected EOF"},
		"a member more":              {rewritten(t, archive, same, "d"), kind, [][]byte{m.public}, 3, 0, "after the last"},
		"a member of a hostile name": {rewritten(t, archive, on("c", func(_ string, d []byte) (bool, string, []byte) { return true, "../c", d })), kind, [][]byte{m.public}, 2, 0, "../c"},
	} {
		good, bad, err := read(tt.archive, tt.kind, tt.keys...)
		if len(good) != tt.good || bad != tt.bad || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %d good, %d bad, %v", name, len(good), bad, err)
		}
	}
}

func TestWhatCannotBeReadIsNotWritten(t *testing.T) {
	m := newMaker(t)
	for name, file := range map[string]signedtar.File{
		"absolute":  signedtar.DataOf("/a", nil),
		"above":     signedtar.DataOf("a/../../b", nil),
		"the index": signedtar.DataOf("index.json", nil),
		"twice":     signedtar.DataOf("a/one", nil),
		"changed":   {Name: "x", Size: 3, SHA256: "00", Open: signedtar.DataOf("x", []byte("abc")).Open},
		"grown":     {Name: "x", Size: 2, SHA256: signedtar.DataOf("x", []byte("ab")).SHA256, Open: signedtar.DataOf("x", []byte("abc")).Open},
		"not there": signedtar.FileOf("x", t.TempDir()+"/none", 1, "00"),
	} {
		if err := signedtar.Write(t.Context(), io.Discard, kind, append(some(), file), m.sign); err == nil {
			t.Errorf("%s: it was written", name)
		}
	}
}
