package lab_test

// A debug image: built from its profile, looked at over its console.
//
// What green does not prove: that a production image scores the same with
// lynis, which cannot run in one; it differs by the console's shell and the
// packages of config/profiles/debug.conf.

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/lab"
	"cc-base/tasks/vm"
)

// leastIndex is what lynis must give the debug image: a point less than the 71
// that README quotes, for what changes with a point release of the packages.
const leastIndex = 70

// debugImage builds the debug profile, from the caches that the tests share.
func debugImage(t *testing.T) lab.Image {
	t.Helper()
	out := t.TempDir()
	cmd := exec.Command("go", "tool", "mage", "package")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CC_PROFILE=debug", "CC_OUT_DIR="+out)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return lab.Image{Out: out}
}

// shell types on the console of a debug image.
type shell struct {
	t   *testing.T
	m   *vm.Machine
	ctx context.Context
}

// logIn waits until the shell answers.
func logIn(ctx context.Context, t *testing.T, m *vm.Machine) shell {
	t.Helper()
	s := shell{t: t, m: m, ctx: ctx}
	for range 12 {
		s.typed("echo cc-lab: shell $((6*7))")
		soon, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := m.Expect(soon, "cc-lab: shell 42")
		cancel()
		if err == nil {
			return s
		}
	}
	t.Fatal("there is no shell on the console")
	return s
}

func (s shell) typed(line string) {
	s.t.Helper()
	if err := s.m.Type(line + "\n"); err != nil {
		s.t.Fatal(err)
	}
}

// run runs a command and returns its exit status and what it printed.
func (s shell) run(command string) (status int, out string) {
	s.t.Helper()
	before := len(s.m.Lines())
	s.typed(command + "; echo cc-lab: end $?")
	end := regexp.MustCompile(`cc-lab: end (\d+)`)
	for {
		line, err := s.m.Expect(s.ctx, "cc-lab: end ")
		if err != nil {
			s.t.Fatal(err)
		}
		if found := end.FindStringSubmatch(line); found != nil {
			status, _ = strconv.Atoi(found[1])
			return status, strings.Join(s.m.Lines()[before:], "\n")
		}
	}
}

func TestADebugImageIsLookedAtFromItsConsole(t *testing.T) {
	boots.LongOnly(t)
	_ = lab.Built(t)
	image := debugImage(t)
	tools, tmp := lab.Tools(t, image.Out)
	g := lab.Guest{Disk: image.Raw(t, tools, tmp), Key: image.Path("keys", "debug", "image.key"), Within: 15 * time.Minute}
	boots.Run(t, tools, g, func(ctx context.Context, m *vm.Machine) {
		if _, err := m.Expect(ctx, "cc-base: DEBUG IMAGE"); err != nil {
			t.Fatal(err)
		}
		s := logIn(ctx, t, m)

		for _, c := range []struct{ command, want string }{
			{"tpm2_pcrread sha256:11", `11: 0x[0-9A-F]{64}`},
			{"grep -o cc.debug=1 /proc/cmdline", `(?m)^cc.debug=1`},
			{"/usr/lib/cc/cc-guest check boot.root-read-only boot.identity-key", `ok|passed`},
			{"/usr/lib/cc/validation/test_03_device.sh", `attestation`},
			{"/usr/lib/cc/validation/test_04_keys.sh", `boot.machine-id`},
			{"/usr/lib/cc/validation/test_05_cc_apps.sh", `boot.ready`},
		} {
			if status, out := s.run(c.command); status != 0 || !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("%s: status %d\n%s", c.command, status, out)
			}
		}
		// What a production image has not, the checks find.
		if status, out := s.run("/usr/lib/cc/validation/test_06_partition.sh"); status != 1 || !strings.Contains(out, "boot.production") {
			t.Errorf("the debug image passes for a production image: status %d\n%s", status, out)
		}
		_, out := s.run("lynis audit system -Q --no-colors --no-log")
		found := regexp.MustCompile(`Hardening index : (\d+)`).FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("lynis gave no index\n%s", out)
		}
		t.Logf("lynis: hardening index %s", found[1])
		if index, _ := strconv.Atoi(found[1]); index < leastIndex {
			t.Errorf("the hardening index is %d, below %d\n%s", index, leastIndex, out)
		}
	})
}
