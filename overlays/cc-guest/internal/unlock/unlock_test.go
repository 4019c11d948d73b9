package unlock

// Green here means that the volumes are opened in the right order, with every
// header changed by the real cryptsetup, that secrets go through pipes only,
// and that each failure has its code. Mapping the devices, making the file
// system and the verity check are recorded, not done: that the kernel does its
// part is for the boots to show.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/source"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/overlays/cc-guest/internal/volume"
	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
)

const (
	hash     = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	secret   = "the secret of the installation, long enough"
	recovery = "vvvvvvvv-cccccccc-dddddddd-eeeeeeee-ffffffff-gggggggg-hhhhhhhh-iiiiiiii"
)

func lineFor(profile string) string {
	return "cc.root=luks+verity:" + hash + ":8192 cc.app=luks+verity:" + hash + ":8192 cc.config=verity:" + hash + ":8192 cc.keys=" + profile + "\n"
}

// machine is a guest whose disk is a folder of files.
type machine struct {
	t       *testing.T
	tools   sh.Runner
	dir     string
	sys     fstest.MapFS
	root    fixedRoot
	typed   []string // at the console
	asked   int
	calls   []string
	said    []string
	kept    map[string]string
	status  map[string]int // by the start of a call
	profile string
	extends []string
	over    func() // ends the boot's time

	recipients []string // of the recovery key
	power      *power   // nil: it never fails
	late       bool     // the time of the boot is over when the volume is re-encrypted

	instance Instance // the last boot asked the operator for
}

// fixedRoot is the TEE's secret.
type fixedRoot []byte

func (r fixedRoot) Key(context.Context, uint64) ([]byte, uint64, error) {
	return slices.Clone(r), 1, nil
}

// tpmLike is a source with tokens of systemd's type, as profile tpm has.
type tpmLike struct{ source.TEE }

func (tpmLike) TokenType() string { return "systemd-tpm2" }

func (s tpmLike) New(ctx context.Context, volume string, epoch int) ([]byte, map[string]json.RawMessage, error) {
	p, fields, err := s.TEE.New(ctx, volume, epoch)
	if err == nil {
		// cryptsetup lets systemd's plugin judge a token of this type.
		for name, value := range map[string]string{
			"type": `"systemd-tpm2"`, "tpm2-blob": `"AA=="`, "tpm2-pcrs": `[7]`, "tpm2-policy-hash": `"00"`,
		} {
			fields[name] = json.RawMessage(value)
		}
	}
	return p, fields, err
}

func (m *machine) source() vault.Source {
	s := source.TEE{Profile: m.profile, Root: m.root, Instance: m.instance.ID}
	if m.profile == cmdline.TPM {
		return tpmLike{s}
	}
	return s
}

func (m *machine) Extend(pcr int, data []byte) error {
	m.extends = append(m.extends, fmt.Sprintf("%d %s", pcr, data))
	return nil
}

func (m *machine) ExtendSecret(pcr int, data, _ []byte) error { return m.Extend(pcr, data) }

// Run implements vault.Runner: what works on files is done, what needs a
// kernel is recorded.
func (m *machine) Run(ctx context.Context, secrets [][]byte, stdin []byte, program string, args ...string) (string, int, error) {
	call := filepath.Base(program) + " " + strings.Join(args, " ")
	m.calls = append(m.calls, call)
	for start, status := range m.status {
		if strings.HasPrefix(call, start) {
			return "", status, nil
		}
	}
	switch args[0] {
	case "luksFormat", "luksAddKey", "luksKillSlot", "token", "reencrypt", "repair":
	default:
		return fmt.Sprintf("0 16 verity 1 253:0 253:0 4096 4096 2 3 sha256 %s abcd 1 panic_on_corruption\n", hash), 0, nil
	}
	if m.late && slices.Contains(args, "--resume-only") {
		m.over()
	}
	var files []*os.File
	for _, s := range secrets {
		read, write, err := os.Pipe()
		if err != nil {
			return "", -1, err
		}
		defer read.Close()
		if _, err := write.Write(s); err != nil {
			return "", -1, err
		}
		write.Close()
		files = append(files, read)
	}
	args = slices.Clone(args)
	for i, a := range args {
		if a == "/dev/vda5" {
			args[i] = m.path("cc-dynamic")
		}
	}
	err := m.tools.Run(ctx, sh.Cmd{Name: program, Args: args, Stdin: bytes.NewReader(stdin), Files: files})
	var failed *sh.Error
	if errors.As(err, &failed) {
		m.t.Log(err)
		return "", 1, nil
	}
	return "", 0, err
}

