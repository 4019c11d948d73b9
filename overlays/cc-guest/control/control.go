// Package control answers the host's requests over a virtio-serial port, one
// JSON object a line. The host is not trusted: it may ask, and what it may ask
// for changes nothing that a timer would not do by itself.
package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"cc-base/tasks/fault"
)

// PortName is the virtio-serial port that the guest serves.
const PortName = "org.cc-base.control"

const (
	// maxRequest bounds a request in bytes.
	maxRequest = 64 << 10
	// pause keeps a host from wearing the guest down with requests.
	pause = 200 * time.Millisecond
)

// Request is one line from the host.
type Request struct {
	ID   string          `json:"id"` // returned with the answer; another one for each request
	Verb string          `json:"verb"`
	Data json.RawMessage `json:"data,omitempty"`
}

// Answer is one line to the host.
type Answer struct {
	ID    string          `json:"id"`
	OK    bool            `json:"ok"`
	Data  json.RawMessage `json:"data,omitempty"`
	Code  fault.Code      `json:"code,omitempty"`
	Error string          `json:"error,omitempty"`
}

// Verb does what a request asks for; what it returns is put into the answer.
type Verb func(ctx context.Context, data json.RawMessage) (any, error)

// Serve answers requests until the port ends or ctx does. A client that hears
// nothing for a while sends its request again: that is done once and answered
// each time.
func Serve(ctx context.Context, port io.ReadWriter, verbs map[string]Verb) error {
	lines := bufio.NewReaderSize(port, maxRequest)
	var last done
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			if err := skip(lines); err != nil {
				return err
			}
			line = nil
		case err != nil && len(line) == 0:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		text, err := last.line(ctx, line, verbs)
		if err != nil {
			return err
		}
		if _, err := port.Write(text); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// done is the last request, as it came, and its answer.
type done struct{ request, answer []byte }

func (d *done) line(ctx context.Context, request []byte, verbs map[string]Verb) ([]byte, error) {
	if len(request) > 0 && bytes.Equal(request, d.request) {
		return d.answer, nil
	}
	a := answer(ctx, request, verbs)
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	text = append(text, '\n')
	*d = done{}
	if a.ID != "" {
		*d = done{bytes.Clone(request), text}
	}
	return text, nil
}

// skip drops the rest of a line that is too long.
func skip(lines *bufio.Reader) error {
	for {
		_, err := lines.ReadSlice('\n')
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

func answer(ctx context.Context, line []byte, verbs map[string]Verb) Answer {
	var r Request
	if err := json.Unmarshal(line, &r); err != nil {
		return Answer{Code: fault.Usage, Error: "the request is not one JSON object of at most 64 KiB"}
	}
	do, known := verbs[r.Verb]
	if !known {
		return Answer{ID: r.ID, Code: fault.Usage, Error: fmt.Sprintf("unknown verb %q", r.Verb)}
	}
	result, err := do(ctx, r.Data)
	if err != nil {
		a := Answer{ID: r.ID, Error: err.Error()}
		if coded := fault.Of(err); coded != nil {
			a.Code = coded.Code
		}
		return a
	}
	data, err := json.Marshal(result)
	if err != nil {
		return Answer{ID: r.ID, Error: err.Error()}
	}
	return Answer{ID: r.ID, OK: true, Data: data}
}
