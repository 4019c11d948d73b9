package build

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/history"
)

func TestOutsideATerminalThereAreEventsAndNoProgress(t *testing.T) {
	var shown, kept bytes.Buffer
	l := newLog(&shown, &kept)
	stop := l.running("tee", history.Expectation{Runs: 1, Seconds: 60})
	l.event("tee", "initrd: %s", size(12_400_000))
	stop()
	if got, want := shown.String(), "tee: initrd: 12 MB\n"; got != want {
		t.Errorf("shown %q, want %q", got, want)
	}
	if !strings.Contains(kept.String(), "tee: initrd: 12 MB") {
		t.Errorf("the log file has %q", kept.String())
	}
}

func TestProgressOnATerminalIsOneLineThatEventsReplace(t *testing.T) {
	var shown bytes.Buffer
	l := newLog(&shown, &bytes.Buffer{})
	l.terminal = true
	stop := l.running("bootstrap", history.Expectation{Runs: 1, Seconds: 60})
	time.Sleep(3 * tick)
	l.event("bootstrap", "142 packages")
	stop()
	got := shown.String()
	if !strings.Contains(got, "bootstrap: [") || !strings.Contains(got, "\r\x1b[Kbootstrap: 142 packages\n") {
		t.Errorf("shown %q", got)
	}
}

func TestStagesSideBySideShareTheProgressLine(t *testing.T) {
	now := time.Now()
	runs := []*stageRun{{"initrd", now.Add(-4 * time.Second), 9}, {"encrypt", now.Add(-3 * time.Second), 0}}
	if got, want := progressOf(runs, now), "initrd 4 s of about 9, encrypt 3 s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := progressOf(runs[:1], now); got != progress("initrd", 4, 9) {
		t.Errorf("alone: %q", got)
	}
}

func TestTheProgressLineGoesWithTheLastStage(t *testing.T) {
	var shown bytes.Buffer
	l := newLog(&shown, &bytes.Buffer{})
	l.terminal = true
	one, two := l.running("initrd", history.Expectation{}), l.running("encrypt", history.Expectation{})
	time.Sleep(2 * tick)
	one()
	two()
	l.running("package", history.Expectation{})() // while the line is still renewed
	time.Sleep(3 * tick)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.showing || len(l.runs) > 0 {
		t.Errorf("it is still renewed, for %d stages", len(l.runs))
	}
	if got := shown.String(); !strings.Contains(got, "initrd 1 s, encrypt 1 s") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("shown %q", got)
	}
}

func TestProgressNeverClaimsToBeDone(t *testing.T) {
	for _, c := range []struct {
		now, expected float64
		want          string
	}{
		{3, 0, "tee: 3 s"},
		{30, 60, "tee: [============            ] 30 s of about 60 s"},
		{180, 60, "tee: [======================= ] 180 s of about 60 s"},
	} {
		if got := progress("tee", c.now, c.expected); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestSizesReadAsPeopleSayThem(t *testing.T) {
	for n, want := range map[int64]string{1: "1 kB", 999_999: "1000 kB", 345_000_000: "345 MB", 1_240_000_000: "1.2 GB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}
