// Package compare finds the first difference between two files and says where in
// them it is: not at which byte of an archive, but in which member; not of a boot
// image, but in which section. It knows the formats that a build writes.
package compare

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"

	"cc-base/tasks/boot"
	"cc-base/tasks/layout"
	"cc-base/tasks/qcow2"
)

// Difference is the first one between two files.
type Difference struct {
	Path []string // from the outside in: member of an archive, section, key
	What string   // size, mode, line 3, byte 4096, …
	A, B string   // of the one and of the other
}

// String says all on one line, the outermost first.
func (d *Difference) String() string {
	return strings.Join(append(slices.Clone(d.Path), fmt.Sprintf("%s: %s, not %s", d.What, d.B, d.A)), ": ")
}

// in puts a difference into what it is a part of.
func (d *Difference) in(part string) *Difference {
	if d != nil {
		d.Path = append([]string{part}, d.Path...)
	}
	return d
}

// Files returns the first difference between two files, or nil.
func Files(a, b string) (*Difference, error) {
	fa, err := os.Open(a)
	if err != nil {
		return nil, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return nil, err
	}
	defer fb.Close()
	same, err := equal(fa, fb)
	if err != nil || same {
		return nil, err
	}
	if err := rewind(fa, fb); err != nil {
		return nil, err
	}
	var d *Difference
	if isQcow2(fa) && isQcow2(fb) {
		d, err = disks(fa, fb)
	} else {
		d, err = streams(bufio.NewReaderSize(fa, window), bufio.NewReaderSize(fb, window))
	}
	if d != nil || err != nil {
		return d, err
	}
	// What the formats hold is the same: it is their own framing that is not.
	if err := rewind(fa, fb); err != nil {
		return nil, err
	}
	return binary(fa, fb)
}

func rewind(files ...*os.File) error {
	for _, f := range files {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return nil
}

// Data is [Files] for what is in memory.
func Data(a, b []byte) (*Difference, error) {
	if bytes.Equal(a, b) {
		return nil, nil
	}
	d, err := streams(bufio.NewReaderSize(bytes.NewReader(a), window), bufio.NewReaderSize(bytes.NewReader(b), window))
	if d != nil || err != nil {
		return d, err
	}
	return binary(bytes.NewReader(a), bytes.NewReader(b))
}

// window is how much is looked at to tell a format, and read at once.
const window = 64 << 10

func equal(a, b io.Reader) (bool, error) {
	d, err := binary(a, b)
	return d == nil, err
}

// format is how two streams of one kind are compared. It returns nil where what
// they hold is the same.
type format struct {
	is   func(start []byte) bool
	diff func(a, b *bufio.Reader) (*Difference, error)
}

func formats() []format {
	begins := func(magic string) func([]byte) bool {
		return func(start []byte) bool { return bytes.HasPrefix(start, []byte(magic)) }
	}
	return []format{
		{begins("\x1f\x8b"), unpacked(func(r io.Reader) (io.Reader, error) { return pgzip.NewReader(r) })},
		{begins("\x28\xb5\x2f\xfd"), unpacked(func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) })},
		{func(s []byte) bool { return len(s) >= 262 && string(s[257:262]) == "ustar" }, tars},
		{begins("070701"), cpios},
		{begins("MZ"), images},
		{func(s []byte) bool { s = bytes.TrimSpace(s); return len(s) > 0 && (s[0] == '{' || s[0] == '[') }, documents},
		{isText, texts},
	}
}

// streams compares by the first format that both begin as.
func streams(a, b *bufio.Reader) (*Difference, error) {
	startA, errA := a.Peek(window)
	startB, errB := b.Peek(window)
	for _, err := range []error{errA, errB} {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	for _, f := range formats() {
		if f.is(startA) && f.is(startB) {
			return f.diff(a, b)
		}
	}
	return binary(a, b)
}

func unpacked(open func(io.Reader) (io.Reader, error)) func(a, b *bufio.Reader) (*Difference, error) {
	return func(a, b *bufio.Reader) (*Difference, error) {
		ra, err := open(a)
		if err != nil {
			return nil, err
		}
		rb, err := open(b)
		if err != nil {
			return nil, err
		}
		return streams(bufio.NewReaderSize(ra, window), bufio.NewReaderSize(rb, window))
	}
}

// binary compares bytes.
func binary(a, b io.Reader) (*Difference, error) {
	d, _, err := firstByte(a, b)
	return d, err
}

// firstByte tells also where the difference is.
func firstByte(a, b io.Reader) (d *Difference, at int64, err error) {
	bufA, bufB := make([]byte, window), make([]byte, window)
	for ; ; at += window {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, 0, err
			}
		}
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			i := 0
			for i < min(n, m) && bufA[i] == bufB[i] {
				i++
			}
			at += int64(i)
			return &Difference{What: fmt.Sprintf("byte %d", at), A: hexAt(bufA[:n], i), B: hexAt(bufB[:m], i)}, at, nil
		}
		if errA != nil || errB != nil {
			return nil, 0, nil
		}
	}
}

func hexAt(data []byte, i int) string {
	if i >= len(data) {
		return "the end"
	}
	return fmt.Sprintf("%x", data[i:min(i+8, len(data))])
}

