// Package signedtar keeps files in one archive that proves itself: its first
// member is an index with the size and digest of every other one, its second an
// OpenPGP signature of the index. Whoever reads it names the keys that may have
// signed; nothing that is in the archive decides about that.
//
// The archive is a tar (POSIX.1-2001) compressed with zstd. Apart from the
// signature it depends on names, contents and kind alone.
package signedtar

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"cc-base/tasks/digest"
	"cc-base/tasks/sign"
)

const (
	indexName     = "index.json"
	signatureName = "index.json.asc"

	// maxIndex bounds what is read before anything is known to be genuine.
	maxIndex = 64 << 20
)

// File is a member.
type File struct {
	Name   string `json:"name"` // slash-separated and relative; see [fs.ValidPath]
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`

	Open func() (io.ReadCloser, error) `json:"-"` // for writing; must give Size bytes of that digest
}

type index struct {
	Kind  string `json:"kind"`
	Files []File `json:"files"`
}

// Write writes an archive of this kind. signed returns the armoured detached
// signature of what it is given. A file that is not what its size and digest say is
// an error.
func Write(ctx context.Context, w io.Writer, kind string, files []File, signed func(data []byte) ([]byte, error)) error {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	if err := sound(files); err != nil {
		return err
	}
	data, err := json.MarshalIndent(index{Kind: kind, Files: files}, "", "  ")
	if err != nil {
		return err
	}
	signature, err := signed(data)
	if err != nil {
		return err
	}
	// One worker: with several the blocks depend on how fast each is.
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	if err := errors.Join(member(t, indexName, data), member(t, signatureName, signature)); err != nil {
		return err
	}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := add(t, f); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return errors.Join(t.Close(), z.Close())
}

func header(name string, size int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, Format: tar.FormatPAX}
}

func member(t *tar.Writer, name string, data []byte) error {
	if err := t.WriteHeader(header(name, int64(len(data)))); err != nil {
		return err
	}
	_, err := t.Write(data)
	return err
}

func add(t *tar.Writer, f File) (err error) {
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if err := t.WriteHeader(header(f.Name, f.Size)); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(t, io.TeeReader(in, sum))
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != f.Size || got != f.SHA256 {
		return errors.New("it has changed meanwhile")
	}
	return nil
}

// sound tells of names that no archive may have.
func sound(files []File) error {
	seen := map[string]bool{indexName: true, signatureName: true}
	for _, f := range files {
		switch {
		case !fs.ValidPath(f.Name) || path.Clean(f.Name) == ".":
			return fmt.Errorf("%q is no name for a member", f.Name)
		case seen[f.Name]:
			return fmt.Errorf("%q is there twice", f.Name)
		case f.Size < 0:
			return fmt.Errorf("%q has the size %d", f.Name, f.Size)
		}
		seen[f.Name] = true
	}
	return nil
}

// Reader reads an archive whose signature was good.
type Reader struct {
	Files     []File         // all members, in their order
	Signature sign.Signature // of the index

	tar  *tar.Reader
	next int
	zstd *zstd.Decoder
}

// Open reads the index of an archive of this kind and its signature. keys are
// armoured OpenPGP public keys, each of which may have made it; an archive of
// another kind, or by somebody else, is an error.
func Open(r io.Reader, kind string, keys [][]byte) (*Reader, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, err
	}
	a := &Reader{tar: tar.NewReader(z), zstd: z}
	if err := a.open(kind, keys); err != nil {
		z.Close()
		return nil, err
	}
	return a, nil
}

func (a *Reader) open(kind string, keys [][]byte) error {
	data, err := a.small(indexName)
	if err != nil {
		return err
	}
	signature, err := a.small(signatureName)
	if err != nil {
		return err
	}
	if a.Signature, err = verify(keys, data, signature); err != nil {
		return err
	}
	var in index
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("%s: %w", indexName, err)
	}
	if in.Kind != kind {
		return fmt.Errorf("it is %q, not %q", in.Kind, kind)
	}
	a.Files = in.Files
	return sound(in.Files)
}

// verify returns the first signature that one of the keys accepts, or why none does.
func verify(keys [][]byte, data, signature []byte) (sign.Signature, error) {
	if len(keys) == 0 {
		return sign.Signature{}, errors.New("there is no key to verify it with")
	}
	var errs []error
	for _, key := range keys {
		s, err := sign.Verify(key, bytes.NewReader(data), signature)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return sign.Signature{}, errors.Join(errs...)
}

// small reads the next member, which must have this name.
func (a *Reader) small(name string) ([]byte, error) {
	h, err := a.tar.Next()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, unexpected(err))
	}
	if h.Name != name || h.Typeflag != tar.TypeReg || h.Size > maxIndex {
		return nil, fmt.Errorf("the member %q, where %s must be", h.Name, name)
	}
	data := make([]byte, h.Size)
	if _, err := io.ReadFull(a.tar, data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, unexpected(err))
	}
	return data, nil
}

// errDigest is what [Reader.Next] wraps for a member of another content.
var errDigest = errors.New("its content is not what was signed")

// IsDigest tells whether a member was refused for its content alone; the next ones
// may still be good.
func IsDigest(err error) bool { return errors.Is(err, errDigest) }

// Refuse is an error as if the member had another content: what was signed makes no
// sense.
func Refuse(name string, why error) error { return fmt.Errorf("%s: %w: %w", name, errDigest, why) }

// Next copies the next member to w and returns which it was, or io.EOF after the
// last. Only with no error is what w got what was signed. An error for which
// [IsDigest] is false ends the archive.
func (a *Reader) Next(w io.Writer) (File, error) {
	if a.next == len(a.Files) {
		if _, err := a.tar.Next(); !errors.Is(err, io.EOF) {
			return File{}, errors.New("there are members after the last that was signed")
		}
		return File{}, io.EOF
	}
	f := a.Files[a.next]
	a.next++
	h, err := a.tar.Next()
	if err != nil {
		return f, unexpected(err)
	}
	if h.Name != f.Name || h.Typeflag != tar.TypeReg || h.Size != f.Size {
		return f, fmt.Errorf("the member %q of %d bytes, where %q of %d was signed", h.Name, h.Size, f.Name, f.Size)
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, sum), a.tar); err != nil {
		return f, unexpected(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != f.SHA256 {
		return f, fmt.Errorf("%s: %w: sha256 %s, signed %s", f.Name, errDigest, got, f.SHA256)
	}
	return f, nil
}

// unexpected names an end that comes too early.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Close frees what the reader holds.
func (a *Reader) Close() { a.zstd.Close() }

// FileOf describes a file as it is now.
func FileOf(name, file string, size int64, sha256 string) File {
	return File{Name: name, Size: size, SHA256: sha256, Open: func() (io.ReadCloser, error) { return os.Open(file) }}
}

// DataOf describes a member that is in memory.
func DataOf(name string, data []byte) File {
	return File{Name: name, Size: int64(len(data)), SHA256: digest.Bytes(data), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}
