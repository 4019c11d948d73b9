package build_test

// What green does not prove: the guest is this process, behind a socket that is
// not QEMU's, and its image is of no use but to be measured. That a guest
// replaces its secrets is shown by the boots in tasks/lab, and that a boot
// measures what is predicted by the recorded machines in tasks/tpm/pcr.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/installertest"
	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/boot"
	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/build"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
)

// fakeGuest is a guest at the end of a socket.
type fakeGuest struct {
	mu      sync.Mutex
	epoch   int
	slow    time.Duration // of a rotation
	kind    string        // of a keyslot
	pcrs    map[string]string
	pending bool // prepared for another image
	got     json.RawMessage
	refuses error
}

func (g *fakeGuest) verbs() map[string]control.Verb {
	return map[string]control.Verb{
		"keys rotate": func(context.Context, json.RawMessage) (any, error) {
			time.Sleep(g.slow)
			g.epoch++
			return nil, g.refuses
		},
		"keys status": func(context.Context, json.RawMessage) (any, error) { return g.status(), nil },
		"keys prepare": func(_ context.Context, data json.RawMessage) (any, error) {
			g.got, g.pending = data, true
			return nil, g.refuses
		},
		"pcrs": func(context.Context, json.RawMessage) (any, error) { return g.pcrs, nil },
	}
}

func (g *fakeGuest) status() any {
	slots := []map[string]any{{"slot": "1", "kind": g.kind, "epoch": g.epoch, "state": "active", "made": "2026-02-03T04:05:06Z"}}
	if g.pending {
		slots = append(slots, map[string]any{"slot": "2", "kind": g.kind, "epoch": g.epoch + 1, "state": "pending"})
	}
	return map[string]any{"profile": "tpm", "integrity": false, "volumes": []map[string]any{{"label": "cc-root", "epoch": g.epoch, "slots": slots}}}
}

// listen serves one client after the other, as a virtio-serial port does.
func (g *fakeGuest) listen(socket string) (stop func(), err error) {
	if g.kind == "" {
		g.kind = "systemd-tpm2"
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = control.Serve(context.Background(), conn, g.verbs())
			_ = conn.Close()
		}
	}()
	return func() { _ = l.Close() }, nil
}

