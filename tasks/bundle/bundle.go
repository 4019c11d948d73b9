// Package bundle packs the installer: a deterministic tar.gz with its own list
// of checksums.
//
//	res, err := bundle.WriteFile(ctx, "out/nvidia-cc-installer.tar.gz", []bundle.Entry{
//		{Name: "installer/install.sh", Source: "installer/install.sh", Mode: 0o755},
//		{Name: "installer/cc-base.qcow2", Source: "out/cc-base.qcow2", Mode: 0o644, Incompressible: true},
//		{Name: "installer/manifest.json", Data: manifest, Mode: 0o644},
//	}, bundle.Options{Epoch: epoch})
//
// Equal entries, epoch and module versions give equal bytes: names are sorted,
// owners are 0 and nameless, every time stamp is the epoch, and the block size
// of the compressor, not the number of processors, decides where a block ends.
// Every source is read once; its digest, the list SHA256SUMS and the digest of
// the result come from that same pass.
package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
)

// SumsName is the file name of the list of checksums in the top folder. It
// comes after all other files, because it is made from what was streamed.
const SumsName = "SHA256SUMS"

// Entry is one regular file of the bundle.
type Entry struct {
	// Name in the archive with slashes, the top folder first
	// (installer/install.sh). All entries share one top folder. Letters,
	// digits and ._+~=,@- only, so that no line of SHA256SUMS needs the
	// escapes that older sha256sum programs do not know.
	Name string

	// Source is the file to read; it must be a regular file and no symlink.
	// When it is empty, Data is the content.
	Source string
	Data   []byte

	// Mode holds permission bits; none beyond 0755, and not 0.
	Mode os.FileMode

	// SHA256, when not empty, is the digest (64 lower-case hexadecimal
	// digits) that an earlier stage recorded. Other content is an error with
	// code [fault.Damaged].
	SHA256 string

	// Incompressible stores the content uncompressed, for ciphertext and
	// content that is compressed already.
	Incompressible bool
}

// Options hold what is not per entry.
type Options struct {
	// Epoch is the modification time of everything, in seconds since 1970,
	// from 0 to 8589934591 (what a ustar header can hold).
	Epoch int64

	// SignSums, when set, gets the content of SHA256SUMS and returns its
	// detached signature, which is stored behind it as SHA256SUMS.asc.
	SignSums func(sums []byte) ([]byte, error)

	// Progress, when set, is called with the number of content bytes read so
	// far and their total, from the goroutine that called [Write].
	Progress func(done, total int64)
}

// Result tells what was written.
type Result struct {
	// Files lists every regular file but SHA256SUMS and its signature, with
	// paths relative to the top folder, sorted by path.
	Files  []manifest.File
	Sums   []byte // content of SHA256SUMS
	Size   int64  // bytes of the compressed stream
	SHA256 string // of the compressed stream, lower-case hexadecimal
}

// maxEpoch is the largest value of the 11 octal digits of a ustar header; a
// larger one would need a PAX record for every file.
const maxEpoch = 1<<33 - 1

// Write streams the entries to out as a gzip-compressed tar archive. Nothing is
// written before every name, mode and source was checked. A source that is
// missing, is not a regular file, or changes while it is read is an error, and
// what out holds by then is of no use; see [WriteFile].
func Write(ctx context.Context, out io.Writer, entries []Entry, opts Options) (Result, error) {
	p, err := newPlan(entries, opts)
	if err != nil {
		return Result{}, err
	}
	sum := sha256.New()
	counter := &countWriter{w: io.MultiWriter(out, sum)}
	zip, err := newMembers(counter)
	if err != nil {
		return Result{}, err
	}
	files, sums, err := p.stream(ctx, zip)
	if err != nil {
		zip.abort()
		return Result{}, err
	}
	if err := zip.Close(); err != nil {
		return Result{}, fmt.Errorf("compress: %w", err)
	}
	return Result{
		Files:  files,
		Sums:   sums,
		Size:   counter.n,
		SHA256: hex.EncodeToString(sum.Sum(nil)),
	}, nil
}

