package build

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/sign"
	"cc-base/tasks/signedtar"
)

// cacheKind marks an archive of stage results, so that nothing else that the same
// key has signed passes for one.
const cacheKind = "cc-base stage results, version 1"

// ExportCache writes the results of stages that the cache has to one archive,
// signed as the installer would be, for other machines to import. What is damaged
// stays out.
func ExportCache(ctx context.Context, o Options, file string) error {
	if file == "" {
		return fault.Newf(fault.Usage, "where to?").Hint("mage cache:export -o=FILE")
	}
	config, err := o.config()
	if err != nil {
		return err
	}
	b := &Build{Options: o, Config: config}
	files, entries, err := b.cache().members()
	if err != nil {
		return fault.New(fault.SharedCache, err)
	}
	choice, err := b.signing()
	if err != nil {
		return err
	}
	if choice.Source == sign.Unsigned {
		return fault.Newf(fault.SharedCache, "an archive without a signature is of no use: nobody imports it").Hint("set %s", sign.KeyFileEnv)
	}
	key, err := choice.Key(sign.Passphrase(ctx, o.LookupEnv), b.projectKey())
	if err != nil {
		return err
	}
	defer key.Wipe()
	err = atomicfile.Fill(file, 0o644, func(w io.Writer) error {
		return signedtar.Write(ctx, w, cacheKind, files, func(data []byte) ([]byte, error) {
			var signature bytes.Buffer
			err := key.Detach(&signature, bytes.NewReader(data), time.Time{})
			return signature.Bytes(), err
		})
	})
	if err != nil {
		return fault.New(fault.SharedCache, err).Hint("export again when no build runs")
	}
	fmt.Fprintf(o.Stderr, "cache: %s: %s, %s, signed by %s\n", file, count(entries, "result"), fileSize(file), key.Fingerprint())
	return nil
}

// members are the files of an archive: for each entry that is whole its record,
// free of what is this machine's alone, and its outputs.
func (c cache) members() (files []signedtar.File, entries int, err error) {
	list, err := c.entries()
	if err != nil {
		return nil, 0, err
	}
	for _, e := range list {
		name := path.Join(filepath.Base(filepath.Dir(e.dir)), filepath.Base(e.dir))
		r, err := c.whole(e.dir, filepath.Base(e.dir))
		if err != nil {
			continue // a build will drop it
		}
		for i := range r.Outputs {
			o := &r.Outputs[i]
			files = append(files, signedtar.FileOf(path.Join(name, strconv.Itoa(i)), filepath.Join(e.dir, strconv.Itoa(i)), o.Size, o.SHA256))
			o.Path, o.Inode, o.CTime = filepath.Base(o.Path), 0, 0
		}
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return nil, 0, err
		}
		files = append(files, signedtar.DataOf(path.Join(name, recordName), data))
		entries++
	}
	return files, entries, nil
}

// ImportCache puts the results of an archive into the cache that are not there.
// keys are files with the public keys that may have signed it; none means the
// project's own key. An archive that they have not signed is left alone and a
// result that is not what was signed is left out, each with a warning: a build
// does without, and a runner must not fail for a bad cache.
func ImportCache(ctx context.Context, o Options, file string, keys []string) error {
	if file == "" {
		return fault.Newf(fault.Usage, "from where?").Hint("mage cache:import -file=FILE")
	}
	if len(keys) == 0 {
		keys = []string{filepath.Join(o.OutDir, "keys", sign.PublicName)}
	}
	var armoured [][]byte
	for _, name := range keys {
		data, err := os.ReadFile(name)
		if err != nil {
			return fault.Newf(fault.SigningKey, "public key: %w", err).Hint("name the key of whoever made the archive: -keys=FILE")
		}
		armoured = append(armoured, data)
	}
	in, err := os.Open(file)
	if err != nil {
		return fault.New(fault.SharedCache, err)
	}
	defer in.Close()
	warn := func(err error) {
		fmt.Fprintf(o.Stderr, "cache: warning: %s: %v (%s)\n", file, err, fault.SharedCache)
	}
	archive, err := signedtar.Open(in, cacheKind, armoured)
	if err != nil {
		warn(fmt.Errorf("nothing was imported: %w", err))
		return nil
	}
	defer archive.Close()
	c := cache{dir: filepath.Join(o.CacheDir, "stages"), limit: o.CacheLimit}
	added, had, err := c.take(ctx, archive, warn)
	fmt.Fprintf(o.Stderr, "cache: %s: %s added, %d were there, signed by %s\n", file, count(added, "result"), had, archive.Signature.Fingerprint)
	return err
}

