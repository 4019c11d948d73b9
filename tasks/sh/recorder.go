package sh

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// Recorder is a [Runner] for tests: it runs nothing, remembers every command
// and answers with prepared output.
type Recorder struct {
	// Answer returns the standard output and error of a command; nil means
	// empty output and success.
	Answer func(c Cmd) (stdout string, err error)

	mu   sync.Mutex
	cmds []Cmd
}

// Run implements [Runner].
func (r *Recorder) Run(_ context.Context, c Cmd) error {
	r.mu.Lock()
	r.cmds = append(r.cmds, c)
	r.mu.Unlock()
	if r.Answer == nil {
		return nil
	}
	out, err := r.Answer(c)
	if c.Stdout != nil {
		if _, werr := fmt.Fprint(c.Stdout, out); werr != nil {
			return werr
		}
	}
	return err
}

// Transcript returns the commands so far, one per line, as a golden file
// holds them.
func (r *Recorder) Transcript() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, c := range r.cmds {
		b.WriteString(strings.Join(append([]string{c.Name}, c.Args...), " "))
		b.WriteByte('\n')
	}
	return b.String()
}
