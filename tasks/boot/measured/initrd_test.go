package measured_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/cavaliergopher/cpio"

	"cc-base/tasks/boot/measured"
)

func TestTheStubsArchivesAreReadable(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]byte{"tpm2-pcr-public-key.pem": []byte("a key"), "os-release": nil, "profile": []byte("1234")} {
		archive := measured.Archive(name, want)
		if len(archive)%4 != 0 || !bytes.Contains(archive, []byte("0000000B00000000TRAILER!!!\x00")) {
			t.Errorf("%s: the trailer is not the stub's", name)
		}
		r := cpio.NewReader(bytes.NewReader(archive))
		for i, expected := range []struct {
			name string
			mode cpio.FileMode
			data []byte
		}{{".extra", cpio.TypeDir | 0o555, nil}, {".extra/" + name, cpio.TypeReg | 0o444, want}} {
			h, err := r.Next()
			if err != nil {
				t.Fatal(name, err)
			}
			data, err := io.ReadAll(r)
			if err != nil || h.Name != expected.name || h.Mode != expected.mode || h.Inode != int64(i+1) || h.ModTime.Unix() != 0 || !bytes.Equal(data, expected.data) {
				t.Errorf("%s: %+v %q %v", name, h, data, err)
			}
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASingleInitrdIsNotPadded(t *testing.T) {
	t.Parallel()
	if got := measured.Initrd(map[string][]byte{".initrd": []byte("odd")}); string(got) != "odd" {
		t.Errorf("alone: %q", got)
	}
	if got := measured.Initrd(map[string][]byte{".initrd": []byte("odd"), ".ucode": []byte("first")}); string(got) != "first\x00\x00\x00odd\x00" {
		t.Errorf("with microcode: %q", got)
	}
	if got := measured.Initrd(map[string][]byte{".initrd": {}, ".uname": []byte("6.12")}); len(got) > 0 {
		t.Errorf("none: %q", got)
	}
}
