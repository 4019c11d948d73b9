package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
	"cc-base/validation/receipt"
)

// Receipts are receipts of checks of the built image, and whom to believe.
type Receipts struct {
	Dir    string // out/receipts when empty
	Keys   string // file of trusted keys
	Policy string // for evidence of tier silicon; empty where there is none
}

// VerifyReceipts refuses receipts that prove less than they say about the built
// image.
func VerifyReceipts(ctx context.Context, o Options, r Receipts, w io.Writer) error {
	return r.judge(ctx, o, w, "verify")
}

// ReportReceipts verifies receipts and makes out/VALIDATION.md of them. It lies
// beside the image since it is about that one: a page in docs/ would go on to
// say so of the next.
func ReportReceipts(ctx context.Context, o Options, r Receipts, w io.Writer) error {
	return r.judge(ctx, o, w, "report", "--out", filepath.Join(o.OutDir, receipt.PageFile))
}

// judge has the program that ships do it, with the manifest that ships: which
// checks there are is what that program says.
func (r Receipts) judge(ctx context.Context, o Options, w io.Writer, verb string, args ...string) error {
	if r.Keys == "" {
		return fault.Newf(fault.Usage, "whose receipts are believed?").Hint("mage receipts:%s -keys=FILE; `cc-install receipts key` prints a host's line of it", verb)
	}
	b, err := look(o)
	if err != nil {
		return err
	}
	if _, err := os.Stat(b.installer()); err != nil {
		return fault.New(fault.Usage, err).Hint("`mage build` makes it")
	}
	dir, err := os.MkdirTemp(b.scratch(), "receipts")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	host := sh.Host{Log: o.Stderr}
	if err := sh.Do(ctx, host, "tar", "-xzf", b.installer(), "-C", dir, "installer/cc-install", "installer/manifest.json"); err != nil {
		return err
	}
	folder := filepath.Join(dir, "installer")
	receipts := r.Dir
	if receipts == "" {
		receipts = b.out("receipts")
	}
	args = append([]string{"receipts", verb, receipts, "--manifest", filepath.Join(folder, "manifest.json"), "--keys", r.Keys}, args...)
	if r.Policy != "" {
		args = append(args, "--policy", r.Policy)
	}
	return refusal(host.Run(ctx, sh.Cmd{Name: filepath.Join(folder, "cc-install"), Args: args, Stdout: w}))
}

// codeLine is the line in which cc-install names the code of its error.
var codeLine = regexp.MustCompile(`(?m)code: (CC[0-9]{4}) `)

// refusal gives a refusal of cc-install, which the user has seen, its code here.
func refusal(err error) error {
	var e *sh.Error
	if !errors.As(err, &e) {
		return err
	}
	m := codeLine.FindStringSubmatch(strings.Join(e.Tail, "\n"))
	if m == nil {
		return err
	}
	return fault.New(fault.Code(m[1]), fmt.Errorf("cc-install has refused the receipts: %s", fault.Explain(fault.Code(m[1])).Title))
}
