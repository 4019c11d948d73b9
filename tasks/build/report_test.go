package build

// What green does not prove: the images here are a few bytes. The page of a built
// image is read in report_page_test.go.

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"cc-base/tasks/filetest"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
)

// imageOf makes the records of a build whose disk image has that content.
func imageOf(t *testing.T, b *Build, content string) {
	t.Helper()
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	for name, text := range map[string]string{"var/lib/dpkg/status": "Package: a\nStatus: install ok installed\n", "usr/bin/a": content} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, b.scratch("root.tar"), root.Bytes())
	filetest.Write(t, b.out(diskImage), []byte(content))
	s := stage{name: "package", outputs: func(b *Build) []string { return []string{b.out(diskImage), b.scratch("root.tar")} }}
	if _, err := b.record(s, map[string]string{"content": content}, 0); err != nil {
		t.Fatal(err)
	}
}

func TestAReportComparesWithTheImageBeforeThisOne(t *testing.T) {
	b := testBuild(t)
	for _, step := range []struct {
		name, content, before string // sizes tell the contents apart
	}{
		{"the first one", "1", ""},
		{"the same again", "1", ""},
		{"another one", "22", "1"},
		{"that again", "22", "1"},
		{"a third", "333", "22"},
	} {
		imageOf(t, b, step.content)
		now, before, err := b.snapshots()
		if err != nil {
			t.Fatal(err)
		}
		if len(now.Artefacts) != 1 || now.Artefacts[0].Name != diskImage || now.Artefacts[0].Size != int64(len(step.content)) {
			t.Errorf("%s: %+v", step.name, now.Artefacts)
		}
		switch {
		case step.before == "" && before != nil:
			t.Errorf("%s is compared with %+v", step.name, before)
		case step.before != "" && (before == nil || before.Artefacts[0].Size != int64(len(step.before))):
			t.Errorf("%s is compared with %+v", step.name, before)
		}
	}
	if err := os.WriteFile(b.snapshotsFile(), []byte("[{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, before, err := b.snapshots(); err != nil || before != nil {
		t.Errorf("with a damaged memory: %+v, %v", before, err)
	}
}

func TestAReportSaysWhatIsNotProvenOfThisImage(t *testing.T) {
	b := testBuild(t)
	names := func(m manifest.Manifest, d measurements.Document) string {
		var list []string
		for _, u := range b.unproven(m, d) {
			list = append(list, u.What)
		}
		return strings.Join(list, "; ")
	}
	plain := manifest.Manifest{Distribution: "debian"}
	if got, want := names(plain, measurements.Document{}), "Silicon; This very image; An emulated TPM; Origin"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	filetest.Write(t, b.installer()+".asc", nil)
	odd := manifest.Manifest{Distribution: "ubuntu", CommandLine: "ro " + manifest.DebugMark}
	missing := measurements.Document{NotComputed: []measurements.NotComputed{{What: "tdx", Why: "no firmware"}}}
	if got, want := names(odd, missing), "Silicon; This very image; An emulated TPM; No measurements of tdx; Any secrecy; ubuntu as guest"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestABuildWithoutWhatAReportNeedsSaysSoAndGoesOn(t *testing.T) {
	b := testBuild(t)
	var said bytes.Buffer
	b.log = newLog(&said, io.Discard)
	b.report([]outcome{{stage: "package", action: "run"}}, nil)
	if !strings.Contains(said.String(), "build: no "+reportFile) {
		t.Errorf("said %q", said.String())
	}
	said.Reset()
	b.report([]outcome{{stage: "tee", action: "run"}}, nil)
	if said.Len() > 0 {
		t.Errorf("a build up to a stage without an image said %q", said.String())
	}
}
