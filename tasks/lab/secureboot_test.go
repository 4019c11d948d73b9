package lab_test

// What green does not prove: the firmware is OVMF under emulation, and its
// variables are behind emulated system management mode; another vendor's
// firmware may treat the same keys otherwise. A host that owns the firmware can
// start anything: Secure Boot is for plain machines, whose firmware is trusted.

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/boot"
	"cc-base/tasks/boot/varstore"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
	"cc-base/tasks/tpm/pcr"
)

// What OVMF prints of an image that db does not vouch for, and when it has tried
// everything.
const (
	accessDenied  = "Access Denied"
	nothingToBoot = "No bootable option or device was found"
)

// enrolledVars returns EFI variables that trust the image's own keys and no
// others.
func enrolledVars(t *testing.T, image lab.Image, tools sh.Runner, tmp string) string {
	t.Helper()
	cert := func(name string) string { return image.Path("keys", "secureboot", name+".crt") }
	vars := filepath.Join(tmp, "vars.fd")
	keys := varstore.Keys{PK: cert("PK"), KEK: cert("KEK"), DB: cert("db")}
	if err := varstore.Enrol(t.Context(), tools, "/usr/share/OVMF/OVMF_VARS_4M.fd", vars, keys); err != nil {
		t.Fatal(err)
	}
	return vars
}

func TestTheSignedImageStartsUnderSecureBoot(t *testing.T) {
	m := install(t)
	g := m.first()
	g.SecureBoot, g.Vars = true, enrolledVars(t, m.image, m.tools, m.tmp)
	vars, err := os.ReadFile(g.Vars)
	if err != nil {
		t.Fatal(err)
	}
	enrolled, err := pcr.ReadVars(vars)
	if err != nil {
		t.Fatal(err)
	}
	lines := m.boot(t, g, func(ctx context.Context, c *control.Client) { m.samePCRs(ctx, t, c, enrolled) })
	if contains(lines, accessDenied) {
		t.Error("the firmware refused something on the way")
	}
}

func TestAnUnsignedImageIsRefusedUnderSecureBoot(t *testing.T) {
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	raw := image.Raw(t, tools, tmp)
	image.WithBootImage(t, tools, raw, lab.BootImage{})
	refusedByFirmware(t, image, tools, raw, tmp)
}

func TestAForeignSignatureIsRefusedUnderSecureBoot(t *testing.T) {
	boots.LongOnly(t)
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	foreign, _, err := boot.LoadOrMakeKey(tmp, "foreign", time.Unix(image.Manifest.SourceDateEpoch, 0))
	if err != nil {
		t.Fatal(err)
	}
	raw := image.Raw(t, tools, tmp)
	image.WithBootImage(t, tools, raw, lab.BootImage{Key: &foreign})
	refusedByFirmware(t, image, tools, raw, tmp)
}

// refusedByFirmware boots the disk and fails the test unless the firmware says
// why it does not start the image, and then finds nothing else to start.
func refusedByFirmware(t *testing.T, image lab.Image, tools toolbox.Tree, raw, tmp string) {
	t.Helper()
	lines := boots.Boot(t, tools, lab.Guest{
		Disk: raw, Key: image.Path("keys", "image.key"), SecureBoot: true, Vars: enrolledVars(t, image, tools, tmp),
	}, nothingToBoot)
	refused(t, lines, accessDenied)
	if contains(lines, "EFI stub") {
		t.Error("the kernel began")
	}
}
