package lab

// What green does not prove: no kernel unpacks these archives here; that a later
// one replaces files of an earlier one in a booted initrd is shown by
// TestAFileOfTheInitrdIsReplaced.

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
)

func TestFilesFollowTheInitrdAsAnArchive(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{
		"usr/lib/cc/cc-guest": []byte("program"), "usr/lib/cc/d/data": []byte("data"), "marker": nil,
		"usr/lib/systemd/system/x.service": []byte("[Unit]"),
	}
	for size := range 5 {
		initrd := filepath.Join(t.TempDir(), "initrd")
		write(t, initrd, bytes.Repeat([]byte("i"), size))
		got, err := withFiles(initrd, files, 1767225600)
		if err != nil {
			t.Fatal(err)
		}
		again, err := withFiles(initrd, files, 1767225600)
		if err != nil || !bytes.Equal(got, again) {
			t.Errorf("the second time it is another one: %v", err)
		}
		// The kernel looks for an archive at multiples of four only.
		begin := (size + 3) &^ 3
		if !bytes.HasPrefix(got, bytes.Repeat([]byte("i"), size)) || len(bytes.Trim(got[size:begin], "\x00")) > 0 {
			t.Errorf("an initrd of %d bytes was changed", size)
		}
		type entry struct {
			Name, Text string
			Mode       cpio.FileMode
		}
		var entries []entry
		for r := cpio.NewReader(bytes.NewReader(got[begin:])); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, entry{h.Name, string(text), h.Mode})
		}
		const dir, data, program = cpio.TypeDir | 0o755, cpio.TypeReg | 0o644, cpio.TypeReg | 0o755
		// A folder comes before what is in it: the kernel makes none by itself.
		want := []entry{
			{"marker", "", data},
			{"usr", "", dir}, {"usr/lib", "", dir}, {"usr/lib/cc", "", dir},
			{"usr/lib/cc/cc-guest", "program", program},
			{"usr/lib/cc/d", "", dir}, {"usr/lib/cc/d/data", "data", data},
			{"usr/lib/systemd", "", dir}, {"usr/lib/systemd/system", "", dir},
			{"usr/lib/systemd/system/x.service", "[Unit]", data},
		}
		if diff := cmp.Diff(want, entries); diff != "" {
			t.Errorf("the archive (-want +got):\n%s", diff)
		}
	}
}

func TestPathsOutsideTheInitrdAreRefused(t *testing.T) {
	t.Parallel()
	initrd := filepath.Join(t.TempDir(), "initrd")
	write(t, initrd, nil)
	for _, name := range []string{"", ".", "/etc/passwd", "../x", "..", "a//b", "a/../b", "a/"} {
		if _, err := withFiles(initrd, map[string][]byte{name: nil}, 0); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	if _, err := withFiles(initrd+"2", nil, 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

// probe is a test by the name, of which it notes that it was skipped.
type probe struct {
	testing.TB
	name, skipped string
}

func (p *probe) Helper()                       {}
func (p *probe) Name() string                  { return p.name }
func (p *probe) Skipf(format string, _ ...any) { p.skipped = format }

func TestTheSumNamesWhatWasLeftOut(t *testing.T) {
	var b Boots
	b.Count(&probe{name: "TestOne"})()
	t.Setenv(LongEnv, "1")
	long := &probe{name: "TestTwo"}
	b.LongOnly(long)
	t.Setenv(LongEnv, "")
	three, four := &probe{name: "TestThree"}, &probe{name: "TestFour"}
	b.LongOnly(three)
	b.LongOnly(four)
	if long.skipped != "" || three.skipped == "" || four.skipped == "" {
		t.Errorf("skipped: %q %q %q", long.skipped, three.skipped, four.skipped)
	}
	lines := strings.Split(b.Sum(), "\n")
	want := []string{
		"boot  1:    0.0 s  TestOne",
		"boots: 1 of 22 in the budget, 0 s",
		"left to the long mode: 2: TestThree TestFour", "",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("the sum (-want +got):\n%s", diff)
	}
}
