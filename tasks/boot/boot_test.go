package boot_test

// What green does not prove: no firmware and no kernel runs here. sbverify is
// OpenSSL in user space and systemd-measure computes what systemd-stub would
// do; that OVMF starts the signed image under Secure Boot, refuses another, and
// that a TPM then holds PCR 11, only boots can show. The kernel and initrd are
// real only where a built image is at hand.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/boot"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
	"cc-base/tasks/lab"
	"cc-base/tasks/manifest"
	"cc-base/tasks/sh"
)

const epoch = 1767225600

// section is one section of a made-up image.
type section struct{ name, data string }

const (
	peOffset   = 64
	tableStart = peOffset + 4 + 20 + 240
)

// image makes a PE32+ file of the sections in the given order, each padded to
// 512 bytes as linkers do.
func image(sections ...section) []byte {
	const unit = 512
	le := binary.LittleEndian
	up := func(n int) int { return (n + unit - 1) / unit * unit }
	headers := up(tableStart + 40*len(sections))
	b := make([]byte, headers)
	copy(b, "MZ")
	le.PutUint32(b[60:], peOffset)
	copy(b[peOffset:], "PE\x00\x00")
	coff := b[peOffset+4:]
	le.PutUint16(coff, 0x8664)
	le.PutUint16(coff[2:], uint16(len(sections)))
	le.PutUint16(coff[16:], 240)
	le.PutUint16(coff[18:], 0x22e)
	opt := coff[20:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[32:], 4096) // section alignment
	le.PutUint32(opt[36:], unit)
	le.PutUint32(opt[60:], uint32(headers))
	le.PutUint16(opt[68:], 10) // EFI application
	le.PutUint32(opt[108:], 16)
	address := 4096
	for i, s := range sections {
		h := b[tableStart+40*i:]
		copy(h[:8], s.name)
		le.PutUint32(h[8:], uint32(len(s.data)))
		le.PutUint32(h[12:], uint32(address))
		le.PutUint32(h[16:], uint32(up(len(s.data))))
		le.PutUint32(h[20:], uint32(len(b)))
		b = append(b, s.data...)
		b = append(b, make([]byte, up(len(s.data))-len(s.data))...)
		address += (len(s.data) + 4095) / 4096 * 4096
	}
	le.PutUint32(b[peOffset+4+20+56:], uint32(address)) // size of the image
	return b
}

// every is one of each section that is measured, and some that are not, in an
// order that is not the measured one.
func every() []section {
	return []section{
		{".text", "\x90\x90\x90"},
		{".hwids", "hardware"}, {".dtbauto", "device tree, chosen"}, {".profile", "ID=main\n"}, {".pcrpkey", "a public key"},
		{".pcrsig", "a signature"}, {".sbat", "sbat,1\n"}, {".uname", "6.12.0"}, {".dtb", "device tree"}, {".splash", "a picture"},
		{".ucode", "microcode"}, {".initrd", strings.Repeat("initrd", 1000)}, {".cmdline", "ro quiet"}, {".osrel", "ID=debian\n"},
		{".linux", strings.Repeat("kernel", 999)},
	}
}

func TestTheCommandLineIsExact(t *testing.T) {
	t.Parallel()
	volumes := []boot.Sealed{
		{Name: "root", Encrypted: true, Verity: manifest.Verity{RootHash: strings.Repeat("ab", 32), HashOffset: 105676800, Salt: "00"}},
		{Name: "config", Verity: manifest.Verity{RootHash: strings.Repeat("cd", 32), HashOffset: 16384, Salt: "00"}},
	}
	var all strings.Builder
	for _, profile := range []string{"tpm", "snp", "attested"} {
		for _, lockdown := range []bool{false, true} {
			for _, oops := range []bool{false, true} {
				fmt.Fprintf(&all, "%s lockdown=%v oops=%v: %s\n", profile, lockdown, oops, boot.CommandLine(volumes, profile, boot.Kernel{Lockdown: lockdown, PanicOnOops: oops}))
			}
		}
	}
	fmt.Fprintf(&all, "debug: %s\n", boot.CommandLine(volumes, "tpm", boot.Kernel{Lockdown: true, PanicOnOops: true, Debug: true}))
	fmt.Fprintf(&all, "swiotlb: %s\n", boot.CommandLine(volumes, "snp", boot.Kernel{SWIOTLB: 512 << 20}))
	golden.Compare(t, "cmdline.txt", all.String())
}

func TestABootImageIsMadeByTheseCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := filepath.Join(dir, "uki.efi")
	var line, signature, archive string
	run := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		for _, a := range c.Args {
			if file, ok := strings.CutPrefix(a, "--cmdline=@"); ok {
				line = string(filetest.Read(t, file))
			}
			if file, ok := strings.CutPrefix(a, "--section=.pcrsig:@"); ok {
				signature = string(filetest.Read(t, filepath.Join(c.Dir, file)))
			}
			if strings.HasSuffix(a, ".cpio") {
				archive = string(filetest.Read(t, strings.TrimPrefix(a, "--initrd=")))
			}
		}
		if diff := cmp.Diff([]string{"SOURCE_DATE_EPOCH=1767225600"}, c.Env); diff != "" {
			t.Error(diff)
		}
		return "", nil
	}}
	u := boot.UKI{Kernel: "/k/vmlinuz", Release: "6.12.0", Initrd: "/k/initrd", OSRelease: "/k/os-release", CommandLine: "ro quiet", Epoch: epoch,
		Allowed: []string{"ro quiet", "ro loud"}, PCRPublicKey: "/k/pcr.pub", PCRSignature: []byte("{}")}
	if err := boot.BuildUKI(t.Context(), run, u, out); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "ukify.argv", strings.ReplaceAll(run.Transcript(), dir, "DIR"))
	if line != u.CommandLine {
		t.Errorf("ukify reads %q", line)
	}
	if signature != "{}" {
		t.Errorf("the signature that ukify reads is %q", signature)
	}
	if got := allowed(t, []byte(archive)); got != "ro quiet\nro loud" {
		t.Errorf("the guest reads %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// allowed returns the command lines in an archive, which holds nothing else.
func allowed(t *testing.T, archive []byte) string {
	t.Helper()
	r := cpio.NewReader(bytes.NewReader(archive))
	h, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if h.Name != "usr/lib/cc/cmdline" || h.Mode.Perm() != 0o444 || h.ModTime.Unix() != epoch {
		t.Errorf("%s, mode %v, of %s", h.Name, h.Mode, h.ModTime)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("there is more in the archive: %v", err)
	}
	return string(text)
}

func TestTheGuestAcceptsTheImagesOwnCommandLine(t *testing.T) {
	t.Parallel()
	for _, lines := range [][]string{{}, {"ro loud"}, {"ro"}, {"ro quiet "}} {
		run := &sh.Recorder{}
		err := boot.BuildUKI(t.Context(), run, boot.UKI{CommandLine: "ro quiet", Allowed: lines}, filepath.Join(t.TempDir(), "uki.efi"))
		faulttest.Want(t, err, fault.BootImage, "not among those")
		if run.Transcript() != "" {
			t.Errorf("%q: it ran %q", lines, run.Transcript())
		}
	}
	for _, other := range []string{"", "ro\nquiet", strings.Repeat("x", 2048)} {
		err := boot.BuildUKI(t.Context(), &sh.Recorder{}, boot.UKI{CommandLine: "ro", Allowed: []string{"ro", other}}, filepath.Join(t.TempDir(), "uki.efi"))
		faulttest.Want(t, err, fault.BootImage, "command line")
	}
}

func TestACommandLineThatTheKernelWouldNotSeeWholeIsRefused(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"", "ro\n", " ro", "ro ", "ro\nquiet", "ro\x00quiet", strings.Repeat("x", 2048)} {
		run := &sh.Recorder{}
		err := boot.BuildUKI(t.Context(), run, boot.UKI{CommandLine: line}, filepath.Join(t.TempDir(), "uki.efi"))
		faulttest.Want(t, err, fault.BootImage, "command line")
		if run.Transcript() != "" {
			t.Errorf("%q: it ran %q", line, run.Transcript())
		}
	}
	err := boot.BuildUKI(t.Context(), &sh.Recorder{}, boot.UKI{CommandLine: strings.Repeat("x", 2047)}, filepath.Join(t.TempDir(), "uki.efi"))
	if err != nil {
		t.Error(err)
	}
}

func TestTheInitrdIsMadeByTheseCommands(t *testing.T) {
	t.Parallel()
	run := &sh.Recorder{}
	if err := boot.Initrd(t.Context(), run, "6.12.0", "/out/initrd.img", epoch); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "dracut.argv", run.Transcript())
	failing := &sh.Recorder{Answer: func(sh.Cmd) (string, error) { return "", errors.New("it broke") }}
	faulttest.Want(t, boot.Initrd(t.Context(), failing, "6.12.0", "/out/initrd.img", epoch), fault.BootImage, "it broke")
}

