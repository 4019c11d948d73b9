package console

// Green here means that keys are read from a terminal without echo, and in any
// spelling. The terminal is a pseudo one; the guest's serial line is for a boot
// to show.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const key = "vvvvvvvv-cccccccc-dddddddd-eeeeeeee-ffffffff-gggggggg-hhhhhhhh-iiiiiiii"

func TestNormalizeTakesAnySpellingOfAKey(t *testing.T) {
	t.Parallel()
	for _, typed := range []string{key, strings.ToUpper(key), strings.ReplaceAll(key, "-", " "), strings.ReplaceAll(key, "-", ""), key + "\r"} {
		if got := string(Normalize([]byte(typed))); got != key {
			t.Errorf("%q became %q", typed, got)
		}
	}
	for _, typed := range []string{"", "a" + key[1:], key[1:], key + "v", "\x00"} {
		if got := string(Normalize([]byte(typed))); got != typed {
			t.Errorf("%q became %q", typed, got)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	f.Add([]byte(key))
	f.Fuzz(func(t *testing.T, typed []byte) {
		got := Normalize(append([]byte(nil), typed...))
		if string(got) != string(typed) && len(got) != len(key) {
			t.Errorf("%q became %q", typed, got)
		}
	})
}

// terminal returns the two ends of a pseudo terminal (pty(7)).
func terminal(t *testing.T) (far *os.File, path string) {
	t.Helper()
	far, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if err := unix.IoctlSetPointerInt(int(far.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(far.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return far, fmt.Sprintf("/dev/pts/%d", n)
}

func TestAskShowsTheQuestionAndNotTheAnswer(t *testing.T) {
	t.Parallel()
	far, path := terminal(t)
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	shown := make(chan string, 1)
	go func() {
		buffer := make([]byte, 1000)
		n, _ := far.Read(buffer)
		_, _ = far.WriteString(key + "\r")
		time.Sleep(200 * time.Millisecond)
		shown <- string(buffer[:n])
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := c.Ask(ctx, "recovery key: ")
	if err != nil || string(got) != key {
		t.Errorf("typed %q, %v", got, err)
	}
	if text := <-shown; !strings.Contains(text, "recovery key: ") || strings.Contains(text, key) {
		t.Errorf("the terminal shows %q", text)
	}
}

func TestAskEndsWithItsContextAndRefusesLongLines(t *testing.T) {
	t.Parallel()
	far, path := terminal(t)
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Ask(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	time.AfterFunc(200*time.Millisecond, func() { _, _ = far.WriteString(strings.Repeat("v", 300) + "\r") })
	long, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if _, err := c.Ask(long, ""); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("error is %v", err)
	}
}
