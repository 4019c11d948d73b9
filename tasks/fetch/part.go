package fetch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"cc-base/tasks/atomicfile"
)

// partFile is a <sum>.part, held under an advisory lock: two builds that want
// the same file would otherwise write it together. The lock is on the open
// file, so it ends with the process, however that ends.
type partFile struct {
	path string
	f    *os.File
}

// lockPart opens or makes the part and waits for its lock.
func lockPart(ctx context.Context, path string) (*partFile, error) {
	for {
		p, err := tryPart(path)
		if err != nil || p != nil {
			return p, err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// tryPart returns nil and no error when another one holds the lock, or held it
// and has meanwhile renamed or removed the file that was opened here.
func tryPart(path string) (*partFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, f.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: lock: %w", path, err), f.Close())
	}
	now, err := os.Lstat(path)
	if err != nil || !os.SameFile(st, now) {
		return nil, f.Close()
	}
	return &partFile{path: path, f: f}, nil
}

func (p *partFile) size() (int64, error) {
	st, err := p.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// truncate empties the part instead of removing it, because the lock is on it.
func (p *partFile) truncate() error { return p.f.Truncate(0) }

// publish gives the part its final name. It is not atomicfile.Publish because
// the part is resumed, not made anew, and the lock is on this descriptor. grab has closed it by now and ignored
// what close said; Sync reports the write errors of the file, and its digest
// was taken from what reading it back gave.
func (p *partFile) publish(final string) error {
	if err := p.f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(p.path, final); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(final))
}

// release removes an empty part, which nobody can resume, and then unlocks.
func (p *partFile) release() {
	if size, err := p.size(); err == nil && size == 0 {
		_ = os.Remove(p.path)
	}
	_ = p.f.Close()
}