// power fails at a write to the disk, in the middle of it, and stays away.
type power struct {
	left int // writes before
	seen int
}

var errPower = errors.New("power cut")

type file struct {
	*os.File
	power *power
}

func (f file) WriteAt(p []byte, off int64) (int, error) {
	if f.power == nil {
		return f.File.WriteAt(p, off)
	}
	f.power.seen++
	if f.power.left > 0 {
		f.power.left--
		return f.File.WriteAt(p, off)
	}
	if f.power.left == 0 {
		f.power.left = -1
		// A disk writes a sector at once or not at all.
		_, _ = f.File.WriteAt(p[:len(p)/2/512*512], off)
	}
	return 0, errPower
}

func (f file) Size() (int64, error) {
	info, err := f.Stat()
	return info.Size(), err
}

func (m *machine) path(label string) string { return filepath.Join(m.dir, label) }

func (m *machine) unlocker() *Unlocker {
	s := settings.Default()
	s.Keys.ConsoleRecovery = m.typed != nil
	s.Keys.DynamicIntegrity = "off" // its format needs device-mapper
	s.Keys.RecoveryRecipients = m.recipients
	labels := map[string]string{"/dev/vda2": "cc-root", "/dev/vda3": "cc-app", "/dev/vda5": "cc-dynamic"}
	return &Unlocker{
		Sys: m.sys, Finder: volume.Finder{Sys: m.sys, Settled: func() bool { return true }}, Runner: m,
		Settings: s, Work: filepath.Join(m.dir, "work-"+rand.Text()),
		Open: func(node string) (Partition, error) {
			f, err := os.OpenFile(m.path(labels[node]), os.O_RDWR, 0)
			return file{f, m.power}, err
		},
		Machine: func(_ context.Context, _ string, i Instance) (Machine, error) {
			m.instance = i
			return Machine{Source: m.source(), TPM: m}, nil
		},
		Ask: func(context.Context, string) ([]byte, error) {
			if m.asked >= len(m.typed) {
				return nil, errors.New("nobody is there")
			}
			m.asked++
			return []byte(m.typed[m.asked-1]), nil
		},
		Keep: func(name string, s []byte) error { m.kept[name] = string(s); return nil },
		Say:  func(line string) { m.said = append(m.said, line) },
	}
}

func (m *machine) boot() (keystate.State, error) {
	m.calls, m.said, m.extends, m.asked, m.kept = nil, nil, nil, 0, map[string]string{}
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	m.over = cancel
	return m.unlocker().Run(ctx, lineFor(m.profile), lineFor("tpm")+lineFor("snp")+lineFor("attested"))
}

// installed returns a machine before its first boot.
func installed(t *testing.T, profile string) *machine {
	t.Helper()
	tools, dir := lab.Tools(t)
	m := &machine{t: t, tools: tools, dir: dir, profile: profile, root: fixedRoot(bytes.Repeat([]byte("k"), 32)), sys: fstest.MapFS{KeyFile: {Data: []byte(secret)}}}
	for node, label := range map[string]string{"vda2": "cc-root", "vda3": "cc-app", "vda4": "cc-config", "vda5": "cc-dynamic"} {
		m.sys["class/block/"+node+"/uevent"] = &fstest.MapFile{Data: []byte("DEVNAME=" + node + "\nDEVTYPE=partition\nPARTNAME=" + label + "\n")}
	}
	for _, label := range []string{"cc-root", "cc-app"} {
		m.format(label, secret)
	}
	m.blank("cc-dynamic")
	return m
}

