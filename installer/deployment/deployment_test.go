package deployment_test

// What green does not prove: that a disk keeps what fsync promised.

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/deployment"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/hw"
)

func open(t *testing.T, root, name string) *deployment.Deployment {
	t.Helper()
	d, err := deployment.Open(root, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if all, err := deployment.All(filepath.Join(root, "none")); err != nil || len(all) > 0 {
		t.Errorf("without a folder: %v, %v", all, err)
	}
	d := open(t, root, "vm-1")
	if _, found, err := d.Record(); found || err != nil {
		t.Errorf("a new deployment has a record: %v, %v", found, err)
	}
	want := deployment.Record{
		Schema: deployment.Schema, Name: "vm-1", State: deployment.Written, Device: "/dev/sdb", Number: hw.Number{Major: 8, Minor: 16}, Size: 1 << 40,
		Disk: "0CC0BA5E-0000-4000-8000-000000000000", Profile: "minimal", Epoch: 1700000000, Manifest: strings.Repeat("ab", 32), Dynamic: 1 << 30,
		Partitions: []deployment.Partition{{Label: "cc-root", Start: 1 << 20, Size: 3 << 20, SHA256: strings.Repeat("cd", 32), Header: 16 << 20, UUID: "u"}},
	}
	if err := d.Save(want); err != nil {
		t.Fatal(err)
	}
	got, found, err := deployment.Load(root, "vm-1")
	if diff := cmp.Diff(want, got); diff != "" || !found || err != nil {
		t.Errorf("%v, %v: %s", found, err, diff)
	}
	all, err := deployment.All(root)
	if err != nil || len(all) != 1 || all[0].Name != "vm-1" {
		t.Errorf("%v, %v", all, err)
	}
	if err := d.Remove(); err != nil {
		t.Error(err)
	}
	filetest.Only(t, root)
}

func TestADeploymentIsOneProgramsAtATime(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	d := open(t, root, "vm")
	_, err := deployment.Open(root, "vm")
	faulttest.Want(t, err, fault.Deployment, "another installer works on vm")
	open(t, root, "other")
	d.Close()
	open(t, root, "vm")
}

func TestARecordThatCannotBeTrustedIsAnError(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                        "EOF",
		"{}":                      "schema 0",
		`{"schema":9}`:            "schema 9",
		`{"schema":1,"name":"x"}`: `it is of "x"`,
		`{"schema":1,"name":"vm","state":"fine"}`:             `in state "fine"`,
		`{"schema":1,"name":"vm","state":"written","more":1}`: "unknown field",
	} {
		root := t.TempDir()
		d := open(t, root, "vm")
		filetest.Write(t, d.Path(deployment.RecordFile), []byte(text))
		_, _, err := d.Record()
		faulttest.Want(t, err, fault.Deployment, want)
		_, err = deployment.All(root)
		faulttest.Want(t, err, fault.Deployment, want)
	}
}

func TestNamesThatLeadElsewhereAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", ".", "..", "a/b", "-x", "a b", strings.Repeat("x", 64), "\n"} {
		root := t.TempDir()
		_, err := deployment.Open(root, name)
		faulttest.Want(t, err, fault.Usage, "1 to 63")
		_, _, err = deployment.Load(root, name)
		faulttest.Want(t, err, fault.Usage, "1 to 63")
		filetest.Only(t, root)
	}
}

func TestTheCopiesOfAnInterruptedRunAreRemoved(t *testing.T) {
	t.Parallel()
	d := open(t, t.TempDir(), "vm")
	dir, _, err := d.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, filepath.Join(dir, "cc-root"), []byte("secret"))
	dir, remove, err := d.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	filetest.Only(t, dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it is still there")
	}
}
