package build

// What green does not prove: no build runs here that would write over the
// image; that it is asked first, and by which targets, is what is tested.

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/image"
)

// builtOnce is an output folder whose package stage has finished.
func builtOnce(t *testing.T) *Build {
	t.Helper()
	b := testBuild(t)
	filetest.Write(t, b.out(diskImage), append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 4096)...))
	filetest.Write(t, b.out("manifest.json"), []byte("{}"))
	s := stage{name: "package", outputs: func(b *Build) []string { return []string{b.out("manifest.json"), b.out(diskImage)} }}
	if _, err := b.record(s, map[string]string{"a": "1"}, time.Second); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestABuildWritesOverNoImageThatWasChanged(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(t *testing.T, b *Build)
		refused bool
	}{
		"as it was built":          {func(*testing.T, *Build) {}, false},
		"another byte":             {func(t *testing.T, b *Build) { filetest.Write(t, b.out(diskImage), []byte("QFI\xfb changed")) }, true},
		"a byte of the same size":  {func(t *testing.T, b *Build) { flip(t, b.out(diskImage)) }, true},
		"replaced by a copy of it": {func(t *testing.T, b *Build) { replaced(t, b.out(diskImage)) }, false},
		"removed":                  {func(t *testing.T, b *Build) { _ = os.Remove(b.out(diskImage)) }, false},
		"another output":           {func(t *testing.T, b *Build) { filetest.Write(t, b.out("manifest.json"), []byte("[]")) }, false},
		"a build cut off": {func(t *testing.T, b *Build) {
			flip(t, b.out(diskImage))
			_ = os.Remove(b.recordFile("package"))
		}, false},
		"changed in a folder that moved": {func(t *testing.T, b *Build) {
			flip(t, b.out(diskImage))
			moved := filepath.Join(t.TempDir(), "moved")
			if err := os.Rename(b.OutDir, moved); err != nil {
				t.Fatal(err)
			}
			b.OutDir = moved
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := builtOnce(t)
			c.change(t, b)
			before := filetest.Names(t, b.OutDir)
			for target, writes := range map[string]bool{"prepare": false, "apps": false, "firmware": false, "package": true, "sign": true} {
				err := b.sparesChanged(target)
				if !writes || !c.refused {
					if err != nil {
						t.Errorf("%s: %v", target, err)
					}
					continue
				}
				faulttest.Want(t, err, fault.ImageKept, diskImage)
				faulttest.Want(t, Run(t.Context(), b.Options, target), fault.ImageKept)
				faulttest.Want(t, b.Through(t.Context(), target), fault.ImageKept)
				if got := filetest.Names(t, b.OutDir); strings.Join(got, " ") != strings.Join(before, " ") {
					t.Errorf("%s: the output folder holds %q, before %q", target, got, before)
				}
			}
			b.Force = true
			if err := b.sparesChanged("sign"); err != nil {
				t.Errorf("with force: %v", err)
			}
		})
	}
}

func TestThePlanTellsOfAnImageThatIsKept(t *testing.T) {
	b := builtOnce(t)
	flip(t, b.out(diskImage))
	var text strings.Builder
	for _, force := range []bool{false, true} {
		text.Reset()
		b.Force = force
		if err := WritePlan(b.Options, &text, false); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(strings.Fields(text.String()), " "), " package refused - - - cc-base.qcow2 was changed and is kept"); got == force {
			t.Errorf("force %t:\n%s", force, text.String())
		}
	}
}

func TestOnlyAFinishedBuildsImageIsChanged(t *testing.T) {
	b := builtOnce(t)
	built := b.out(diskImage)
	if file, err := b.imageFile("", true); err != nil || file != built {
		t.Errorf("%q, %v", file, err)
	}
	if err := os.Remove(b.recordFile("package")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", built, filepath.Join(b.OutDir, ".", "state", "..", diskImage)} {
		_, err := b.imageFile(name, true)
		faulttest.Want(t, err, fault.ImageFile, "was not finished")
		if _, err := b.imageFile(name, false); err != nil {
			t.Errorf("to look at: %v", err)
		}
	}
	faulttest.Want(t, ResizeImage(t.Context(), b.Options, image.Growth{By: "+1G"}), fault.ImageFile, "was not finished")
	copied := filetest.Write(t, filepath.Join(t.TempDir(), "copy.qcow2"), filetest.Read(t, built))
	if file, err := b.imageFile(copied, true); err != nil || file != copied {
		t.Errorf("%q, %v", file, err)
	}
}

func TestNoImageIsWrittenOverWhatABuildHasMade(t *testing.T) {
	b := builtOnce(t)
	file := filetest.Write(t, filepath.Join(t.TempDir(), "a.qcow2"), filetest.Read(t, b.out(diskImage)))
	for _, out := range []string{b.out(diskImage), b.out("manifest.json")} {
		before := filetest.Read(t, out)
		err := ConvertImage(t.Context(), b.Options, image.Conversion{File: file, To: image.Qcow2, Out: out, Force: true})
		faulttest.Want(t, err, fault.Usage, "what the build has made")
		if string(filetest.Read(t, out)) != string(before) {
			t.Errorf("%s was changed", out)
		}
	}
}

func flip(t *testing.T, file string) {
	t.Helper()
	data := filetest.Read(t, file)
	data[len(data)-1] ^= 1
	filetest.Write(t, file, data)
}

func replaced(t *testing.T, file string) {
	t.Helper()
	filetest.Write(t, file+".copy", filetest.Read(t, file))
	if err := os.Rename(file+".copy", file); err != nil {
		t.Fatal(err)
	}
}
