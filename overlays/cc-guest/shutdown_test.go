package main

import (
	"testing"
	"unsafe"
)

// The size is a part of the ioctl's number.
func TestTheIoctlHasTheKernelsSize(t *testing.T) {
	if size := unsafe.Sizeof(dmIoctl{}); size != (dmRemoveAll>>16)&0x3fff {
		t.Errorf("struct dm_ioctl has %d bytes here", size)
	}
}
