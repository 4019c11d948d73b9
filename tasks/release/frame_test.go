package release_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/release"
)

func frame(t testing.TB, payload string) []byte {
	t.Helper()
	f, err := release.Frame([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// drain takes everything that is whole, and counts the damage.
func drain(d *release.Deframer) (payloads []string, damaged int) {
	for {
		payload, err := d.Next()
		switch {
		case err != nil:
			damaged++
		case payload == nil:
			return payloads, damaged
		default:
			payloads = append(payloads, string(payload))
		}
	}
}

func TestDeframerResynchronises(t *testing.T) {
	t.Parallel()
	one, two := frame(t, `{"a":1}`), frame(t, `{"b":2}`)
	long := frame(t, strings.Repeat("x", release.MaxPayload))
	header := func(length, sum string) []byte { return []byte("\xffcc-release " + length + " " + sum + "\n") }
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	for _, tc := range []struct {
		name    string
		stream  []byte
		want    []string
		damaged bool
	}{
		{"two frames", join(one, two), []string{`{"a":1}`, `{"b":2}`}, false},
		{"nothing", nil, nil, false},
		{"an empty payload", frame(t, ""), []string{""}, false},
		{"text before", join([]byte("login: \r\n\x00\x01"), one), []string{`{"a":1}`}, false},
		{"half a frame before", join(one[:len(one)-4], two), []string{`{"b":2}`}, true},
		{"half a header before", join(one[:9], two), []string{`{"b":2}`}, true},
		{"the end of a frame before", join(one[12:], two), []string{`{"b":2}`}, false},
		{"the head of the longest frame before", join(long[:100], two), []string{`{"b":2}`}, true},
		{"a header with a length that never comes", join(header("00100000", "00000000"), two), []string{`{"b":2}`}, true},
		{"a length too great", join(header("00100001", "00000000"), two), []string{`{"b":2}`}, true},
		{"a length that is no number", join(header("0000000g", "00000000"), two), []string{`{"b":2}`}, true},
		{"a negative length", join(header("-0000001", "00000000"), two), []string{`{"b":2}`}, true},
		{"a wrong checksum", join(header("00000002", "00000000"), []byte("{}\n"), two), []string{`{"b":2}`}, true},
		{"no line end", join(header("00000002", fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte("{}")))), []byte("{} "), two), []string{`{"b":2}`}, true},
		{"only marks", bytes.Repeat([]byte{0xFF}, 1000), nil, true},
		{"marks before", join(bytes.Repeat([]byte{0xFF}, 1000), one), []string{`{"a":1}`}, true},
		{"the longest frame", long, []string{strings.Repeat("x", release.MaxPayload)}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{len(tc.stream) + 1, 1, 3, 4096} {
				if size < 4096 && len(tc.stream) > 1<<19 {
					continue
				}
				var d release.Deframer
				var got []string
				damaged := 0
				for part := range slices.Chunk(tc.stream, size) {
					d.Push(part)
					more, n := drain(&d)
					got, damaged = append(got, more...), damaged+n
				}
				if !slices.Equal(got, tc.want) || (damaged > 0) != tc.damaged {
					t.Errorf("in pieces of %d: %d payloads %.60q, %d damaged", size, len(got), got, damaged)
				}
			}
		})
	}
}

func TestFrameRefusals(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{strings.Repeat("x", release.MaxPayload+1), "a\xffb"} {
		if _, err := release.Frame([]byte(payload)); err == nil {
			t.Errorf("%.20q is framed", payload)
		}
	}
}

func FuzzDeframer(f *testing.F) {
	f.Add(frame(f, `{"a":1}`), uint8(1))
	f.Add([]byte("\xffcc-release 00000002 00000000\n{}\n"), uint8(7))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		whole, pieces := release.Deframer{}, release.Deframer{}
		whole.Push(stream)
		want, _ := drain(&whole)
		var got []string
		for part := range slices.Chunk(stream, int(size)+1) {
			pieces.Push(part)
			more, _ := drain(&pieces)
			got = append(got, more...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pieces %q, as a whole %q", got, want)
		}
		// Whatever came before, a frame is found.
		last := frame(t, `{"last":true}`)
		whole.Push(last)
		if after, _ := drain(&whole); len(after) == 0 || after[len(after)-1] != `{"last":true}` {
			t.Errorf("a frame after %q is lost: %q", stream, after)
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"type":"hello","version":1,"session":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","instance":"2c1f0f5e-0d1c-4b43-9a58-55a3a4f5f3e1","volumes":["cc-root"]}`,
		`{"type":"denied","version":1}`, `{"type":"request","version":2}`, `[]`, `null`, `{"type":"release","version":1,"sealed":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		message, err := release.Decode(payload)
		if (err == nil) == (message == nil) {
			t.Fatalf("%v and %v", message, err)
		}
		if err != nil {
			return
		}
		again, err := release.Encode(message)
		if err != nil {
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		var d release.Deframer
		d.Push(again)
		back, _ := d.Next()
		if second, err := release.Decode(back); err != nil || fmt.Sprint(second) != fmt.Sprint(message) {
			t.Errorf("%v became %v, %v", message, second, err)
		}
	})
}
