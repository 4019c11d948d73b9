package unlock

// Green here means that the tools are called with the right arguments, in the
// right order, with the key on standard input only, and that each failure has
// its code. It does not prove that cryptsetup and the kernel do their part:
// the positive and negative boots do.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/overlays/cc-guest/internal/volume"
	"cc-base/tasks/fault"
)

const (
	hash   = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	secret = "image key\x00with any byte"
	line   = "cc.root=luks+verity:" + hash + ":8192 cc.app=luks+verity:" + hash + ":8192 cc.config=verity:" + hash + ":8192\n"
)

type recorder struct {
	calls  []string
	stdin  []string
	status map[string]int // by the start of a call
	err    error
}

func (r *recorder) Run(_ context.Context, stdin []byte, program string, args ...string) (string, int, error) {
	call := strings.TrimPrefix(program, "/usr/sbin/") + " " + strings.Join(args, " ")
	r.calls = append(r.calls, call)
	r.stdin = append(r.stdin, string(stdin))
	for start, status := range r.status {
		if strings.HasPrefix(call, start) {
			return "", status, nil
		}
	}
	table := fmt.Sprintf("0 16 verity 1 253:0 253:0 4096 4096 2 3 sha256 %s abcd 1 panic_on_corruption\n", hash)
	return table, 0, r.err
}

func sysfs(key string) fstest.MapFS {
	sys := fstest.MapFS{KeyFile: {Data: []byte(key)}}
	for node, label := range map[string]string{"vda2": "cc-root", "vda3": "cc-app", "vda4": "cc-config"} {
		sys["class/block/"+node+"/uevent"] = &fstest.MapFile{
			Data: []byte("DEVNAME=" + node + "\nDEVTYPE=partition\nPARTNAME=" + label + "\n"),
		}
	}
	return sys
}

// own stands for the image's copy of the very line that is tested.
const own = "own"

func run(t *testing.T, r *recorder, sys fstest.MapFS, line, expected string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	u := Unlocker{Sys: sys, Runner: r, Finder: volume.Finder{Sys: sys, Settled: func() bool { return true }}}
	if expected == own {
		expected = line
	}
	return u.Run(ctx, line, expected)
}

func TestRunOpensEncryptionThenVerity(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	if err := run(t, r, sysfs(secret), line, line); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"cryptsetup open --type luks2 --readonly --tries 1 --key-file - /dev/vda2 cc-root-luks",
		"veritysetup open --panic-on-corruption --hash-offset=8192 /dev/mapper/cc-root-luks cc-root /dev/mapper/cc-root-luks " + hash,
		"dmsetup table cc-root",
		"cryptsetup open --type luks2 --readonly --tries 1 --key-file - /dev/vda3 cc-app-luks",
		"veritysetup open --panic-on-corruption --hash-offset=8192 /dev/mapper/cc-app-luks cc-app /dev/mapper/cc-app-luks " + hash,
		"dmsetup table cc-app",
		"veritysetup open --panic-on-corruption --hash-offset=8192 /dev/vda4 cc-config /dev/vda4 " + hash,
		"dmsetup table cc-config",
	}
	if diff := cmp.Diff(want, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{secret, "", "", secret, "", "", "", ""}, r.stdin); diff != "" {
		t.Errorf("standard inputs (-want +got):\n%s", diff)
	}
	if strings.Contains(strings.Join(r.calls, "\n"), secret) {
		t.Error("the key is in an argument")
	}
}

func TestRunWithoutEncryptionNeedsNoKey(t *testing.T) {
	t.Parallel()
	sys := sysfs("")
	delete(sys, KeyFile)
	if err := run(t, &recorder{}, sys, strings.ReplaceAll(line, "luks+", ""), own); err != nil {
		t.Error(err)
	}
}

func TestRunGivesEveryFailureItsCode(t *testing.T) {
	t.Parallel()
	without := func(path string) fstest.MapFS {
		sys := sysfs(secret)
		delete(sys, path)
		return sys
	}
	twice := sysfs(secret)
	twice["class/block/vdb1/uevent"] = &fstest.MapFile{Data: []byte("DEVNAME=vdb1\nDEVTYPE=partition\nPARTNAME=cc-app\n")}
	for name, tc := range map[string]struct {
		sys      fstest.MapFS
		line     string
		expected string
		recorder recorder
		code     fault.Code
		want     string
	}{
		"line without root":   {sys: sysfs(secret), line: "quiet\n", code: fault.GuestCmdline, want: "cc.root is missing"},
		"line with an extra":  {sys: sysfs(secret), line: "x " + line, expected: line, code: fault.GuestCmdline, want: "not the one of the image"},
		"no copy of the line": {sys: sysfs(secret), line: line, expected: "none", code: fault.GuestCmdline, want: "no copy"},
		"partition missing":   {sys: without("class/block/vda4/uevent"), line: line, code: fault.GuestVolume, want: "cc-config"},
		"partition twice":     {sys: twice, line: line, code: fault.GuestVolume, want: "same label"},
		"no key":              {sys: without(KeyFile), line: line, code: fault.GuestKey, want: "no image key"},
		"empty key":           {sys: sysfs(""), line: line, code: fault.GuestKey, want: "empty"},
		"long key":            {sys: sysfs(strings.Repeat("k", maxKey+1)), line: line, code: fault.GuestKey, want: "longer"},
		"wrong key":           {sys: sysfs("wrong"), line: line, recorder: recorder{status: map[string]int{"cryptsetup": 2}}, code: fault.GuestKey, want: "cc-root"},
		"no LUKS header":      {sys: sysfs(secret), line: line, recorder: recorder{status: map[string]int{"cryptsetup": 1}}, code: fault.GuestVolume, want: "exit status 1"},
		"damaged superblock":  {sys: sysfs(secret), line: line, recorder: recorder{status: map[string]int{"veritysetup": 1}}, code: fault.GuestVerity, want: "exit status 1"},
		"device not there":    {sys: sysfs(secret), line: line, recorder: recorder{status: map[string]int{"dmsetup": 1}}, code: fault.GuestVerity, want: "dmsetup"},
		"tool does not start": {sys: sysfs(secret), line: line, recorder: recorder{err: errors.New("no such file")}, code: fault.GuestVolume, want: "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tc.expected == "" {
				tc.expected = own
			}
			if tc.expected == "none" {
				tc.expected = ""
			}
			err := run(t, &tc.recorder, tc.sys, tc.line, tc.expected)
			coded := fault.Of(err)
			if coded == nil || coded.Code != tc.code || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v (%+v), want %s and %q", err, coded, tc.code, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Error("the key is in the error")
			}
		})
	}
}

func TestRunRefusesATableThatDiffersFromTheCommandLine(t *testing.T) {
	t.Parallel()
	other := strings.Replace(line, "cc.root=luks+verity:0", "cc.root=luks+verity:1", 1)
	err := run(t, &recorder{}, sysfs(secret), other, own)
	if coded := fault.Of(err); coded == nil || coded.Code != fault.GuestVerity {
		t.Errorf("error is %v", err)
	}
}
