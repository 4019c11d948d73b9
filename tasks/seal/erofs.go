package seal

import (
	"context"
	"fmt"
	"os"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// BuildErofs writes the tar tree as an erofs image: read-only, compressed with
// lz4hc (fast to read under verity), owners, modes, links, devices and
// capabilities as in the tar. uuid is the file system's; a random one would
// change the bytes.
func BuildErofs(ctx context.Context, run sh.Runner, tarFile, uuid string, epoch int64, image string) error {
	_ = os.Remove(image)
	err := sh.Do(ctx, run, "mkfs.erofs", "--tar=f", "-zlz4hc,9", fmt.Sprintf("-T%d", epoch), "-U"+uuid, image, tarFile)
	if err != nil {
		return fault.New(fault.Sealing, err)
	}
	if err := sh.Do(ctx, run, "fsck.erofs", image); err != nil {
		return fault.New(fault.Sealing, err)
	}
	return nil
}
