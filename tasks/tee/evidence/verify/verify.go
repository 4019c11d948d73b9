// Package verify judges evidence: whether a genuine processor made it, about a
// machine that is what it should be, in answer to this question.
//
//	claims, err := verify.Evidence(e, verify.Options{
//		Now: time.Now(), ReportData: want[:], Measurements: policy.Measurements,
//	})
//	…                                   // show claims, refuse on err
//
// The rules:
//
//   - Nothing is fetched. Roots are AMD's and Intel's, pinned here, or files;
//     certificates come with the evidence or from files, as do revocation lists.
//   - What is not asked for is refused: without an expected measurement or report
//     data there is nothing that evidence could prove.
//   - A guest that may be debugged is refused whatever the options say.
//   - Every property has one verdict of its own, and all of them are given: who
//     looks for a wrong measurement wants to see the other rows, too.
//
// What a verdict rests on is the processor's maker. A flaw of a product, as the
// one that gives Milan's signing keys away (arXiv 2605.12990), makes every
// report of that product worthless, and no minimum of firmware helps: so Milan
// vouches only where Options.Products names it, and the verdict says what that
// is worth.
package verify

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/tee/evidence"
)

// Options say what to compare with.
type Options struct {
	// Now is the time at which certificates, CRLs and collateral must be valid.
	// The zero value is refused.
	Now time.Time

	// ReportData is what the report must carry, 64 bytes.
	ReportData []byte

	// Measurements are the machines that are right; one must match.
	Measurements []Measurement

	// Products that may vouch: "Milan", "Genoa", "Turin", or the FMSPC of an
	// Intel platform in 12 lower-case hexadecimal digits. Empty: all of them but
	// Milan.
	Products []string

	// SNPMinTCB holds the lowest accepted firmware by product name. A product
	// that is not in it has no minimum.
	SNPMinTCB map[string]SNPTCB

	// TDXMinTCB is the lowest accepted TEE_TCB_SVN, 16 bytes, compared one by
	// one; nil for no minimum.
	TDXMinTCB []byte

	// HostData must be the report's HOST_DATA (SNP, 32 bytes), MRConfigID the
	// quote's MRCONFIGID (TDX, 48 bytes); nil when nothing is expected there.
	HostData, MRConfigID []byte

	// TDXAttributes are the accepted TD ATTRIBUTES; nil for
	// [DefaultTDXAttributes] alone. Debug bits are refused even when listed.
	TDXAttributes []uint64

	// AMDRoots are PEM certificates, ASK and ARK for each product, as AMD's KDS
	// serves them under cert_chain; nil for the pinned ones. IntelRoots are PEM
	// certificates; nil for the pinned Intel SGX Root CA.
	AMDRoots, IntelRoots []byte

	// VCEKs are certificates of chips, PEM or DER each, for hosts that hand out
	// none. That of the report's chip and TCB comes before the evidence's own.
	VCEKs [][]byte

	// AMDCRLs are revocation lists, PEM or DER, as the KDS serves them under
	// crl. Given, there must be a valid one for the report's product.
	AMDCRLs [][]byte

	// Collateral is what Intel publishes about the platform; nil leaves it out.
	Collateral *Collateral

	// MaxCRLAge is the greatest age of a revocation list; 0 leaves its own end
	// as the only limit. With it set, a missing list is a refusal.
	MaxCRLAge time.Duration
}

// DefaultTDXAttributes is SEPT_VE_DISABLE alone: no debugging, and a page that
// the host takes away stops the guest instead of interrupting it (Intel TDX
// module base specification, ATTRIBUTES; QEMU's default).
const DefaultTDXAttributes uint64 = 1 << 28

// Measurement is the expected measurement of one machine.
type Measurement struct {
	Kind   string    // evidence.SNP or evidence.TDX
	Digest []byte    // SNP: launch digest, 48 bytes
	MRTD   []byte    // TDX: 48 bytes
	RTMR   [4][]byte // TDX: 48 bytes each, nil where any value will do
}

// SNPTCB are the security versions of an SNP platform's firmware.
type SNPTCB struct {
	Bootloader uint8 `json:"bootloader"`
	TEE        uint8 `json:"tee"`
	SNP        uint8 `json:"snp"`
	Microcode  uint8 `json:"microcode"`
}