// isText tells what is best shown by lines. The last rune may be cut off.
func isText(start []byte) bool {
	for i := 0; i < utf8.UTFMax && len(start) > i; i++ {
		if cut := start[:len(start)-i]; utf8.Valid(cut) {
			return !bytes.ContainsRune(cut, 0)
		}
	}
	return false
}

func texts(a, b *bufio.Reader) (*Difference, error) {
	for n := 1; ; n++ {
		lineA, errA := a.ReadString('\n')
		lineB, errB := b.ReadString('\n')
		if lineA != lineB {
			return &Difference{What: fmt.Sprintf("line %d", n), A: quoted(lineA), B: quoted(lineB)}, nil
		}
		if errA != nil || errB != nil {
			if errors.Is(errA, io.EOF) && errors.Is(errB, io.EOF) {
				return nil, nil
			}
			return nil, errors.Join(errA, errB)
		}
	}
}

// quoted shortens what nobody wants to read whole.
func quoted(text string) string {
	const most = 120
	if text == "" {
		return "the end"
	}
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strconv.Quote(text)
}

func documents(a, b *bufio.Reader) (*Difference, error) {
	var va, vb any
	if json.NewDecoder(a).Decode(&va) != nil || json.NewDecoder(b).Decode(&vb) != nil {
		return nil, nil // no JSON after all: the bytes decide
	}
	return values(va, vb), nil
}

func values(a, b any) *Difference {
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			for _, k := range slices.Sorted(maps.Keys(union(a, b))) {
				va, inA := a[k]
				vb, inB := b[k]
				if inA != inB {
					return missing(k, inA)
				}
				if d := values(va, vb); d != nil {
					return d.in(k)
				}
			}
			return nil
		}
	case []any:
		if b, ok := b.([]any); ok {
			for i := range min(len(a), len(b)) {
				if d := values(a[i], b[i]); d != nil {
					return d.in(strconv.Itoa(i))
				}
			}
			if len(a) != len(b) {
				return &Difference{What: "length", A: strconv.Itoa(len(a)), B: strconv.Itoa(len(b))}
			}
			return nil
		}
	}
	textA, _ := json.Marshal(a)
	textB, _ := json.Marshal(b)
	if bytes.Equal(textA, textB) {
		return nil
	}
	return &Difference{What: "value", A: quoted(string(textA)), B: quoted(string(textB))}
}

func union[V any](a, b map[string]V) map[string]V {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// missing is the difference of a part that only one has.
func missing(part string, inA bool) *Difference {
	there := map[bool]string{true: "there", false: "missing"}
	return &Difference{Path: []string{part}, What: "it is", A: there[inA], B: there[!inA]}
}

// images compares boot images section by section, and then what is in none, which
// is headers and signature.
func images(a, b *bufio.Reader) (*Difference, error) {
	dataA, err := io.ReadAll(a)
	if err != nil {
		return nil, err
	}
	dataB, err := io.ReadAll(b)
	if err != nil {
		return nil, err
	}
	sectionsA, errA := boot.Sections(dataA)
	sectionsB, errB := boot.Sections(dataB)
	if errA != nil || errB != nil {
		return binary(bytes.NewReader(dataA), bytes.NewReader(dataB))
	}
	d, err := Sections(sectionsA, sectionsB)
	if d != nil || err != nil {
		return d, err
	}
	d, err = binary(bytes.NewReader(dataA), bytes.NewReader(dataB))
	return d.in("outside of all sections"), err
}

// Sections compares those of two boot images.
func Sections(a, b map[string][]byte) (*Difference, error) {
	for _, name := range slices.Sorted(maps.Keys(union(a, b))) {
		dataA, inA := a[name]
		dataB, inB := b[name]
		if inA != inB {
			return missing("section "+name, inA), nil
		}
		d, err := Data(dataA, dataB)
		if d != nil || err != nil {
			return d.in("section " + name), err
		}
	}
	return nil, nil
}

func isQcow2(f *os.File) bool {
	magic := make([]byte, 4)
	_, err := f.ReadAt(magic, 0)
	return err == nil && string(magic) == "QFI\xfb"
}

// disks compares what two images hold, by partitions.
func disks(a, b *os.File) (*Difference, error) {
	imageA, err := disk(a)
	if err != nil {
		return nil, err
	}
	imageB, err := disk(b)
	if err != nil {
		return nil, err
	}
	if a, b := imageA.Size(), imageB.Size(); a != b {
		return &Difference{What: "size of the disk", A: strconv.FormatInt(a, 10), B: strconv.FormatInt(b, 10)}, nil
	}
	d, at, err := firstByte(io.NewSectionReader(imageA, 0, imageA.Size()), io.NewSectionReader(imageB, 0, imageB.Size()))
	if d == nil || err != nil {
		return d, err
	}
	table, err := layout.Read(imageA, imageA.Size())
	if err != nil {
		return d, nil // there is no table to name the place with
	}
	for _, p := range table.Entries {
		if at >= p.Start && at < p.Start+p.Size {
			d.What = fmt.Sprintf("byte %d", at-p.Start)
			return d.in("partition " + p.Label), nil
		}
	}
	return d.in("outside of all partitions"), nil
}

func disk(f *os.File) (*qcow2.Image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return qcow2.Open(f, info.Size())
}
