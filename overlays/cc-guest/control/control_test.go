package control_test

// Green here means that both ends keep to the protocol over a socket. It does
// not prove that a virtio-serial port behaves like one: the boots do.

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
)

func verbs() map[string]control.Verb {
	return map[string]control.Verb{
		"echo": func(_ context.Context, data json.RawMessage) (any, error) { return data, nil },
		"fail": func(context.Context, json.RawMessage) (any, error) {
			return nil, fault.Newf(fault.GuestRotate, "no")
		},
	}
}

// guest serves on a socket after the delay, as a guest that boots.
func guest(t *testing.T, delay time.Duration) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if delay > 0 {
			// What comes before the guest listens is lost.
			_ = conn.SetReadDeadline(time.Now().Add(delay))
			for buffer := make([]byte, 100); ; {
				if _, err := conn.Read(buffer); err != nil {
					break
				}
			}
			_ = conn.SetReadDeadline(time.Time{})
		}
		_ = control.Serve(context.Background(), conn, verbs())
	}()
	return socket
}

func dial(t *testing.T, socket string) *control.Client {
	t.Helper()
	c, err := control.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAskGetsAnswersAndErrors(t *testing.T) {
	t.Parallel()
	c := dial(t, guest(t, 0))
	var got map[string]int
	if err := c.Ask(t.Context(), "echo", map[string]int{"a": 1}, &got); err != nil || got["a"] != 1 {
		t.Errorf("%v, %v", got, err)
	}
	faulttest.Want(t, c.Ask(t.Context(), "fail", nil, nil), fault.GuestRotate)
	faulttest.Want(t, c.Ask(t.Context(), "shell", nil, nil), fault.Usage)
	faulttest.Want(t, c.Ask(t.Context(), "echo", strings.Repeat("x", 100<<10), nil), fault.Usage)
	if err := c.Ask(t.Context(), "echo", "still there", new(string)); err != nil {
		t.Error(err)
	}
}

func TestAskWaitsForAGuestThatBoots(t *testing.T) {
	t.Parallel()
	c := dial(t, guest(t, 500*time.Millisecond))
	var got string
	if err := c.Ask(t.Context(), "echo", "hello", &got); err != nil || got != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

// A rotation takes longer than the pause after which a client asks again.
func TestAVerbThatTakesLongIsDoneOnce(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	times := 0
	go func() {
		_ = control.Serve(t.Context(), theirs, map[string]control.Verb{
			"count": func(context.Context, json.RawMessage) (any, error) { times++; return times, nil },
		})
	}()
	defer theirs.Close()
	defer ours.Close()
	answers := json.NewDecoder(ours)
	for i, tc := range []struct{ line, id, data string }{
		{`{"id":"a-1","verb":"count"}`, "a-1", "1"},
		{`{"id":"a-1","verb":"count"}`, "a-1", "1"},
		{`{"id":"a-1","verb":"count"}`, "a-1", "1"},
		{`{"id":"a-2","verb":"count"}`, "a-2", "2"},
		{`{"id":"b-1","verb":"count"}`, "b-1", "3"},
		{`{"verb":"count"}`, "", "4"}, // without an ID, nothing tells two requests apart
		{`{"verb":"count"}`, "", "5"},
	} {
		if _, err := ours.Write([]byte(tc.line + "\n")); err != nil {
			t.Fatal(err)
		}
		var a control.Answer
		if err := answers.Decode(&a); err != nil {
			t.Fatal(err)
		}
		if !a.OK || a.ID != tc.id || string(a.Data) != tc.data {
			t.Errorf("request %d: %+v, want %s", i+1, a, tc.data)
		}
	}
}

// What is still on its way to a client that has gone must not reach the next.
func TestAClientTakesNoAnswerOfAnother(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for _, id := range []string{"1", "2", "a-1"} {
			_, _ = conn.Write([]byte(`{"id":"` + id + `","ok":true,"data":"stale"}` + "\n"))
		}
		_ = control.Serve(t.Context(), conn, verbs())
	}()
	var got string
	if err := dial(t, socket).Ask(t.Context(), "echo", "mine", &got); err != nil || got != "mine" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAGuestThatReadsNothingIsNotWaitedForLonger(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	// More than any buffer on the way holds.
	err = dial(t, socket).Ask(ctx, "echo", strings.Repeat("x", 32<<20), nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestWhatAGuestSaysCannotHarmATerminal(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = control.Serve(t.Context(), conn, map[string]control.Verb{
			"evil": func(context.Context, json.RawMessage) (any, error) {
				return nil, fault.Newf("CC0801\x1b[2J", "\x1b[31mall\nis well\u202e%s", strings.Repeat("x", 5000))
			},
		})
	}()
	err = dial(t, socket).Ask(t.Context(), "evil", nil, nil)
	faulttest.Want(t, err, fault.Machine, "?[31mall?is well?x")
	if len(err.Error()) > 1100 {
		t.Errorf("%d bytes", len(err.Error()))
	}
}

func TestDialSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := control.Dial(t.Context(), filepath.Join(t.TempDir(), "none"))
	faulttest.Want(t, err, fault.Machine)
}

func FuzzServe(f *testing.F) {
	f.Add([]byte(`{"id":"1","verb":"echo","data":1}` + "\n"))
	f.Add([]byte("{\n\n]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Count(string(data), "\n") > 3 {
			return // each costs the pause
		}
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = control.Serve(t.Context(), theirs, verbs())
		}()
		go func() {
			buffer := make([]byte, 1<<16)
			for {
				if _, err := ours.Read(buffer); err != nil {
					return
				}
			}
		}()
		_, _ = ours.Write(data)
		_ = ours.Close()
		<-done
		_ = theirs.Close()
	})
}
