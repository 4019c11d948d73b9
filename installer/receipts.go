package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"cc-base/installer/unpacked"
	"cc-base/tasks/atomicfile"
	"cc-base/tasks/facts"
	"cc-base/tasks/fault"
	"cc-base/tasks/release/policy"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/evidence/verify"
	"cc-base/validation"
	"cc-base/validation/check"
	guestchecks "cc-base/validation/guest"
	"cc-base/validation/receipt"
)

// receiptsUsage is the part of the usage for receipts.
const receiptsUsage = `  cc-install receipts verify DIR --manifest FILE --keys FILE [--policy FILE] [--place PLACE]...
                 [--max-age DURATION] [--at TIME]
                                               refuse receipts that prove less than they say
  cc-install receipts report DIR --manifest FILE --keys FILE [--policy FILE] [--out FILE] …
                                               verify them and write VALIDATION.md of them
  cc-install receipts key                      this host's line for a file of trusted keys
`

// maxManifest bounds manifest.json, bytes.
const maxManifest = 16 << 20

// registry are all checks that receipts can be of.
func (a *app) registry(env *validation.Env) []check.Check {
	gather := func(ctx context.Context) facts.Facts { return facts.Gather(ctx, a.world()) }
	return slices.Concat(validation.All(env), hostChecks(gather, imageOptions(env.Dir)), guestchecks.All(guestchecks.Env{}), liveChecks(nil, options{}))
}

// toolName names this program with its version.
func toolName() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return "cc-install " + info.Main.Version
	}
	return "cc-install"
}

// writeReceipts writes receipts of a report where --receipts asks for them:
// a run for each place that verdicts are of.
func (a *app) writeReceipts(ctx context.Context, checks []check.Check, report check.Report, o options) (err error) {
	if o.receipts == "" {
		return nil
	}
	manifest, err := readBounded(filepath.Join(o.dir, unpacked.Manifest), maxManifest)
	if err != nil {
		return err
	}
	key, err := receipt.HostKey(o.state)
	if err != nil {
		return err
	}
	defer clear(key)
	var log bytes.Buffer
	if err := report.Text(&log); err != nil {
		return err
	}
	at := time.Now()
	for _, where := range []check.Where{check.Artefact, check.Host, check.Guest, check.VM} {
		results := resultsOf(where, checks, report)
		if len(results) == 0 {
			continue
		}
		dir, err := receipt.Write(ctx, o.receipts, key, receipt.Source{
			Where: where, Most: most(where), Manifest: manifest, Log: log.Bytes(), Time: at, Tool: toolName(), Results: results,
		})
		if err != nil {
			return fmt.Errorf("receipts: %w", err)
		}
		a.say("receipts: %s", dir)
	}
	return nil
}

// resultsOf returns the results of the checks that are kept as run there: what
// needs files alone is of the artefact, also on a host.
func resultsOf(where check.Where, checks []check.Check, report check.Report) []check.Result {
	var results []check.Result
	for _, r := range report.Results {
		place := r.Where
		if slices.ContainsFunc(checks, func(c check.Check) bool { return c.ID == r.ID && slices.Contains(c.Where, check.Artefact) }) {
			place = check.Artefact
		}
		if place == where {
			results = append(results, r)
		}
	}
	return results
}

// most is what the place proves at most. What a guest says is taken as said by
// an emulated one: this program does not see what runs it.
func most(where check.Where) check.Tier {
	switch where {
	case check.Artefact:
		return check.TierArtefact
	case check.Host:
		return check.TierKVM
	default:
		return check.TierTCG
	}
}

func (a *app) receipts(args []string) error {
	if len(args) == 0 {
		return fault.Newf(fault.Usage, "receipts: verify, report or key?").Hint("cc-install help shows the usage")
	}
	switch args[0] {
	case "verify", "report":
		return a.judgeReceipts(args[0], args[1:])
	case "key":
		var o options
		if rest, err := o.parse(a.getenv, "receipts key", args[1:], []string{"state"}); err != nil || len(rest) > 0 {
			return fault.Newf(fault.Usage, "receipts key takes --state alone")
		}
		return a.receiptKey(o.state)
	case "help", "-h", "-help", "--help":
		fmt.Fprint(a.out, receiptsUsage)
		return nil
	}
	return fault.Newf(fault.Usage, "receipts: unknown command %q", args[0]).Hint("cc-install help shows the usage")
}

func (a *app) receiptKey(state string) error {
	key, err := receipt.HostKey(state)
	if err != nil {
		return err
	}
	defer clear(key)
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return fault.Newf(fault.ReceiptKey, "the receipt key has no public half")
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(a.out, receipt.Trusted{Name: name, Most: check.TierKVM, Key: public}.Line())
	return err
}

// receiptsFlags are the flags of receipts verify and report.
type receiptsFlags struct {
	manifest, keys, policy, at, out string
	maxAge                          time.Duration
	places                          []check.Where
}

