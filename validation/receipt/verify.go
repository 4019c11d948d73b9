package receipt

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/tee/evidence"
	"cc-base/validation/check"
)

// MaxAge is how old a receipt may be where nothing else is said: kernels,
// firmware and what is known of both change faster than images do.
const MaxAge = 90 * 24 * time.Hour

// skew is how far a receipt may be ahead of the verifier's clock.
const skew = 5 * time.Minute

// Options are what receipts are compared with.
type Options struct {
	Manifest []byte        // content of the manifest.json that they must be about
	Keys     Keys          // whose receipts are believed
	Registry []check.Check // every check that there is
	Now      time.Time
	MaxAge   time.Duration // 0: [MaxAge]

	// Places that must be there, beside those that are: every check of a place
	// that has receipts must have one.
	Places []check.Where

	// Evidence judges what vouches for a record of tier silicon, at that time;
	// nil: nothing does.
	Evidence func(e evidence.Evidence, data [evidence.DataSize]byte, at time.Time) error
}

// Set is a set of receipts without a problem.
type Set struct {
	Manifest string    // SHA-256, hexadecimal
	Records  []Record  // in the registry's order, the weaker tiers first
	Signers  []Trusted // that signed them, by fingerprint
}

// Problem is one reason to refuse a set of receipts.
type Problem struct {
	Code fault.Code
	File string // below the folder, where it has one
	Text string
}

// Problems are all reasons, as an error whose code is the first one's.
type Problems []Problem

// Error lists them, one on each line.
func (p Problems) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems with the receipts", len(p))
	if len(p) == 1 {
		b.Reset()
		b.WriteString("the receipts are refused")
	}
	for _, one := range p {
		fmt.Fprintf(&b, "\n  %s ", one.Code)
		if one.File != "" {
			b.WriteString(one.File + ": ")
		}
		b.WriteString(strings.ReplaceAll(one.Text, "\n", "; "))
	}
	return b.String()
}

// Unwrap returns each with its code.
func (p Problems) Unwrap() []error {
	var errs []error
	for _, one := range p {
		errs = append(errs, fault.Newf(one.Code, "%s: %s", one.File, one.Text))
	}
	return errs
}

// verifier collects what is wrong and what is there.
type verifier struct {
	Options
	root     fs.FS
	problems Problems
	records  []Record
	seen     map[string]string // claim to the file that has it
	places   []check.Where
}

func (v *verifier) refuse(code fault.Code, file, format string, args ...any) {
	v.problems = append(v.problems, Problem{code, file, fmt.Sprintf(format, args...)})
}

// Verify judges every file below dir. Either all of it is right, or the error
// is [Problems], or dir cannot be read.
func Verify(dir string, o Options) (Set, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Set{}, fault.New(fault.Usage, err)
	}
	defer root.Close()
	v := &verifier{Options: o, root: root.FS(), seen: map[string]string{}, places: slices.Clone(o.Places)}
	if v.MaxAge == 0 {
		v.MaxAge = MaxAge
	}
	runs, err := fs.ReadDir(v.root, ".")
	if err != nil {
		return Set{}, fault.New(fault.Usage, err)
	}
	for _, run := range runs {
		if !run.IsDir() {
			v.refuse(fault.ReceiptIndex, run.Name(), "it is not the folder of a run")
			continue
		}
		v.run(run.Name())
	}
	v.missing()
	if len(v.problems) > 0 {
		return Set{}, v.problems
	}
	return v.set(), nil
}

