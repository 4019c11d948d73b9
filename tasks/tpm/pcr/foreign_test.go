package pcr_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/tpm/pcr"
)

// brokenLogs are logs that are not to be believed.
func brokenLogs(t testing.TB) map[string][]byte {
	good := unpack(t, "plain.log.gz")
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	le := binary.LittleEndian
	const spec, first = 32, 32 + 45 // after the header of the first event; after it
	return map[string][]byte{
		"empty":                   nil,
		"text":                    []byte(strings.Repeat("measurements ", 100)),
		"header cut":              good[:spec+20],
		"event cut":               good[:len(good)-1],
		"event cut in a digest":   good[:first+20],
		"header of TPM 1.2":       change(func(b []byte) { b[spec+14] = '2' }),
		"no banks":                change(func(b []byte) { le.PutUint32(b[spec+24:], 0) }),
		"many banks":              change(func(b []byte) { le.PutUint32(b[spec+24:], 1<<31) }),
		"a bank twice":            change(func(b []byte) { le.PutUint16(b[spec+32:], 4) }),
		"SHA-256 of 31 bytes":     change(func(b []byte) { le.PutUint16(b[spec+34:], 31) }),
		"SHA-384 of 49 bytes":     change(func(b []byte) { le.PutUint16(b[spec+38:], 49) }),
		"a digest of no size":     change(func(b []byte) { le.PutUint16(b[spec+30:], 0) }),
		"PCR 24":                  change(func(b []byte) { le.PutUint32(b[first:], 24) }),
		"a thousand digests":      change(func(b []byte) { le.PutUint32(b[first+8:], 1000) }),
		"a bank nobody announced": change(func(b []byte) { le.PutUint16(b[first+12:], 0x27) }),
		"too long":                make([]byte, 4<<20+1),
	}
}

func TestALogThatIsNotToBeBelievedIsRefused(t *testing.T) {
	t.Parallel()
	for name, raw := range brokenLogs(t) {
		if _, err := pcr.Parse(raw); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			faulttest.Want(t, err, fault.Damaged, "event log")
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"plain", "secureboot"} {
		f.Add(unpack(f, name+".log.gz"))
	}
	for _, raw := range brokenLogs(f) {
		if len(raw) < 1<<20 {
			f.Add(raw)
		}
	}
	predicted := predict(f, load(f, "plain").boot)
	f.Fuzz(func(t *testing.T, raw []byte) {
		log, err := pcr.Parse(raw)
		if err != nil {
			return
		}
		for _, e := range log.Events {
			if len(e.What) > 100 || strings.ContainsFunc(e.What, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%q is not a short printable line", e.What)
			}
		}
		pcr.Diff(predicted, log, pcr.SHA256)
		_, _ = log.Replay(pcr.SHA384)
	})
}

func brokenStores(t testing.TB) map[string][]byte {
	good := unpack(t, "secureboot.vars.gz")
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	le := binary.LittleEndian
	start := int(le.Uint16(good[48:]))
	return map[string][]byte{
		"empty":                      nil,
		"no volume":                  make([]byte, 1<<12),
		"cut":                        good[:1000],
		"header beyond the end":      change(func(b []byte) { le.PutUint16(b[48:], 0xffff) })[:1<<12],
		"header too short":           change(func(b []byte) { le.PutUint16(b[48:], 8) }),
		"not authenticated":          change(func(b []byte) { b[start]++ }),
		"not formatted":              change(func(b []byte) { b[start+20] = 0xff }),
		"longer than the file":       change(func(b []byte) { le.PutUint32(b[start+16:], 1<<31) }),
		"a name beyond the end":      change(func(b []byte) { le.PutUint32(b[start+28+36:], 1<<31) }),
		"a value beyond the end":     change(func(b []byte) { le.PutUint32(b[start+28+40:], 1<<32-1) }),
		"a name of an odd number":    change(func(b []byte) { le.PutUint32(b[start+28+36:], 7) }),
		"both at the end of numbers": change(func(b []byte) { le.PutUint32(b[start+28+36:], 1<<32-2); le.PutUint32(b[start+28+40:], 1<<32-1) }),
	}
}

func TestABrokenVariableStoreIsRefused(t *testing.T) {
	t.Parallel()
	for name, fd := range brokenStores(t) {
		if _, err := pcr.ReadVars(fd); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			faulttest.Want(t, err, fault.BootImage, "variable store")
		}
	}
}

func TestAFreshStoreHasNoSecureBoot(t *testing.T) {
	t.Parallel()
	s, err := pcr.ReadVars(unpack(t, "plain.vars.gz"))
	if err != nil || s.On() || len(s.State)+len(s.PK)+len(s.KEK)+len(s.DB)+len(s.DBX) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A variable that was deleted or is being replaced is not the one in force.
func TestOnlyVariablesInForceCount(t *testing.T) {
	t.Parallel()
	good := unpack(t, "secureboot.vars.gz")
	le := binary.LittleEndian
	name := func(text string) []byte {
		var b []byte
		for _, c := range []byte(text + "\x00") {
			b = append(b, c, 0)
		}
		return b
	}
	at := bytes.Index(good, name("SecureBootEnable")) - 60
	if at < 0 || le.Uint16(good[at:]) != 0x55aa || good[at+2] != 0x3f {
		t.Fatal("the store has no SecureBootEnable")
	}
	value := at + 60 + len(name("SecureBootEnable"))
	for _, test := range []struct {
		state, value byte
		on           bool
	}{{0x3f, 1, true}, {0x3f, 0, false}, {0x3e, 0, false}, {0x3c, 0, true}, {0x3d, 0, true}} {
		fd := bytes.Clone(good)
		fd[at+2], fd[value] = test.state, test.value
		s, err := pcr.ReadVars(fd)
		if err != nil || s.On() != test.on || len(s.State) != 1 {
			t.Errorf("state %x, value %d: %x, %v", test.state, test.value, s.State, err)
		}
	}
}

func FuzzReadVars(f *testing.F) {
	// A whole store is half a megabyte of ones; its beginning does.
	cut := func(fd []byte) []byte {
		b := bytes.Clone(fd[:min(len(fd), 8<<10)])
		if len(b) == 8<<10 && slices.Equal(b[40:44], []byte("_FVH")) {
			start := int(binary.LittleEndian.Uint16(b[48:]))
			if start+20 < len(b) {
				binary.LittleEndian.PutUint32(b[start+16:], uint32(len(b)-start))
			}
		}
		return b
	}
	f.Add(cut(unpack(f, "secureboot.vars.gz")))
	f.Add(cut(unpack(f, "plain.vars.gz")))
	for _, fd := range brokenStores(f) {
		f.Add(cut(fd))
	}
	m := image(f, "secureboot")
	f.Fuzz(func(t *testing.T, fd []byte) {
		s, err := pcr.ReadVars(fd)
		if err != nil {
			return
		}
		_, _ = pcr.Predict(pcr.Boot{Image: m, SecureBoot: s})
		s.State, s.PK = []byte{1}, []byte{0}
		_, _ = pcr.Predict(pcr.Boot{Image: m, SecureBoot: s})
	})
}

func TestGUIDs(t *testing.T) {
	t.Parallel()
	const text = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	g, err := pcr.ParseGUID(text)
	if err != nil || g.String() != text || g[0] != 0x61 || g[4] != 0xca || g[8] != 0xaa {
		t.Errorf("%x %s %v", g[:], g, err)
	}
	for _, bad := range []string{"", "8be4df61", strings.ReplaceAll(text, "-", ""), text + "0", "x" + text[1:]} {
		if _, err := pcr.ParseGUID(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
