package build

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/boot"
	"cc-base/tasks/boot/measured"
	"cc-base/tasks/boot/varstore"
	"cc-base/tasks/fault"
	"cc-base/tasks/qcow2"
	"cc-base/tasks/tpm/pcr"
)

// registers is what each PCR is for, where our boot and a guest's firmware use
// it.
func registers() []string {
	return []string{
		"firmware", "its settings: boot order, processors, memory", "option ROMs", "their settings",
		"boot image", "partition table", "the host's events", "Secure Boot: switch, keys, which one accepted the boot image",
		"other boot loaders", "kernel's command line and initrd", "files that the kernel measures", "boot image, section by section, and boot phases",
		"additions to the command line", "system extensions", "other boot loaders", "system identity",
	}
}

// Numbers of PCRs that are treated apart.
const (
	pcrTable      = 5  // the partition table: of the disk, not of the boot image
	pcrSecureBoot = 7  // tells which firmware a guest runs
	pcrPhases     = 11 // goes on changing while the system starts
)

// bootPhases are the phases that PCR 11 records, in order
// (systemd-pcrphase.service(8)).
func bootPhases() []string { return []string{boot.PCRPhase, "leave-initrd", "sysinit", "ready"} }

// PCRs says what is to be predicted and shown.
type PCRs struct {
	Guest      *Guest // to compare with; nil for the prediction alone
	Disk       string // whose partition table counts; empty for out/cc-base.qcow2
	SecureBoot bool   // firmware that trusts this build's keys alone; else one without Secure Boot
	JSON       bool
}

// predicted are the values of the SHA-256 bank.
type predicted struct {
	secureBoot string // on, or absent
	values     map[int]string
	phases     map[string]string // values of PCR 11, by the last phase
}

// row is one register of a comparison.
type row struct {
	PCR       int    `json:"pcr"`
	Meaning   string `json:"meaning"`
	Predicted string `json:"predicted,omitempty"`
	Actual    string `json:"actual"`
	Verdict   string `json:"verdict"`
}

// The verdicts; of PCR 11, "same" is followed by the phase of the boot.
const (
	same      = "same"
	different = "DIFFERENT"
	unknown   = "not predicted"
)

// pcrReport is what tpm:pcrs -json prints. "pcrs" is what `cc-guest keys prepare`
// reads.
type pcrReport struct {
	SecureBoot string            `json:"secureBoot"`
	PCRs       map[string]string `json:"pcrs"`
	Registers  []row             `json:"registers,omitempty"` // with a guest
}

// ShowPCRs prints what the built image will have measured into the TPM's PCRs
// when it runs, or that beside what a running guest has. A difference is an
// error.
func ShowPCRs(ctx context.Context, o Options, p PCRs, w io.Writer) error {
	b := &Build{Options: o}
	start, err := b.start(p.Disk)
	if err != nil {
		return err
	}
	want, err := b.predict(start, p.SecureBoot)
	if err != nil {
		return err
	}
	if p.Guest == nil {
		return want.show(w, p.JSON)
	}
	return o.talk(ctx, *p.Guest, "waiting for the guest to read its TPM", func(ctx context.Context, c *control.Client) error {
		actual, err := askPCRs(ctx, c)
		if err != nil {
			return err
		}
		fitting, known, err := b.predictFor(start, actual)
		if err != nil {
			return err
		}
		if known && !p.SecureBoot {
			want = fitting
		}
		return want.compare(w, actual, p.JSON)
	})
}