// memberName is that of a member: stage, key, file.
var memberName = regexp.MustCompile(`^([a-z]+)/([0-9a-f]{64})/(record\.json|[0-9]{1,3})$`)

// take adds the entries of the archive. Members of one entry stand together,
// because an archive is sorted by name.
func (c cache) take(ctx context.Context, archive *signedtar.Reader, warn func(error)) (added, had int, err error) {
	for _, f := range archive.Files {
		m := memberName.FindStringSubmatch(f.Name)
		if m == nil || !slices.ContainsFunc(stages(), func(s stage) bool { return s.cached && s.name == m[1] }) {
			warn(fmt.Errorf("nothing was imported: %q is no result of a stage", f.Name))
			return 0, 0, nil
		}
	}
	for _, files := range byEntry(archive.Files) {
		if err := ctx.Err(); err != nil {
			return added, had, err
		}
		dir := filepath.Join(c.dir, filepath.FromSlash(path.Dir(files[0].Name)))
		if _, err := os.Stat(dir); err == nil {
			had++
			dir = ""
		}
		good, err := c.takeOne(archive, files, dir)
		if err != nil && !signedtar.IsDigest(err) {
			warn(fmt.Errorf("the rest was not imported: %w", err))
			return added, had, nil
		}
		if err != nil {
			warn(err)
		}
		if !good {
			continue
		}
		added++
		if _, err := c.prune(); err != nil {
			return added, had, err
		}
	}
	if _, err := archive.Next(io.Discard); !errors.Is(err, io.EOF) {
		warn(err)
	}
	return added, had, nil
}

// byEntry groups members that stand together.
func byEntry(files []signedtar.File) (groups [][]signedtar.File) {
	for i, f := range files {
		if i == 0 || path.Dir(f.Name) != path.Dir(files[i-1].Name) {
			groups = append(groups, nil)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], f)
	}
	return groups
}

// takeOne reads the members of one entry, and makes it at dir unless that is empty
// or one of them is not good. An error for a content is that of one member; after
// any other nothing more can be read.
func (c cache) takeOne(archive *signedtar.Reader, files []signedtar.File, dir string) (good bool, err error) {
	if dir == "" {
		return false, each(files, func(signedtar.File) error { _, err := archive.Next(io.Discard); return err })
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return false, err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), "part-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(part)
	err = each(files, func(f signedtar.File) error {
		return atomicfile.Fill(filepath.Join(part, path.Base(f.Name)), 0o644, func(w io.Writer) error {
			_, err := archive.Next(w)
			return err
		})
	})
	if err != nil {
		return false, err
	}
	r, err := c.whole(part, filepath.Base(dir))
	if err == nil && len(r.Outputs) != len(files)-1 {
		err = errors.New("it has other files than its record")
	}
	if err != nil {
		return false, signedtar.Refuse(path.Dir(files[0].Name), err)
	}
	if err := os.Rename(part, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err // another build has made it meanwhile
	}
	return true, nil
}

// each does all, whatever the content of one is, and returns the first such error.
func each(files []signedtar.File, do func(signedtar.File) error) (first error) {
	for _, f := range files {
		err := do(f)
		if err != nil && !signedtar.IsDigest(err) {
			return err
		}
		first = cmp.Or(first, err)
	}
	return first
}
