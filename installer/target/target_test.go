package target_test

// What green does not prove: devices are tested with loop devices in the tests
// of cc-install; here are only files.

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"cc-base/installer/target"
	"cc-base/tasks/fault"
	"cc-base/tasks/hw"
)

func TestAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := target.Find(fstest.MapFS{}, path)
	if err != nil || !found.File || found.Size != 4096 {
		t.Fatalf("got %+v, error %v", found, err)
	}
	if got := found.Refusals(hw.Need{Size: 8192}); len(got) != 2 || got[0].Reason != hw.NotABlock || got[1].Reason != hw.TooSmall {
		t.Errorf("refusals %v", got)
	}
	if got := found.Refusals(hw.Need{Size: 4096, Files: true}); len(got) != 0 {
		t.Errorf("refusals %v", got)
	}
	f, err := found.Open()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()

	// Between the judgement and the opening it became another one.
	if err := os.Truncate(path, 8192); err != nil {
		t.Fatal(err)
	}
	if _, err := found.Open(); fault.Exit(err) != fault.ExitUnsafe {
		t.Errorf("error %v", err)
	}
	if _, err := found.OpenRead(); fault.Exit(err) != fault.ExitUnsafe {
		t.Errorf("error %v", err)
	}
	asDevice := found
	asDevice.File = false
	if _, err := asDevice.OpenRead(); fault.Exit(err) != fault.ExitUnsafe {
		t.Errorf("a file in place of a device: error %v", err)
	}
}

func TestAFileThatIsAMember(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	content := make([]byte, 8192)
	copy(content[512:], "LABELONE")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := target.Find(fstest.MapFS{}, path)
	if err != nil {
		t.Fatal(err)
	}
	need := hw.Need{Named: true, Files: true}
	if got := found.Refusals(need); len(got) != 1 || got[0].Reason != hw.LVMMember {
		t.Errorf("refusals %v", got)
	}
	if all, rules := len(found.Judge(need)), len(hw.Judge(hw.Device{}, need)); all != rules {
		t.Errorf("%d verdicts of %d rules", all, rules)
	}
}

func TestNoDevice(t *testing.T) {
	t.Parallel()
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir(), "/dev/null"} {
		if _, err := target.Find(fstest.MapFS{}, path); fault.Exit(err) != fault.ExitUsage {
			t.Errorf("%s: error %v", path, err)
		}
	}
}
