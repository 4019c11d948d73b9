package build

// What green does not prove: that a TPM in a booted guest holds what is computed
// here; the boots show that. systemd's own tools, which seal and sign in the same
// formats, are the second opinion, and swtpm is the TPM.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/boot"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/rootfs"
	"cc-base/tasks/sh"
	"cc-base/tasks/tpm"
	"cc-base/tasks/tpm/token"
	"cc-base/tasks/tpm/tpmtest"
)

// A boot loader stands in for the kernel: ukify asks no more of it than to be a
// PE file.
func TestTheBootImageCarriesTheSignatureThatSystemdWouldMake(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	key, _, err := boot.LoadOrMakePCRKey(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	u := boot.UKI{
		Kernel: "/usr/lib/systemd/boot/efi/systemd-bootx64.efi", Release: "6.12.0", Epoch: 1767225600, CommandLine: "cc.keys=tpm ro",
		Allowed:   []string{"cc.keys=tpm ro", "cc.keys=snp ro"},
		Initrd:    filetest.Write(t, filepath.Join(dir, "initrd"), []byte("an initrd")),
		OSRelease: filetest.Write(t, filepath.Join(dir, "os-release"), []byte("ID=debian\n")),
	}
	image, err := boot.BuildMeasured(t.Context(), run, u, key, filepath.Join(dir, "uki.efi"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := boot.BuildMeasured(t.Context(), run, u, key, filepath.Join(dir, "other.efi"))
	if err != nil || !bytes.Equal(image, again) {
		t.Errorf("built twice, they differ: %v", err)
	}
	if diff := cmp.Diff([]string{"initrd", "keys", "os-release"}, filetest.Names(t, dir)); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
	sections, err := boot.Sections(image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sections[".pcrpkey"], filetest.Read(t, key.Public)) {
		t.Error(".pcrpkey is not the public key")
	}
	args := []string{"sign", "--bank=sha256", "--phase=" + boot.PCRPhase, "--private-key=" + filepath.Join(dir, "keys", "pcr.key"), "--public-key=" + key.Public}
	for _, name := range []string{"linux", "osrel", "cmdline", "initrd", "uname", "sbat", "pcrpkey"} {
		args = append(args, "--"+name+"="+filetest.Write(t, filepath.Join(dir, "section."+name), sections["."+name]))
	}
	var out bytes.Buffer
	if err := run.Run(t.Context(), sh.Cmd{Name: "/usr/lib/systemd/systemd-measure", Args: args, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	var want, got any
	for text, v := range map[string]*any{out.String(): &want, string(sections[".pcrsig"]): &got} {
		if err := json.Unmarshal([]byte(text), v); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("signature (-systemd +ours):\n%s", diff)
	}
}

func TestAVolumeBoundToATPMIsOpenedByThatOneAfterOurInitrdAlone(t *testing.T) {
	device := tpmtest.Dial(t, tpmtest.Start(t))
	srk, err := device.EnsureSRK()
	if err != nil {
		t.Fatal(err)
	}
	o := planOptions(t)
	filetest.Write(t, filepath.Join(o.ConfigDir, "srk.pub"), srk.Public)
	b := lookOther(t, o, "TPM_SRK=srk.pub")
	bound, err := b.boundToTPM("cc-app")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := bound.Token(2)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"type": "systemd-tpm2", "keyslots": []any{"2"}, "tpm2-pcrs": []any{12.0, 13.0}, "tpm2_pubkey_pcrs": []any{11.0},
		"cc-state": "active", "cc-epoch": 0.0, "cc-volume": "cc-app",
	}
	for name, value := range want {
		if diff := cmp.Diff(value, fields[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	tok, err := token.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := tok.SRKName(); err != nil || !bytes.Equal(name, srk.Name) {
		t.Errorf("the token names another storage root key: %v", err)
	}
	key, made, err := boot.LoadOrMakePCRKey(b.pcrKeyDir())
	if err != nil || made {
		t.Fatal(made, err)
	}
	if err := device.Extend(11, []byte(boot.PCRPhase)); err != nil {
		t.Fatal(err)
	}
	now, err := device.ReadPCRs(11)
	if err != nil {
		t.Fatal(err)
	}
	signatures, err := tpm.SignPCR11(key.Private, now[11])
	if err != nil {
		t.Fatal(err)
	}
	open := func() (string, error) {
		secret, err := device.Unseal(tok.Sealed, srk, tok.PCRs, tok.Key, tok.SignedPCRs, signatures)
		return base64.StdEncoding.EncodeToString(secret), err
	}
	if got, err := open(); err != nil || got != string(bound.Passphrase) {
		t.Errorf("our initrd: %v", err)
	}
	if err := device.Extend(11, []byte("leave-initrd")); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil {
		t.Error("the running system opens it, too")
	}
}

func TestWhatAddsToTheCommandLineDoesNotOpenABoundVolume(t *testing.T) {
	device := tpmtest.Dial(t, tpmtest.Start(t))
	srk, err := device.EnsureSRK()
	if err != nil {
		t.Fatal(err)
	}
	o := planOptions(t)
	filetest.Write(t, filepath.Join(o.ConfigDir, "srk.pub"), srk.Public)
	b := lookOther(t, o, "TPM_SRK=srk.pub")
	bound, err := b.boundToTPM("cc-root")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := bound.Token(2)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := boot.LoadOrMakePCRKey(b.pcrKeyDir())
	if err != nil {
		t.Fatal(err)
	}
	signatures, err := tpm.SignPCR11(key.Private, [32]byte{}) // as nothing was measured
	if err != nil {
		t.Fatal(err)
	}
	if _, err := device.Unseal(tok.Sealed, srk, tok.PCRs, tok.Key, tok.SignedPCRs, signatures); err != nil {
		t.Fatal(err)
	}
	if err := device.Extend(12, []byte("quiet")); err != nil {
		t.Fatal(err)
	}
	if _, err := device.Unseal(tok.Sealed, srk, tok.PCRs, tok.Key, tok.SignedPCRs, signatures); err == nil {
		t.Error("it opens")
	}
}

func TestABindingChangesTheVolumesWithItsKeys(t *testing.T) {
	o := planOptions(t)
	b := lookOther(t, o, "TPM_SRK=srk.pub")
	facts := func() map[string]string {
		t.Helper()
		f, err := volumeKeyDigests(b)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := facts()
	if first["PCR key"] != toBeMade || len(first["TPM_SRK file"]) != 64 {
		t.Errorf("%v", first)
	}
	if _, err := b.boundToTPM("cc-root"); err != nil {
		t.Fatal(err)
	}
	second := facts()
	if len(second["PCR key"]) != 64 {
		t.Errorf("%v", second)
	}
	writeNamedFiles(t, o.ConfigDir)
	if third := facts(); third["TPM_SRK file"] == second["TPM_SRK file"] || third["PCR key"] != second["PCR key"] {
		t.Errorf("another TPM: %v", third)
	}
	if err := os.RemoveAll(b.pcrKeyDir()); err != nil {
		t.Fatal(err)
	}
	one, err := b.boundToTPM("cc-root")
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.boundToTPM("cc-app")
	if err != nil || bytes.Equal(one.Passphrase, two.Passphrase) || strings.Contains(string(one.Passphrase), "\n") {
		t.Errorf("two volumes have one passphrase, or %v", err)
	}
}

// The whole of a stage's sealing on a small tree, with everything that may open
// a volume: cryptsetup's plugin for systemd's tokens looks at ours on import.
func TestAVolumeHasASlotForEachOfItsKeysAndNoOther(t *testing.T) {
	t.Parallel()
	device := tpmtest.Dial(t, tpmtest.Start(t))
	srk, err := device.EnsureSRK()
	if err != nil {
		t.Fatal(err)
	}
	o := planOptions(t)
	filetest.Write(t, filepath.Join(o.ConfigDir, "srk.pub"), srk.Public)
	if err := GenerateKeys(o, io.Discard); err != nil {
		t.Fatal(err)
	}
	for text, slots := range map[string][]string{"": {"0", "1"}, "TPM_SRK=srk.pub": {"0", "1", "2"}} {
		b := lookOther(t, o, text)
		b.Tools, _ = lab.Tools(t, o.OutDir)
		if err := os.MkdirAll(b.scratch(), 0o755); err != nil {
			t.Fatal(err)
		}
		tree := b.scratch("app.tar")
		layer := rootfs.Layer{Name: "apps", Entries: []rootfs.Entry{rootfs.File("/bin/app", 0o755, []byte("#!/bin/true\n"))}}
		if err := rootfs.Pack(tree, b.Config.OS.SourceDateEpoch, layer); err != nil {
			t.Fatal(err)
		}
		if err := b.seal(t.Context(), "app", tree); err != nil {
			t.Fatal(err)
		}
		image := b.scratch("app.volume")
		cryptsetup := func(stdin []byte, args ...string) (string, error) {
			var out bytes.Buffer
			err := b.Tools.Run(t.Context(), sh.Cmd{Name: "cryptsetup", Args: append(args, "--disable-locks", image), Stdin: bytes.NewReader(stdin), Stdout: &out})
			return out.String(), err
		}
		dump, err := cryptsetup(nil, "luksDump", "--dump-json-metadata")
		if err != nil {
			t.Fatal(err)
		}
		var h struct {
			Keyslots map[string]any
			Tokens   map[string]json.RawMessage
		}
		if err := json.Unmarshal([]byte(dump), &h); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(slots, slices.Sorted(maps.Keys(h.Keyslots))); diff != "" || len(h.Tokens) != len(slots)-1 {
			t.Errorf("%q: %d tokens, keyslots (-want +got):\n%s", text, len(h.Tokens), diff)
		}
		keys := map[string][]byte{"0": filetest.Read(t, b.imageKeyFile()), "1": filetest.Read(t, b.recoveryKeyFile())}
		if raw, ok := h.Tokens["1"]; ok {
			tok, err := token.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			key, _, err := boot.LoadOrMakePCRKey(b.pcrKeyDir())
			if err != nil {
				t.Fatal(err)
			}
			signatures, err := tpm.SignPCR11(key.Private, [32]byte{})
			if err != nil {
				t.Fatal(err)
			}
			secret, err := device.Unseal(tok.Sealed, srk, tok.PCRs, tok.Key, tok.SignedPCRs, signatures)
			if err != nil {
				t.Fatal(err)
			}
			keys["2"] = []byte(base64.StdEncoding.EncodeToString(secret))
		}
		for _, slot := range slots {
			if _, err := cryptsetup(keys[slot], "open", "--test-passphrase", "--key-file=-", "--key-slot="+slot); err != nil {
				t.Errorf("%q: slot %s: %v", text, slot, err)
			}
		}
	}
}
