package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
	"cc-base/tasks/tee/ovmf"
	"cc-base/tasks/tee/snp"
	"cc-base/tasks/tee/tdx"
	"cc-base/tasks/tee/tdx/acpi"
	"cc-base/tasks/tpm/pcr"
)

// measurement is one kind of `cc-install measure`: numbers that a guest will
// have, computed from files. Nothing is started and no hardware is asked.
type measurement struct {
	name  string
	usage string // arguments, as the help shows them
	run   func(ctx context.Context, a *app, args []string) error
}

// measurable is what can be computed, in the order of the help.
func measurable() []measurement {
	return []measurement{
		{"snp", "--firmware F --vcpus N --cpu-model M [--guest-features 0x1] [--kernel K [--initrd I] [--append S]] [--json]", measureSNP},
		{"tdx", "--firmware F [--two-pass] [--kernel K [--initrd I] [--append S] | --uki U [--gpt FILE] [--secure-boot]] [--memory SIZE [--qemu Q]] [--json] [-- QEMU'S ARGUMENTS]", measureTDX},
		{"ovmf", "--firmware F [--json]", measureOVMF},
		{"pcr", "--uki U [--secure-boot-cert C [--secure-boot-owner GUID] | --vars FILE] [--gpt DISK] [--phases a:b | --log FILE] [--json]", measurePCR},
		{"idblock", idBlockUsage, measureIDBlock},
	}
}

// measure runs one measurement; its arguments are its own.
func (a *app) measure(ctx context.Context, args []string) error {
	var help strings.Builder
	help.WriteString("usage:\n")
	var names []string
	for _, m := range measurable() {
		fmt.Fprintf(&help, "  cc-install measure %s %s\n", m.name, m.usage)
		names = append(names, m.name)
	}
	if len(args) == 0 {
		fmt.Fprint(a.err, help.String())
		return fault.Newf(fault.Usage, "measure: what? One of %s", strings.Join(names, ", "))
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(a.out, help.String())
		return nil
	}
	for _, m := range measurable() {
		if m.name != args[0] {
			continue
		}
		err := m.run(ctx, a, args[1:])
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(a.out, help.String())
			return nil
		}
		if err == nil || fault.Of(err) != nil {
			return err
		}
		// What is wrong is a file or a value that was given.
		return fault.New(fault.Usage, fmt.Errorf("measure %s: %w", m.name, err)).Hint("cc-install measure help shows the usage")
	}
	return fault.Newf(fault.Usage, "measure: unknown %q; one of %s", args[0], strings.Join(names, ", "))
}

// measureFlags returns a flag set that says nothing by itself.
func measureFlags(name string) *flag.FlagSet {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	return set
}

// parseMeasure parses flags alone and checks that the required ones are there.
func parseMeasure(set *flag.FlagSet, args []string, required ...string) error {
	if err := set.Parse(args); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	for _, name := range required {
		if set.Lookup(name).Value.String() == "" {
			return fmt.Errorf("--%s is missing", name)
		}
	}
	return nil
}

