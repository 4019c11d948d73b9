package compare

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/cavaliergopher/cpio"
)

// member is one of an archive.
type member struct {
	name    string
	about   []property
	content io.Reader
}

// property is what an archive says of a member, besides its content.
type property struct{ what, value string }

// members walks two archives of one format together: they are written in a fixed
// order, so the first that differ are the difference.
func members(nextA, nextB func() (*member, error)) (*Difference, error) {
	for {
		a, errA := nextA()
		b, errB := nextB()
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			}
		}
		switch {
		case a == nil && b == nil:
			return nil, nil
		case a == nil:
			return missing(b.name, false), nil
		case b == nil:
			return missing(a.name, true), nil
		case a.name != b.name:
			return &Difference{What: "next member", A: a.name, B: b.name}, nil
		}
		for i, p := range a.about {
			if other := b.about[i]; p != other {
				return (&Difference{What: p.what, A: p.value, B: other.value}).in(a.name), nil
			}
		}
		d, err := contents(a.content, b.content)
		if d != nil || err != nil {
			return d.in(a.name), err
		}
	}
}

// contents compares what cannot be read twice. Where a format finds no difference in
// what it holds, digests tell whether there is one in how.
func contents(a, b io.Reader) (*Difference, error) {
	sumA, sumB := sha256.New(), sha256.New()
	a, b = io.TeeReader(a, sumA), io.TeeReader(b, sumB)
	d, err := streams(bufio.NewReaderSize(a, window), bufio.NewReaderSize(b, window))
	if d != nil || err != nil {
		return d, err
	}
	for _, rest := range []io.Reader{a, b} {
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return nil, err
		}
	}
	if x, y := sumA.Sum(nil), sumB.Sum(nil); !bytes.Equal(x, y) {
		return &Difference{What: "sha256, with the same in it", A: hex.EncodeToString(x), B: hex.EncodeToString(y)}, nil
	}
	return nil, nil
}

func tars(a, b *bufio.Reader) (*Difference, error) {
	return members(tarMembers(tar.NewReader(a)), tarMembers(tar.NewReader(b)))
}

func tarMembers(r *tar.Reader) func() (*member, error) {
	return func() (*member, error) {
		h, err := r.Next()
		if err != nil {
			return nil, err
		}
		about := []property{
			{"type", fmt.Sprintf("%q", h.Typeflag)}, {"mode", fmt.Sprintf("%04o", h.Mode)},
			{"owner", fmt.Sprintf("%d:%d", h.Uid, h.Gid)}, {"time", h.ModTime.UTC().Format(time.RFC3339Nano)},
			{"link", strconv.Quote(h.Linkname)}, {"device", fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)},
			{"attributes", fmt.Sprint(attributes(h))},
		}
		return &member{h.Name, about, r}, nil
	}
}

// attributes are the PAX records that are no header field, in a fixed order.
func attributes(h *tar.Header) []string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if k != "path" && k != "linkpath" && k != "mtime" && k != "size" {
			all = append(all, fmt.Sprintf("%s=%q", k, h.PAXRecords[k]))
		}
	}
	return all
}

func cpios(a, b *bufio.Reader) (*Difference, error) {
	return members(cpioMembers(cpio.NewReader(a)), cpioMembers(cpio.NewReader(b)))
}

func cpioMembers(r *cpio.Reader) func() (*member, error) {
	return func() (*member, error) {
		h, err := r.Next()
		if err != nil {
			return nil, err
		}
		about := []property{
			{"mode", fmt.Sprintf("%06o", uint32(h.Mode))}, {"owner", fmt.Sprintf("%d:%d", h.Uid, h.Guid)},
			{"time", h.ModTime.UTC().Format(time.RFC3339)}, {"links", strconv.Itoa(h.Links)},
			{"link", strconv.Quote(h.Linkname)}, {"inode", strconv.FormatInt(h.Inode, 10)},
		}
		return &member{h.Name, about, r}, nil
	}
}
