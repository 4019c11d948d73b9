package build

// What green does not prove: that an installer which is wholly another's is told
// from ours by anything but its signature; the folders here are small ones that
// do not boot.

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cc-base/installer/delivery"
	"cc-base/installer/installertest"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/sign"
)

// delivered is an installer in the output folder of a build, with the key that
// signed it.
type delivered struct {
	Options
	key    *sign.Key
	file   string
	folder string // what is packed
}

func newDelivery(t *testing.T) delivered {
	t.Helper()
	dir := t.TempDir()
	d := delivered{Options: Options{OutDir: filepath.Join(dir, "out")}, folder: filepath.Join(dir, delivery.Folder)}
	d.file = filepath.Join(d.OutDir, installerName)
	if err := os.Mkdir(d.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	f := installertest.New()
	f.Manifest.SourceDateEpoch = 1764115200
	if err := f.Write(d.folder); err != nil {
		t.Fatal(err)
	}
	var err error
	if d.key, err = sign.GenerateKey(filepath.Join(d.OutDir, "keys"), sign.Spec{Name: "tester"}); err != nil {
		t.Fatal(err)
	}
	d.pack(t)
	d.sign(t)
	return d
}

// pack makes the tarball of the folder, with its checksum.
func (d delivered) pack(t *testing.T, more ...tar.Header) {
	t.Helper()
	installertest.Pack(t, d.folder, d.file, more...)
	d.sum(t)
}

func (d delivered) sum(t *testing.T) {
	t.Helper()
	filetest.Write(t, d.file+".sha256", []byte(digest.Bytes(filetest.Read(t, d.file))+"  "+installerName+"\n"))
}

func (d delivered) sign(t *testing.T) {
	t.Helper()
	if err := d.key.SignFile(t.Context(), d.file, time.Time{}); err != nil {
		t.Fatal(err)
	}
}

// verify judges the tarball by rules, or by the project's key without any.
func (d delivered) verify(t *testing.T, rules string) (string, error) {
	t.Helper()
	delivery := Delivery{}
	if rules != "" {
		delivery.Trust = filetest.Write(t, filepath.Join(t.TempDir(), "trust"), []byte(rules))
	}
	var said bytes.Buffer
	err := VerifyInstaller(t.Context(), d.Options, delivery, &said)
	left, globErr := filepath.Glob(filepath.Join(d.OutDir, "verify*"))
	if globErr != nil || len(left) > 0 {
		t.Error("left behind:", left, globErr)
	}
	return said.String(), err
}

func TestASignedInstallerIsAcceptedByItsKeyAlone(t *testing.T) {
	t.Parallel()
	d := newDelivery(t)
	key := "key " + d.key.Fingerprint()
	for _, rules := range []string{"", key, key + " until 2999-12-31\nminimum-epoch 1764115200\n"} {
		said, err := d.verify(t, rules)
		if err != nil || !strings.Contains(said, "signature: by "+d.key.Fingerprint()) || !strings.Contains(said, "measurements.computed") {
			t.Errorf("%q: %v\n%s", rules, err, said)
		}
	}
	for rules, code := range map[string]fault.Code{
		"allow-unsigned":                         fault.TrustUnknown,
		"revoked " + d.key.Fingerprint():         fault.TrustRevoked,
		key + "\nrevoked " + d.key.Fingerprint(): fault.TrustRevoked,
		key + " until 2020-01-01":                fault.TrustExpired,
		key + "\nminimum-epoch 1764115201":       fault.TrustOld,
		key + "\nminimum-version 3":              fault.TrustFile,
	} {
		_, err := d.verify(t, rules)
		faulttest.Want(t, err, code)
	}
	if _, err := sign.Unsign(d.file); err != nil {
		t.Fatal(err)
	}
	for _, rules := range []string{"", key} {
		_, err := d.verify(t, rules)
		faulttest.Want(t, err, fault.TrustUnsigned)
	}
	if said, err := d.verify(t, "allow-unsigned"); err != nil || !strings.Contains(said, "signature: NONE") {
		t.Errorf("%v\n%s", err, said)
	}
}

// wrongs are what happens to one file; each changes it.
func wrongs(t *testing.T) map[string]func(path string) {
	rewrite := func(path string, change func(data []byte) []byte) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		data := change(filetest.Read(t, path))
		if err := os.WriteFile(path, data, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]func(path string){
		"flipped":   func(path string) { rewrite(path, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }) },
		"truncated": func(path string) { rewrite(path, func(b []byte) []byte { return b[:len(b)/2] }) },
		"replaced":  func(path string) { rewrite(path, func([]byte) []byte { return []byte("another file\n") }) },
		"removed": func(path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"renamed": func(path string) {
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
		},
		"added beside": func(path string) { filetest.Write(t, path+".new", []byte("a file more\n")) },
	}
}

func TestEveryTamperedFileIsRefused(t *testing.T) {
	t.Parallel()
	d := newDelivery(t)
	signature := filetest.Read(t, d.file+sign.Extension)
	pristine := os.DirFS(d.folder)
	var names []string
	err := fs.WalkDir(pristine, ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil || len(names) < 8 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		for what, do := range wrongs(t) {
			d.folder = filepath.Join(t.TempDir(), delivery.Folder)
			if err := os.CopyFS(d.folder, pristine); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(d.folder, "image.key"), 0o600); err != nil {
				t.Fatal(err)
			}
			do(filepath.Join(d.folder, filepath.FromSlash(name)))
			d.pack(t)
			// Nobody signed this one.
			filetest.Write(t, d.file+sign.Extension, signature)
			if _, err := d.verify(t, ""); fault.Of(err) == nil || fault.Of(err).Code != fault.TrustSignature {
				t.Errorf("%s %s: %v", name, what, err)
			}
			// Nor need anybody: its own files tell.
			if _, err := sign.Unsign(d.file); err != nil {
				t.Fatal(err)
			}
			if _, err := d.verify(t, "allow-unsigned"); fault.Of(err) == nil || fault.Of(err).Code != fault.TrustContents {
				t.Errorf("%s %s, unsigned: %v", name, what, err)
			}
			if err := os.RemoveAll(d.folder); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTheFilesBesideTheTarballAreJudged(t *testing.T) {
	t.Parallel()
	d := newDelivery(t)
	good := map[string][]byte{}
	for _, suffix := range []string{"", ".sha256", ".asc"} {
		good[suffix] = filetest.Read(t, d.file+suffix)
	}
	codes := map[string]map[string]fault.Code{
		"":        {"removed": fault.Usage, "renamed": fault.Usage},
		".sha256": {},
		".asc":    {"removed": fault.TrustUnsigned, "renamed": fault.TrustUnsigned, "flipped": fault.TrustSignature, "truncated": fault.TrustSignature, "replaced": fault.TrustSignature},
	}
	for suffix, special := range codes {
		for what, do := range wrongs(t) {
			if what == "added beside" {
				continue
			}
			do(d.file + suffix)
			_, err := d.verify(t, "")
			want := special[what]
			if want == "" {
				want = fault.TrustContents
			}
			if f := fault.Of(err); f == nil || f.Code != want {
				t.Errorf("%s %s: %v, want %s", suffix, what, err, want)
			}
			filetest.Write(t, d.file+suffix, good[suffix])
		}
	}
	// A checksum that fits a tarball with a byte more.
	filetest.Write(t, d.file, append(slices.Clone(good[""]), 0))
	d.sum(t)
	_, err := d.verify(t, "")
	faulttest.Want(t, err, fault.TrustSignature)
}

func TestAnArchiveThatUnpacksInTwoWaysIsRefused(t *testing.T) {
	t.Parallel()
	d := newDelivery(t)
	for name, h := range map[string]tar.Header{
		"a file twice":            {Name: "installer/manifest.json", Typeflag: tar.TypeReg, Mode: 0o644},
		"a link":                  {Name: "installer/link", Typeflag: tar.TypeSymlink, Linkname: "manifest.json"},
		"a hard link":             {Name: "installer/link", Typeflag: tar.TypeLink, Linkname: "installer/manifest.json"},
		"a device":                {Name: "installer/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		"a file beside":           {Name: "other", Typeflag: tar.TypeReg, Mode: 0o644},
		"a path that leads out":   {Name: "installer/../../other", Typeflag: tar.TypeReg, Mode: 0o644},
		"a path from the root":    {Name: "/installer/other", Typeflag: tar.TypeReg, Mode: 0o644},
		"a file where folders do": {Name: "installer/manifest.json/x", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		d.pack(t, h)
		d.sign(t)
		_, err := d.verify(t, "")
		if f := fault.Of(err); f == nil || f.Code != fault.TrustContents {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnInstallerOfOthersNeedsATrustFile(t *testing.T) {
	t.Parallel()
	d := newDelivery(t)
	err := VerifyInstaller(t.Context(), d.Options, Delivery{File: d.file}, io.Discard)
	faulttest.Want(t, err, fault.Usage, "whose installers")
	trust := filetest.Write(t, filepath.Join(t.TempDir(), "trust"), []byte("key "+d.key.Fingerprint()))
	err = VerifyInstaller(t.Context(), d.Options, Delivery{File: d.file, Trust: trust, Keys: "/missing"}, io.Discard)
	faulttest.Want(t, err, fault.SigningKey, "/missing")
}
