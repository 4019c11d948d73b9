package build

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
	"cc-base/tasks/vm"
)

// Validation is what is validated beside the installer, and how the verdicts
// are shown.
type Validation struct {
	Name   string // of an installed domain; empty boots the built image
	NoBoot bool   // ask no guest at all
	Format string // text, json, junit or tap; text when empty
	Areas  []string

	Receipts string // folder for signed receipts; empty writes none
}

// readyLine is what a guest shows on its console when its boot has succeeded.
const readyLine = "cc-base: ready"

// Validate has the built installer check itself, this machine and, unless that
// is not wanted, a guest: the built image, booted for it, or an installed domain
// that runs. The verdicts are written to w as one report; its error says that
// one of them is not a pass.
//
// The program that checks is the one that ships: cc-install of the tarball,
// unpacked for it.
func Validate(ctx context.Context, o Options, v Validation, w io.Writer) error {
	if v.Name != "" && v.NoBoot {
		return fault.Newf(fault.Usage, "-name asks a running guest and -noBoot asks none")
	}
	return with(ctx, o, func(ctx context.Context, b *Build) error {
		if err := b.bootable(ctx); err != nil {
			return err
		}
		dir, err := os.MkdirTemp(b.out("scratch"), "validate")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if err := sh.Do(ctx, b.Host, "tar", "-xzf", b.installer(), "-C", dir); err != nil {
			return err
		}
		folder := filepath.Join(dir, "installer")
		args := append([]string{"check", "--dir", folder}, v.flags()...)
		if v.Receipts != "" {
			args = append(args, "--receipts", v.Receipts)
		}
		switch {
		case v.NoBoot:
		case v.Name != "":
			if _, err := domain.ControlSocketOf(v.Name); err != nil {
				return err
			}
			args = append(args, "--live", v.Name)
		default:
			m, err := b.machine(ctx, dir)
			if err != nil {
				return err
			}
			socket := filepath.Join(dir, "control.sock")
			m.Ports, m.ConsoleLog = []vm.Port{{Name: control.PortName, Path: socket}}, b.out("log", "console.log")
			if err := m.Start(ctx); err != nil {
				return err
			}
			defer m.Close()
			b.log.event("validate", "booting cc-base.qcow2; its console goes to %s", m.ConsoleLog)
			if err := b.untilReady(ctx, m); err != nil {
				return err
			}
			args = append(args, "--live", socket)
		}
		b.log.event("validate", "checking")
		err = b.Host.Run(ctx, sh.Cmd{Name: filepath.Join(folder, "cc-install"), Args: append(args, v.Areas...), Stdout: w})
		return verdict(err)
	})
}

// untilReady waits for a booting guest; a line now and then tells so.
func (b *Build) untilReady(ctx context.Context, m *vm.Machine) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer waiting(b.Stderr, "waiting for the guest to be ready")()
	_, err := m.Expect(ctx, readyLine)
	return err
}

// verdict makes the exit status of the checking program an error of ours.
func verdict(err error) error {
	var e *sh.Error
	if errors.As(err, &e) && e.Code == fault.ExitFailed {
		return fault.Newf(fault.Damaged, "not every check has passed").Hint("the report names each with its remedy")
	}
	return err
}

func (v Validation) flags() []string {
	if v.Format == "" || v.Format == "text" {
		return nil
	}
	return []string{"--" + v.Format}
}