// plan is a checked list: what goes in, in which order.
type plan struct {
	opts  Options
	top   string
	items []item
	total int64 // bytes of content
	done  int64
}

// item is an entry with the size that was seen, or a folder.
type item struct {
	Entry
	dir  bool
	size int64
}

// plainName matches one path element that every tar, shell and sha256sum
// takes as it is.
var plainName = regexp.MustCompile(`^[A-Za-z0-9._+~=,@][A-Za-z0-9._+~=,@-]*$`)

func newPlan(entries []Entry, opts Options) (*plan, error) {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if opts.Epoch < 0 || opts.Epoch > maxEpoch {
		fail("epoch %d is outside 0..%d", opts.Epoch, int64(maxEpoch))
	}
	if len(entries) == 0 {
		return nil, errors.Join(append(errs, errors.New("nothing to pack"))...)
	}
	p := &plan{opts: opts}
	p.top, _, _ = strings.Cut(entries[0].Name, "/")
	seen := map[string]bool{} // name -> is a folder
	for _, e := range entries {
		if err := p.checkName(e.Name); err != nil {
			fail("%w", err)
			continue
		}
		if e.Mode == 0 || e.Mode&^os.FileMode(0o755) != 0 {
			fail("%s: mode %#o is not within 0755", e.Name, uint32(e.Mode))
		}
		size, err := e.size()
		if err != nil {
			fail("%s: %w", e.Name, err)
		}
		if _, ok := seen[e.Name]; ok {
			fail("%s: given twice, or also a folder", e.Name)
		}
		seen[e.Name] = false
		for dir := path.Dir(e.Name); dir != "."; dir = path.Dir(dir) {
			isDir, ok := seen[dir]
			if ok && !isDir {
				fail("%s: a file and also a folder", dir)
			}
			if ok {
				break
			}
			seen[dir] = true
			p.items = append(p.items, item{dir: true, Entry: Entry{Name: dir + "/", Mode: 0o755}})
		}
		p.items = append(p.items, item{Entry: e, size: size})
		p.total += size
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	// A folder's name ends with a slash here, so it sorts before its content.
	slices.SortFunc(p.items, func(a, b item) int { return strings.Compare(a.Name, b.Name) })
	return p, nil
}

func (p *plan) checkName(name string) error {
	parts := strings.Split(name, "/")
	if len(parts) < 2 {
		return fmt.Errorf("%q: not inside a top folder", name)
	}
	if parts[0] != p.top {
		return fmt.Errorf("%q: not inside the top folder %q of the others", name, p.top)
	}
	for _, part := range parts {
		if part == "." || part == ".." || !plainName.MatchString(part) {
			return fmt.Errorf("%q: only letters, digits and ._+~=,@- are possible in a name", name)
		}
	}
	if len(parts) == 2 && (parts[1] == SumsName || parts[1] == SumsName+".asc") {
		return fmt.Errorf("%q: made here, cannot be given", name)
	}
	return nil
}

// size looks at the source without following a symlink: what a link points to
// is decided by whoever can write there, not by the build.
func (e Entry) size() (int64, error) {
	if e.Source == "" {
		return int64(len(e.Data)), nil
	}
	if e.Data != nil {
		return 0, errors.New("has both a source and data")
	}
	st, err := os.Lstat(e.Source)
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, fmt.Errorf("%s: not a regular file (%s)", e.Source, st.Mode().Type())
	}
	return st.Size(), nil
}

func (p *plan) stream(ctx context.Context, zip *members) ([]manifest.File, []byte, error) {
	tw := tar.NewWriter(zip)
	var files []manifest.File
	for _, it := range p.items {
		if err := zip.use(false); err != nil {
			return nil, nil, err
		}
		if err := tw.WriteHeader(p.header(it)); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", it.Name, err)
		}
		if it.dir {
			continue
		}
		if err := zip.use(it.Incompressible); err != nil {
			return nil, nil, err
		}
		digest, err := p.content(ctx, tw, it)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", it.Name, err)
		}
		// The padding belongs to the body: written now, before the next
		// header changes the gzip member.
		if err := tw.Flush(); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", it.Name, err)
		}
		files = append(files, manifest.File{Path: strings.TrimPrefix(it.Name, p.top+"/"), Size: it.size, SHA256: digest})
	}
	if err := zip.use(false); err != nil {
		return nil, nil, err
	}
	sums := sumLines(files)
	if err := p.trailer(tw, sums); err != nil {
		return nil, nil, err
	}
	if err := tw.Close(); err != nil {
		return nil, nil, fmt.Errorf("tar: %w", err)
	}
	return files, sums, nil
}

