// Package undo remembers what a build makes outside its output folder, so that
// a build that was killed, and could not clean up, is cleaned up after by the
// next one. The record is written before the thing is made: a name that was
// never made is easily removed, one that nobody wrote down never is.
//
// Mounts and processes need no record here. They live in namespaces that end
// with the build.
package undo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/sh"
)

// Journal is the record of one output folder. Its owner holds that folder's
// lock, and calls one method at a time.
type Journal struct {
	File string // where the record is kept
}

// prefix marks the folders that a journal makes. Nothing of another name is
// ever removed, whatever stands in the file.
const prefix = "cc-base-tmp-"

// TempDir makes a new empty folder in the system's place for temporary files.
// Others may look into it but not write: mmdebstrap's unshare mode works in it
// with users of /etc/subuid, who must be able to reach it.
func (j Journal) TempDir() (string, error) {
	random := make([]byte, 8)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	dir := filepath.Join(os.TempDir(), prefix+hex.EncodeToString(random))
	paths, err := j.read()
	if err != nil {
		return "", err
	}
	if err := j.write(append(paths, dir)); err != nil {
		return "", err
	}
	return dir, os.Mkdir(dir, 0o755)
}

// Replay removes everything in the record and then the record. What cannot be
// removed stays in it and is an error.
func (j Journal) Replay(ctx context.Context, run sh.Runner) error {
	return j.removeThose(ctx, run, func(string) bool { return true })
}

// Remove removes one folder of the record, as Replay does all.
func (j Journal) Remove(ctx context.Context, run sh.Runner, dir string) error {
	return j.removeThose(ctx, run, func(path string) bool { return path == dir })
}

func (j Journal) removeThose(ctx context.Context, run sh.Runner, meant func(path string) bool) error {
	paths, err := j.read()
	if err != nil || len(paths) == 0 {
		return err
	}
	var left []string
	var errs []error
	for _, path := range paths {
		if !meant(path) {
			left = append(left, path)
			continue
		}
		if err := remove(ctx, run, path); err != nil {
			left, errs = append(left, path), append(errs, fmt.Errorf("%s, left by an earlier build: %w", path, err))
		}
	}
	return errors.Join(append(errs, j.write(left))...)
}

func (j Journal) read() ([]string, error) {
	data, err := os.ReadFile(j.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var paths []string
	if err := json.Unmarshal(data, &paths); err != nil {
		return nil, fmt.Errorf("%s: %w", j.File, err)
	}
	return paths, nil
}

func (j Journal) write(paths []string) error {
	if len(paths) == 0 {
		return atomicfile.Remove(j.File)
	}
	data, err := json.Marshal(paths)
	if err != nil {
		return err
	}
	return atomicfile.Write(j.File, 0o644, data)
}

// remove removes one folder. Files of mapped users, which an ordinary user may
// not touch, go by the same mapping that made them.
func remove(ctx context.Context, run sh.Runner, path string) error {
	if !strings.HasPrefix(filepath.Base(path), prefix) || !filepath.IsAbs(path) {
		return errors.New("not a folder that a build makes; remove it from the record by hand")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if mountedBelow(string(mounts), path) {
		return errors.New("something is mounted in it; unmount that first")
	}
	err = os.RemoveAll(path)
	if errors.Is(err, fs.ErrPermission) {
		if err := sh.Do(ctx, run, "mmdebstrap", "--unshare-helper", "rm", "-rf", "--", path); err != nil {
			return err
		}
		return os.RemoveAll(path)
	}
	return err
}

// mountedBelow tells whether a mount point of mountinfo lies at or below path
// (proc_pid_mountinfo(5): the fifth field, blanks as \040).
func mountedBelow(mountinfo, path string) bool {
	return slices.ContainsFunc(strings.Split(mountinfo, "\n"), func(line string) bool {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			return false
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		return at == path || strings.HasPrefix(at, path+"/")
	})
}
