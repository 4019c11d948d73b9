package volume

// Green here means that the search reads a sysfs tree rightly. It does not
// prove that this kernel fills PARTNAME: the boots do.

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func device(uevent ...string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(strings.Join(uevent, "\n") + "\n")}
}

func sysfs() fstest.MapFS {
	return fstest.MapFS{
		"class/block/vda/uevent":  device("MAJOR=254", "DEVNAME=vda", "DEVTYPE=disk"),
		"class/block/vda1/uevent": device("DEVNAME=vda1", "DEVTYPE=partition", "PARTN=1", "PARTNAME=cc-esp"),
		"class/block/vda2/uevent": device("DEVNAME=vda2", "DEVTYPE=partition", "PARTN=2", "PARTNAME=cc-root"),
		"class/block/vda3/uevent": device("DEVNAME=vda3", "DEVTYPE=partition", "PARTN=3", "PARTNAME=cc-app"),
		"class/block/vdb1/uevent": device("DEVNAME=vdb1", "DEVTYPE=partition", "PARTN=1", "PARTNAME=data"),
		// A whole disk cannot claim a label, whatever it says.
		"class/block/sda/uevent": device("DEVNAME=sda", "DEVTYPE=disk", "PARTNAME=cc-root"),
		// Nor can a node whose name would leave /dev.
		"class/block/x/uevent": device("DEVNAME=../x", "DEVTYPE=partition", "PARTNAME=cc-root"),
	}
}

func always() bool { return true }

func TestFindReturnsOneNodePerLabel(t *testing.T) {
	t.Parallel()
	got, err := Finder{Sys: sysfs(), Settled: always}.Find(t.Context(), []string{"cc-root", "cc-app"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"cc-root": "vda2", "cc-app": "vda3"}, got); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
}

func TestFindRefusesALabelThatIsThereTwice(t *testing.T) {
	t.Parallel()
	sys := sysfs()
	sys["class/block/vdb2/uevent"] = device("DEVNAME=vdb2", "DEVTYPE=partition", "PARTNAME=cc-root")
	_, err := Finder{Sys: sys, Settled: always}.Find(t.Context(), []string{"cc-root", "cc-app"})
	if !errors.Is(err, ErrDuplicate) || !strings.Contains(err.Error(), "cc-root on vda2 and vdb2") {
		t.Errorf("error is %v", err)
	}
}

func TestFindEndsWithTheContextAndNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := Finder{Sys: sysfs(), Settled: always}.Find(ctx, []string{"cc-root", "cc-config"})
	if err == nil || !strings.HasSuffix(err.Error(), "labelled cc-config") {
		t.Errorf("error is %v", err)
	}
	if _, err = (Finder{Sys: fstest.MapFS{}, Settled: always}).Find(ctx, []string{"cc-root"}); err == nil {
		t.Error("an empty sysfs gave no error")
	}
}

func TestFindSeesADiskThatUdevFinishedLast(t *testing.T) {
	t.Parallel()
	sys := sysfs()
	looks := 0
	settled := func() bool {
		looks++
		if looks == 2 {
			sys["class/block/vdb2/uevent"] = device("DEVNAME=vdb2", "DEVTYPE=partition", "PARTNAME=cc-root")
		}
		return looks >= 2
	}
	_, err := Finder{Sys: sys, Settled: settled}.Find(t.Context(), []string{"cc-root"})
	if !errors.Is(err, ErrDuplicate) {
		t.Errorf("error is %v", err)
	}
}
