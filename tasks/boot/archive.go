package boot

import (
	"bytes"
	"os"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
)

// commandLinePath is where the initrd holds its own copy of the command lines.
const commandLinePath = "usr/lib/cc/cmdline"

// commandLineArchive writes a second initrd, with the allowed command lines in
// it and nothing else: one per line, no line end after the last. cc-guest
// compares them with /proc/cmdline and refuses any other: without Secure Boot,
// systemd-stub appends what the host puts into SMBIOS
// (io.systemd.stub.kernel-cmdline-extra). It is an archive of its own because a
// command line holds root hashes, which are known only after the initrd was
// made.
//
// There is one line per key profile, so that one initrd serves all of them:
// which one is booted is measured by the firmware, and choosing it for another
// machine gives that machine's own keys or none.
func commandLineArchive(lines []string, epoch int64, out string) error {
	line := strings.Join(lines, "\n")
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	err := w.WriteHeader(&cpio.Header{
		Name: commandLinePath, Mode: cpio.TypeReg | 0o444, Size: int64(len(line)), ModTime: time.Unix(epoch, 0),
	})
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(line)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, b.Bytes(), 0o644)
}