// trailer writes SHA256SUMS and, where asked for, its signature.
func (p *plan) trailer(tw *tar.Writer, sums []byte) error {
	add := func(name string, data []byte) error {
		it := item{Entry: Entry{Name: p.top + "/" + name, Mode: 0o644}, size: int64(len(data))}
		if err := tw.WriteHeader(p.header(it)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := tw.Write(data); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	if err := add(SumsName, sums); err != nil || p.opts.SignSums == nil {
		return err
	}
	sig, err := p.opts.SignSums(sums)
	if err != nil {
		return fmt.Errorf("sign %s: %w", SumsName, err)
	}
	return add(SumsName+".asc", sig)
}

// header leaves Format open: archive/tar then takes ustar where everything
// fits and PAX where it does not (a file of 8 GiB or more), and PAX holds just
// the record that is needed, because no access time, owner name or fraction of
// a second is set.
func (p *plan) header(it item) *tar.Header {
	h := &tar.Header{
		Typeflag: tar.TypeReg,
		Name:     it.Name,
		Mode:     int64(it.Mode.Perm()),
		Size:     it.size,
		ModTime:  time.Unix(p.opts.Epoch, 0),
	}
	if it.dir {
		h.Typeflag = tar.TypeDir
	}
	return h
}

// content copies one entry and returns its digest.
func (p *plan) content(ctx context.Context, w io.Writer, it item) (string, error) {
	h := sha256.New()
	if err := p.copySource(ctx, io.MultiWriter(w, h), it); err != nil {
		return "", err
	}
	digest := hex.EncodeToString(h.Sum(nil))
	if it.SHA256 != "" && it.SHA256 != digest {
		return "", fault.Newf(fault.Damaged, "sha256 is %s, %s was recorded", digest, it.SHA256)
	}
	return digest, nil
}

func (p *plan) copySource(ctx context.Context, w io.Writer, it item) error {
	if it.Source == "" {
		return p.copyExactly(ctx, w, bytes.NewReader(it.Data), it.size)
	}
	// O_NOFOLLOW because the check in newPlan is some time ago.
	f, err := os.OpenFile(it.Source, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return err
	}
	if !before.Mode().IsRegular() || before.Size() != it.size {
		return fmt.Errorf("%s: changed since it was checked", it.Source)
	}
	if err := p.copyExactly(ctx, w, f, it.size); err != nil {
		return fmt.Errorf("%s: %w", it.Source, err)
	}
	after, err := f.Stat()
	if err != nil {
		return err
	}
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return fmt.Errorf("%s: changed while it was read", it.Source)
	}
	return nil
}

// copyExactly copies size bytes and insists on the end after them.
func (p *plan) copyExactly(ctx context.Context, w io.Writer, r io.Reader, size int64) error {
	buf := make([]byte, 1<<20)
	for left := size; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		if int64(n) > left {
			return fmt.Errorf("grew beyond %d bytes while it was read", size)
		}
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			left -= int64(n)
			p.done += int64(n)
			if p.opts.Progress != nil {
				p.opts.Progress(p.done, p.total)
			}
		}
		if err == io.EOF && left == 0 {
			return nil
		}
		if err == io.EOF {
			return fmt.Errorf("ended %d bytes early", left)
		}
		if err != nil {
			return err
		}
	}
}

// sumLines formats files (sorted by path) as sha256sum -c reads it.
func sumLines(files []manifest.File) []byte {
	slices.SortFunc(files, func(a, b manifest.File) int { return strings.Compare(a.Path, b.Path) })
	var b bytes.Buffer
	for _, f := range files {
		fmt.Fprintf(&b, "%s  %s\n", f.SHA256, f.Path)
	}
	return b.Bytes()
}