func TestSectionsAreAsLongAsTheirVirtualSize(t *testing.T) {
	t.Parallel()
	got, err := boot.Sections(image(every()...))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{}
	for _, s := range every() {
		want[s.name] = []byte(s.data)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// To the stub, an empty section is none: neither its name is measured nor that it
// has no content.
func TestAnEmptySectionIsNotMeasured(t *testing.T) {
	t.Parallel()
	with, errA := boot.PCR11(image(section{".linux", "kernel"}, section{".dtb", ""}))
	without, errB := boot.PCR11(image(section{".linux", "kernel"}))
	if errA != nil || errB != nil || with != without {
		t.Errorf("%x, %v, without it %x, %v", with, errA, without, errB)
	}
}

// malformed is images that are not to be believed.
func malformed() map[string][]byte {
	le := binary.LittleEndian
	change := func(f func(b []byte)) []byte {
		b := image(every()...)
		f(b)
		return b
	}
	good := image(every()...)
	first := tableStart + 40*1 // .hwids
	return map[string][]byte{
		"empty":                       nil,
		"DOS header only":             []byte("MZ"),
		"text":                        []byte(strings.Repeat("this is no image\n", 100)),
		"cut in the headers":          good[:tableStart+13],
		"cut in a section":            good[:len(good)-1000],
		"header beyond the end":       change(func(b []byte) { le.PutUint32(b[60:], 1<<31) }),
		"no PE signature":             change(func(b []byte) { b[peOffset] = 'X' }),
		"65535 sections":              change(func(b []byte) { le.PutUint16(b[peOffset+6:], 0xffff) }),
		"section beyond the end":      change(func(b []byte) { le.PutUint32(b[first+20:], 1<<30) }),
		"section of 4 GiB":            change(func(b []byte) { le.PutUint32(b[first+16:], 0xffffffff) }),
		"section twice":               image(section{".linux", "a"}, section{".linux", "b"}),
		"more measured than is there": change(func(b []byte) { le.PutUint32(b[first+8:], 1<<20) }),
		"symbols beyond the end": change(func(b []byte) {
			le.PutUint32(b[peOffset+12:], 1<<30)
			le.PutUint32(b[peOffset+16:], 1<<20)
		}),
	}
}

func TestAMalformedImageIsAnErrorAndNoPanic(t *testing.T) {
	t.Parallel()
	for name, b := range malformed() {
		if _, err := boot.Sections(b); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			faulttest.Want(t, err, fault.BootImage)
		}
		if _, err := boot.PCR11(b); err == nil {
			t.Errorf("%s: it has a PCR 11", name)
		}
	}
}

func FuzzSections(f *testing.F) {
	f.Add(image(every()...))
	f.Add(image())
	for _, b := range malformed() {
		f.Add(b)
	}
	key, _, err := boot.LoadOrMakeKey(f.TempDir(), "db", time.Unix(epoch, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sections, err := boot.Sections(b)
		if _, pcrErr := boot.PCR11(b); (err == nil) != (pcrErr == nil) {
			t.Errorf("sections: %v, PCR 11: %v", err, pcrErr)
		}
		total := 0
		for _, data := range sections {
			if total += len(data); len(data) > len(b) {
				t.Errorf("a section of %d bytes in an image of %d", len(data), len(b))
			}
		}
		signed, err := boot.Sign(b, key)
		if err != nil {
			return
		}
		if len(signed) <= len(b) {
			t.Errorf("signed, %d bytes became %d", len(b), len(signed))
		}
		if _, err := boot.Sign(signed, key); err == nil {
			t.Error("a signed image was signed again")
		}
	})
}

// measured is what systemd-measure says for the sections, by phase.
func measured(t *testing.T, run sh.Runner, dir string, sections map[string][]byte, phases ...string) []string {
	t.Helper()
	args := []string{"calculate", "--bank=sha256", "--json=short"}
	for name, data := range sections {
		switch name {
		case ".text", ".rodata", ".data", ".sdmagic", ".reloc", ".pcrsig":
			continue // not measured
		}
		option := strings.TrimPrefix(name, ".")
		args = append(args, "--"+option+"="+filetest.Write(t, filepath.Join(dir, "section."+option), data))
	}
	for _, p := range phases {
		args = append(args, "--phase="+p)
	}
	out, err := sh.Text(t.Context(), run, "/usr/lib/systemd/systemd-measure", args...).String()
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		SHA256 []struct{ Phase, Hash string }
	}
	if err := json.Unmarshal([]byte(out), &values); err != nil {
		t.Fatal(err)
	}
	var hashes []string
	for i, v := range values.SHA256 {
		if i >= len(phases) || v.Phase != phases[i] {
			t.Fatalf("phases are not as asked: %s", out)
		}
		hashes = append(hashes, v.Hash)
	}
	return hashes
}

