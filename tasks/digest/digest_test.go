package digest_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
	"testing/iotest"

	"cc-base/tasks/digest"
	"cc-base/tasks/filetest"
)

func TestDigestsAreThoseOfTheStandard(t *testing.T) {
	t.Parallel()
	// FIPS 180-2 appendix B.1 and B.3, and sha256sum </dev/null.
	for text, want := range map[string]string{
		"":    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		string(bytes.Repeat([]byte("a"), 1000000)): "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
	} {
		if got := digest.Bytes([]byte(text)); got != want {
			t.Errorf("%d bytes: got %s", len(text), got)
		}
		got, err := digest.File(filetest.Write(t, filepath.Join(t.TempDir(), "file"), []byte(text)))
		if got != want || err != nil {
			t.Errorf("%d bytes in a file: got %s, %v", len(text), got, err)
		}
		got, err = digest.Reader(t.Context(), iotest.DataErrReader(bytes.NewReader([]byte(text))))
		if got != want || err != nil {
			t.Errorf("a stream of %d bytes: got %s, %v", len(text), got, err)
		}
	}
}

func TestWhatCannotBeReadHasNoDigest(t *testing.T) {
	t.Parallel()
	if got, err := digest.File(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) || got != "" {
		t.Errorf("no file: got %q, %v", got, err)
	}
	if got, err := digest.File(t.TempDir()); err == nil || got != "" {
		t.Errorf("a folder: got %q, %v", got, err)
	}
	if got, err := digest.Reader(t.Context(), iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader([]byte("abc"))))); !errors.Is(err, iotest.ErrTimeout) || got != "" {
		t.Errorf("a stream that breaks: got %q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := digest.Reader(ctx, bytes.NewReader(nil)); !errors.Is(err, context.Canceled) || got != "" {
		t.Errorf("cancelled: got %q, %v", got, err)
	}
}