// readHead reads the first bytes of a file.
func readHead(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// readFirmware reads an image, or as much of another file as tells it from
// one.
func readFirmware(path string) ([]byte, error) { return readHead(path, ovmf.MaxSize+1) }

// named adds the file to an error about its content.
func named(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", path, err)
}

// snpResult is what measure snp --json writes.
type snpResult struct {
	Digest         snp.Digest `json:"digest"`
	FirmwareDigest snp.Digest `json:"firmwareDigest"` // after the firmware's pages alone
	VCPUs          int        `json:"vcpus"`
	CPUModel       string     `json:"cpuModel"`
	GuestFeatures  uint64     `json:"guestFeatures"`
	KernelHashes   bool       `json:"kernelHashes"`
}

func measureSNP(_ context.Context, a *app, args []string) error {
	set := measureFlags("snp")
	firmware, model := set.String("firmware", "", ""), set.String("cpu-model", "", "")
	vcpus, features := set.String("vcpus", "", ""), set.String("guest-features", "0x1", "")
	kernel, initrd, line := set.String("kernel", "", ""), set.String("initrd", "", ""), set.String("append", "", "")
	asJSON := set.Bool("json", false, "")
	if err := parseMeasure(set, args, "firmware", "vcpus", "cpu-model"); err != nil {
		return err
	}
	if *kernel == "" && (*initrd != "" || *line != "") {
		return errors.New("--initrd and --append are measured with --kernel only")
	}
	o := snp.Options{Model: *model}
	var err error
	if o.VCPUs, err = strconv.Atoi(*vcpus); err != nil {
		return fmt.Errorf("--vcpus %q is not a number", *vcpus)
	}
	if o.Features, err = strconv.ParseUint(*features, 0, 64); err != nil {
		return fmt.Errorf("--guest-features %q is not a number such as 0x1", *features)
	}
	image, err := readFirmware(*firmware)
	if err != nil {
		return err
	}
	if *kernel != "" {
		hashes, err := hashBoot(*kernel, *initrd, *line)
		if err != nil {
			return err
		}
		o.Kernel = &hashes
	}
	result := snpResult{VCPUs: o.VCPUs, CPUModel: o.Model, GuestFeatures: o.Features, KernelHashes: o.Kernel != nil}
	if result.Digest, err = snp.Launch(image, o); err != nil {
		return named(*firmware, err)
	}
	if !*asJSON {
		_, err := fmt.Fprintln(a.out, result.Digest)
		return err
	}
	if result.FirmwareDigest, err = snp.FirmwareDigest(image); err != nil {
		return named(*firmware, err)
	}
	return a.writeJSON(result)
}

func hashBoot(kernel, initrd, line string) (snp.KernelHashes, error) {
	k, err := os.Open(kernel)
	if err != nil {
		return snp.KernelHashes{}, err
	}
	defer k.Close()
	if initrd == "" {
		return snp.HashBoot(k, nil, line)
	}
	i, err := os.Open(initrd)
	if err != nil {
		return snp.KernelHashes{}, err
	}
	defer i.Close()
	return snp.HashBoot(k, i, line)
}

// tdxRegister is one register of measure tdx --json, with the events that make
// it, so that a difference on a real machine can be found.
type tdxRegister struct {
	Value  tdx.Digest `json:"value"`
	Events tdx.Log    `json:"events"`
}

// tdxResult is what measure tdx --json writes.
type tdxResult struct {
	MRTD    tdx.Digest   `json:"mrtd"`
	TwoPass bool         `json:"twoPass"`
	RTMR1   *tdxRegister `json:"rtmr1,omitempty"`
	RTMR2   *tdxRegister `json:"rtmr2,omitempty"`
	RTMR0   *tdxRegister `json:"rtmr0,omitempty"`
	// HandOff and ConfigVolume are the first two events of RTMR 0; the others
	// depend on the host's QEMU.
	HandOff      *tdx.Digest `json:"rtmr0HandOffBlock,omitempty"`
	ConfigVolume *tdx.Digest `json:"rtmr0ConfigVolume,omitempty"`
}

func measureTDX(ctx context.Context, a *app, args []string) error {
	// What stands behind "--" is QEMU's.
	var machine []string
	if at := slices.Index(args, "--"); at >= 0 {
		args, machine = args[:at], args[at+1:]
	}
	set := measureFlags("tdx")
	qemu := set.String("qemu", "", "")
	firmware, memory := set.String("firmware", "", ""), set.String("memory", "", "")
	twoPass, secureBoot := set.Bool("two-pass", false, ""), set.Bool("secure-boot", false, "")
	kernel, initrd, line := set.String("kernel", "", ""), set.String("initrd", "", ""), set.String("append", "", "")
	uki, gpt := set.String("uki", "", ""), set.String("gpt", "", "")
	asJSON := set.Bool("json", false, "")
	if err := parseMeasure(set, args, "firmware"); err != nil {
		return err
	}
	switch {
	case *kernel != "" && *uki != "":
		return errors.New("--kernel and --uki are two ways to boot")
	case *kernel == "" && (*initrd != "" || *line != ""):
		return errors.New("--initrd and --append go with --kernel; a UKI brings its own")
	case *uki == "" && (*gpt != "" || *secureBoot):
		return errors.New("--gpt and --secure-boot go with --uki")
	case *qemu != "" && *memory == "":
		return errors.New("--qemu computes RTMR0, which depends on the --memory too")
	case (*qemu == "") != (len(machine) == 0):
		return errors.New("--qemu and the arguments of its machine behind -- go together")
	case *qemu != "" && *uki != "":
		return errors.New("--qemu goes with direct boot: the boot options of a disk are the guest's own variables")
	}
	image, err := readFirmware(*firmware)
	if err != nil {
		return err
	}
	result := tdxResult{TwoPass: *twoPass}
	order := tdx.SinglePass
	if *twoPass {
		order = tdx.TwoPass
	}
	if result.MRTD, err = tdx.MRTD(image, order); err != nil {
		return named(*firmware, err)
	}
	if *memory != "" {
		if err := result.platform(image, *memory); err != nil {
			return err
		}
	}
	if *qemu != "" {
		if err := result.machine(ctx, a.programs, image, *memory, *qemu, machine); err != nil {
			return err
		}
	}
	if *kernel != "" || *uki != "" {
		if err := result.boot(*kernel, *initrd, *line, *uki, *gpt, *secureBoot); err != nil {
			return err
		}
	}
	if *asJSON {
		return a.writeJSON(result)
	}
	table := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "mrtd\t%s\n", result.MRTD)
	if result.RTMR0 != nil {
		fmt.Fprintf(table, "rtmr0\t%s\n", result.RTMR0.Value)
	}
	if result.RTMR1 != nil {
		fmt.Fprintf(table, "rtmr1\t%s\nrtmr2\t%s\n", result.RTMR1.Value, result.RTMR2.Value)
	}
	if result.HandOff != nil {
		fmt.Fprintf(table, "rtmr0 hand-off block\t%s\nrtmr0 config volume\t%s\n", result.HandOff, result.ConfigVolume)
	}
	return table.Flush()
}

