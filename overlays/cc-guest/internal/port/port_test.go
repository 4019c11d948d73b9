package port

// Green here means that a port is found by its name. How one behaves is for the
// boots to show.

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"
)

func TestNodeFindsAPortByItsName(t *testing.T) {
	t.Parallel()
	sys := fstest.MapFS{
		"class/virtio-ports/vport1p0/uevent": {},
		"class/virtio-ports/vport1p1/name":   {Data: []byte("org.other\n")},
		"class/virtio-ports/vport1p2/name":   {Data: []byte("org.cc-base.release\n")},
	}
	if node, err := Node(sys, "org.cc-base.release"); err != nil || node != "vport1p2" {
		t.Errorf("found %q, %v", node, err)
	}
	for _, sys := range []fstest.MapFS{sys, {}} {
		if _, err := Node(sys, "org.cc-base"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error is %v", err)
		}
	}
}