// at makes an output folder in which g is the guest of `mage vm`.
func (g *fakeGuest) at(t *testing.T) (o build.Options, stderr *bytes.Buffer) {
	t.Helper()
	dir, err := os.MkdirTemp("", "g") // sockets want short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(filepath.Join(dir, "vm"), 0o755); err != nil {
		t.Fatal(err)
	}
	stop, err := g.listen(filepath.Join(dir, "vm", "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	stderr = &bytes.Buffer{}
	return build.Options{OutDir: dir, Stderr: stderr}, stderr
}

func TestRotateShowsWhatOpensTheVolumesThen(t *testing.T) {
	t.Parallel()
	g := &fakeGuest{epoch: 1}
	o, stderr := g.at(t)
	var out strings.Builder
	if err := build.RotateKeys(t.Context(), o, build.Guest{}, &out); err != nil {
		t.Fatal(err)
	}
	const want = `profile tpm
volume   slot  kind          epoch  state   made
cc-root  1     systemd-tpm2  2      active  2026-02-03T04:05:06Z
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if stderr.Len() > 0 {
		t.Errorf("it speaks of a wait that there was none of: %s", stderr)
	}
	// The same by the socket's path.
	out.Reset()
	if err := build.RotateKeys(t.Context(), build.Options{Stderr: io.Discard}, build.Guest{Socket: filepath.Join(o.OutDir, "vm", "control.sock")}, &out); err != nil || !strings.Contains(out.String(), " 3      active") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// The client asks again after three seconds.
func TestASlowRotationIsSpokenOfAndDoneOnce(t *testing.T) {
	t.Parallel()
	g := &fakeGuest{slow: 3500 * time.Millisecond}
	o, stderr := g.at(t)
	if err := build.RotateKeys(t.Context(), o, build.Guest{}, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got := stderr.String(); got != "vm: waiting for the guest to replace its secrets, 2 s\n" {
		t.Errorf("stderr: %q", got)
	}
	if g.epoch != 1 {
		t.Errorf("the secrets were replaced %d times", g.epoch)
	}
}

func TestWhatAGuestRefusesKeepsItsCode(t *testing.T) {
	t.Parallel()
	g := &fakeGuest{refuses: fault.Newf(fault.GuestRotate, "cc-root: no\x1b[2J")}
	o, _ := g.at(t)
	var out strings.Builder
	err := build.RotateKeys(t.Context(), o, build.Guest{}, &out)
	faulttest.Want(t, err, fault.GuestRotate, `"keys rotate": cc-root: no?[2J`)
	if out.Len() > 0 {
		t.Errorf("a table all the same: %s", out.String())
	}
}

func TestATableIsFreeOfWhatAGuestSlipsIn(t *testing.T) {
	t.Parallel()
	g := &fakeGuest{kind: "\x1b[8m\ta\n"}
	o, _ := g.at(t)
	var out strings.Builder
	if err := build.RotateKeys(t.Context(), o, build.Guest{}, &out); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\t") || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("%q", out.String())
	}
}

func TestWhereNobodyIsNobodyIsAsked(t *testing.T) {
	t.Parallel()
	o := build.Options{OutDir: t.TempDir(), Stderr: io.Discard}
	for _, tc := range []struct {
		guest build.Guest
		code  fault.Code
		words []string
	}{
		{build.Guest{}, fault.Machine, []string{"no VM runs at " + o.OutDir + "/vm/control.sock: connect: no such file"}},
		{build.Guest{Name: "web-1"}, fault.Machine, []string{"no VM runs at /run/cc-base/web-1/control.sock"}},
		{build.Guest{Socket: "/nowhere/s"}, fault.Machine, []string{"no VM runs at /nowhere/s"}},
		{build.Guest{Socket: "/" + strings.Repeat("s", 200)}, fault.Machine, []string{"invalid argument"}},
		{build.Guest{Name: "../web"}, fault.Usage, []string{"no name of a virtual machine"}},
		{build.Guest{Name: "web", Socket: "/s"}, fault.Usage, []string{"two ways"}},
	} {
		faulttest.Want(t, build.RotateKeys(t.Context(), o, tc.guest, io.Discard), tc.code, tc.words...)
	}
	if text := fault.Render(build.RotateKeys(t.Context(), o, build.Guest{}, io.Discard)); !strings.Contains(text, "hint: `mage vm` starts one") {
		t.Error(text)
	}
	filetest.Only(t, o.OutDir)
}

func TestAGuestThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rotate := func(ctx context.Context) error {
		return build.RotateKeys(ctx, build.Options{Stderr: io.Discard}, build.Guest{Socket: socket}, io.Discard)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	faulttest.Want(t, rotate(ctx), fault.Machine, "does not answer")

	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	faulttest.Want(t, rotate(ctx), fault.Interrupted)

	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	faulttest.Want(t, rotate(t.Context()), fault.Machine, "has hung up")
}

// imageIn puts a boot image and a disk into an output folder: as they are
// measured, not as they are booted.
func imageIn(dir string) error {
	folder := filepath.Join(dir, "folder")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := installertest.New().Write(folder); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "cc-base.efi"), boottest.UKI("ro quiet"), 0o644),
		os.Rename(filepath.Join(folder, "cc-base.qcow2"), filepath.Join(dir, "cc-base.qcow2")),
	)
}

// prediction is what cc-guest reads, and more.
type prediction struct {
	SecureBoot string
	PCRs       map[string]string
	Registers  []struct {
		PCR                        int
		Predicted, Actual, Verdict string
	}
}

func predict(t *testing.T, o build.Options, p build.PCRs) prediction {
	t.Helper()
	p.JSON = true
	var out bytes.Buffer
	if err := build.ShowPCRs(t.Context(), o, p, &out); err != nil {
		t.Fatal(err)
	}
	var got prediction
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return got
}

func TestPCRsAreThoseOfTheBuiltFiles(t *testing.T) {
	t.Parallel()
	o := build.Options{OutDir: t.TempDir(), Stderr: io.Discard}
	if err := imageIn(o.OutDir); err != nil {
		t.Fatal(err)
	}
	got := predict(t, o, build.PCRs{})
	pcr11, err := boot.PCR11(filetest.Read(t, filepath.Join(o.OutDir, "cc-base.efi")), boot.PCRPhase)
	if err != nil {
		t.Fatal(err)
	}
	zeros := strings.Repeat("0", 64)
	if got.SecureBoot != "absent" || len(got.PCRs) != 7 || got.PCRs["11"] != fmt.Sprintf("%x", pcr11) || got.PCRs["12"] != zeros || got.PCRs["13"] != zeros {
		t.Errorf("%+v", got)
	}
	// Of the recorded disk, the table is another one, and nothing else.
	disk := filepath.Join(t.TempDir(), "raw")
	raw, err := io.ReadAll(filetest.Gunzip(t, "../tpm/pcr/testdata/plain.gpt.gz"))
	if err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, disk, raw)
	other := predict(t, o, build.PCRs{Disk: disk})
	for n, value := range got.PCRs {
		if (value == other.PCRs[n]) == (n == "5") {
			t.Errorf("PCR %s: %s and, with another disk, %s", n, value, other.PCRs[n])
		}
	}
	var out strings.Builder
	if err := build.ShowPCRs(t.Context(), o, build.PCRs{}, &out); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"firmware without Secure Boot", "register  value", "4         " + got.PCRs["4"] + "  boot image\n", "5         " + got.PCRs["5"] + "  partition table\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in\n%s", line, out.String())
		}
	}
}

func TestPCRsOfFilesThatAreNotThere(t *testing.T) {
	t.Parallel()
	o := build.Options{OutDir: t.TempDir(), Stderr: io.Discard}
	err := build.ShowPCRs(t.Context(), o, build.PCRs{}, io.Discard)
	faulttest.Want(t, err, fault.Usage, "cc-base.efi: no such file")
	if !strings.Contains(fault.Render(err), "hint: `mage build`") {
		t.Error(fault.Render(err))
	}
	if err := imageIn(o.OutDir); err != nil {
		t.Fatal(err)
	}
	faulttest.Want(t, build.ShowPCRs(t.Context(), o, build.PCRs{SecureBoot: true}, io.Discard), fault.BootImage, "secureboot/PK.crt: no such file")
	faulttest.Want(t, build.ShowPCRs(t.Context(), o, build.PCRs{Disk: filepath.Join(o.OutDir, "cc-base.efi")}, io.Discard), fault.DiskImage, "partition table")
	filetest.Write(t, filepath.Join(o.OutDir, "cc-base.qcow2"), []byte("QFI\xfb too short"))
	faulttest.Want(t, build.ShowPCRs(t.Context(), o, build.PCRs{}, io.Discard), fault.DiskImage, "cc-base.qcow2")
	filetest.Write(t, filepath.Join(o.OutDir, "cc-base.efi"), []byte("MZ"))
	faulttest.Want(t, build.ShowPCRs(t.Context(), o, build.PCRs{}, io.Discard), fault.BootImage, "cc-base.efi")
}

// measuring makes g's TPM hold a prediction, and something in the registers
// that are not predicted.
func (g *fakeGuest) measuring(p prediction) {
	g.pcrs = map[string]string{}
	for n := range 24 {
		g.pcrs[fmt.Sprint(n)] = strings.Repeat(fmt.Sprintf("%02x", n), 32)
	}
	for n, value := range p.PCRs {
		g.pcrs[n] = value
	}
}

func TestPCRsOfAGuestAreHeldAgainstThePrediction(t *testing.T) {
	t.Parallel()
	g := &fakeGuest{}
	o, _ := g.at(t)
	if err := imageIn(o.OutDir); err != nil {
		t.Fatal(err)
	}
	g.measuring(predict(t, o, build.PCRs{}))
	uki := filetest.Read(t, filepath.Join(o.OutDir, "cc-base.efi"))
	for _, tc := range []struct {
		phases []string
		after  string
	}{
		{nil, "the boot image"}, {[]string{"enter-initrd"}, "enter-initrd"},
		{[]string{"enter-initrd", "leave-initrd", "sysinit", "ready"}, "ready"},
	} {
		value, err := boot.PCR11(uki, tc.phases...)
		if err != nil {
			t.Fatal(err)
		}
		g.pcrs["11"] = fmt.Sprintf("%x", value)
		got := predict(t, o, build.PCRs{Guest: &build.Guest{}})
		for _, r := range got.Registers {
			want := "not predicted"
			switch {
			case r.PCR == 11:
				want = "same, after " + tc.after
			case r.Predicted != "":
				want = "same"
			}
			if r.Verdict != want || r.Actual != g.pcrs[fmt.Sprint(r.PCR)] || r.Predicted != "" && r.Predicted != r.Actual {
				t.Errorf("after %s: %+v, want %s", tc.after, r, want)
			}
		}
		if len(got.Registers) != 16 {
			t.Errorf("%d registers", len(got.Registers))
		}
	}

	g.pcrs["4"], g.pcrs["11"] = strings.Repeat("ee", 32), strings.Repeat("ee", 32)
	delete(g.pcrs, "9")
	var out strings.Builder
	err := build.ShowPCRs(t.Context(), o, build.PCRs{Guest: &build.Guest{}}, &out)
	faulttest.Want(t, err, fault.Machine, "PCR 4, 9, 11")
	for _, line := range []string{"eeeeeeeeeeeeeeee  DIFFERENT      boot image\n", "-                 DIFFERENT ", "0         -                 0000000000000000  not predicted"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in\n%s", line, out.String())
		}
	}
	g.pcrs["5"] = strings.Repeat("ee", 32)
	if text := fault.Render(build.ShowPCRs(t.Context(), o, build.PCRs{Guest: &build.Guest{}}, io.Discard)); !strings.Contains(text, "hint: the table of an installed disk") {
		t.Error(text)
	}
	for n, value := range map[string]string{"4": "\x1b[2J", "5": "00", "x": strings.Repeat("00", 32)} {
		g.pcrs = map[string]string{n: value}
		faulttest.Want(t, build.ShowPCRs(t.Context(), o, build.PCRs{Guest: &build.Guest{}}, io.Discard), fault.Machine, fmt.Sprintf("%q %q", n, value))
	}
}

// signed gives the output folder Secure Boot keys and an image of theirs.
func signed(t *testing.T, out string) {
	t.Helper()
	keys, _, err := boot.LoadOrMakeKeys(filepath.Join(out, "keys", "secureboot"), time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(out, "cc-base.efi")
	image, err := boot.Sign(filetest.Read(t, file), keys["db"])
	if err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, file, image)
}

func TestPrepareSendsWhatTheGuestsFirmwareWillMeasure(t *testing.T) {
	t.Parallel()
	g := &fakeGuest{epoch: 1}
	o, stderr := g.at(t)
	if err := imageIn(o.OutDir); err != nil {
		t.Fatal(err)
	}
	signed(t, o.OutDir)
	off, on := predict(t, o, build.PCRs{}), predict(t, o, build.PCRs{SecureBoot: true})
	if on.SecureBoot != "on" || off.PCRs["7"] == on.PCRs["7"] || off.PCRs["4"] == on.PCRs["4"] {
		t.Fatalf("Secure Boot makes no difference: %+v", on)
	}
	for _, want := range []prediction{off, on} {
		g.measuring(want)
		if got := predict(t, o, build.PCRs{Guest: &build.Guest{}}); got.SecureBoot != want.SecureBoot {
			t.Errorf("Secure Boot is %s in the guest and %s in the prediction for it", want.SecureBoot, got.SecureBoot)
		}
		g.pcrs["4"] = strings.Repeat("ee", 32) // of a former image
		var out strings.Builder
		if err := build.PrepareKeys(t.Context(), o, build.Guest{}, &out); err != nil {
			t.Fatal(err)
		}
		var sent struct {
			PCRs map[string]string `json:"pcrs"`
		}
		if err := json.Unmarshal(g.got, &sent); err != nil {
			t.Fatal(err)
		}
		expected := map[string]string{}
		for _, n := range []string{"4", "7", "9", "12", "13"} {
			expected[n] = want.PCRs[n]
		}
		if diff := cmp.Diff(expected, sent.PCRs); diff != "" {
			t.Errorf("Secure Boot %s (-want +sent):\n%s", want.SecureBoot, diff)
		}
		if !strings.Contains(out.String(), "pending") || !strings.Contains(stderr.String(), "if PCR 5 stays as it is") {
			t.Errorf("%s%s", stderr, out.String())
		}
	}

	// Firmware of which nothing is known.
	g.got = nil
	g.pcrs["7"] = strings.Repeat("77", 32)
	faulttest.Want(t, build.PrepareKeys(t.Context(), o, build.Guest{}, io.Discard), fault.Machine, "PCR 7 is neither")
	if g.got != nil {
		t.Errorf("sent all the same: %s", g.got)
	}
	g.measuring(off)
	g.refuses = fault.Newf(fault.Usage, "in profile snp only the operator can prepare")
	faulttest.Want(t, build.PrepareKeys(t.Context(), o, build.Guest{}, io.Discard), fault.Usage, "profile snp")
}
