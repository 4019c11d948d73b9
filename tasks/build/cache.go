package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/digest"
)

// cache keeps the results of stages by what they were made from:
//
//	CACHE/stages/NAME/KEY/record.json   inputs, outputs, time
//	CACHE/stages/NAME/KEY/0, 1, …       the outputs, in the record's order
//
// An entry appears whole, by rename of its folder. Its files are read and
// compared with the record before they are used; one that differs makes the
// whole entry go. Files are shared with the output folder by hard link where
// the file system allows it, which is safe for the same reason: a file that
// was changed through one name no longer has the recorded digest under the
// other.
type cache struct {
	dir   string
	limit int64 // bytes; the entries used longest ago go first
}

// defaultLimit holds about a dozen variants of the minimal image.
const defaultLimit = 10 << 30

func (b *Build) cache() cache {
	return cache{dir: filepath.Join(b.CacheDir, "stages"), limit: b.CacheLimit}
}

func (c cache) entry(stage, key string) string { return filepath.Join(c.dir, stage, key) }

// has tells whether there is an entry, without reading its files.
func (c cache) has(stage, key string) bool {
	_, err := os.Stat(filepath.Join(c.entry(stage, key), recordName))
	return err == nil
}

const recordName = "record.json"

// whole reads the record of the entry of this key in dir and compares its files
// with it.
func (c cache) whole(dir, want string) (record, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, errors.New("its record is damaged")
	}
	if r.Key != want || r.Key != key(r.Inputs) {
		return record{}, errors.New("its record is that of another entry")
	}
	for i, o := range r.Outputs {
		sum, err := digest.File(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return record{}, err
		}
		if sum != o.SHA256 {
			return record{}, fmt.Errorf("%s is damaged", filepath.Base(o.Path))
		}
	}
	return r, nil
}

// restore puts the outputs of the stage in place if an entry for its inputs is
// there and whole.
func (c cache) restore(b *Build, s stage, in map[string]string) (record, bool) {
	dir := c.entry(s.name, key(in))
	if !s.cached {
		return record{}, false
	}
	r, err := c.whole(dir, key(in))
	if errors.Is(err, fs.ErrNotExist) && !c.has(s.name, key(in)) {
		return record{}, false
	}
	want := s.outputs(b)
	if err == nil && len(r.Outputs) != len(want) {
		err = errors.New("its record is damaged")
	}
	if err != nil {
		c.drop(b, s.name, dir, err.Error())
		return record{}, false
	}
	for i, path := range want {
		if err := link(filepath.Join(dir, strconv.Itoa(i)), path); err != nil {
			b.log.event(s.name, "the cache cannot be used: %v", err)
			return record{}, false
		}
	}
	now := time.Now()
	_ = os.Chtimes(filepath.Join(dir, recordName), now, now) // used: prune takes it later
	return r, true
}

func (c cache) drop(b *Build, stage, dir, why string) {
	b.log.event(stage, "dropped a cache entry: %s", why)
	_ = os.RemoveAll(dir)
}

// keep puts the finished stage into the cache and prunes it. The stage's own
// record must have been written.
func (c cache) keep(b *Build, s stage) error {
	if !s.cached {
		return nil
	}
	r, err := b.load(s.name)
	if err != nil {
		return err
	}
	dir := c.entry(s.name, r.Key)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), "part-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(part)
	for i, o := range r.Outputs {
		if err := link(o.Path, filepath.Join(part, strconv.Itoa(i))); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(part, recordName), 0o644, data); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Rename(part, dir); err != nil {
		return err
	}
	// Linking has changed the outputs' change time; the record must not send
	// the next build to read them all again.
	if _, err := b.record(s, r.Inputs, r.took()); err != nil {
		return err
	}
	_, err = c.prune()
	return err
}

// link makes to the same file as from, or a copy where that cannot be. It
// replaces to by rename.
func link(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	part := to + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(from, part); err != nil {
		if err := copyFile(from, part); err != nil {
			return errors.Join(err, os.Remove(part))
		}
	}
	return os.Rename(part, to)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Sync(), out.Close())
}

// cacheEntry is one entry, for pruning and listing.
type cacheEntry struct {
	dir  string
	size int64
	used time.Time
}

func (c cache) entries() ([]cacheEntry, error) {
	dirs, err := filepath.Glob(filepath.Join(c.dir, "*", "*"))
	if err != nil {
		return nil, err
	}
	var list []cacheEntry
	for _, dir := range dirs {
		e := cacheEntry{dir: dir}
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // another build is pruning, too
		}
		for _, f := range files {
			info, err := f.Info()
			if err != nil {
				continue
			}
			e.size += info.Size()
			if f.Name() == recordName {
				e.used = info.ModTime()
			}
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b cacheEntry) int { return a.used.Compare(b.used) })
	return list, nil
}

// abandoned is the age at which a part- folder can no longer be another
// build's that is just being written.
const abandoned = time.Hour

// prune removes the entries used longest ago until the cache is within its
// limit, and what killed builds left. It returns the bytes it removed.
func (c cache) prune() (removed int64, err error) {
	list, err := c.entries()
	if err != nil {
		return 0, err
	}
	var total int64
	for _, e := range list {
		total += e.size
	}
	var errs []error
	for _, e := range list {
		if strings.HasPrefix(filepath.Base(e.dir), "part-") {
			if info, err := os.Stat(e.dir); err != nil || time.Since(info.ModTime()) < abandoned {
				continue
			}
		} else if total <= c.limit {
			continue
		}
		if err := os.RemoveAll(e.dir); err != nil {
			errs = append(errs, err)
			continue
		}
		total -= e.size
		removed += e.size
	}
	return removed, errors.Join(errs...)
}

// PruneCache brings the cache below its limit now and says what went.
func PruneCache(o Options) error {
	c := cache{dir: filepath.Join(o.CacheDir, "stages"), limit: o.CacheLimit}
	removed, err := c.prune()
	if err != nil {
		return err
	}
	list, err := c.entries()
	if err != nil {
		return err
	}
	var total int64
	for _, e := range list {
		total += e.size
	}
	fmt.Fprintf(o.Stderr, "cache: removed %s; %d entries with %s are within the limit of %s\n", size(removed), len(list), size(total), size(c.limit))
	return nil
}

// parseLimit reads CC_CACHE_LIMIT: a number of bytes, or with K, M, G or T of
// 1024 to that power.
func parseLimit(text string) (int64, error) {
	if text == "" {
		return defaultLimit, nil
	}
	shift := map[byte]uint{'K': 10, 'M': 20, 'G': 30, 'T': 40}[text[len(text)-1]]
	digits := text
	if shift > 0 {
		digits = text[:len(text)-1]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("CC_CACHE_LIMIT is %q; allowed: bytes, or a number with K, M, G or T", text)
	}
	return n << shift, nil
}