// comparePCR11 holds PCR11 against systemd-measure for every point of a boot.
func comparePCR11(t *testing.T, run sh.Runner, dir string, uki []byte, sections map[string][]byte) {
	t.Helper()
	phases := []string{"", "enter-initrd", "enter-initrd:leave-initrd", "enter-initrd:leave-initrd:sysinit", "enter-initrd:leave-initrd:sysinit:ready"}
	want := measured(t, run, dir, sections, phases...)
	if len(want) != len(phases) {
		t.Fatalf("%d values for %d phases", len(want), len(phases))
	}
	for i, p := range phases {
		var words []string
		if p != "" {
			words = strings.Split(p, ":")
		}
		got, err := boot.PCR11(uki, words...)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%x", got) != want[i] {
			t.Errorf("after %q: %x, systemd-measure says %s", p, got, want[i])
		}
	}
}

func TestPCR11OfEverySectionIsSystemdsOwn(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	// Without .dtbauto and .hwids: systemd-measure 257 takes each of its two
	// options for the other's section, so it is no judge of them, and our boot
	// images have neither.
	all, most := map[string][]byte{}, []section{}
	for _, s := range every() {
		if s.name != ".dtbauto" && s.name != ".hwids" {
			all[s.name] = []byte(s.data)
			most = append(most, s)
		}
	}
	comparePCR11(t, run, dir, image(most...), all)
	some := []section{{".initrd", "i"}, {".sbat", "s"}, {".linux", "k"}, {".cmdline", "c"}}
	few := map[string][]byte{}
	for _, s := range some {
		few[s.name] = []byte(s.data)
	}
	comparePCR11(t, run, dir, image(some...), few)
}

// kernel returns kernel and initrd of the built image as files in dir.
func kernel(t *testing.T, dir string) boot.UKI {
	t.Helper()
	built := lab.Built(t)
	sections, err := boot.Sections(filetest.Read(t, built.Path("cc-base.efi")))
	if err != nil {
		t.Fatal(err)
	}
	return boot.UKI{
		Kernel: filetest.Write(t, filepath.Join(dir, "vmlinuz"), sections[".linux"]), Initrd: filetest.Write(t, filepath.Join(dir, "initrd"), sections[".initrd"]),
		OSRelease: filetest.Write(t, filepath.Join(dir, "os-release"), sections[".osrel"]), Release: string(sections[".uname"]),
		CommandLine: "cc.test=1 ro", Epoch: epoch,
	}
}

