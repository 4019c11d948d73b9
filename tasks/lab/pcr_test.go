package lab_test

// Every register that is predicted, held against a guest that has booted, and
// the guest's event log held against both.
//
// What green does not prove: another firmware or QEMU than the tools tree's.

import (
	"context"
	"encoding/hex"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/boot/measured"
	"cc-base/tasks/tpm/pcr"
)

// phases are those that have passed when the guest calls itself ready.
func phases() []string { return []string{"enter-initrd", "leave-initrd", "sysinit", "ready"} }

// predict returns what the machine's boot image will measure.
func (i installed) predict(t *testing.T, secureBoot pcr.SecureBoot) pcr.Log {
	t.Helper()
	data, err := os.ReadFile(i.image.Path("cc-base.efi"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := pcr.ReadUKI(data)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.Open(i.guest.Disk)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	gpt, err := measured.PartitionTable(disk)
	if err != nil {
		t.Fatal(err)
	}
	log, err := pcr.Predict(pcr.Boot{Image: image, SecureBoot: secureBoot, GPT: gpt, Phases: phases()})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// samePCRs compares the prediction with the guest's registers, and the guest's
// event log with them. What that log does not hold is in PCRs 10, 11 and 15:
// IMA's measurements, boot phases and volume keys.
func (i installed) samePCRs(ctx context.Context, t *testing.T, c *control.Client, secureBoot pcr.SecureBoot) {
	t.Helper()
	var actual map[string]string
	if err := c.Ask(ctx, "pcrs", nil, &actual); err != nil {
		t.Fatal(err)
	}
	predicted := i.predict(t, secureBoot)
	values, err := predicted.Replay(pcr.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if want := []int{4, 5, 7, 9, 11, 12, 13}; !slices.Equal(slices.Sorted(maps.Keys(values)), want) {
		t.Errorf("predicted are %v, want %v", values, want)
	}
	for n, value := range values {
		if got := actual[strconv.Itoa(n)]; got != hex.EncodeToString(value) {
			t.Errorf("PCR %d is %s, predicted %s", n, got, value)
		}
	}
	var raw []byte
	if err := c.Ask(ctx, "eventlog", nil, &raw); err != nil {
		t.Fatal(err)
	}
	log, err := pcr.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	replayed, err := log.Replay(pcr.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 15 {
		if n == 10 || n == 11 {
			continue
		}
		if got := actual[strconv.Itoa(n)]; got != hex.EncodeToString(replayed[n]) {
			t.Errorf("PCR %d is %s, the event log gives %s", n, got, replayed[n])
		}
	}
	if t.Failed() {
		for _, d := range pcr.Diff(predicted, log, pcr.SHA256) {
			t.Logf("%+v", d)
		}
	}
}