func (m *machine) blank(label string) {
	m.t.Helper()
	if err := os.WriteFile(m.path(label), nil, 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Truncate(m.path(label), 24<<20); err != nil {
		m.t.Fatal(err)
	}
}

// format makes a LUKS2 volume with one passphrase, as build or host can.
func (m *machine) format(label, passphrase string) {
	m.t.Helper()
	m.blank(label)
	m.do([]string{passphrase}, "", "luksFormat", "--batch-mode", "--disable-locks", "--type=luks2", "--cipher=aes-xts-plain64",
		"--key-size=512", "--hash=sha512", "--sector-size=4096", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000",
		"--key-file=/proc/self/fd/3", m.path(label))
}

func (m *machine) token(label, id, text string) {
	m.t.Helper()
	m.do(nil, text, "token", "import", "--disable-locks", "--token-id="+id, "--token-replace", "--json-file=-", m.path(label))
}

func (m *machine) addRecovery(label string) {
	m.t.Helper()
	m.do([]string{secret, recovery}, "", "luksAddKey", "--batch-mode", "--disable-locks", "--new-key-slot=7", "--hash=sha512",
		"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=/proc/self/fd/3", m.path(label), "/proc/self/fd/4")
	m.token(label, "7", `{"type":"systemd-recovery","keyslots":["7"]}`)
}

func (m *machine) do(secrets []string, stdin string, args ...string) {
	m.t.Helper()
	var all [][]byte
	for _, s := range secrets {
		all = append(all, []byte(s))
	}
	if _, status, err := m.Run(m.t.Context(), all, []byte(stdin), "/usr/sbin/cryptsetup", args...); err != nil || status != 0 {
		m.t.Fatalf("cryptsetup %v: %d, %v", args, status, err)
	}
}

// starts tells how many calls begin so.
func (m *machine) starts(prefix string) int {
	n := 0
	for _, c := range m.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func profiles() []string { return []string{cmdline.TPM, cmdline.SNP, cmdline.Attested} }

func TestTheFirstBootEnrolsAndTheSecondNeedsNoSecret(t *testing.T) {
	t.Parallel()
	for _, profile := range profiles() {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			m := installed(t, profile)
			state, err := m.boot()
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(state.Lines(), "\n"); !strings.Contains(got, "cc-root enrolment, cc-app enrolment, cc-config none, cc-dynamic made") {
				t.Errorf("first boot: %s", got)
			}
			if m.starts("mkfs.ext4") != 1 || m.starts("veritysetup open --panic-on-corruption") != 3 {
				t.Errorf("calls are\n%s", strings.Join(m.calls, "\n"))
			}
			secrets := m.kept
			delete(m.sys, KeyFile)
			if state, err = m.boot(); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(state.Lines(), "\n"); !strings.Contains(got, "cc-root machine, cc-app machine, cc-config none, cc-dynamic machine") {
				t.Errorf("second boot: %s", got)
			}
			if m.starts("mkfs.ext4") != 0 || m.starts("cryptsetup luks") != 0 || m.starts("cryptsetup token") != 0 {
				t.Errorf("the second boot changes something:\n%s", strings.Join(m.calls, "\n"))
			}
			if len(secrets) != 3 || secrets["cc-root"] == secrets["cc-app"] || m.kept["cc-root"] != secrets["cc-root"] {
				t.Error("the volumes do not have a secret each, or it changed")
			}
			want := []string{"15 cryptsetup:cc-root:", "15 cryptsetup:cc-app:", "15 cryptsetup:cc-dynamic:", "11 leave-initrd"}
			if len(m.extends) != len(want) {
				t.Fatalf("measured: %v", m.extends)
			}
			for i := range want {
				if !strings.HasPrefix(m.extends[i], want[i]) {
					t.Errorf("measured %q, want %q", m.extends[i], want[i])
				}
			}
			m.sys[KeyFile] = &fstest.MapFile{Data: []byte(secret)}
			m.root = fixedRoot(bytes.Repeat([]byte("x"), 32))
			if _, err = m.boot(); err == nil {
				t.Fatal("another machine opens it, with the secret of the installation")
			}
			faulttest.Want(t, err, fault.GuestKey)
		})
	}
}

