package image

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cc-base/tasks/layout"
	"cc-base/tasks/sh"
)

// What a partition table takes at both ends of a disk, in bytes: protective
// MBR, header and entries; entries and header (UEFI specification, 5.3).
const (
	headBytes = 34 * layout.Sector
	tailBytes = 33 * layout.Sector
)

// extent is a piece of a disk.
type extent struct {
	at   int64 // bytes from the start of the disk
	data []byte
}

// pieces are the parts of a disk that were read: what is needed of it to read
// and write a partition table, whatever the disk's size and format.
type pieces []extent

// errElsewhere is returned for a place of which nothing was read.
var errElsewhere = errors.New("that part of the disk was not read")

func (p pieces) find(at int64, n int) ([]byte, error) {
	for _, e := range p {
		if at >= e.at && at+int64(n) <= e.at+int64(len(e.data)) {
			return e.data[at-e.at:][:n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at %d: %w", n, at, errElsewhere)
}

// ReadAt implements [io.ReaderAt].
func (p pieces) ReadAt(b []byte, at int64) (int, error) {
	from, err := p.find(at, len(b))
	if err != nil {
		return 0, err
	}
	return copy(b, from), nil
}

// WriteAt implements [io.WriterAt]; the disk itself is not touched.
func (p pieces) WriteAt(b []byte, at int64) (int, error) {
	to, err := p.find(at, len(b))
	if err != nil {
		return 0, err
	}
	return copy(to, b), nil
}

// The rest of what go-diskfs wants of a disk and does not use on one that it
// only writes to.

func (pieces) Read([]byte) (int, error)       { return 0, errors.ErrUnsupported }
func (pieces) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }
func (pieces) Stat() (fs.FileInfo, error)     { return nil, errors.ErrUnsupported }
func (pieces) Close() error                   { return nil }
func ends(size int64) (head, tail extent) {
	return blank(0, headBytes), blank(size-tailBytes, tailBytes)
}
func blank(at int64, n int) extent { return extent{at, make([]byte, n)} }
func (e extent) String() string    { return fmt.Sprintf("%d %d", e.at, len(e.data)) }
func (e extent) empty() bool       { return len(strings.Trim(string(e.data), "\x00")) == 0 }

// dump is a line of `qemu-io -c "read -v"`: the offset and up to 16 bytes.
var dump = regexp.MustCompile(`^([0-9a-f]{8,16}):  ((?:[0-9a-f]{2} ){1,16})`)

// read fills the extents from the disk.
func (e Editor) read(ctx context.Context, d disk, shared bool, want ...extent) error {
	args := []string{"-r", "-f", d.format}
	if shared {
		args = append(args, "-U")
	}
	for _, x := range want {
		args = append(args, "-c", "read -v "+x.String())
	}
	var text strings.Builder
	if err := e.with(d.source).Run(ctx, sh.Cmd{Name: "qemu-io", Args: append(args, d.path), Stdout: &text}); err != nil {
		return e.failed(d.source, err)
	}
	got, all := map[int64]int{}, pieces(want)
	for lines := bufio.NewScanner(strings.NewReader(text.String())); lines.Scan(); {
		m := dump.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		at, err := strconv.ParseInt(m[1], 16, 64)
		if err != nil {
			return err
		}
		b, err := hex.DecodeString(strings.ReplaceAll(m[2], " ", ""))
		if err != nil {
			return err
		}
		if _, err := all.WriteAt(b, at); err != nil {
			return fmt.Errorf("qemu-io: %w", err)
		}
		for _, x := range want {
			if at >= x.at && at < x.at+int64(len(x.data)) {
				got[x.at] += len(b)
			}
		}
	}
	for _, x := range want {
		if got[x.at] != len(x.data) {
			return fmt.Errorf("qemu-io printed %d of %d bytes at %d of %s", got[x.at], len(x.data), x.at, d.path)
		}
	}
	return nil
}

// table reads the partition table and returns the two pieces that it is in.
func (e Editor) table(ctx context.Context, d disk, shared bool) (layout.Table, pieces, error) {
	if d.Size < headBytes+tailBytes {
		return layout.Table{}, nil, layout.ErrNone
	}
	head, tail := ends(d.Size)
	if err := e.read(ctx, d, shared, head, tail); err != nil {
		return layout.Table{}, nil, err
	}
	both := pieces{head, tail}
	t, err := layout.Read(both, d.Size)
	return t, both, err
}

// write puts the extents on the disk, in their order, and zeroes old. What is
// written goes through memory of this process: qemu-io splits its commands at
// spaces, so that no name of a file could stand there.
func (e Editor) write(ctx context.Context, d disk, old extent, what ...extent) error {
	c := sh.Cmd{Name: "qemu-io", Args: []string{"-f", d.format}, Stdout: io.Discard}
	for i, x := range what {
		fd, err := unix.MemfdCreate("table", unix.MFD_CLOEXEC)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "table")
		defer f.Close()
		if _, err := f.Write(x.data); err != nil {
			return err
		}
		c.Files = append(c.Files, f)
		c.Args = append(c.Args, "-c", fmt.Sprintf("write -s /proc/self/fd/%d %s", 3+i, x))
	}
	c.Args = append(c.Args, "-c", "write -z "+old.String(), "-c", "flush", d.path)
	if err := e.with(d.source).Run(ctx, c); err != nil {
		return e.failed(d.source, err)
	}
	return nil
}
