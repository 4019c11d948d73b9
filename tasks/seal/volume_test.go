package seal_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal"
	"cc-base/tasks/sh"
)

const epoch = 1767225600

// capability is a security.capability value (struct vfs_cap_data, revision 2)
// whose permitted mask is found nowhere else.
var capability = []byte{1, 0, 0, 2, 0x00, 0x21, 0x43, 0, 0, 0, 0, 0, 0x0d, 0, 0, 0, 0, 0, 0, 0}

// text compresses and noise does not; together they are a few MB.
func text() []byte  { return bytes.Repeat([]byte("a line that compresses well\n"), 50000) }
func noise() []byte { return filetest.Noise(1, 1<<20+77) }

func sample() []filetest.Entry {
	return []filetest.Entry{
		{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./etc/shadow", Mode: 0o640, Gid: 42}, Data: "root:*::\n"},
		{Header: tar.Header{Name: "./etc/text", Mode: 0o644, Uid: 1000, Gid: 1000}, Data: string(text())},
		{Header: tar.Header{Name: "./etc/link", Typeflag: tar.TypeSymlink, Linkname: "shadow", Mode: 0o777}},
		{Header: tar.Header{Name: "./dev/", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Name: "./tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}},
		{Header: tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./usr/su", Mode: 0o4755}, Data: string(noise())},
		{Header: tar.Header{Name: "./usr/su-again", Typeflag: tar.TypeLink, Linkname: "./usr/su", Mode: 0o4755}},
		{Header: tar.Header{Name: "./usr/wall", Mode: 0o2755, Gid: 5}, Data: "wall\n"},
		{Header: tar.Header{Name: "./usr/big-owner", Mode: 0o600, Uid: 70000, Gid: 4294967290}, Data: "x"},
		{Header: tar.Header{
			Name: "./usr/ping", Mode: 0o755,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": string(capability)},
		}, Data: "ping\n"},
	}
}

// writeTar writes the sample with every file's time at mtime.
func writeTar(t *testing.T, file string, mtime time.Time) string {
	t.Helper()
	entries := sample()
	for i := range entries {
		e := &entries[i]
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		e.ModTime, e.Format = mtime, tar.FormatPAX
	}
	return filetest.WriteTar(t, file, entries...)
}

// plain is a volume of the sample without encryption.
func plain(t *testing.T, dir string) seal.Volume {
	t.Helper()
	return seal.Volume{Label: "cc-test", Tar: writeTar(t, filepath.Join(dir, "tree.tar"), time.Unix(1700000000, 0)), Epoch: epoch}
}

func build(t *testing.T, run sh.Runner, v seal.Volume, image string) manifest.Verity {
	t.Helper()
	verity, err := seal.Build(t.Context(), run, v, image)
	if err != nil {
		t.Fatal(err)
	}
	return verity
}

var (
	nidLine   = regexp.MustCompile(`NID: (\d+)\s+Links: (\d+)`)
	xattrLine = regexp.MustCompile(`Xattr size: (\d+)`)
	ownerLine = regexp.MustCompile(`Uid: (\d+)\s+Gid: (\d+)`)
	timeLine  = regexp.MustCompile(`Timestamp: (.*)`)
)

func TestErofsKeepsWhatTheTarSays(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	v, image := plain(t, dir), filepath.Join(dir, "image")
	build(t, run, v, image)
	raw := filetest.Read(t, image)
	meta := int64(binary.LittleEndian.Uint32(raw[1024+40:])) * 4096 // superblock: meta_blkaddr
	nids := map[string]string{}
	for _, e := range sample() {
		path := "/" + strings.Trim(strings.TrimPrefix(e.Name, "./"), "/")
		out, err := sh.Text(t.Context(), run, "dump.erofs", "--path="+path, image).String()
		if err != nil {
			t.Fatal(err)
		}
		find := func(re *regexp.Regexp, n int) string {
			m := re.FindStringSubmatch(out)
			if m == nil {
				t.Fatalf("dump.erofs says for %s:\n%s", path, out)
			}
			return m[n]
		}
		nids[path] = find(nidLine, 1)
		if e.Typeflag == tar.TypeLink {
			if nids[path] != nids["/usr/su"] || find(nidLine, 2) != "2" {
				t.Errorf("%s is no hard link: inode %s, links %s", path, nids[path], find(nidLine, 2))
			}
			continue
		}
		if got, want := find(ownerLine, 1)+":"+find(ownerLine, 2), fmt.Sprintf("%d:%d", e.Uid, e.Gid); got != want {
			t.Errorf("%s belongs to %s, not %s", path, got, want)
		}
		if got := find(timeLine, 1); got != "2026-01-01 00:00:00.000000000" {
			t.Errorf("%s is of %s", path, got)
		}
		if got := find(xattrLine, 1) != "0"; got != (path == "/usr/ping") {
			t.Errorf("%s has extended attributes: %v", path, got)
		}
		// dump.erofs hides setuid and the like; the inode has them (i_mode at
		// 4, i_u with the device number at 16, of 32 bytes a slot).
		nid, err := strconv.ParseInt(nids[path], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		inode := raw[meta+32*nid:]
		if got := int64(binary.LittleEndian.Uint16(inode[4:])) & 0o7777; got != e.Mode {
			t.Errorf("%s has mode %o, not %o", path, got, e.Mode)
		}
		switch e.Typeflag {
		case tar.TypeChar:
			if kind, dev := binary.LittleEndian.Uint16(inode[4:])&0o170000, binary.LittleEndian.Uint32(inode[16:]); kind != 0o020000 || dev != 0x103 {
				t.Errorf("%s is of type %o and device %#x", path, kind, dev)
			}
		case 0, tar.TypeReg, tar.TypeSymlink:
			want := e.Data
			if e.Typeflag == tar.TypeSymlink {
				want = e.Linkname
			}
			got, err := sh.Text(t.Context(), run, "dump.erofs", "--cat", "--nid="+nids[path], image).String()
			if err != nil || got != want {
				t.Errorf("%s has other content: %d bytes, not %d; %v", path, len(got), len(want), err)
			}
		}
	}
	if !bytes.Contains(raw, capability) {
		t.Error("the capability is not in the image")
	}
	if len(raw) > len(noise())+len(text())/2 {
		t.Errorf("the image of %d bytes is not compressed", len(raw))
	}
}

func TestAVolumeBuiltTwiceIsTheSameBytes(t *testing.T) {
	t.Parallel()
	one, first := lab.Tools(t)
	two, second := lab.Tools(t)
	a, b := filepath.Join(first, "a"), filepath.Join(second, "b")
	verity := build(t, one, plain(t, first), a)
	time.Sleep(1100 * time.Millisecond)
	again := build(t, two, plain(t, second), b)
	if diff := cmp.Diff(verity, again); diff != "" {
		t.Error(diff)
	}
	if !bytes.Equal(filetest.Read(t, a), filetest.Read(t, b)) {
		t.Error("the volumes differ")
	}

	// Another label or another tree is another volume.
	other := plain(t, second)
	other.Label = "cc-other"
	if got := build(t, two, other, b); got.RootHash == verity.RootHash || got.Salt == verity.Salt {
		t.Error("another label gives the same root hash or salt")
	}
	other = plain(t, second)
	writeTar(t, other.Tar, time.Unix(1600000000, 0))
	if got := build(t, two, other, b); got.RootHash == verity.RootHash || got.Salt == verity.Salt {
		t.Error("another tar gives the same root hash or salt")
	}
	if diff := cmp.Diff([]string{"b", "tree.tar"}, filetest.Names(t, second)); diff != "" {
		t.Error(diff)
	}
}

func TestVerityFindsEveryFlippedByte(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	image := filepath.Join(dir, "image")
	verity := build(t, run, plain(t, dir), image)
	if err := seal.VerifyVerity(t.Context(), run, image, verity); err != nil {
		t.Fatal(err)
	}
	raw := filetest.Read(t, image)
	if verity.HashOffset%seal.BlockSize != 0 || verity.HashOffset >= int64(len(raw)) {
		t.Fatalf("tree at %d of %d", verity.HashOffset, len(raw))
	}
	// The superblock's own block (at HashOffset) is padding from byte 512 on,
	// which nothing reads; the tree begins one block later.
	places := map[string]int64{
		"first byte": 0, "superblock of erofs": 1024, "middle of the data": verity.HashOffset / 2, "last byte of the data": verity.HashOffset - 1,
		"salt in the superblock of verity": verity.HashOffset + 88, "top of the tree": verity.HashOffset + seal.BlockSize, "last block of the tree": int64(len(raw)) - seal.BlockSize,
		"padding of the last block": int64(len(raw)) - 1,
	}
	spoiled := filepath.Join(dir, "spoiled")
	for name, at := range places {
		b := bytes.Clone(raw)
		b[at] ^= 1
		filetest.Write(t, spoiled, b)
		if err := seal.VerifyVerity(t.Context(), run, spoiled, verity); err == nil {
			t.Errorf("%s (byte %d): not found", name, at)
		}
	}
	wrong := verity
	wrong.RootHash = strings.Repeat("0", 63) + "1"
	faulttest.Want(t, seal.VerifyVerity(t.Context(), run, image, wrong), fault.Sealing)
	filetest.Write(t, spoiled, raw[:len(raw)-seal.BlockSize])
	faulttest.Want(t, seal.VerifyVerity(t.Context(), run, spoiled, verity), fault.Sealing)
}

func TestContentIsPaddedToWholeBlocks(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	image := filetest.Write(t, filepath.Join(dir, "image"), noise())
	verity, err := seal.Verity(t.Context(), run, image, strings.Repeat("5a", 32), seal.Derive("x", "verity", "y").String())
	if err != nil {
		t.Fatal(err)
	}
	raw := filetest.Read(t, image)
	if want := int64(len(noise())+seal.BlockSize-1) / seal.BlockSize * seal.BlockSize; verity.HashOffset != want {
		t.Errorf("tree at %d, want %d", verity.HashOffset, want)
	}
	if !bytes.HasPrefix(raw, noise()) || len(bytes.Trim(raw[len(noise()):verity.HashOffset], "\x00")) != 0 {
		t.Error("the content was changed, or padded with something else than zeros")
	}
}

// header is the part of LUKS2 metadata that is promised.
type header struct {
	Keyslots map[string]struct {
		KeySize int `json:"key_size"`
		AF      struct{ Hash string }
		Area    struct {
			Encryption string
			KeySize    int `json:"key_size"`
		}
		KDF struct {
			Type, Hash string
			Iterations int
		}
	}
	Tokens   map[string]any
	Segments map[string]struct {
		Type, Offset, Size, Encryption string
		SectorSize                     int `json:"sector_size"`
	}
	Digests map[string]struct {
		Hash string
	}
	Config struct {
		Requirements map[string]any
		Flags        []string
	}
}

// luks runs cryptsetup on a volume and returns its output.
func luks(t *testing.T, run sh.Runner, key []byte, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run.Run(t.Context(), sh.Cmd{Name: "cryptsetup", Args: append(args, "--disable-locks", "--batch-mode"), Stdin: bytes.NewReader(key), Stdout: &out})
	return out.String(), err
}

func volumeKey(t *testing.T, run sh.Runner, image string, key []byte) string {
	t.Helper()
	out, err := luks(t, run, key, "luksDump", "--dump-volume-key", "--key-file=-", image)
	if err != nil {
		t.Fatal(err)
	}
	_, hex, ok := strings.Cut(out, "MK dump:")
	if !ok {
		t.Fatalf("no volume key in %q", out)
	}
	return strings.Join(strings.Fields(hex), "")
}

func TestLUKSIsAsTheConfigurationAsks(t *testing.T) {
	t.Parallel()
	keys := map[string]bool{}
	for _, e := range []seal.Encryption{
		{Cipher: "aes-xts-plain64", KeyBits: 256, Hash: "sha256"},
		{Cipher: "aes-xts-plain64", KeyBits: 256, Hash: "sha512"},
		{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha256"},
		{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha512"},
	} {
		tree, dir := lab.Tools(t)
		run := &witness{Runner: tree, t: t, secret: passphrase}
		image := filepath.Join(dir, "image")
		clear := bytes.Clone(noise()[:1<<20])
		filetest.Write(t, image, clear)
		e.UUID = seal.Derive("cc-test", "luks", "content").String()
		if err := seal.Encrypt(t.Context(), run, image, passphrase, e); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		if run.count == 0 {
			t.Fatal("nothing was run")
		}

		sealed := filetest.Read(t, image)
		if want := len(clear) + seal.HeaderSize; len(sealed) != want {
			t.Errorf("%d bytes, want %d", len(sealed), want)
		}
		for at := 0; at < len(clear); at += 64 << 10 {
			if bytes.Contains(sealed, clear[at:at+64]) {
				t.Fatalf("plaintext of byte %d is in the volume", at)
			}
		}
		dump, err := luks(t, tree, nil, "luksDump", "--dump-json-metadata", image)
		if err != nil {
			t.Fatal(err)
		}
		var h header
		if err := json.Unmarshal([]byte(dump), &h); err != nil {
			t.Fatal(err)
		}
		if len(h.Keyslots) != 1 || len(h.Tokens) != 0 || len(h.Segments) != 1 || len(h.Digests) != 1 || len(h.Config.Requirements) != 0 || len(h.Config.Flags) != 0 {
			t.Fatalf("not exactly one keyslot, segment and digest and nothing else: %s", dump)
		}
		slot, segment := h.Keyslots["0"], h.Segments["0"]
		got := []any{
			slot.KeySize, slot.AF.Hash, slot.Area.Encryption, slot.Area.KeySize, slot.KDF.Type, slot.KDF.Hash, slot.KDF.Iterations,
			segment.Type, segment.Offset, segment.Size, segment.Encryption, segment.SectorSize, h.Digests["0"].Hash,
		}
		want := []any{
			e.KeyBits / 8, e.Hash, e.Cipher, e.KeyBits / 8, "pbkdf2", e.Hash, 1000,
			"crypt", fmt.Sprint(seal.HeaderSize), "dynamic", e.Cipher, seal.SectorSize, e.Hash,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", e, diff)
		}
		if out, err := luks(t, tree, nil, "luksUUID", image); err != nil || strings.TrimSpace(out) != e.UUID {
			t.Errorf("UUID %q, want %s; %v", out, e.UUID, err)
		}

		if _, err := luks(t, tree, passphrase, "open", "--test-passphrase", "--key-file=-", image); err != nil {
			t.Errorf("%+v: the passphrase does not open it: %v", e, err)
		}
		for _, wrong := range [][]byte{passphrase[:len(passphrase)-1], append(bytes.Clone(passphrase), '\n'), []byte("wrong")} {
			if _, err := luks(t, tree, wrong, "open", "--test-passphrase", "--key-file=-", image); err == nil {
				t.Errorf("%q opens it", wrong)
			}
		}
		key := volumeKey(t, tree, image, passphrase)
		if len(key) != e.KeyBits/4 || keys[key] {
			t.Errorf("volume key of %d hexadecimal digits, seen before: %v", len(key), keys[key])
		}
		keys[key] = true

		_, err = luks(t, tree, passphrase, "reencrypt", "--decrypt", "--force-offline-reencrypt", "--key-file=-", "--header="+filepath.Join(dir, "header"), image)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(filetest.Read(t, image), clear) {
			t.Errorf("%+v: decrypted, it is not the plaintext", e)
		}
	}
}

func TestAPassphraseIsBytesAndNotALine(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	key := []byte("thirty-two bytes\nwith a \x00 and the end\n")
	image := filetest.Write(t, filepath.Join(dir, "image"), make([]byte, 64<<10))
	e := seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha256", UUID: seal.Derive("x", "luks", "y").String()}
	if err := seal.Encrypt(t.Context(), run, image, key, e); err != nil {
		t.Fatal(err)
	}
	if _, err := luks(t, run, key, "open", "--test-passphrase", "--key-file=-", image); err != nil {
		t.Error(err)
	}
	if _, err := luks(t, run, key[:16], "open", "--test-passphrase", "--key-file=-", image); err == nil {
		t.Error("the first line alone opens it")
	}
}

func TestTwoEncryptedBuildsShareNothingButTheirContent(t *testing.T) {
	t.Parallel()
	tree, dir := lab.Tools(t)
	run := &witness{Runner: tree, t: t, secret: passphrase}
	v := plain(t, dir)
	clear := filepath.Join(dir, "clear")
	want := build(t, run, v, clear)
	v.Encrypt, v.Key = true, passphrase
	v.Encryption = seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha256"}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	one, two := build(t, run, v, a), build(t, run, v, b)
	if diff := cmp.Diff(want, one) + cmp.Diff(want, two); diff != "" {
		t.Error(diff)
	}
	if bytes.Equal(filetest.Read(t, a)[seal.HeaderSize:], filetest.Read(t, b)[seal.HeaderSize:]) {
		t.Error("the ciphertexts are equal")
	}
	if volumeKey(t, tree, a, passphrase) == volumeKey(t, tree, b, passphrase) {
		t.Error("the volume keys are equal")
	}
	if _, err := luks(t, tree, passphrase, "reencrypt", "--decrypt", "--force-offline-reencrypt", "--key-file=-", "--header="+filepath.Join(dir, "header"), a); err != nil {
		t.Fatal(err)
	}
	plaintext := filetest.Read(t, clear)
	if !bytes.HasPrefix(filetest.Read(t, a), plaintext) {
		t.Fatal("decrypted, it is not the volume without encryption")
	}
	if diff := cmp.Diff([]string{"a", "b", "clear", "header", "tree.tar"}, filetest.Names(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestAFailureOfARealToolLeavesNothing(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	tests := map[string]func(*seal.Volume){
		"a cipher that does not exist": func(v *seal.Volume) { v.Encryption.Cipher = "rot13-ecb" },
		"a key size that is no cipher": func(v *seal.Volume) { v.Encryption.KeyBits = 300 },
		"a hash that does not exist":   func(v *seal.Volume) { v.Encryption.Hash = "crc32" },
		"no key":                       func(v *seal.Volume) { v.Key = nil },
		"a tar that is none":           func(v *seal.Volume) { filetest.Write(t, v.Tar, bytes.Repeat([]byte("x"), 4096)) },
		"a tar that is cut off": func(v *seal.Volume) {
			if err := os.Truncate(v.Tar, int64(len(text()))); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, spoil := range tests {
		v := plain(t, dir)
		v.Encrypt, v.Key, v.Encryption = true, passphrase, seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha256"}
		spoil(&v)
		if _, err := seal.Build(t.Context(), run, v, filepath.Join(dir, "image")); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			faulttest.Want(t, err, fault.Sealing)
		}
		if diff := cmp.Diff([]string{"tree.tar"}, filetest.Names(t, dir)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if err := os.RemoveAll(filepath.Join(dir, "image")); err != nil {
			t.Fatal(err)
		}
	}
}