func TestNoSecretIsInAnArgumentALineOrAnError(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.TPM)
	m.status = map[string]int{"veritysetup": 1}
	_, err := m.boot()
	if err == nil {
		t.Fatal("a failed verity was accepted")
	}
	text := strings.Join(append(m.calls, m.said...), "\n") + err.Error()
	for _, s := range append(slices.Collect(mapValues(m.kept)), secret) {
		if strings.Contains(text, s) {
			t.Error("a secret is in it")
		}
	}
}

func mapValues(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// A host that knows how a volume opens can read what the guest writes to it.
func TestAPlantedWritableVolumeIsRefused(t *testing.T) {
	t.Parallel()
	plant := map[string]func(m *machine){
		"with the enrolment secret": func(*machine) {},
		"with a known recovery key": func(m *machine) { m.addRecovery("cc-dynamic") },
		"with the host's own TPM": func(m *machine) {
			m.token("cc-dynamic", "0", `{"type":"systemd-tpm2","keyslots":["0"],"tpm2-blob":"","tpm2-pcrs":[],"tpm2-policy-hash":""}`)
		},
		"with the host's own TPM and a recovery key": func(m *machine) {
			m.addRecovery("cc-dynamic")
			m.token("cc-dynamic", "0", `{"type":"systemd-tpm2","keyslots":["0"],"tpm2-blob":"","tpm2-pcrs":[],"tpm2-policy-hash":""}`)
		},
		"with a recovery key alone": func(m *machine) {
			m.token("cc-dynamic", "0", `{"type":"systemd-recovery","keyslots":["0"],"cc-volume":"cc-dynamic","cc-message":["x"],"cc-recipients":"y"}`)
		},
		"with a token of ours that opens nothing": func(m *machine) {
			m.addRecovery("cc-dynamic")
			m.token("cc-dynamic", "0", `{"type":"cc-base","keyslots":[],"cc-volume":"cc-dynamic","cc-renewal":"asked"}`)
		},
		"with a token of ours without code": func(m *machine) {
			m.token("cc-dynamic", "0", `{"type":"cc-base","keyslots":["0"],"cc-version":1,"cc-profile":"`+m.profile+`","cc-epoch":1,"cc-salt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","cc-tcb":1,"cc-instance":"`+m.instance.ID+`"}`)
		},
	}
	for _, profile := range []string{cmdline.SNP, cmdline.Attested} {
		for name, do := range plant {
			t.Run(profile+" "+name, func(t *testing.T) {
				t.Parallel()
				m := installed(t, profile)
				m.typed = []string{recovery, recovery, recovery}
				if _, err := m.boot(); err != nil {
					t.Fatal(err)
				}
				m.format("cc-dynamic", secret)
				do(m)
				_, err := m.boot()
				if err == nil {
					t.Fatal("it was opened")
				}
				code := fault.GuestPlanted
				if strings.Contains(name, "without code") {
					code = fault.GuestKey // the guest's secret does not open it
				}
				faulttest.Want(t, err, code)
				if m.starts("cryptsetup open --type=luks2 --disable-locks --header="+filepath.Join(m.dir)) != 0 {
					t.Errorf("it was mapped:\n%s", strings.Join(m.calls, "\n"))
				}
			})
		}
	}
}

func TestTheRecoveryKeyOpensWhatTheMachineCannot(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.TPM)
	m.addRecovery("cc-root")
	m.addRecovery("cc-app")
	if _, err := m.boot(); err != nil {
		t.Fatal(err)
	}
	m.root = fixedRoot(bytes.Repeat([]byte("n"), 32)) // another TPM
	m.typed = []string{"no", "still no", "vvvvvvvv", recovery}
	_, err := m.boot()
	faulttest.Want(t, err, fault.GuestRecovery, "3 tries")
	if m.asked != 3 {
		t.Errorf("asked %d times", m.asked)
	}
	// The writable volume has no recovery slot: a new one is made for it here.
	m.blank("cc-dynamic")
	m.typed = []string{"wrong", strings.ToUpper(strings.ReplaceAll(recovery, "-", " "))}
	state, err := m.boot()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(state.Lines(), "\n"); !strings.Contains(got, "cc-root recovery, cc-app recovery") || m.asked != 2 {
		t.Errorf("asked %d times: %s", m.asked, got)
	}
	m.typed = nil
	if _, err := m.boot(); err != nil {
		t.Errorf("the boot after a recovery: %v", err)
	}
}

