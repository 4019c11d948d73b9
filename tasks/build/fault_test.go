package build_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cc-base/tasks/lab"
)

// A full disk, in the middle of each stage that writes much. The output folder
// is a tmpfs in a mount namespace of its own; when the stage's line appears the
// tmpfs is cut down to what it holds, so that the next write finds no room.
func TestAFullDiskEndsTheStageWithAClearErrorAndTheNextBuildIsRight(t *testing.T) {
	image := lab.Built(t)
	c := newCheckout(t, image)
	keys := filepath.Join(filepath.Dir(c.out), "keys")
	if err := os.Rename(filepath.Join(c.out, "keys"), keys); err != nil {
		t.Fatal(err)
	}
	// The script runs mage with its own standard error behind it, reads what
	// it prints, and cuts the disk at the mark. $1 is the output folder, $2
	// the keys, $3 the mark.
	const script = `
mount -t tmpfs -o size=7g tmpfs "$1"
cp -a "$2" "$1/keys"
mkfifo "$1/events"
go tool mage build 2>"$1/events" &
build=$!
while IFS= read -r line; do
	printf '%s\n' "$line"
	case $line in
	*"$3"*)
		# What is being written meanwhile makes a size too small.
		for try in 1 2 3 4 5 6 7 8 9; do
			used=$(df --output=used -k "$1" | tail -n 1)
			! mount -o remount,size=$((used + 256))k "$1" 2>/dev/null || break
		done ;;
	esac
done <"$1/events"
status=0
wait $build || status=$?
echo "status: $status"
find "$1" -name '*.part' -size +64k | sed 's/^/left: /'
mount -o remount,size=7g "$1"
rm "$1/events"
go tool mage build 2>&1 | tail -n 3
sha256sum "$1/cc-base.efi" | cut -d' ' -f1
`
	for _, stage := range []struct{ name, mark string }{
		{"bootstrap", "bootstrap: debian"},
		{"baseos", "bootstrap: taken from the cache"},
		{"tee", "tee: compiling cc-guest"},
		{"encrypt", "root: sealing"},
		{"apps", "app: sealing"},
		{"package", "package: assembling"},
	} {
		t.Run(stage.name, func(t *testing.T) {
			c.withPackages(t)
			if stage.name == "bootstrap" {
				if os.Geteuid() != 0 {
					t.Skip("mmdebstrap needs more users than the namespace of this test has; as root it is not in one")
				}
				c.withoutPackages(t)
			}
			text := c.onAFullDisk(t, script, keys, stage.mark)
			// The kernel's words come from us in small letters and from a tool
			// in large ones.
			for _, want := range []string{"status: 3\n", "o space left on device", "code: CC0203", "hint: free some space"} {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
			if strings.Contains(text, "left: ") || strings.Contains(text, "panic") {
				t.Errorf("it left something behind:\n%s", text)
			}
			digest := strings.TrimSpace(text[strings.LastIndex(strings.TrimSpace(text), "\n")+1:])
			if want := fileSHA256(t, image.Path("cc-base.efi")); digest != want {
				t.Errorf("the build after it made a boot image %s, want %s\n%s", digest, want, text)
			}
		})
	}
}

// onAFullDisk runs the script. On a busy machine a stage of half a second may
// be over before the disk is cut down; then it is tried again.
func (c checkout) onAFullDisk(t *testing.T, script, keys, mark string) string {
	t.Helper()
	for range 4 {
		c.dropStages(t)
		namespace := []string{"--mount"}
		if os.Geteuid() != 0 {
			namespace = append(namespace, "--user", "--map-root-user")
		}
		cmd := exec.Command("unshare", append(namespace, "sh", "-eu", "-c", script, "sh", c.out, keys, mark)...)
		cmd.Dir, cmd.Env = c.dir, c.env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !strings.Contains(string(out), "status: 0\n") {
			return string(out)
		}
	}
	t.Fatalf("four builds were over before the disk was full at %q", mark)
	return ""
}

func fileSHA256(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("sha256sum", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[0]
}

// A mirror that answers for a while and then dies: every connection after the
// first few requests hangs up.
func TestAMirrorThatDiesEndsTheBuildWithItsCodeAndLeavesNothing(t *testing.T) {
	image := lab.Built(t)
	c := newCheckout(t, image)
	var served atomic.Int64
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		hijacker, ok := w.(http.Hijacker)
		if !ok {
			t.Error("the test server cannot hang up")
			return
		}
		conn, _, err := hijacker.Hijack()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nOrigin: Deb"))
		conn.Close()
	}))
	defer mirror.Close()
	if err := os.WriteFile(filepath.Join(c.dir, "config", "profiles", "dying.conf"), []byte("MIRROR=\""+mirror.URL+"/debian\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for i, kv := range c.env {
		if strings.HasPrefix(kv, "CC_PROFILE=") {
			c.env[i] = "CC_PROFILE=dying"
		}
	}
	cmd := c.mage("build")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(3*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer limit.Stop()
	var text strings.Builder
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		text.WriteString(lines.Text() + "\n")
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it exits with 0")
	}
	for _, want := range []string{"bootstrap: mmdebstrap:", "code: CC0301", "hint: the mirror comes from"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if served.Load() == 0 {
		t.Error("the mirror was never asked")
	}
	c.nothingHalfWritten(t)
	if left := c.processes(t); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}
