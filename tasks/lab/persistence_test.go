package lab_test

// What a machine keeps and what it does not, and how much it takes.
//
// What green does not prove: anything about places that are not tried; the
// checks of the guest look at all mounts (validation/guest).

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"cc-base/tasks/digest"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal"
	"cc-base/tasks/vm"
)

// writes boots the machine, lets the probe write into the folders, and cuts the
// power.
func (i installed) writes(t *testing.T, g lab.Guest) []string {
	t.Helper()
	var lines []string
	boots.Run(t, i.tools, g, func(ctx context.Context, machine *vm.Machine) {
		t.Helper()
		if _, err := machine.Expect(ctx, "probe: all written"); err != nil {
			t.Fatal(err)
		}
		lines = machine.Lines()
		if err := machine.Kill(); err != nil {
			t.Fatal(err)
		}
	})
	return lines
}

func TestNothingOutlivesTheMachineButWhatIsMeantTo(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	s := m.guestSettings(t)
	kept := s.Persistent[0]
	m.afterwards(t, "write / /usr /usr/lib/cc /boot /opt/cc /etc/cc/config /etc /var "+kept)
	sum := func() string {
		t.Helper()
		disk, start, size := m.partition(t, "cc-root")
		// Behind the header, which holds the keyslots that the guest changes.
		part := make([]byte, size-seal.HeaderSize)
		if _, err := disk.ReadAt(part, start+seal.HeaderSize); err != nil {
			t.Fatal(err)
		}
		return digest.Bytes(part)
	}
	before := sum()
	for n, g := range []lab.Guest{m.first(), m.guest} {
		lines := m.writes(t, g)
		for _, folder := range []string{"/", "/usr", "/usr/lib/cc", "/boot", "/opt/cc", "/etc/cc/config"} {
			if got := seen(t, lines, folder+`: (had .*)`)[1]; got != "had false, read-only file system" {
				t.Errorf("boot %d: %s: %s", n+1, folder, got)
			}
		}
		for folder, size := range map[string]int64{"/etc": s.EtcSize, "/var": s.VarSize} {
			got := seen(t, lines, folder+`: had (\w+), took (\d+) MiB: (.*)`)
			took, err := strconv.ParseInt(got[2], 10, 64)
			if got[1] != "false" || err != nil || took<<20 > size || took<<20 < size/2 || got[3] != "no space left on device" {
				t.Errorf("boot %d: %s: %s", n+1, folder, strings.Join(got, " "))
			}
		}
		if got := seen(t, lines, kept+`: had (\w+), took`)[1]; got != strconv.FormatBool(n > 0) {
			t.Errorf("boot %d: %s: had %s", n+1, kept, got)
		}
	}
	if sum() != before {
		t.Error("the root volume's content has changed")
	}
}

func TestWithoutItsDiskTheMachineEnds(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	// The host starts the boot image itself: it lies on the disk otherwise.
	m.refused(t, lab.Guest{Kernel: m.image.Path("cc-base.efi")}, "cc-base: refused: CC0802")
}