func TestRunGivesEveryFailureItsCode(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(m *machine)
		line   string
		code   fault.Code
		want   string
	}{
		"line without root":          {line: "quiet\n", code: fault.GuestCmdline, want: "not one of the image"},
		"initrd beside a boot image": {line: strings.TrimSpace(lineFor("tpm")) + " initrd=initrd", code: fault.GuestCmdline, want: "beside the boot image"},
		"line with an extra":         {line: "x " + lineFor("tpm"), code: fault.GuestCmdline, want: "not one of the image"},
		"partition missing":          {change: func(m *machine) { delete(m.sys, "class/block/vda4/uevent") }, code: fault.GuestVolume, want: "cc-config"},
		"partition twice": {change: func(m *machine) {
			m.sys["class/block/vdb1/uevent"] = &fstest.MapFile{Data: []byte("DEVNAME=vdb1\nDEVTYPE=partition\nPARTNAME=cc-app\n")}
		}, code: fault.GuestVolume, want: "same label"},
		"no key":              {change: func(m *machine) { delete(m.sys, KeyFile) }, code: fault.GuestKey, want: "no image key"},
		"empty key":           {change: func(m *machine) { m.sys[KeyFile].Data = nil }, code: fault.GuestKey, want: "empty"},
		"long key":            {change: func(m *machine) { m.sys[KeyFile].Data = bytes.Repeat([]byte("k"), maxKey+1) }, code: fault.GuestKey, want: "longer"},
		"wrong key":           {change: func(m *machine) { m.sys[KeyFile].Data = []byte("wrong") }, code: fault.GuestKey, want: "cc-root"},
		"no LUKS header":      {change: func(m *machine) { m.blank("cc-app") }, code: fault.HeaderUnreadable, want: "cc-app"},
		"mapping fails":       {change: func(m *machine) { m.status = map[string]int{"cryptsetup open": 1} }, code: fault.GuestVolume, want: "exit status 1"},
		"damaged superblock":  {change: func(m *machine) { m.status = map[string]int{"veritysetup": 1} }, code: fault.GuestVerity, want: "exit status 1"},
		"device not there":    {change: func(m *machine) { m.status = map[string]int{"dmsetup": 1} }, code: fault.GuestVerity, want: "dmsetup"},
		"no file system":      {change: func(m *machine) { m.status = map[string]int{"mkfs.ext4": 1} }, code: fault.GuestDynamic, want: "mkfs.ext4"},
		"header not writable": {change: func(m *machine) { m.status = map[string]int{"cryptsetup luksAddKey": 1} }, code: fault.GuestEnrol, want: "luksAddKey"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := installed(t, cmdline.TPM)
			if tc.change != nil {
				tc.change(m)
			}
			line := tc.line
			if line == "" {
				line = lineFor("tpm")
			}
			m.kept = map[string]string{}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			u := m.unlocker()
			if strings.HasPrefix(name, "partition missing") {
				var stop context.CancelFunc
				ctx, stop = context.WithTimeout(ctx, 200*time.Millisecond)
				defer stop()
			}
			_, err := u.Run(ctx, line, lineFor("tpm"))
			faulttest.Want(t, err, tc.code, tc.want)
			if strings.Contains(err.Error(), secret) {
				t.Error("the key is in the error")
			}
		})
	}
	u := (&machine{t: t}).unlocker()
	_, err := u.Run(t.Context(), lineFor("tpm"), "")
	faulttest.Want(t, err, fault.GuestCmdline, "no copy")
	marked := strings.TrimSpace(lineFor("snp")) + " cc.test=1\n"
	_, err = u.Run(t.Context(), marked, marked)
	faulttest.Want(t, err, fault.GuestCmdline, "test builds")
	u.Test = true
	_, err = u.Run(t.Context(), lineFor("snp"), lineFor("snp"))
	faulttest.Want(t, err, fault.GuestCmdline, "test builds")
}