// PrepareKeys binds the volumes of a running guest to what the built image will
// have measured as well, and prints what opens them then.
func PrepareKeys(ctx context.Context, o Options, g Guest, w io.Writer) error {
	b := &Build{Options: o}
	start, err := b.start("")
	if err != nil {
		return err
	}
	return o.talk(ctx, g, "waiting for the guest to bind its volumes", func(ctx context.Context, c *control.Client) error {
		actual, err := askPCRs(ctx, c)
		if err != nil {
			return err
		}
		want, known, err := b.predictFor(start, actual)
		if err != nil {
			return err
		}
		if !known {
			return fault.Newf(fault.Machine, "the VM's PCR %d is neither that of firmware without Secure Boot nor that of firmware with this build's keys: what the image will measure there cannot be told", pcrSecureBoot).
				Hint("update it and give the recovery key once: the volumes are bound anew then")
		}
		// The table of an installed disk is longer than the image's, and stays.
		delete(want.values, pcrTable)
		// A signature in the boot image speaks for every value of PCR 11.
		delete(want.values, pcrPhases)
		if err := c.Ask(ctx, "keys prepare", pcrReport{SecureBoot: want.secureBoot, PCRs: want.texts()}, nil); err != nil {
			return err
		}
		fmt.Fprintf(o.Stderr, "keys: the volumes open for %s too, if PCR %d stays as it is\n", b.out("cc-base.efi"), pcrTable)
		return showKeyStatus(ctx, c, w)
	})
}

func askPCRs(ctx context.Context, c *control.Client) (map[int]string, error) {
	var texts map[string]string
	if err := c.Ask(ctx, "pcrs", nil, &texts); err != nil {
		return nil, err
	}
	values := map[int]string{}
	for text, value := range texts {
		n, nerr := strconv.Atoi(text)
		raw, verr := hex.DecodeString(value)
		if nerr != nil || verr != nil || len(raw) != pcr.SHA256.New().Size() {
			return nil, fault.Newf(fault.Machine, "the guest calls this the value of a PCR: %.20q %.80q", text, value)
		}
		values[n] = hex.EncodeToString(raw)
	}
	return values, nil
}

// start returns what of the output folder decides the registers.
func (b *Build) start(disk string) (pcr.Boot, error) {
	file := b.out("cc-base.efi")
	uki, err := os.ReadFile(file)
	if err != nil {
		return pcr.Boot{}, notBuilt(err)
	}
	image, err := pcr.ReadUKI(uki)
	if err != nil {
		return pcr.Boot{}, fmt.Errorf("%s: %w", file, err)
	}
	if disk == "" {
		disk = b.out("cc-base.qcow2")
	}
	table, err := readTable(disk)
	return pcr.Boot{Image: image, GPT: table}, err
}

func notBuilt(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Usage, err).Hint("`mage build` makes the image")
	}
	return err
}

// predictFor predicts for the firmware that the guest runs, which its PCR 7
// tells, if it is one of those that this build knows.
func (b *Build) predictFor(start pcr.Boot, actual map[int]string) (want predicted, known bool, err error) {
	for _, secureBoot := range []bool{false, true} {
		want, err := b.predict(start, secureBoot)
		if coded := fault.Of(err); secureBoot && coded != nil && coded.Code == fault.BootImage {
			// Keys that are not there, or have not signed the image: then no
			// firmware has them.
			break
		}
		if err != nil || want.values[pcrSecureBoot] == actual[pcrSecureBoot] {
			return want, err == nil, err
		}
	}
	return predicted{}, false, nil
}

func (b *Build) predict(start pcr.Boot, secureBoot bool) (predicted, error) {
	p := predicted{secureBoot: "absent", phases: map[string]string{}}
	if secureBoot {
		p.secureBoot = "on"
		cert := func(name string) string { return filepath.Join(b.secureBootDir(), name+".crt") }
		var err error
		start.SecureBoot, err = varstore.Measured(varstore.Keys{PK: cert("PK"), KEK: cert("KEK"), DB: cert("db")})
		if err != nil {
			return predicted{}, err
		}
	}
	for n, last := range append([]string{"the boot image"}, bootPhases()...) {
		start.Phases = bootPhases()[:n]
		values, err := replay(start)
		if err != nil {
			return predicted{}, err
		}
		p.phases[last] = values[pcrPhases]
		if last == boot.PCRPhase {
			p.values = values // when the volumes are opened
		}
	}
	return p, nil
}

