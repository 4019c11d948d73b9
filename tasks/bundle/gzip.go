package bundle

import (
	"fmt"
	"io"
	"time"

	"github.com/klauspost/pgzip"
)

// members writes a gzip file of several members (RFC 1952 section 2.2: members
// simply follow one another, and every reader gives their contents joined), so
// that ciphertext is stored while everything else is compressed. The compressor
// of today gives up on noise quickly, and both then cost about the same, most
// of it the two digests (measured: 0.5-0.6 GB/s on two cores either way);
// stored members do not depend on it staying so.
//
// pgzip is used for stored members too: it writes its output from a goroutine
// of its own, so the digest of the output is computed beside the digest of the
// input, not after it.
type members struct {
	out     io.Writer
	packed  *pgzip.Writer // default level
	stored  *pgzip.Writer // level 0
	current *pgzip.Writer // nil between members
}

func newMembers(out io.Writer) (*members, error) {
	packed, err := pgzip.NewWriterLevel(out, pgzip.DefaultCompression)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	stored, err := pgzip.NewWriterLevel(out, pgzip.NoCompression)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return &members{out: out, packed: packed, stored: stored}, nil
}

// use starts a new member unless the current one is of the wanted kind.
func (m *members) use(stored bool) error {
	want := m.packed
	if stored {
		want = m.stored
	}
	if m.current == want {
		return nil
	}
	if err := m.Close(); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	want.Reset(m.out)
	// pgzip writes the seconds of whatever ModTime holds, and those of Go's
	// zero time are not 0; 0 means "no time stamp" (RFC 1952 section 2.3.1).
	want.ModTime = time.Unix(0, 0)
	m.current = want
	return nil
}

// Write adds to the current member; use comes first.
func (m *members) Write(b []byte) (int, error) { return m.current.Write(b) }

// Close ends the current member.
func (m *members) Close() error {
	if m.current == nil {
		return nil
	}
	last := m.current
	if err := last.Close(); err != nil {
		return err
	}
	m.current = nil
	return nil
}

// abort ends pgzip's goroutines without finishing the member: Close returns
// early after an error and leaves them waiting, Reset does not. What they still
// hold goes to the same output, which nobody uses any more.
func (m *members) abort() {
	if m.current != nil {
		m.current.Reset(io.Discard)
		m.current = nil
	}
}

// countWriter counts what goes to the file.
type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