func TestSwappedVolumesAreRefused(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.TPM)
	if _, err := m.boot(); err != nil {
		t.Fatal(err)
	}
	for _, step := range [][2]string{{"cc-root", "x"}, {"cc-app", "cc-root"}, {"x", "cc-app"}} {
		if err := os.Rename(m.path(step[0]), m.path(step[1])); err != nil {
			t.Fatal(err)
		}
	}
	_, err := m.boot()
	faulttest.Want(t, err, fault.GuestSwapped, "cc-app")
}

func TestAFirstBootThatWasCutOffContinues(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"cryptsetup luksKillSlot", "mkfs.ext4", "veritysetup", "cryptsetup open"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			m := installed(t, cmdline.TPM)
			m.status = map[string]int{at: 1}
			if _, err := m.boot(); err == nil {
				t.Fatal("nothing failed")
			}
			m.status = nil
			if _, err := m.boot(); err != nil {
				t.Fatal(err)
			}
			delete(m.sys, KeyFile)
			if _, err := m.boot(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestADamagedWritableVolumeIsNeverFormatted(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.TPM)
	if _, err := m.boot(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(m.path("cc-dynamic"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int64{100, 4200, 64<<10 + 100, 64<<10 + 4200} {
		if _, err := f.WriteAt([]byte("damage"), off); err != nil {
			t.Fatal(err)
		}
	}
	_, err = m.boot()
	faulttest.Want(t, err, fault.HeaderUnreadable)
	if m.starts("mkfs") != 0 || m.starts("cryptsetup luksFormat") != 0 {
		t.Error("it was formatted")
	}
}

func TestAnInstanceKeepsItsName(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.Attested)
	// The writable volume cannot be made, after the others were bound.
	m.status = map[string]int{"mkfs.ext4": 1}
	if _, err := m.boot(); err == nil {
		t.Fatal("a failed mkfs was accepted")
	}
	first := m.instance
	m.status = nil
	state, err := m.boot()
	if err != nil || m.instance != first || !first.New || state.Instance != first.ID {
		t.Fatalf("after a cut: %+v, %+v, %v; want %+v", m.instance, state, err, first)
	}
	// Not new any more, and the volume bears the name.
	want := Instance{ID: first.ID}
	if _, err := m.boot(); err != nil || m.instance != want {
		t.Errorf("%+v, %v", m.instance, err)
	}
	v, err := m.unlocker().peek("cc-dynamic", "vda5", false)
	if err != nil || v.UUID() != first.ID {
		t.Errorf("cc-dynamic is %v, %v; want %s", v, err, first.ID)
	}
	// A host that wipes it cannot pass for a new machine.
	m.blank("cc-dynamic")
	if _, err := m.boot(); err != nil || m.instance != first {
		t.Errorf("wiped: %+v, %v", m.instance, err)
	}
}

func TestOnlyTheAttestedProfileHasAnInstance(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.SNP)
	if state, err := m.boot(); err != nil || m.instance != (Instance{}) || state.Instance != "" {
		t.Errorf("%+v, %+v, %v", m.instance, state, err)
	}
}

func TestTheFirmwaresOwnParameterOfADirectBootIsAccepted(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.SNP)
	line := strings.TrimSpace(lineFor("snp"))
	for _, extra := range []string{" initrd=initrd initrd=initrd", " initrd=other", " initrd=initrd x", "initrd=initrd"} {
		_, err := m.unlocker().Run(t.Context(), line+extra+"\n", lineFor("snp"))
		faulttest.Want(t, err, fault.GuestCmdline)
	}
	if _, err := m.unlocker().params(line+" initrd=initrd\n", lineFor("snp")); err != nil {
		t.Error(err)
	}
}