func TestABootImageOfARealKernelIsTheSameTwiceAndMeasuresAsSystemdSays(t *testing.T) {
	t.Parallel()
	one, first := lab.Tools(t)
	two, second := lab.Tools(t)
	u, a := kernel(t, first), filepath.Join(first, "a.efi")
	if err := boot.BuildUKI(t.Context(), one, u, a); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	b := filepath.Join(second, "b.efi")
	if err := boot.BuildUKI(t.Context(), two, kernel(t, second), b); err != nil {
		t.Fatal(err)
	}
	uki := filetest.Read(t, a)
	if !bytes.Equal(uki, filetest.Read(t, b)) {
		t.Error("built twice in different folders, they differ")
	}
	sections, err := boot.Sections(uki)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{".linux": filetest.Read(t, u.Kernel), ".osrel": filetest.Read(t, u.OSRelease), ".cmdline": []byte(u.CommandLine), ".uname": []byte(u.Release)} {
		if !bytes.Equal(sections[name], want) {
			t.Errorf("%s: %d bytes, not the %d that were given", name, len(sections[name]), len(want))
		}
	}
	initrd := sections[".initrd"]
	if !bytes.HasPrefix(initrd, filetest.Read(t, u.Initrd)) {
		t.Error(".initrd does not begin with the initrd")
	}
	comparePCR11(t, one, first, uki, sections)
	if left, _ := filepath.Glob(filepath.Join(second, "b.efi*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// A boot loader stands in for the kernel: ukify asks no more of it than to be a
// PE file.
func TestTheSignatureOfPCR11IsNotPartOfIt(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	key, _, err := boot.LoadOrMakePCRKey(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	u := boot.UKI{
		Kernel: "/usr/lib/systemd/boot/efi/systemd-bootx64.efi", Release: "6.12.0", Epoch: epoch, CommandLine: "cc.keys=tpm ro",
		Initrd:       filetest.Write(t, filepath.Join(dir, "initrd"), []byte("an initrd")),
		OSRelease:    filetest.Write(t, filepath.Join(dir, "os-release"), []byte("ID=debian\n")),
		PCRPublicKey: key.Public,
	}
	build := func(name string, u boot.UKI) []byte {
		out := filepath.Join(dir, name)
		if err := boot.BuildUKI(t.Context(), run, u, out); err != nil {
			t.Fatal(err)
		}
		return filetest.Read(t, out)
	}
	value := func(uki []byte) [32]byte {
		pcr, err := boot.PCR11(uki, boot.PCRPhase)
		if err != nil {
			t.Fatal(err)
		}
		return pcr
	}
	first := build("a", u)
	signed := u
	signed.PCRSignature = []byte(`{"sha256":[]}`)
	second := build("b", signed)
	if value(first) != value(second) {
		t.Error("the signature changes what it signs")
	}
	if !bytes.Equal(second, build("c", signed)) {
		t.Error("built twice, they differ")
	}
	sections, err := boot.Sections(second)
	if err != nil {
		t.Fatal(err)
	}
	if string(sections[".pcrsig"]) != `{"sha256":[]}` || !bytes.Equal(sections[".pcrpkey"], filetest.Read(t, key.Public)) {
		t.Errorf(".pcrsig %q, .pcrpkey %q", sections[".pcrsig"], sections[".pcrpkey"])
	}
	comparePCR11(t, run, dir, second, sections)
	bare := u
	bare.PCRPublicKey = ""
	if value(build("d", bare)) == value(first) {
		t.Error("the public key is not measured")
	}
}

func TestTheBuiltImageMeasuresAsSystemdSays(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	uki := filetest.Read(t, lab.Built(t).Path("cc-base.efi"))
	sections, err := boot.Sections(uki)
	if err != nil {
		t.Fatal(err)
	}
	comparePCR11(t, run, dir, uki, sections)
}