func parseReceipts(verb string, args []string) (dir string, f receiptsFlags, err error) {
	set := flag.NewFlagSet("receipts", flag.ContinueOnError)
	for name, into := range map[string]*string{"manifest": &f.manifest, "keys": &f.keys, "policy": &f.policy, "at": &f.at} {
		set.StringVar(into, name, "", "")
	}
	set.DurationVar(&f.maxAge, "max-age", receipt.MaxAge, "")
	set.Func("place", "", func(text string) error {
		where := check.Where(text)
		if !slices.Contains([]check.Where{check.Host, check.Artefact, check.Guest, check.VM}, where) {
			return errors.New("it is none of host, artefact, guest and vm")
		}
		f.places = append(f.places, where)
		return nil
	})
	if verb == "report" {
		set.StringVar(&f.out, "out", "", "")
	}
	dirs, err := parseFlags(set, args)
	var problems []error
	if len(dirs) != 1 {
		problems = append(problems, fmt.Errorf("%d folders given, not one", len(dirs)))
	}
	if f.manifest == "" {
		problems = append(problems, errors.New("--manifest is needed: it says which image the receipts must be about"))
	}
	if f.keys == "" {
		problems = append(problems, errors.New("--keys is needed: it says whose receipts are believed"))
	}
	if f.maxAge <= 0 {
		problems = append(problems, errors.New("--max-age is not above 0"))
	}
	if err == nil {
		err = errors.Join(problems...)
	}
	if err != nil {
		return "", f, err
	}
	return dirs[0], f, nil
}

// judgeReceipts verifies receipts; report writes the page of them.
func (a *app) judgeReceipts(verb string, args []string) error {
	dir, f, err := parseReceipts(verb, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(a.out, receiptsUsage)
		return nil
	}
	if err != nil {
		return fault.Newf(fault.Usage, "receipts %s: %w", verb, err).Hint("cc-install help shows the usage")
	}
	env := &validation.Env{Root: a.root, Dir: filepath.Dir(f.manifest)}
	defer env.Close()
	registry := a.registry(env)
	o, err := f.options(registry)
	if err != nil {
		return err
	}
	set, err := receipt.Verify(dir, o)
	if err != nil {
		return err
	}
	if verb == "verify" {
		return a.tellReceipts(set)
	}
	var page bytes.Buffer
	if err := receipt.WritePage(&page, set, registry, receipt.AcceptanceRows()); err != nil {
		return err
	}
	if f.out == "" {
		_, err = a.out.Write(page.Bytes())
		return err
	}
	if err := atomicfile.Write(f.out, 0o644, page.Bytes()); err != nil {
		return fault.New(fault.Usage, err)
	}
	a.say("receipts: %s", f.out)
	return nil
}

func (f receiptsFlags) options(registry []check.Check) (receipt.Options, error) {
	o := receipt.Options{Registry: registry, Now: time.Now(), MaxAge: f.maxAge, Places: f.places}
	var errs []error
	var err error
	if f.at != "" {
		if o.Now, err = time.Parse(time.RFC3339, f.at); err != nil {
			errs = append(errs, fault.Newf(fault.Usage, "--at: %q is no time such as 2026-01-31T00:00:00Z", f.at))
		}
	}
	if o.Manifest, err = readBounded(f.manifest, maxManifest); err != nil {
		errs = append(errs, err)
	}
	if text, err := readLimited(f.keys); err != nil {
		errs = append(errs, err)
	} else if o.Keys, err = receipt.ParseKeys(text, f.keys); err != nil {
		errs = append(errs, err)
	}
	if f.policy != "" {
		p, err := policy.Read(f.policy)
		errs = append(errs, err)
		o.Evidence = func(e evidence.Evidence, data [evidence.DataSize]byte, at time.Time) error {
			with := p.Verify
			with.Now, with.ReportData = at, data[:]
			_, err := verify.Evidence(e, with)
			return err
		}
	}
	return o, errors.Join(errs...)
}

// tellReceipts sums up a set that was accepted. Skips are named: they are what a
// reader would otherwise take for proven.
func (a *app) tellReceipts(set receipt.Set) error {
	passed, skipped := map[check.Tier]int{}, 0
	for _, r := range set.Records {
		if r.Status == check.Pass {
			passed[r.Tier]++
			continue
		}
		skipped++
		fmt.Fprintf(a.out, "not proven: %s was skipped: %s\n", r.ID, r.Detail)
	}
	fmt.Fprintf(a.out, "%d receipts are right; passed at tier artefact %d, tcg %d, kvm %d, silicon %d; skipped %d\n", len(set.Records),
		passed[check.TierArtefact], passed[check.TierTCG], passed[check.TierKVM], passed[check.TierSilicon], skipped)
	return nil
}