func (t SNPTCB) String() string {
	return fmt.Sprintf("bootloader %d, tee %d, snp %d, microcode %d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
}

func (t SNPTCB) atLeast(min SNPTCB) bool {
	return t.Bootloader >= min.Bootloader && t.TEE >= min.TEE && t.SNP >= min.SNP && t.Microcode >= min.Microcode
}

// Claim is the verdict about one property.
type Claim struct {
	Name   string `json:"name"`
	Value  string `json:"value"`            // what the evidence says
	Want   string `json:"want,omitempty"`   // what it was compared with
	OK     bool   `json:"ok"`               // whether it will do
	Reason string `json:"reason,omitempty"` // why not, or what was not looked at
	Note   string `json:"note,omitempty"`   // what to know although it will do
}

// Claims are the verdicts, in a fixed order for each kind of evidence.
type Claims []Claim

// Get returns the claim of that name.
func (c Claims) Get(name string) (Claim, bool) {
	i := slices.IndexFunc(c, func(c Claim) bool { return c.Name == name })
	if i < 0 {
		return Claim{}, false
	}
	return c[i], true
}

// Err joins the claims that failed, each "name: reason", with code
// [fault.Damaged]; nil when all of them hold.
func (c Claims) Err() error {
	var errs []error
	for _, claim := range c {
		if !claim.OK {
			errs = append(errs, fmt.Errorf("%s: %s", claim.Name, claim.Reason))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fault.New(fault.Damaged, errors.Join(errs...))
}

// add records a verdict; err says why the value will not do.
func (c *Claims) add(name, value, want string, err error) {
	claim := Claim{Name: name, Value: value, Want: want, OK: err == nil}
	if err != nil {
		claim.Reason = oneLine(err)
	}
	*c = append(*c, claim)
}

// skip records that a property was not looked at.
func (c *Claims) skip(name, why string) {
	*c = append(*c, Claim{Name: name, OK: true, Reason: why})
}

// oneLine makes an error fit for a table and a log: the libraries quote bytes
// of the evidence, which anybody may have written.
func oneLine(err error) string {
	const most = 300
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r == 0xFFFD {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(err.Error(), " "))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// Evidence judges e. The error is nil when every claim holds; otherwise it is
// that of [Claims.Err]. Options that make no sense have code [fault.Usage] and
// no claims.
func Evidence(e evidence.Evidence, o Options) (Claims, error) {
	if err := o.check(); err != nil {
		return nil, fault.Newf(fault.Usage, "what to verify against: %w", err)
	}
	var claims Claims
	switch err := e.Check(); {
	case err != nil:
		claims.add("format", e.Kind, "", err)
	case e.Kind == evidence.SNP:
		claims = snp(e, o)
	case e.Kind == evidence.TDX:
		claims = tdx(e, o)
	default:
		// Above all evidence.Fake, which tests make.
		claims.add("format", e.Kind, evidence.SNP+" or "+evidence.TDX, errors.New("no processor makes evidence of this kind"))
	}
	return claims, claims.Err()
}

// check says whether the options are whole.
func (o Options) check() error {
	length := func(name string, b []byte, want int) error {
		if b != nil && len(b) != want {
			return fmt.Errorf("%s: %d bytes, not %d", name, len(b), want)
		}
		return nil
	}
	errs := []error{
		length("report data", o.ReportData, evidence.DataSize),
		length("host data", o.HostData, 32),
		length("MRCONFIGID", o.MRConfigID, 48),
		length("TDX TCB minimum", o.TDXMinTCB, 16),
	}
	if o.Now.IsZero() {
		errs = append(errs, errors.New("no time is given"))
	}
	for i, m := range o.Measurements {
		if err := m.check(); err != nil {
			errs = append(errs, fmt.Errorf("measurement %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

func (m Measurement) check() error {
	const size = 48
	switch {
	case m.Kind == evidence.SNP && len(m.Digest) != size:
		return fmt.Errorf("the launch digest has %d bytes, not %d", len(m.Digest), size)
	case m.Kind == evidence.TDX && len(m.MRTD) != size:
		return fmt.Errorf("MRTD has %d bytes, not %d", len(m.MRTD), size)
	case m.Kind != evidence.SNP && m.Kind != evidence.TDX:
		return fmt.Errorf("kind %q is neither %s nor %s", m.Kind, evidence.SNP, evidence.TDX)
	}
	for n, r := range m.RTMR {
		if r != nil && len(r) != size {
			return fmt.Errorf("RTMR%d has %d bytes, not %d", n, len(r), size)
		}
	}
	return nil
}

// compare gives the verdict about bytes that must be equal. They are no
// secrets: every one of them stands in the report.
func (c *Claims) compare(name string, got, want []byte) {
	var err error
	switch {
	case want == nil:
		err = errors.New("no expected value is given")
	case !bytes.Equal(got, want):
		err = errors.New("it differs from the expected value")
	}
	c.add(name, hex.EncodeToString(got), hex.EncodeToString(want), err)
}

// product gives the verdict about who vouches.
func (c *Claims) product(name string, o Options) {
	flaw := flawOf(name)
	var err error
	switch {
	case len(o.Products) > 0 && !slices.Contains(o.Products, name):
		err, flaw = fmt.Errorf("%s is not an accepted product", name), ""
	case len(o.Products) == 0 && flaw != "":
		err, flaw = fmt.Errorf("%s; only where products are named, and it among them, does it vouch", flaw), ""
	}
	*c = append(*c, Claim{Name: "product", Value: name, Want: strings.Join(o.Products, ", "), OK: err == nil, Note: flaw})
	if err != nil {
		(*c)[len(*c)-1].Reason = oneLine(err)
	}
}

// flawOf tells why a product's reports may be anybody's; empty for none that is
// known.
func flawOf(product string) string {
	if product != "Milan" {
		return ""
	}
	return "whoever had such a chip once can sign as it, whatever its firmware (arXiv 2605.12990): a minimal TCB does not help"
}

// fresh says whether a revocation list holds at the time.
func (o Options) fresh(from, to time.Time) error {
	switch {
	case from.After(o.Now):
		return fmt.Errorf("the revocation list is of %s, later than %s", from.UTC().Format(time.DateOnly), o.Now.UTC().Format(time.DateOnly))
	case !to.After(o.Now):
		return fmt.Errorf("the revocation list ended on %s", to.UTC().Format(time.DateOnly))
	case o.MaxCRLAge > 0 && o.Now.Sub(from) > o.MaxCRLAge:
		return fmt.Errorf("the revocation list is %s old, at most %s", o.Now.Sub(from).Round(time.Hour), o.MaxCRLAge)
	}
	return nil
}

// listed describes a revocation list.
func listed(crl *x509.RevocationList) string {
	return fmt.Sprintf("list of %s, until %s", crl.ThisUpdate.UTC().Format(time.DateOnly), crl.NextUpdate.UTC().Format(time.DateOnly))
}

// ageLimit is the part of a wish that speaks of the lists' age.
func (o Options) ageLimit() string {
	if o.MaxCRLAge == 0 {
		return ""
	}
	return fmt.Sprintf(", list at most %s old", o.MaxCRLAge)
}