// platform fills in what of RTMR 0 follows from firmware and memory.
func (r *tdxResult) platform(image []byte, memory string) error {
	size, err := parseSize(memory)
	if err != nil {
		return err
	}
	block, err := tdx.HandOffBlock(image, size)
	if err != nil {
		return err
	}
	volume, err := tdx.ConfigVolume(image)
	if err != nil {
		return err
	}
	one, two := tdx.Hash(block), tdx.Hash(volume)
	r.HandOff, r.ConfigVolume = &one, &two
	return nil
}

// machine fills in RTMR 0 of firmware up to edk2-stable202502 that starts a
// kernel from the host. The ACPI tables are those of the host's own QEMU, which
// is started without a processor running. Later firmware measures items that
// nothing here computes, so its RTMR 0 is another.
func (r *tdxResult) machine(ctx context.Context, run sh.Runner, image []byte, memory, qemu string, args []string) error {
	size, err := parseSize(memory)
	if err != nil {
		return err
	}
	p := tdx.Platform{}
	if p.HandOff, err = tdx.HandOffBlock(image, size); err != nil {
		return err
	}
	if p.ConfigVolume, err = tdx.ConfigVolume(image); err != nil {
		return err
	}
	vars, err := pcr.ReadVars(p.ConfigVolume)
	if err != nil {
		return err
	}
	p.SecureBoot = tdx.SecureBoot{Mode: vars.State, PK: vars.PK, KEK: vars.KEK, DB: vars.DB, DBX: vars.DBX}
	dir, err := os.MkdirTemp("", "cc-measure")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args = append([]string{"-m", fmt.Sprintf("%dM", size>>20)}, args...)
	if p.ACPI, err = acpi.Read(ctx, run, dir, qemu, args...); err != nil {
		return err
	}
	p.BootOrder, p.Boot = tdx.Menu()
	log, err := tdx.RTMR0(p)
	if err != nil {
		return err
	}
	r.RTMR0 = &tdxRegister{Value: log.Register(), Events: log}
	return nil
}

// boot fills in RTMR 1 and 2.
func (r *tdxResult) boot(kernel, initrd, line, uki, gpt string, secureBoot bool) error {
	b := tdx.Boot{CommandLine: line, SecureBoot: secureBoot}
	for _, f := range []struct {
		path string
		to   *[]byte
	}{{kernel, &b.Kernel}, {initrd, &b.Initrd}, {uki, &b.UKI}} {
		if f.path == "" {
			continue
		}
		data, err := os.ReadFile(f.path)
		if err != nil {
			return err
		}
		*f.to = data
	}
	if gpt != "" {
		table, err := readGPT(gpt)
		if err != nil {
			return err
		}
		b.GPT = table
	}
	for _, register := range []struct {
		of func(tdx.Boot) (tdx.Log, error)
		to **tdxRegister
	}{{tdx.RTMR1, &r.RTMR1}, {tdx.RTMR2, &r.RTMR2}} {
		log, err := register.of(b)
		if err != nil {
			return named(kernel+uki, err)
		}
		*register.to = &tdxRegister{Value: log.Register(), Events: log}
	}
	return nil
}

