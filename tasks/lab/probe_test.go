package lab_test

// What only a program inside the guest can see: the writable volume under
// corruption and power cuts, other people's tools in the initrd, secrets where
// none may be. The program is testdata/probe, put into the initrd.
//
// What green does not prove: QEMU's disk keeps what it was given when it is
// killed, and the figures of emulation are ratios at best.

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cc-base/overlays/cc-guest/control"
	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/program"
	"cc-base/tasks/sh"
	"cc-base/tasks/vm"
)

const writable = "/dev/mapper/cc-dynamic"

// probe returns the program, compiled.
func (i installed) probe(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(i.tmp, "probe")
	if err := program.Build(context.Background(), sh.Host{}, "../..", "./tasks/lab/testdata/probe", out); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// probing makes the machine run the probe after its volumes are open and before
// they are mounted, with dm-integrity under the writable one.
func (i installed) probing(t *testing.T, verbs ...string) {
	t.Helper()
	dropIn := "[Service]\n"
	for _, v := range verbs {
		dropIn += "ExecStartPre=/usr/lib/cc/probe " + v + "\n"
	}
	i.image.WithInitrdFiles(t, i.tools, i.guest.Disk, "", map[string][]byte{
		"usr/lib/cc/probe": i.probe(t), "usr/lib/systemd/system/cc-mounts.service.d/probe.conf": []byte(dropIn),
		"usr/lib/cc/guest.json": i.changed(t, func(s *settings.Settings) { s.Keys.DynamicIntegrity = "on" }),
	})
}

// seen returns what the probe said in answer to one of its verbs.
func seen(t *testing.T, lines []string, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile("probe: " + pattern)
	for _, l := range lines {
		if m := re.FindStringSubmatch(l); m != nil {
			return m
		}
	}
	t.Fatalf("the probe did not say %q", pattern)
	return nil
}

// content reads the writable partition.
func (i installed) content(t *testing.T) []byte {
	t.Helper()
	disk, start, size := i.partition(t, "cc-dynamic")
	data := make([]byte, size)
	if _, err := disk.ReadAt(data, start); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAChangeBehindTheGuestsBackIsNotRead(t *testing.T) {
	boots.LongOnly(t)
	const block = 4096
	m := install(t)
	m.probing(t, "speed "+writable)
	lines := m.boot(t, m.first(), nil)
	t.Logf("dm-integrity: %s", seen(t, lines, `(\d+ MiB in .* s)`)[1])
	before := m.content(t)

	m.probing(t, "write "+writable)
	seen(t, m.boot(t, m.guest, nil), "written")
	// This boot empties the journal, which would put back what is changed next.
	m.probing(t, "read "+writable)
	lines = m.boot(t, m.guest, nil)
	for _, how := range []string{"direct", "buffered"} {
		seen(t, lines, how+": 64 good, 0 refused, 0 changed")
	}
	after := m.content(t)
	disk, start, _ := m.partition(t, "cc-dynamic")
	// The data of the last sectors lies behind everything else that changed.
	flipped := 0
	for at := len(after) - block; at >= 0 && flipped < 8; at -= block {
		if bytes.Equal(before[at:at+block], after[at:at+block]) {
			continue
		}
		if _, err := disk.WriteAt([]byte{after[at+100] ^ 1}, start+int64(at)+100); err != nil {
			t.Fatal(err)
		}
		flipped++
	}
	if flipped != 8 {
		t.Fatalf("only %d blocks have changed", flipped)
	}
	lines = m.boot(t, m.guest, nil)
	for _, how := range []string{"direct", "buffered"} {
		seen(t, lines, how+": 56 good, 8 refused, 0 changed")
	}
}

func TestWhatWasKeptOutlivesPowerCuts(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	m.probing(t, "count "+writable)
	kept := 0
	for n := range 10 {
		g := m.guest
		if n == 0 {
			g = m.first()
		}
		boots.Run(t, m.tools, g, func(ctx context.Context, machine *vm.Machine) {
			t.Helper()
			target := "probe: kept " + strconv.Itoa(kept+20)
			if _, err := machine.Expect(ctx, target); err != nil {
				t.Fatal(err)
			}
			if err := machine.Kill(); err != nil {
				t.Fatal(err)
			}
			had, err := strconv.Atoi(seen(t, machine.Lines(), `had (\d+)`)[1])
			if err != nil || had < kept {
				t.Errorf("had %d, but %d was kept: %v", had, kept, err)
			}
			for _, l := range machine.Lines() {
				if _, text, ok := strings.Cut(l, "probe: kept "); ok {
					if number, err := strconv.Atoi(text); err == nil {
						kept = number
					}
				}
			}
		})
	}
}

// libraries returns the files that a program of the tools tree needs, by their
// place in it.
func (i installed) libraries(t *testing.T, programs ...string) []string {
	t.Helper()
	var out bytes.Buffer
	if err := i.tools.Run(context.Background(), sh.Cmd{Name: "ldd", Args: programs, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, m := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(out.String(), -1) {
		files = append(files, m[1])
	}
	return files
}

func TestStockSystemdOpensAVolumeOfOurs(t *testing.T) {
	boots.LongOnly(t)
	m := enrolled(t)
	const libs = "usr/lib/cc/stock"
	programs := []string{"/usr/lib/systemd/systemd-cryptsetup", "/usr/lib/systemd/systemd-pcrextend"}
	plugins := []string{
		"/usr/lib/x86_64-linux-gnu/cryptsetup/libcryptsetup-token-systemd-tpm2.so", "/usr/lib/x86_64-linux-gnu/libtss2-esys.so.0",
		"/usr/lib/x86_64-linux-gnu/libtss2-mu.so.0", "/usr/lib/x86_64-linux-gnu/libtss2-rc.so.0", "/usr/lib/x86_64-linux-gnu/libtss2-tcti-device.so.0",
	}
	files := map[string][]byte{"usr/lib/cc/probe": m.probe(t)}
	for _, file := range append(append(m.libraries(t, append(programs, plugins...)...), plugins[1:]...), programs...) {
		data, err := os.ReadFile(filepath.Join(m.tools.Dir, file))
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(libs, filepath.Base(file))
		if strings.HasPrefix(file, "/usr/lib/systemd/systemd-") {
			name = "usr/lib/cc/" + filepath.Base(file)
		}
		files[name] = data
	}
	plugin, err := os.ReadFile(filepath.Join(m.tools.Dir, plugins[0]))
	if err != nil {
		t.Fatal(err)
	}
	files[strings.TrimPrefix(plugins[0], "/")] = plugin
	// In place of ours: what systemd does at that point of a boot.
	files["usr/lib/systemd/system/cc-unlock.service"] = []byte(`[Unit]
DefaultDependencies=no
After=systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service
Requires=systemd-udevd.service
OnFailure=emergency.target
OnFailureJobMode=replace-irreversibly
[Service]
Type=oneshot
RemainAfterExit=yes
Environment=LD_LIBRARY_PATH=/` + libs + ` SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
ExecStart=/usr/lib/cc/probe wait /dev/vda2 /dev/tpmrm0
ExecStart=/usr/lib/cc/systemd-pcrextend enter-initrd
ExecStart=/usr/lib/cc/systemd-cryptsetup attach stock /dev/vda2 - tpm2-device=/dev/tpmrm0,tpm2-signature=/.extra/tpm2-pcr-signature.json,read-only,headless=true
ExecStart=/usr/lib/cc/probe erofs /dev/mapper/stock
`)
	m.image.WithInitrdFiles(t, m.tools, m.guest.Disk, "", files)
	boots.Boot(t, m.tools, m.guest, "probe: /dev/mapper/stock is an erofs")
}

func TestNoSecretIsWhereOthersLook(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	key := m.imageKey(t)
	m.image.WithInitrdFiles(t, m.tools, m.guest.Disk, "", map[string][]byte{
		"usr/lib/cc/probe": m.probe(t), "usr/lib/cc/secrets": []byte(key + "\n"),
		"usr/lib/systemd/system/cc-unlock.service.d/watch.conf": []byte("[Unit]\nWants=watch.service\nAfter=watch.service\n"),
		// It goes on in the booted system: systemd leaves a unit alone that says
		// so, and a process whose name begins with @.
		"usr/lib/systemd/system/watch.service": []byte("[Unit]\nDefaultDependencies=no\nIgnoreOnIsolate=yes\n[Service]\nType=exec\nExecStart=@/usr/lib/cc/probe @probe watch\nKillMode=none\n"),
	})
	var lines []string
	boots.Run(t, m.tools, m.first(), func(ctx context.Context, machine *vm.Machine) {
		t.Helper()
		if _, err := machine.Expect(ctx, ready); err != nil {
			t.Fatal(err)
		}
		c, err := control.Dial(ctx, filepath.Join(m.guest.Dir, control.PortName+".sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Ask(ctx, "keys rotate", nil, nil); err != nil {
			t.Fatal(err)
		}
		for range 2 { // one may have been said before
			if _, err := machine.Expect(ctx, "probe: "); err != nil {
				t.Fatal(err)
			}
		}
		lines = machine.Lines()
		onHost(t, key)
	})
	for _, l := range lines {
		if strings.Contains(l, "LEAK") || strings.Contains(l, key) {
			t.Error(l)
		}
	}
	seen(t, lines, `\d+ looks, [1-9]\d* journals`)
	if seen(t, lines, `.*core pattern.*cc-guest: Max core file size (0 0 bytes)`)[1] == "" {
		t.Error("a core dump of cc-guest is possible")
	}
	// What the machine leaves while it is off, and what the build has logged.
	for _, dir := range []string{m.guest.Dir, m.image.Path("log")} {
		out, err := exec.Command("grep", "-rlaF", "-e", key, dir).Output()
		if len(out) > 0 || err == nil {
			t.Errorf("the key is in %s", out)
		}
	}
}

// onHost looks through the arguments and environments of the host's processes.
func onHost(t *testing.T, secret string) {
	t.Helper()
	for _, file := range []string{"cmdline", "environ"} {
		paths, err := filepath.Glob("/proc/[0-9]*/" + file)
		if err != nil || len(paths) == 0 {
			t.Fatal(paths, err)
		}
		for _, p := range paths {
			if data, err := os.ReadFile(p); err == nil && strings.Contains(string(data), secret) {
				t.Errorf("the key is in %s", p)
			}
		}
	}
}
