// Package console asks for a recovery key on the guest's console.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine bounds what is read: a recovery key has 71 characters.
const maxLine = 256

// Console is the system console, opened for reading and writing.
type Console struct{ file *os.File }

// Open opens a terminal that is not to become the process's own.
func Open(path string) (*Console, error) {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &Console{file: file}, nil
}

// Close closes the console.
func (c *Console) Close() error { return c.file.Close() }

// Ask shows the question and returns what was typed, without the line end,
// with the terminal's echo off. The caller wipes it.
func (c *Console) Ask(ctx context.Context, question string) ([]byte, error) {
	fd := int(c.file.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("the console is no terminal: %w", err)
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	silent.Lflag |= unix.ICANON
	silent.Iflag |= unix.ICRNL
	// What was typed before the question is not the answer.
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &silent); err != nil {
		return nil, err
	}
	defer func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }()
	if _, err := io.WriteString(c.file, question); err != nil {
		return nil, err
	}
	return line(ctx, fd)
}

// line reads up to the end of a line. It polls, because a read of a terminal
// cannot be cancelled.
func line(ctx context.Context, fd int) ([]byte, error) {
	typed := make([]byte, 0, maxLine)
	for {
		one := typed[len(typed) : len(typed)+1]
		n, err := unix.Read(fd, one)
		switch {
		case n == 1 && one[0] == '\n':
			return typed, nil
		case n == 1:
			typed = typed[:len(typed)+1]
			if len(typed) == maxLine {
				clear(typed)
				return nil, errors.New("what was typed is too long")
			}
			continue
		case err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			clear(typed)
			return nil, err
		}
		select {
		case <-ctx.Done():
			clear(typed)
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// modhex are the letters of systemd's recovery keys, which lie in the same
// place on most keyboards.
const modhex = "cbdefghijklnrtuv"

// Normalize returns a recovery key as it was enrolled, whatever was typed for
// the dashes: eight groups of eight letters. Anything else is returned as
// typed, and will not open anything.
func Normalize(typed []byte) []byte {
	var letters []byte
	for _, b := range typed {
		if b >= 'A' && b <= 'Z' {
			b += 'a' - 'A'
		}
		switch {
		case strings.IndexByte(modhex, b) >= 0:
			letters = append(letters, b)
		case b == '-' || b == ' ' || b == '\r':
		default:
			clear(letters)
			return typed
		}
	}
	if len(letters) != 64 {
		clear(letters)
		return typed
	}
	key := make([]byte, 0, 71)
	for i := 0; i < 64; i += 8 {
		if i > 0 {
			key = append(key, '-')
		}
		key = append(key, letters[i:i+8]...)
	}
	clear(letters)
	return key
}
