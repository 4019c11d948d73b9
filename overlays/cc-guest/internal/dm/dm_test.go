package dm

// Green here means that the comparison refuses a table that differs. The form
// of the table is the one that Linux 6.12 prints; a boot shows whether another
// kernel still prints it.

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"cc-base/overlays/cc-guest/internal/cmdline"
)

const hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestCheckTableRefusesEveryDifference(t *testing.T) {
	t.Parallel()
	v := cmdline.Volume{Name: "cc-root", RootHash: hash, HashOffset: 8192}
	good := "0 16 verity 1 253:0 253:0 4096 4096 2 3 sha256 " + hash + " abcd 1 panic_on_corruption"
	if err := CheckTable(v, good+" \n"); err != nil {
		t.Fatal(err)
	}
	for name, table := range map[string]string{
		"nothing":           "",
		"two targets":       good + "\n" + good,
		"other target":      strings.Replace(good, "verity", "linear", 1),
		"cut short":         "0 16 verity 1",
		"starts later":      strings.Replace(good, "0 16", "8 16", 1),
		"shorter device":    strings.Replace(good, "0 16", "0 8", 1),
		"other version":     strings.Replace(good, "verity 1", "verity 0", 1),
		"two devices":       strings.Replace(good, "253:0 253:0", "253:0 253:1", 1),
		"small blocks":      strings.Replace(good, "4096 4096", "512 4096", 1),
		"other algorithm":   strings.Replace(good, "sha256", "sha512", 1),
		"other root hash":   strings.Replace(good, hash, strings.Repeat("0", 64), 1),
		"data over tree":    strings.Replace(strings.Replace(good, "4096 2 3", "4096 3 3", 1), "0 16", "0 24", 1),
		"data not a number": strings.Replace(good, "4096 2 3", "4096 x 3", 1),
		"tree elsewhere":    strings.Replace(good, "4096 2 3", "4096 2 4", 1),
		"no panic":          strings.Replace(good, "panic_on_corruption", "ignore_corruption", 1),
		"no options":        strings.TrimSuffix(good, " 1 panic_on_corruption"),
	} {
		if CheckTable(v, table) == nil {
			t.Errorf("%s: accepted %q", name, table)
		}
	}
}

func TestNumbersNamesMappedDevicesOnly(t *testing.T) {
	t.Parallel()
	got, err := Numbers(fstest.MapFS{
		"class/block/vda/dev":      {Data: []byte("254:0\n")},
		"class/block/dm-1/dev":     {Data: []byte("253:1\n")},
		"class/block/dm-1/dm/name": {Data: []byte("cc-root\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"cc-root": "253:1"}, got); diff != "" {
		t.Errorf("numbers (-want +got):\n%s", diff)
	}
}
