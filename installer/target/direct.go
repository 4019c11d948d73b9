package target

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// usual is what a device asks of offsets and memory that go past the page
	// cache when the kernel does not tell (before Linux 6.1), bytes. It is a
	// multiple of all that devices ask.
	usual = 4096

	// unsynced is how many bytes the page cache may hold back, where there is no
	// way past it, before they are sent to the device: so that progress is what
	// is on the disk.
	unsynced = 256 << 20
)

// Disk is an open target that is read and written without the page cache where
// the device takes it (O_DIRECT), so that a write is as fast as the device, an
// error comes with the write it belongs to, and what is read is what the device
// returns. Parts that are not aligned, and the whole of a device that does not
// take it, go through the page cache; [Disk.Forget] makes their next read come
// from the device too. Several goroutines may read and write at once.
type Disk struct {
	*os.File          // through the page cache
	direct   *os.File // past it; nil: there is no way past it
	offset   int64    // what offset and length must be a multiple of, bytes
	memory   uintptr  // and the address of the memory
	refused  atomic.Bool
	held     atomic.Int64 // bytes written through the page cache since the last sync
}

// Direct returns the disk of f, an open target. The caller closes both.
func Direct(f *os.File) *Disk {
	d := &Disk{File: f}
	// The same inode, whatever the path stands for by now.
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return d
	}
	d.direct, d.offset, d.memory = os.NewFile(uintptr(fd), f.Name()), usual, usual
	var st unix.Statx_t
	err = unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Dio_offset_align > 0 && st.Dio_mem_align > 0 {
		d.offset, d.memory = int64(st.Dio_offset_align), uintptr(st.Dio_mem_align)
	}
	return d
}

// Close closes what [Direct] has opened, and not the file it was made of.
func (d *Disk) Close() error {
	if d.direct == nil {
		return nil
	}
	return d.direct.Close()
}

// Past tells whether the page cache is left out.
func (d *Disk) Past() bool { return d.direct != nil && !d.refused.Load() }

// WriteAt implements [io.WriterAt].
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.past(p, off, (*os.File).WriteAt)
	if err != nil || n == len(p) {
		return n, err
	}
	m, err := d.File.WriteAt(p[n:], off+int64(n))
	if d.held.Add(int64(m)) >= unsynced && err == nil {
		err = d.Sync()
	}
	return n + m, err
}

// ReadAt implements [io.ReaderAt].
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.past(p, off, (*os.File).ReadAt)
	if err != nil || n == len(p) {
		return n, err
	}
	m, err := d.File.ReadAt(p[n:], off+int64(n))
	return n + m, err
}

// past does what can be done of p past the page cache, and returns how much
// that was.
func (d *Disk) past(p []byte, off int64, do func(*os.File, []byte, int64) (int, error)) (int, error) {
	if !d.Past() || off%d.offset != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(p)))%d.memory != 0 {
		return 0, nil
	}
	n, err := do(d.direct, p[:int64(len(p))/d.offset*d.offset], off)
	if errors.Is(err, unix.EINVAL) {
		// It was opened for it and refuses it all the same: a driver or file
		// system on top of one that asks for more.
		d.refused.Store(true)
		return n, nil
	}
	return n, err
}

// Sync implements [cc-base/installer/write.Device].
func (d *Disk) Sync() error {
	d.held.Store(0)
	return d.File.Sync()
}

// Zero makes a part of the disk read as zeros, by the device's own means where
// it has some. An error in whose chain [errors.ErrUnsupported] is has changed
// nothing.
func (d *Disk) Zero(off, length int64) error {
	info, err := d.Stat()
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		err = unix.Fallocate(int(d.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	} else {
		area := [2]uint64{uint64(off), uint64(length)}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&area)))
		if err = nil; errno != 0 {
			err = errno
		}
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	case err != nil:
		return os.NewSyscallError("zeroing", err)
	}
	return nil
}

// Forget drops what the page cache holds of the disk, so that the next read
// comes from the device. Data must have been synced.
func (d *Disk) Forget() error { return unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED) }