// parseSize reads a number of bytes, or one of KiB, MiB, GiB or TiB with K, M,
// G or T.
func parseSize(text string) (uint64, error) {
	digits := strings.TrimRight(text, "KMGT")
	shift := 0
	if unit := text[len(digits):]; len(unit) == 1 {
		shift = 10 * (1 + strings.Index("KMGT", unit))
	} else if unit != "" {
		return 0, fmt.Errorf("size %q: want a number and one of K, M, G and T", text)
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || bits.Len64(n)+shift > 63 {
		return 0, fmt.Errorf("size %q: want a number and one of K, M, G and T", text)
	}
	return n << shift, nil
}

// ovmfSection is a line of measure ovmf.
type ovmfSection struct {
	Kind       string `json:"kind"` // sev or tdvf
	Type       string `json:"type"`
	Address    string `json:"address"` // in guest memory
	Size       string `json:"size"`    // bytes of it
	Attributes string `json:"attributes,omitempty"`
}

// ovmfResult is what measure ovmf --json writes.
type ovmfResult struct {
	SHA256    string        `json:"sha256"`
	Digest    snp.Digest    `json:"snpFirmwareDigest"` // after the firmware's pages alone
	Size      int           `json:"size"`
	Base      string        `json:"base"`
	ResetEIP  string        `json:"resetEIP,omitempty"`
	HashTable string        `json:"hashTable,omitempty"`
	SNP       bool          `json:"snp"`          // can start an SNP guest
	Direct    bool          `json:"kernelHashes"` // and measure a kernel given to QEMU
	TDX       bool          `json:"tdx"`          // can start a TDX guest
	Sections  []ovmfSection `json:"sections"`
}

func measureOVMF(_ context.Context, a *app, args []string) error {
	set := measureFlags("ovmf")
	firmware, asJSON := set.String("firmware", "", ""), set.Bool("json", false, "")
	if err := parseMeasure(set, args, "firmware"); err != nil {
		return err
	}
	image, err := readFirmware(*firmware)
	if err != nil {
		return err
	}
	fw, err := ovmf.Parse(image)
	if err != nil {
		return named(*firmware, err)
	}
	sum := sha256.Sum256(image)
	result := ovmfResult{
		SHA256: hex.EncodeToString(sum[:]), Size: fw.Size, Base: fmt.Sprintf("%#x", fw.Base),
		SNP: len(fw.SEV) > 0, Direct: fw.Section(ovmf.KernelHashes) != nil, TDX: len(fw.TDVF) > 0, Sections: []ovmfSection{},
	}
	if result.Digest, err = snp.FirmwareDigest(image); err != nil {
		return named(*firmware, err)
	}
	if fw.ResetEIP != 0 {
		result.ResetEIP = fmt.Sprintf("%#x", fw.ResetEIP)
	}
	if fw.HashTable != 0 {
		result.HashTable = fmt.Sprintf("%#x", fw.HashTable)
	}
	for _, s := range fw.SEV {
		result.Sections = append(result.Sections, ovmfSection{"sev", s.Type.String(), fmt.Sprintf("%#x", s.Address), fmt.Sprintf("%#x", s.Size), ""})
	}
	for _, s := range fw.TDVF {
		result.Sections = append(result.Sections, ovmfSection{"tdvf", s.Type.String(), fmt.Sprintf("%#x", s.Address), fmt.Sprintf("%#x", s.Size), attributes(s)})
	}
	if *asJSON {
		return a.writeJSON(result)
	}
	return result.text(a.out)
}

func attributes(s ovmf.TDVFSection) string {
	var words []string
	if s.Attributes&ovmf.MRExtend != 0 {
		words = append(words, "measured")
	}
	if s.Attributes&ovmf.PageAug != 0 {
		words = append(words, "added-later")
	}
	return strings.Join(words, ",")
}

func (r ovmfResult) text(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "sha256\t%s\nsnp firmware digest\t%s\nsize\t%d\nbase\t%s\n", r.SHA256, r.Digest, r.Size, r.Base)
	for _, line := range []struct {
		name string
		yes  bool
	}{{"starts SNP guests", r.SNP}, {"measures a kernel given to QEMU", r.Direct}, {"starts TDX guests", r.TDX}} {
		fmt.Fprintf(table, "%s\t%s\n", line.name, map[bool]string{true: "yes", false: "no"}[line.yes])
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(r.Sections) == 0 {
		return nil
	}
	table = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nMETADATA\tTYPE\tADDRESS\tSIZE\tATTRIBUTES")
	for _, s := range r.Sections {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", s.Kind, s.Type, s.Address, s.Size, s.Attributes)
	}
	return table.Flush()
}
