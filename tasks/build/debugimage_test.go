package build

import (
	"path/filepath"
	"slices"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/sign"
)

// What these tests do not prove: that a guest acts on the mark. The boot of a
// debug image in tasks/lab does.

func profile(t *testing.T, name string) *Build {
	t.Helper()
	o := planOptions(t)
	o.Profile = name
	config, err := o.config()
	if err != nil {
		t.Fatal(err)
	}
	return &Build{Options: o, Config: config}
}

func TestOnlyADebugImageHasAWayIn(t *testing.T) {
	for name, debug := range map[string]bool{"": false, "minimal": false, "debug": true} {
		b := profile(t, name)
		dirs, err := b.overlays()
		if err != nil {
			t.Fatal(err)
		}
		facts, err := overlayDigests(b)
		if err != nil {
			t.Fatal(err)
		}
		laid := slices.ContainsFunc(dirs, func(dir string) bool { return filepath.Base(dir) == debugOverlay })
		if len(dirs) < 2 || laid != debug || (facts["validation scripts"] != "") != debug {
			t.Errorf("profile %q: overlays %q, facts %q", name, dirs, facts)
		}
		if kernelSettings(b.Config).Debug != debug {
			t.Errorf("profile %q: the command line is marked %v", name, !debug)
		}
	}
}

func TestTheScriptsOfADebugImageAreThoseOfTheInstaller(t *testing.T) {
	b := profile(t, "debug")
	var got []string
	for _, e := range b.debugScripts().Entries {
		got = append(got, filepath.Base(e.Path))
		if e.Source == "" || e.Mode&0o111 == 0 != (filepath.Base(e.Path) == "common.sh") {
			t.Errorf("%s: mode %o from %q", e.Path, e.Mode, e.Source)
		}
	}
	for _, want := range []string{"common.sh", "test_03_device.sh", "test_06_partition.sh"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not among %q", want, got)
		}
	}
}

func TestADebugImageSharesNoKeyWithOthers(t *testing.T) {
	production, debug := profile(t, ""), profile(t, "debug")
	debug.OutDir = production.OutDir
	files := map[string]bool{}
	for _, k := range production.buildKeys(0) {
		files[k.file], files[k.public] = true, true
	}
	keys := debug.buildKeys(0)
	if len(keys) < 5 {
		t.Fatalf("only %d keys", len(keys))
	}
	for _, k := range keys {
		if files[k.file] || filepath.Dir(k.file) == filepath.Dir(production.out("keys", "x")) {
			t.Errorf("%s: %s is a production image's too", k.name, k.file)
		}
	}
	if production.projectKey().Name == debug.projectKey().Name {
		t.Error("the signing keys bear the same name")
	}
}

func TestADebugImageIsNotSignedWithAGivenKey(t *testing.T) {
	file := filetest.Write(t, filepath.Join(t.TempDir(), "key"), []byte("key"))
	given := func(name string) (string, bool) { return file, name == sign.KeyFileEnv }
	b := profile(t, "debug")
	b.LookupEnv = given
	_, err := b.signing()
	faulttest.Want(t, err, fault.DebugImage, sign.KeyFileEnv)
	if fault.Exit(err) != fault.ExitUnsafe {
		t.Errorf("exit status %d", fault.Exit(err))
	}
	b.LookupEnv = func(name string) (string, bool) {
		if name == sign.CommandEnv || name == sign.CommandKeyEnv {
			return file, true
		}
		return "", false
	}
	_, err = b.signing()
	faulttest.Want(t, err, fault.DebugImage, sign.CommandEnv)
	p := profile(t, "")
	p.LookupEnv = given
	if choice, err := p.signing(); err != nil || choice.Source != sign.GivenKey {
		t.Errorf("a production image: %+v, %v", choice, err)
	}
}
