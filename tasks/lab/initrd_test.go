package lab_test

// What green does not prove: nothing of the image itself. This is the premise of
// other tests, that what [lab.BootImage] puts into an initrd is what runs.

import (
	"testing"

	"cc-base/tasks/lab"
)

func TestAFileOfTheInitrdIsReplaced(t *testing.T) {
	boots.LongOnly(t)
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	raw := image.Raw(t, tools, tmp)
	image.WithInitrdFiles(t, tools, raw, "", map[string][]byte{"usr/lib/cc/guest.json": []byte("marker")})
	refused(t, boots.Boot(t, tools, lab.Guest{Disk: raw, Key: image.Path("keys", "image.key")}, ""), "invalid character 'm'")
}
