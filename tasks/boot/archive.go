package boot

import (
	"bytes"
	"os"
	"time"

	"github.com/cavaliergopher/cpio"
)

// commandLinePath is where the initrd holds its own copy of the command line.
const commandLinePath = "usr/lib/cc/cmdline"

// commandLineArchive writes a second initrd, with the command line in it and
// nothing else. cc-guest compares it with /proc/cmdline and refuses a
// difference: without Secure Boot, systemd-stub appends what the host puts into
// SMBIOS (io.systemd.stub.kernel-cmdline-extra). It is an archive of its own
// because the command line holds root hashes, which are known only after the
// initrd was made.
func commandLineArchive(line string, epoch int64, out string) error {
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
