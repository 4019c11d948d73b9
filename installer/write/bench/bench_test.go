package bench_test

// What green does not prove: that any figure is good, or that a figure of a
// file says something about a disk.

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cc-base/installer/installertest"
	"cc-base/installer/write/bench"
	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
)

func options(t *testing.T) bench.Options {
	t.Helper()
	return bench.Options{Out: t.TempDir(), Runs: 2, Root: os.DirFS("/"), Tools: sh.Host{}}
}

func TestMeasuresGeneratedContentAndTheBuiltImage(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(o *bench.Options) error{
		"generated content, 9 MiB": func(o *bench.Options) error { o.MiB = 9; return nil },
		"the built image, 7 MiB":   func(o *bench.Options) error { return installertest.New().Write(o.Out) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			if err := prepare(&o); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := bench.Run(t.Context(), o, &out); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{name + ", to ", `run 2: installer \d+\.\d\d s, dd`, `(?m)^ +installer, write( +\d+\.\d\d){3} +\d+ +\d+\.\d\d`, `(?m)^ +dd .* 1\.00`} {
				if !regexp.MustCompile(want).Match(out.Bytes()) {
					t.Errorf("no %q in:\n%s", want, &out)
				}
			}
			filetest.Only(t, filepath.Join(o.Out, "scratch"))
		})
	}
}

func TestAFileIsNoDevice(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.MiB, o.Device = 1, filetest.Write(t, filepath.Join(t.TempDir(), "precious"), make([]byte, 8<<20))
	err := bench.Run(t.Context(), o, &bytes.Buffer{})
	if fault.Exit(err) != fault.ExitUnsafe {
		t.Errorf("error %v", err)
	}
}

func TestMeasuresOnADevice(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		lab.Absent(t, "a loop device needs root")
	}
	file := filetest.Write(t, filepath.Join(t.TempDir(), "disk"), make([]byte, 16<<20))
	made, err := exec.Command("losetup", "-f", "--show", file).Output()
	if err != nil {
		lab.Absent(t, "losetup does not work here: %v", err)
	}
	device := strings.TrimSpace(string(made))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("losetup -d %s: %s", device, out)
		}
	})
	o := options(t)
	o.MiB, o.Device = 9, device
	var out bytes.Buffer
	if err := bench.Run(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "9 MiB, to "+device) || !strings.Contains(out.String(), "installer, write") {
		t.Errorf("output:\n%s", &out)
	}
	if zeros := bytes.Count(filetest.Read(t, file)[1<<20:10<<20], []byte{0}); zeros > 1<<20 {
		t.Errorf("%d bytes of the device are zeros still", zeros)
	}
}