func replay(b pcr.Boot) (map[int]string, error) {
	log, err := pcr.Predict(b)
	if err != nil {
		return nil, err
	}
	values, err := log.Replay(pcr.SHA256)
	texts := map[int]string{}
	for _, n := range log.PCRs {
		texts[n] = values[n].String()
	}
	return texts, err
}

// readTable returns what is measured of the partition table of a disk, raw or
// qcow2.
func readTable(disk string) ([]byte, error) {
	f, err := os.Open(disk)
	if err != nil {
		return nil, notBuilt(err)
	}
	defer f.Close()
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil {
		return nil, fault.New(fault.DiskImage, fmt.Errorf("%s: %w", disk, err))
	}
	var raw io.ReaderAt = f
	if bytes.Equal(magic[:], []byte("QFI\xfb")) {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if raw, err = qcow2.Open(f, info.Size()); err != nil {
			return nil, fault.New(fault.DiskImage, fmt.Errorf("%s: %w", disk, err))
		}
	}
	table, err := measured.PartitionTable(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", disk, err)
	}
	return table, nil
}

// texts is the form of `cc-guest keys prepare`.
func (p predicted) texts() map[string]string {
	out := map[string]string{}
	for n, value := range p.values {
		out[strconv.Itoa(n)] = value
	}
	return out
}

func (p predicted) firmware() string {
	if p.secureBoot == "on" {
		return "firmware that trusts this build's keys alone"
	}
	return "firmware without Secure Boot"
}

func (p predicted) show(w io.Writer, asJSON bool) error {
	if asJSON {
		return writeJSON(w, pcrReport{SecureBoot: p.secureBoot, PCRs: p.texts()})
	}
	fmt.Fprintf(w, "%s, SHA-256, when the initrd opens the volumes\n", p.firmware())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "register\tvalue\tmeaning")
	for _, n := range slices.Sorted(maps.Keys(p.values)) {
		fmt.Fprintf(t, "%d\t%s\t%s\n", n, p.values[n], registers()[n])
	}
	return t.Flush()
}

// compare prints the registers of prediction and guest, and returns an error
// that names those that differ.
func (p predicted) compare(w io.Writer, actual map[int]string, asJSON bool) error {
	var rows []row
	var wrong []string
	for n, meaning := range registers() {
		r := row{PCR: n, Meaning: meaning, Predicted: p.values[n], Actual: actual[n], Verdict: unknown}
		if r.Predicted != "" {
			r = p.judge(r)
		}
		if r.Verdict == different {
			wrong = append(wrong, strconv.Itoa(n))
		}
		rows = append(rows, r)
	}
	if err := p.showRows(w, rows, asJSON); err != nil || len(wrong) == 0 {
		return err
	}
	err := fault.Newf(fault.Machine, "the VM has measured something else than the built image: PCR %s", strings.Join(wrong, ", "))
	if slices.Contains(wrong, strconv.Itoa(pcrTable)) {
		return err.Hint("the table of an installed disk is longer than the image's: -disk=DEV reads it there")
	}
	return err
}

func (p predicted) judge(r row) row {
	r.Verdict = different
	if r.Actual == r.Predicted {
		r.Verdict = same
	}
	if r.PCR != pcrPhases {
		return r
	}
	for phase, value := range p.phases {
		if value == r.Actual {
			r.Predicted, r.Verdict = value, same+", after "+phase
		}
	}
	return r
}

func (p predicted) showRows(w io.Writer, rows []row, asJSON bool) error {
	if asJSON {
		return writeJSON(w, pcrReport{p.secureBoot, p.texts(), rows})
	}
	fmt.Fprintf(w, "%s, SHA-256, the first 16 digits (-json has all)\n", p.firmware())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "register\tpredicted\tactual\tverdict\tmeaning")
	short := func(value string) string {
		if value == "" {
			return "-"
		}
		return value[:16]
	}
	for _, r := range rows {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", r.PCR, short(r.Predicted), short(r.Actual), r.Verdict, r.Meaning)
	}
	return t.Flush()
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
