package site

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"cc-base/tasks/fault"
)

// Kinds of launch that name a site.conf.
const (
	SNP = "SEV-SNP"
	TDX = "TDX"
)

// Launch is what the processor keeps of the launch of this guest. The zero value
// is a machine that keeps nothing: a plain one.
type Launch struct {
	Kind string // SNP, TDX or empty
	Data []byte // HOST_DATA, 32 bytes, or MRCONFIGID, 48 bytes
}

// Plain tells whether there is nothing to hold a site.conf against.
func (l Launch) Plain() bool { return l.Kind == "" }

// Check tells whether the file is the one that the launch names; nil stands for
// no file, which a launch names by zeros. Its error has code fault.SiteOther. On
// a plain machine every file passes, and so does none.
func (l Launch) Check(text []byte) error {
	if l.Plain() {
		return nil
	}
	var want []byte
	field := "host data"
	sum := HostData(text)
	switch l.Kind {
	case SNP:
		want = sum[:]
	case TDX:
		id := MRConfigID(text)
		want, field = id[:], "MRCONFIGID"
	default:
		return fault.Newf(fault.SiteOther, "a launch of kind %q names no %s", l.Kind, name)
	}
	if len(l.Data) != len(want) {
		return fault.Newf(fault.SiteOther, "the %s %s has %d bytes, not %d", l.Kind, field, len(l.Data), len(want))
	}
	none := bytes.Equal(l.Data, make([]byte, len(want)))
	switch {
	case text == nil && none:
		return nil
	case text == nil:
		// Whoever reads a report with that number in it believes that the file
		// is in force.
		return fault.Newf(fault.SiteOther, "the %s %s names a %s with digest %s, but there is none", l.Kind, field, name, short(l.Data))
	case none:
		return fault.Newf(fault.SiteOther, "there is a %s, but the %s %s is zero: the launch names none", name, l.Kind, field)
	case !bytes.Equal(l.Data, want):
		return fault.Newf(fault.SiteOther, "%s has digest %s, but the %s %s is %s", name, hex.EncodeToString(sum[:]), l.Kind, field, short(l.Data))
	}
	return nil
}

// short leaves out the zeros behind a digest.
func short(data []byte) string {
	if len(data) > 32 && bytes.Equal(data[32:], make([]byte, len(data)-32)) {
		data = data[:32]
	}
	return hex.EncodeToString(data)
}

// Say is the line for the console about a file that passed.
func (l Launch) Say(text []byte) string {
	line := fmt.Sprintf("cc-base: %s: sha256 %x: ", name, HostData(text))
	if l.Plain() {
		return line + "used as the host gave it; a plain machine has nothing to hold it against"
	}
	return line + "the launch names it (" + l.Kind + ")"
}
