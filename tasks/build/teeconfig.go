package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"cc-base/installer/deployment"
	"cc-base/tasks/conf"
	"cc-base/tasks/domain"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/sh"
)

// domainSchema is where libvirt keeps the schema of its definitions.
const domainSchema = "/usr/share/libvirt/schemas/domain.rng"

// CheckTEEConfig prints the definitions of an SEV-SNP and of a TDX guest as they
// follow from the configuration, holds them against libvirt's schema where this
// machine has it, decodes the policy words bit by bit and shows what such guests
// will measure. It needs no TEE and no built image; what is missing is said.
func CheckTEEConfig(ctx context.Context, o Options, w io.Writer) error {
	c, err := o.config()
	if err != nil {
		return err
	}
	known, err := readMeasurements(o)
	if err != nil {
		return err
	}
	var errs []error
	for _, kind := range []string{"SEV-SNP", "TDX"} {
		spec, notes := specFor(kind, c, known)
		text, err := domain.XML(spec)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", kind, err))
			continue
		}
		fmt.Fprintf(w, "== %s\n%s\n", kind, text)
		for _, n := range notes {
			fmt.Fprintf(w, "note: %s\n", n)
		}
		verdict, err := againstSchema(ctx, text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: libvirt's schema: %w", kind, err))
		}
		fmt.Fprintf(w, "schema: %s\n", verdict)
		name, word := "TEE_POLICY_SNP", c.TEE.PolicySNP
		if kind == "TDX" {
			name, word = "TEE_POLICY_TDX", c.TEE.PolicyTDX
		}
		fmt.Fprintf(w, "%s=%#x\n", name, word)
		for _, line := range conf.ExplainPolicy(name, word) {
			fmt.Fprintf(w, "  %s\n", line)
		}
		for _, line := range expected(kind, c, known) {
			fmt.Fprintf(w, "%s\n", line)
		}
		fmt.Fprintln(w)
	}
	return errors.Join(errs...)
}

// leastTDXMiB is what a definition of a TDX guest needs (domain.Spec).
const leastTDXMiB = 3072

// specFor is the guest that the installer defines, without GPUs and site.conf,
// which are of the host. Its files are where the installer puts them. notes say
// where it is not what will be defined.
func specFor(kind string, c conf.Config, doc *measurements.Document) (s domain.Spec, notes []string) {
	at := func(name string) string { return deployment.Root + "/" + manifest.Name + "/" + name }
	s = domain.Spec{
		Name: manifest.Name, MemoryMiB: int(c.TEE.MemorySize >> 20), VCPUs: c.TEE.VCPUs, InsecureDebug: c.TEE.InsecureDebug,
		Boot: domain.Direct, Kernel: at("kernel"), Initrd: at("initrd"),
		Firmware: domain.Firmware{Image: at("firmware.fd")}, Disk: domain.Volume{Path: "/dev/disk/by-id/target", Block: true},
		ConsoleFile: at("console.log"),
	}
	profile := "snp"
	if kind == "TDX" {
		profile = "attested"
	}
	if doc != nil {
		for _, l := range doc.CommandLines {
			if l.Profile == profile {
				s.CommandLine = l.Line
			}
		}
	}
	if s.CommandLine == "" {
		s.CommandLine = "not-built"
		notes = append(notes, "the command line is a stand-in: no image with key profile "+profile+" is built")
	}
	if kind == "TDX" {
		s.TDX = &domain.TDX{Attributes: c.TEE.PolicyTDX}
		if s.MemoryMiB < leastTDXMiB {
			notes = append(notes, fmt.Sprintf("TEE_MEMORY_SIZE is %d MiB, and a TDX guest needs %d, which is shown: installing on a TDX host will be refused", s.MemoryMiB, leastTDXMiB))
			s.MemoryMiB = leastTDXMiB
		}
		return s, notes
	}
	s.SNP = &domain.SNP{Policy: c.TEE.PolicySNP, KernelHashes: true}
	if s.CPUModel = c.TEE.CPUModel; s.CPUModel == "auto" {
		s.CPUModel = "EPYC-Milan"
		notes = append(notes, "TEE_CPU_MODEL=auto is shown as "+s.CPUModel+": the installer takes the host's")
	}
	return s, notes
}

// againstSchema has xmllint compare the definition with libvirt's schema.
func againstSchema(ctx context.Context, text string) (verdict string, err error) {
	if _, err := os.Stat(domainSchema); err != nil {
		return "not compared: " + domainSchema + " is not on this machine (package libvirt-common or libvirt0)", nil
	}
	if _, err := exec.LookPath("xmllint"); err != nil {
		return "not compared: xmllint is not on this machine (package libxml2-utils)", nil
	}
	var out bytes.Buffer
	err = sh.Host{Log: &out}.Run(ctx, sh.Cmd{Name: "xmllint", Args: []string{"--noout", "--relaxng", domainSchema, "-"}, Stdin: strings.NewReader(text)})
	if err != nil {
		return "refused", err
	}
	return "accepted", nil
}

// readMeasurements returns the last build's document, or nil.
func readMeasurements(o Options) (*measurements.Document, error) {
	text, err := os.ReadFile((&Build{Options: o}).out(measurements.File))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var doc measurements.Document
	if err == nil {
		err = json.Unmarshal(text, &doc)
	}
	return &doc, err
}

// expected are the rows of the document that are about such a guest.
func expected(kind string, c conf.Config, doc *measurements.Document) []string {
	if doc == nil {
		return []string{"launch: nothing is built yet, so nothing can be computed"}
	}
	var lines []string
	if kind == "TDX" {
		for _, r := range doc.TDX {
			lines = append(lines, fmt.Sprintf("launch: %s, %s boot, key profile %s: MRTD %s", r.Firmware, r.BootMode, r.Profile, r.MRTD))
		}
	} else {
		for _, r := range doc.SNP {
			if r.VCPUs == c.TEE.VCPUs && (c.TEE.CPUModel == "auto" || c.TEE.CPUModel == r.CPUModel) {
				lines = append(lines, fmt.Sprintf("launch: %s: %s", r, r.Digest))
			}
		}
	}
	if len(lines) == 0 {
		lines = []string{"launch: measurements.json has no row for this configuration: build again"}
	}
	return lines
}
