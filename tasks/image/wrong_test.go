package image_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/image"
	"cc-base/tasks/layout"
	"cc-base/tasks/qcow2"
)

// state describes every file of a folder, content included.
func state(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %s %d %s", e.Name(), info.Mode(), info.Size(), info.ModTime())
		if info.Mode().IsRegular() {
			line += " " + sum(t, filepath.Join(dir, e.Name()))
		}
		lines = append(lines, line)
	}
	return lines
}

// header changes bytes of an image's own header.
func header(off int64, data ...byte) func(*testing.T, *bench) {
	return func(t *testing.T, b *bench) {
		f, err := os.OpenFile(b.file, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
}

func convert(c image.Conversion) func(*testing.T, *bench) error {
	return func(t *testing.T, b *bench) error {
		c := c
		if c.File == "" {
			c.File = b.file
		}
		for _, p := range []*string{&c.File, &c.Out} {
			if *p != "" && !filepath.IsAbs(*p) {
				*p = b.path(*p)
			}
		}
		return b.Convert(t.Context(), c)
	}
}

func resize(by string) func(*testing.T, *bench) error {
	return func(t *testing.T, b *bench) error {
		return b.Resize(t.Context(), image.Growth{File: b.file, By: by, Force: true})
	}
}

func snapshot(do, name string) func(*testing.T, *bench) error {
	return func(t *testing.T, b *bench) error {
		return b.Snapshot(t.Context(), image.Snapshot{File: b.file, Do: do, Name: name}, io.Discard)
	}
}

func with(files ...string) func(*testing.T, *bench) {
	return func(t *testing.T, b *bench) {
		for _, f := range files {
			filetest.Write(t, b.path(f), filetest.Noise(9, 1000))
		}
	}
}

func TestAWrongCallSaysWhatIsWrongAndChangesNothing(t *testing.T) {
	t.Parallel()
	raw := func(t *testing.T, b *bench) {
		if err := b.Convert(t.Context(), image.Conversion{File: b.file, To: image.Raw, Out: b.path("disk.raw")}); err != nil {
			t.Fatal(err)
		}
		b.file = b.path("disk.raw")
	}
	other := func(labels ...string) func(*testing.T, *bench) {
		return func(t *testing.T, b *bench) { b.make(t, b.Tools.With(b.dir), b.dir, nil, labels...) }
	}
	flipped := func(t *testing.T, b *bench) { b.qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -P 9 1024 512", b.file) }
	full := func(t *testing.T, b *bench) { b.Editor = b.WithFree(100 << 10) }
	q, r := image.Qcow2, image.Raw
	for name, c := range map[string]struct {
		before func(*testing.T, *bench)
		call   func(*testing.T, *bench) error
		code   fault.Code
		words  []string
	}{
		"convert: three mistakes at once":  {nil, convert(image.Conversion{From: "vmdk", To: "vdi"}), fault.Usage, []string{"-from=vmdk", "-to=vdi", "-o=FILE is missing"}},
		"convert: to nothing":              {nil, convert(image.Conversion{Out: "x"}), fault.Usage, []string{"-to=FORMAT is missing"}},
		"convert: the wrong -from":         {nil, convert(image.Conversion{From: r, To: q, Out: "x"}), fault.Usage, []string{"is qcow2, not raw"}},
		"convert: no such image":           {nil, convert(image.Conversion{File: "none", To: q, Out: "x"}), fault.Usage, []string{"none: no such file"}},
		"convert: a folder":                {nil, convert(image.Conversion{File: ".", To: q, Out: "x"}), fault.Usage, []string{"not a regular file"}},
		"convert: a system's folder":       {nil, convert(image.Conversion{File: "/etc/passwd", To: q, Out: "x"}), fault.Usage, []string{"cannot work in /etc"}},
		"convert: -o is there":             {with("x"), convert(image.Conversion{To: r, Out: "x"}), fault.ImageLoss, []string{"is there already"}},
		"convert: -o is the image":         {nil, convert(image.Conversion{To: r, Out: "cc-base.qcow2", Force: true}), fault.Usage, []string{"is the image itself"}},
		"convert: -o in no folder":         {nil, convert(image.Conversion{To: r, Out: "no/x"}), fault.Usage, []string{"there is no folder"}},
		"convert: -o is a folder":          {nil, convert(image.Conversion{To: r, Out: ".", Force: true}), fault.Usage, []string{"not a regular file"}},
		"convert: -o in a system's folder": {nil, convert(image.Conversion{To: r, Out: "/usr/x"}), fault.Usage, []string{"cannot work in /usr"}},
		"convert: no image":                {with("text"), convert(image.Conversion{File: "text", To: q, Out: "x"}), fault.ImageFile, []string{"is no image"}},
		"convert: empty":                   {func(t *testing.T, b *bench) { filetest.Write(t, b.path("e"), nil) }, convert(image.Conversion{File: "e", To: q, Out: "x"}), fault.ImageFile, []string{"is empty"}},
		"convert: no room":                 {full, convert(image.Conversion{To: r, Out: "x"}), fault.HostSpace, []string{"100 KiB free", "are needed"}},
		"convert: with a backing file":     {header(8, 0, 0, 0, 0, 0, 0, 2, 0), convert(image.Conversion{To: r, Out: "x"}), fault.ImageFile, []string{"has a backing file"}},
		"convert: with data elsewhere":     {header(79, 4), convert(image.Conversion{To: r, Out: "x"}), fault.ImageFile, []string{"keeps its data in another file"}},
		"convert: encrypted by QEMU":       {header(32, 0, 0, 0, 2), convert(image.Conversion{To: r, Out: "x"}), fault.ImageFile, []string{"is encrypted by QEMU"}},
		"convert: of a version to come":    {header(7, 4), convert(image.Conversion{To: r, Out: "x"}), fault.ImageFile, []string{"version 4"}},
		"convert: marked as corrupt":       {header(79, 2), convert(image.Conversion{To: r, Out: "x"}), fault.ImageFile, []string{"marked as corrupt"}},
		"convert: marked as dirty":         {header(79, 1), convert(image.Conversion{To: r, Out: "x"}), fault.ImageFile, []string{"marked as not cleanly closed"}},
		"convert: tables beyond the file":  {header(40, 0, 0, 1, 0, 0, 0, 0, 0), convert(image.Conversion{To: r, Out: "x"}), fault.ImageFile, []string{"cc-base.qcow2"}},
		"compress: a raw disk in place": {raw, func(t *testing.T, b *bench) error {
			return convert(image.Conversion{File: b.file, To: q, Compress: true})(t, b)
		}, fault.Usage, []string{"no compressed raw format"}},
		"compress: no room":                    {full, convert(image.Conversion{To: q, Compress: true}), fault.HostSpace, []string{"free"}},
		"resize: smaller":                      {nil, resize("-1G"), fault.Usage, []string{"only grows"}},
		"resize: to a size":                    {nil, resize("10G"), fault.Usage, []string{"is no growth"}},
		"resize: by nothing":                   {nil, resize("+0G"), fault.Usage, []string{"adds nothing"}},
		"resize: no unit":                      {nil, resize("+1024"), fault.Usage, []string{"is no growth"}},
		"resize: no number":                    {nil, resize("+G"), fault.Usage, []string{"is no growth"}},
		"resize: two signs":                    {nil, resize("++1G"), fault.Usage, []string{"is no growth"}},
		"resize: a flag for the size":          {nil, resize("-file=x"), fault.Usage, []string{"is no growth"}},
		"resize: beyond 64 bits":               {nil, resize("+99999999999T"), fault.Usage, []string{"more than any disk has"}},
		"resize: beyond what qcow2 holds":      {nil, resize("+2048T"), fault.Usage, []string{"beyond the 2048 TiB"}},
		"resize: beyond what files hold":       {raw, resize("+8388607T"), fault.ImageFile, []string{"disk.raw"}},
		"resize: no room":                      {full, resize("+1G"), fault.HostSpace, []string{"are needed"}},
		"resize: no table":                     {func(t *testing.T, b *bench) { b.file = filetest.Write(t, b.path("zeros"), make([]byte, mib)) }, resize("+1G"), fault.ImageFile, []string{"no GUID partition table"}},
		"resize: too small for a table":        {func(t *testing.T, b *bench) { b.file = filetest.Write(t, b.path("zeros"), make([]byte, 512)) }, resize("+1G"), fault.ImageFile, []string{"no GUID partition table"}},
		"resize: a damaged table":              {flipped, resize("+1G"), fault.ImageFile, []string{"the partition table is damaged"}},
		"resize: another partition at the end": {other("cc-dynamic", "data"), resize("+1G"), fault.ImageFile, []string{"the last partition is not cc-dynamic"}},
		"snapshot: nothing to do":              {nil, snapshot("", "a"), fault.Usage, []string{"is nothing to do"}},
		"snapshot: two mistakes at once":       {nil, snapshot("undo", "7"), fault.Usage, []string{`"undo" is nothing to do`, `-name="7"`}},
		"snapshot: no name":                    {nil, snapshot("create", ""), fault.Usage, []string{"-name=NAME is missing"}},
		"snapshot: a name with a line end":     {nil, snapshot("create", "a\nb"), fault.Usage, []string{`"a\nb"`}},
		"snapshot: a name that is a flag":      {nil, snapshot("create", "-d"), fault.Usage, []string{"a letter"}},
		"snapshot: list with a name":           {nil, snapshot("list", "a"), fault.Usage, []string{"takes no -name"}},
		"snapshot: none to come back to":       {nil, snapshot("revert", "a"), fault.Usage, []string{"has no snapshots"}},
		"snapshot: none to delete":             {snapshotted, snapshot("delete", "a"), fault.Usage, []string{"has no snapshot a"}},
		"snapshot: there already":              {snapshotted, snapshot("create", "there"), fault.Usage, []string{"has a snapshot there already"}},
		"snapshot: of a raw disk":              {raw, snapshot("create", "a"), fault.Usage, []string{"only a qcow2 keeps snapshots"}},
		"snapshot: no room":                    {full, snapshot("create", "a"), fault.HostSpace, []string{"free"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, noise())
			if c.before != nil {
				c.before(t, b)
			}
			want := state(t, b.dir)
			faulttest.Want(t, c.call(t, b), c.code, c.words...)
			if diff := cmp.Diff(want, state(t, b.dir)); diff != "" {
				t.Errorf("something was changed (-before +after):\n%s", diff)
			}
		})
	}
}

func snapshotted(t *testing.T, b *bench) {
	if err := snapshot("create", "there")(t, b); err != nil {
		t.Fatal(err)
	}
}

// A link under the part's name is not written through, and one that names the
// image leads to it.
func TestLinksLeadNowhereElse(t *testing.T) {
	t.Parallel()
	b := newBench(t, noise())
	victim := filetest.Write(t, b.path("victim"), []byte("mine"))
	for _, part := range []string{"out.part", "cc-base.qcow2.part"} {
		if err := os.Symlink(victim, b.path(part)); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link.qcow2")
	if err := os.Symlink(b.file, link); err != nil {
		t.Fatal(err)
	}
	if err := b.Convert(t.Context(), image.Conversion{File: link, To: image.Raw, Out: b.path("out")}); err != nil {
		t.Fatal(err)
	}
	if err := b.Resize(t.Context(), image.Growth{File: link, By: "+1G"}); err != nil {
		t.Fatal(err)
	}
	if got := string(filetest.Read(t, victim)); got != "mine" {
		t.Errorf("the link's target holds %d bytes now", len(got))
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link has become %v (%v)", info.Mode(), err)
	}
	if size := binary.BigEndian.Uint64(at(t, b.file, 24, 8)); size < 1<<30 {
		t.Errorf("the image has a disk of %d bytes", size)
	}
	filetest.Only(t, b.dir, "cc-base.qcow2", "out", "victim")
}

func TestProgressIsOneLineOnATerminalAndFewElsewhere(t *testing.T) {
	t.Parallel()
	var lines []string
	now := time.Unix(0, 0)
	event := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	feed := func(w io.Writer) {
		for i := range 100 {
			now = now.Add(time.Second)
			// As the program prints it: over and over, and not in whole writes.
			fmt.Fprintf(w, "    (%d.00/100%%)\r", i)
			fmt.Fprint(w, "    (")
		}
	}
	w, done := image.NewProgress(event, nil, func() time.Time { return now })
	feed(w)
	done()
	if want := []string{"converting, 10 %", "converting, 20 %"}; len(lines) != 9 || !slices.Equal(lines[:2], want) {
		t.Errorf("%q", lines)
	}
	lines = nil
	var terminal strings.Builder
	w, done = image.NewProgress(event, &terminal, nil)
	feed(w)
	done()
	if got := terminal.String(); len(lines) > 0 || !strings.Contains(got, "\r\x1b[Kimage: converting, 57 %\r") || !strings.HasSuffix(got, "99 %\r\x1b[K") {
		t.Errorf("%q, %q", lines, got)
	}
}

func TestTheInstallersReaderTakesAGrownImage(t *testing.T) {
	t.Parallel()
	b := newBench(t, noise())
	if err := b.Resize(t.Context(), image.Growth{File: b.file, By: "+1G"}); err != nil {
		t.Fatal(err)
	}
	data := filetest.Read(t, b.file)
	got, err := qcow2.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	table, err := layout.Read(got, got.Size())
	if err != nil || len(table.Problems) > 0 || got.Size() != 8*mib+1<<30 || table.Entries[2].Size < 1<<30 {
		t.Errorf("%+v, %v", table, err)
	}
}
