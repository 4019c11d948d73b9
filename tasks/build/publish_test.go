package build_test

// What green does not prove: a registry elsewhere, behind TLS and a real network.
// The one here is distribution's, on the loopback interface.

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/lab"
	"cc-base/tasks/oci/registrytest"
)

// publishing runs mage publish and calls at for every line that it says.
func publishing(t *testing.T, mage, out, to string, at func(line string, running *os.Process)) (result, said string, err error) {
	t.Helper()
	cmd := exec.Command(mage, "publish", to, "-plainHTTP")
	cmd.Dir = "../.."
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "CC_") }),
		"CC_OUT_DIR="+out, "DOCKER_CONFIG="+t.TempDir())
	var stdout, lines strings.Builder
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for in := bufio.NewScanner(io.TeeReader(stderr, &lines)); in.Scan(); {
		at(in.Text(), cmd.Process)
	}
	err = cmd.Wait()
	return stdout.String(), lines.String(), err
}

func TestTheBuiltImageIsPublishedThoughTheRegistryAndThePublisherDie(t *testing.T) {
	image := lab.Built(t)
	server := registrytest.Start(t, false)
	mage := filepath.Join(t.TempDir(), "mage")
	compileMage(t, mage)
	to := server.Address + "/team/cc-base:v1"
	sending := func(name string) func(line string) bool {
		return regexp.MustCompile("^publish: " + regexp.QuoteMeta(name) + ": .*, sending$").MatchString
	}
	disk, installer := sending("cc-base.qcow2"), sending("nvidia-cc-installer.tar.gz")

	_, said, err := publishing(t, mage, image.Out, to, func(line string, _ *os.Process) {
		if disk(line) {
			server.Kill()
		}
	})
	if err == nil || !strings.Contains(said, "trying again in ") || !strings.Contains(said, "code: CC1504 ") {
		t.Fatalf("%v\n%s", err, said)
	}
	server.Restart(t)
	_, said, err = publishing(t, mage, image.Out, to, func(line string, running *os.Process) {
		if installer(line) {
			_ = running.Kill()
		}
	})
	if err == nil || !strings.Contains(said, "publish: cc-base.efi: ") || strings.Contains(said, "cc-base.efi: 27.7 MB, sending") {
		t.Fatalf("%v\n%s", err, said)
	}
	result, said, err := publishing(t, mage, image.Out, to, func(string, *os.Process) {})
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, name := range []string{"cc-base.efi", "cc-base.qcow2"} {
		if !regexp.MustCompile("publish: " + regexp.QuoteMeta(name) + ": .*, is there already").MatchString(said) {
			t.Errorf("%s was sent again:\n%s", name, said)
		}
	}
	release := regexp.MustCompile(`^release: ` + regexp.QuoteMeta(server.Address) + `/team/cc-base@sha256:[0-9a-f]{64}\ncontainerDisk: \S+@sha256:[0-9a-f]{64}, tag \S+:v1-containerdisk\n$`)
	if !release.MatchString(result) {
		t.Error(result)
	}
	again, said, err := publishing(t, mage, image.Out, to, func(string, *os.Process) {})
	if err != nil || again != result || !strings.Contains(said, "publish: 0 blobs sent, ") {
		t.Error(fmt.Sprintf("%v\n%s%s", err, again, said))
	}
}
