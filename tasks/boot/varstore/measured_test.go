package varstore_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/boot/varstore"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/tpm/pcr"
)

func TestMeasuredIsWhatTheStoreHolds(t *testing.T) {
	t.Parallel()
	tools, dir := lab.Tools(t)
	keys, _ := keySet(t, filepath.Join(dir, "keys"))
	store := filepath.Join(dir, "vars.fd")
	if err := varstore.Enrol(t.Context(), tools, empty, store, keys); err != nil {
		t.Fatal(err)
	}
	want, err := pcr.ReadVars(filetest.Read(t, store))
	if err != nil {
		t.Fatal(err)
	}
	got, err := varstore.Measured(keys)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || !got.On() {
		t.Errorf("Secure Boot on: %v (-store +measured):\n%s", got.On(), diff)
	}
}

func TestMeasuredWantsEveryKey(t *testing.T) {
	t.Parallel()
	keys, _ := keySet(t, filepath.Join(t.TempDir(), "keys"))
	keys.KEK = keys.KEK + ".none"
	_, err := varstore.Measured(keys)
	faulttest.Want(t, err, fault.BootImage, "KEK.crt.none")
}
