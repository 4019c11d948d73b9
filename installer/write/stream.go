package write

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"unsafe"

	"golang.org/x/sync/errgroup"
)

const (
	// chunk is one read or write in bytes: dd's usual block size for a disk, and
	// large enough that a disk is busy although one write waits for the other.
	chunk = 4 << 20

	// alignment is what the kernel may ask of memory that a device reads and
	// writes without the page cache, bytes; no page and no sector is larger
	// where this runs.
	alignment = 4096
)

// stage looks at the pieces of a stream.
type stage struct {
	// do gets a piece that begins at bytes from the stream's start. It must not
	// change the piece, and not keep it.
	do func(piece []byte, at int64) error
	// lanes is how many pieces do works on at once, at least 1. More than one
	// loses their order.
	lanes int
}

// stream reads length bytes and hands them, piece by piece, to every stage in
// turn. Reading and the stages overlap, each lane with a buffer of its own; all
// of them have ended when stream returns. A stage that waits for a device is
// waited for: the kernel does not let go of the buffer before.
func stream(ctx context.Context, from io.ReaderAt, length int64, stages ...stage) error {
	type piece struct {
		bytes []byte
		at    int64
	}
	buffers := 1
	for _, s := range stages {
		buffers += s.lanes
	}
	free := make(chan []byte, buffers)
	for range buffers {
		free <- alignedBuffer(int(min(chunk, (length+alignment-1)/alignment*alignment)))
	}
	g, ctx := errgroup.WithContext(ctx)
	read := make(chan piece)
	g.Go(func() error {
		defer close(read)
		for at := int64(0); at < length; at += chunk {
			buffer, ok := receive(ctx, free)
			if !ok {
				return ctx.Err()
			}
			b := buffer[:min(chunk, length-at)]
			if n, err := from.ReadAt(b, at); n < len(b) {
				return &offsetError{"reading", at + int64(n), int64(len(b) - n), noEOF(err)}
			}
			if !send(ctx, read, piece{b, at}) {
				return ctx.Err()
			}
		}
		return nil
	})
	in := read
	for i, stage := range stages {
		from, to, last := in, make(chan piece), i == len(stages)-1
		lane := func() error {
			for {
				p, ok := receive(ctx, from)
				if !ok {
					return ctx.Err()
				}
				if err := stage.do(p.bytes, p.at); err != nil {
					return err
				}
				if last {
					free <- p.bytes[:cap(p.bytes)] // never blocks: there is room for all
				} else if !send(ctx, to, p) {
					return ctx.Err()
				}
			}
		}
		var lanes sync.WaitGroup
		for range stage.lanes {
			lanes.Add(1)
			g.Go(func() error {
				defer lanes.Done()
				return lane()
			})
		}
		g.Go(func() error {
			lanes.Wait()
			close(to)
			return nil
		})
		in = to
	}
	return g.Wait()
}

// receive returns false when ctx has ended, or nothing more will come.
func receive[T any](ctx context.Context, c <-chan T) (v T, ok bool) {
	if ctx.Err() != nil {
		return v, false
	}
	select {
	case v, ok = <-c:
		return v, ok
	case <-ctx.Done():
		return v, false
	}
}

func send[T any](ctx context.Context, c chan<- T, v T) bool {
	select {
	case c <- v:
		return true
	case <-ctx.Done():
		return false
	}
}

// offsetError is a failed read or write of length bytes at a byte. Which of
// them failed the kernel may not say: it makes many requests of one piece, and
// one error of them.
type offsetError struct {
	doing      string
	at, length int64
	err        error
}

func (e *offsetError) Error() string {
	err := e.err
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		err = path.Err // whoever named the disk knows its path
	}
	return fmt.Sprintf("%s %d bytes at byte %d: %v", e.doing, e.length, e.at, err)
}

func (e *offsetError) Unwrap() error { return e.err }

// noEOF makes an end that comes too early an error that says so.
func noEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// alignedBuffer returns memory at a multiple of [alignment].
func alignedBuffer(n int) []byte {
	b := make([]byte, n+alignment)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % alignment
	return b[skip : int(skip)+n : int(skip)+n]
}