// read returns a file of bounded size. Links and devices have no content.
func (v *verifier) read(name string) ([]byte, error) {
	info, err := fs.Lstat(v.root, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	f, err := v.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err == nil && len(data) > MaxSize {
		err = fmt.Errorf("longer than %d bytes", MaxSize)
	}
	return data, err
}

func (v *verifier) run(name string) {
	entries, err := fs.ReadDir(v.root, name)
	if err != nil {
		v.refuse(fault.ReceiptMalformed, name, "%s", err)
		return
	}
	file := path.Join(name, IndexFile)
	data, err := v.read(file)
	if errors.Is(err, fs.ErrNotExist) {
		v.refuse(fault.ReceiptMissing, file, "the run has no index, so nobody knows what belongs to it")
		return
	}
	var index sealed[Index]
	if err == nil {
		index, err = decode[Index](data)
	}
	if err == nil && index.Evidence != nil {
		err = errors.New("an index has no evidence")
	}
	if err != nil {
		v.refuse(fault.ReceiptMalformed, file, "%s", err)
		return
	}
	judgeSignature(v, file, indexPurpose, index, index.Body.Run)
	v.header(file, index.Body.Run)
	if index.Body.Run.Run != name {
		v.refuse(fault.ReceiptIndex, file, "it is of the run %s", index.Body.Run.Run)
	}
	v.log(name, index.Body.Log)
	if !slices.Contains(v.places, index.Body.Where) {
		v.places = append(v.places, index.Body.Where)
	}
	listed := map[string]bool{IndexFile: true, LogFile: true}
	for _, e := range index.Body.Records {
		listed[e.ID+".json"] = true
		v.record(path.Join(name, e.ID+".json"), index.Body.Run, e)
	}
	for _, e := range entries {
		if !listed[e.Name()] {
			v.refuse(fault.ReceiptIndex, path.Join(name, e.Name()), "the index does not list it")
		}
	}
}

func (v *verifier) log(run, want string) {
	file := path.Join(run, LogFile)
	data, err := v.read(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.refuse(fault.ReceiptLog, file, "the log is missing")
	case err != nil:
		v.refuse(fault.ReceiptLog, file, "%s", err)
	case digestOf(data) != want:
		v.refuse(fault.ReceiptLog, file, "it is not the log that the run had")
	}
}

func (v *verifier) record(file string, run Run, e Entry) {
	data, err := v.read(file)
	if errors.Is(err, fs.ErrNotExist) {
		v.refuse(fault.ReceiptMissing, file, "the index lists it, and it is not there")
		// One hole is one problem.
		v.seen[at(e.ID, run.Where)] = file
		return
	}
	var s sealed[Record]
	if err == nil {
		s, err = decode[Record](data)
	}
	if err != nil {
		v.seen[at(e.ID, run.Where)] = file
		v.refuse(fault.ReceiptMalformed, file, "%s", err)
		return
	}
	r := s.Body
	v.seen[at(r.ID, r.Where)] = file
	judgeSignature(v, file, recordPurpose, s, r.Run)
	v.header(file, r.Run)
	switch {
	case digestOf(data) != e.SHA256:
		v.refuse(fault.ReceiptIndex, file, "the index lists another content")
	case r.ID != e.ID:
		v.refuse(fault.ReceiptIndex, file, "it is of the check %s", r.ID)
	case r.Run != run:
		v.refuse(fault.ReceiptIndex, file, "it is of another run than its index: %s", r.Run.Run)
	}
	claim := at(r.ID, r.Where) + " " + string(r.Tier)
	if other, twice := v.seen[claim]; twice {
		v.refuse(fault.ReceiptDuplicate, file, "%s has a verdict at %s, tier %s, on the same", other, r.Where, r.Tier)
	}
	v.seen[claim] = file
	v.judge(file, s)
	v.records = append(v.records, r)
}

// judgeSignature is no method because those have no type parameters.
func judgeSignature[T any](v *verifier, file, purpose string, s sealed[T], r Run) {
	trusted, known := v.Keys[r.Key]
	switch {
	case len(s.Signature) == 0:
		v.refuse(fault.ReceiptUnsigned, file, "it has no signature")
	case !known:
		v.refuse(fault.ReceiptForeign, file, "it is signed by %s, which is not trusted", r.Key)
	case !s.signed(purpose, trusted.Key):
		v.refuse(fault.ReceiptUnsigned, file, "the signature of %s does not fit what is signed", trusted.Name)
	}
}

// header judges what records and index have in common.
func (v *verifier) header(file string, r Run) {
	if r.Manifest != digestOf(v.Manifest) {
		v.refuse(fault.ReceiptManifest, file, "it is about the manifest %s", r.Manifest)
	}
	switch age := v.Now.Sub(r.Time); {
	case age < -skew:
		v.refuse(fault.ReceiptFuture, file, "it is of %s, which is to come", r.Time.Format(time.RFC3339))
	case age > v.MaxAge:
		v.refuse(fault.ReceiptExpired, file, "it is of %s; the oldest that is accepted is of %s", r.Time.Format(time.RFC3339), v.Now.Add(-v.MaxAge).UTC().Format(time.RFC3339))
	}
}

// judge judges what the record says about its check.
func (v *verifier) judge(file string, s sealed[Record]) {
	r := s.Body
	i := find(v.Registry, r.ID, r.Where)
	known := i >= 0
	var c check.Check
	if known {
		c = v.Registry[i]
	}
	switch {
	case !slices.ContainsFunc(v.Registry, func(c check.Check) bool { return c.ID == r.ID }):
		v.refuse(fault.ReceiptUnknown, file, "there is no check %s", r.ID)
	case !known:
		v.refuse(fault.ReceiptUnknown, file, "%s does not run at %s", r.ID, r.Where)
	case r.Title != c.Title:
		v.refuse(fault.ReceiptUnknown, file, "%s claims another thing: %s", r.ID, c.Title)
	}
	if r.Status == check.Fail || r.Status == check.Error {
		v.refuse(fault.ReceiptFailed, file, "%s: %s: %s", r.Status, r.Title, r.Detail)
	}
	v.tier(file, s, c, known)
}

func (v *verifier) tier(file string, s sealed[Record], c check.Check, known bool) {
	r := s.Body
	if known && rank(r.Tier) > rank(c.Tier) {
		v.refuse(fault.ReceiptTier, file, "%s proves at most tier %s, not %s", r.ID, c.Tier, r.Tier)
	}
	if rank(r.Tier) > rank(reach(r.Where)) {
		v.refuse(fault.ReceiptTier, file, "what runs at %s proves at most tier %s, not %s", r.Where, reach(r.Where), r.Tier)
	}
	if r.Tier == check.TierSilicon {
		v.evidence(file, s)
		return
	}
	if s.Evidence != nil {
		v.refuse(fault.ReceiptMalformed, file, "a record of tier %s has no evidence", r.Tier)
	}
	if t, ok := v.Keys[r.Key]; ok && rank(r.Tier) > rank(t.Most) {
		v.refuse(fault.ReceiptTier, file, "%s may sign at most tier %s, not %s", t.Name, t.Most, r.Tier)
	}
}

func (v *verifier) evidence(file string, s sealed[Record]) {
	if s.Evidence == nil {
		v.refuse(fault.ReceiptTier, file, "tier %s needs evidence by the processor, and there is none", check.TierSilicon)
		return
	}
	if v.Evidence == nil {
		v.refuse(fault.ReceiptEvidence, file, "there is no policy to judge its evidence by")
		return
	}
	data, err := ReportData(s.Body)
	if err == nil {
		err = v.Evidence(*s.Evidence, data, v.Now)
	}
	if err != nil {
		v.refuse(fault.ReceiptEvidence, file, "%s", err)
	}
}

// missing refuses a set that leaves out a check which could have run: a proof is
// not what was picked from it.
func (v *verifier) missing() {
	if len(v.places) == 0 {
		v.refuse(fault.ReceiptMissing, "", "there is no run at all")
	}
	for _, c := range v.Registry {
		if slices.ContainsFunc(c.Where, func(w check.Where) bool { return v.seen[at(c.ID, w)] != "" }) {
			continue
		}
		if slices.ContainsFunc(c.Where, func(w check.Where) bool { return slices.Contains(v.places, w) }) {
			v.refuse(fault.ReceiptMissing, "", "%s has no receipt: %s", c.ID, c.Title)
		}
	}
}

// find returns the index of the check that has the ID at that place, or -1: host
// and guest may ask the same of themselves.
func find(registry []check.Check, id string, where check.Where) int {
	return slices.IndexFunc(registry, func(c check.Check) bool { return c.ID == id && slices.Contains(c.Where, where) })
}

func at(id string, where check.Where) string { return id + " " + string(where) }

func (v *verifier) set() Set {
	slices.SortFunc(v.records, func(a, b Record) int {
		return cmp.Or(
			cmp.Compare(find(v.Registry, a.ID, a.Where), find(v.Registry, b.ID, b.Where)),
			cmp.Compare(rank(a.Tier), rank(b.Tier)), cmp.Compare(a.Where, b.Where))
	})
	set := Set{Manifest: digestOf(v.Manifest), Records: v.records}
	var prints []string
	for _, r := range v.records {
		prints = append(prints, r.Key)
	}
	slices.Sort(prints)
	for _, p := range slices.Compact(prints) {
		set.Signers = append(set.Signers, v.Keys[p])
	}
	return set
}
