package verify

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	sevpb "github.com/google/go-sev-guest/proto/sevsnp"
	sevvalidate "github.com/google/go-sev-guest/validate"
	sevverify "github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"cc-base/tasks/tee/evidence"
)

// Bits of an SNP guest policy (AMD publication 56860, GUEST_POLICY).
const (
	snpPolicyMigration = 1 << 18
	snpPolicyDebug     = 1 << 19
	snpPolicyCXL       = 1 << 21
)

// snp judges an attestation report of SEV-SNP.
func snp(e evidence.Evidence, o Options) Claims {
	var claims Claims
	report, err := snpReport(e.Report)
	claims.add("format", fmt.Sprintf("SNP report, %d bytes, version %d", len(e.Report), report.GetVersion()), fmt.Sprintf("%d bytes, version %d to %d", abi.ReportSize, abi.MinSupportedReportVersion, abi.MaxSupportedReportVersion), err)
	if err != nil {
		return claims
	}
	vcek, err := o.vcek(report, e.Certs)
	if err != nil {
		claims.add("chain", "", "a VCEK that AMD vouches for", err)
		return claims
	}
	roots, err := amdRoots(o.AMDRoots)
	if err != nil {
		claims.add("chain", "", "a VCEK that AMD vouches for", err)
		return claims
	}
	attestation := &sevpb.Attestation{Report: report, CertificateChain: &sevpb.CertificateChain{VcekCert: vcek.Raw}}
	line := strings.TrimPrefix(vcek.Issuer.CommonName, "SEV-")

	// The library looks at chain and signature in one call, and says the same
	// about the signature as the call for the signature alone.
	signature := sevverify.SnpReportSignature(e.Report, vcek)
	chain := sevverify.SnpAttestation(attestation, &sevverify.Options{
		DisableCertFetching: true, Getter: refuse{}, Now: o.Now, TrustedRoots: roots,
	})
	if chain != nil && signature != nil && chain.Error() == signature.Error() {
		chain = nil
	}
	claims.add("chain", fmt.Sprintf("VCEK of %s, until %s", line, vcek.NotAfter.UTC().Format("2006-01-02")), "a VCEK that AMD vouches for", chain)
	claims.add("signature", "", "by the VCEK", signature)
	o.snpRevocation(&claims, line, vcek, roots)
	claims.product(line, o)
	snpTCB(&claims, report, line, o)

	claims.add("vmpl", fmt.Sprint(report.GetVmpl()), "0", unless(report.GetVmpl() == 0, "the report was asked for at a lower privilege level"))
	policy := report.GetPolicy()
	claims.add("debug", onOff(policy&snpPolicyDebug != 0), "off", unless(policy&snpPolicyDebug == 0, "the host may debug the guest, and so read and change it"))
	claims.add("policy", fmt.Sprintf("%#x", policy), "no migration agent, no CXL memory", unless(policy&(snpPolicyMigration|snpPolicyCXL) == 0, "the policy allows what must not be"))
	snpMeasurement(&claims, report.GetMeasurement(), o)
	claims.compare("report data", report.GetReportData(), o.ReportData)
	if o.HostData == nil {
		claims.skip("host data", "not compared")
	} else {
		claims.compare("host data", report.GetHostData(), o.HostData)
	}
	// Whatever else the makers of the library know to be wrong together: above
	// all the certificate's TCB and chip against the report's.
	claims.add("consistency", "", "report and certificate agree", snpConsistent(attestation, o))
	return claims
}

func snpReport(raw []byte) (*sevpb.Report, error) {
	if len(raw) != abi.ReportSize {
		return nil, fmt.Errorf("%d bytes, not %d", len(raw), abi.ReportSize)
	}
	if err := abi.ValidateReportFormat(raw); err != nil {
		return nil, err
	}
	report, err := abi.ReportToProto(raw)
	if err != nil {
		return nil, err
	}
	signer, err := abi.ParseSignerInfo(report.GetSignerInfo())
	if err != nil {
		return nil, err
	}
	if signer.SigningKey != abi.VcekReportSigner {
		return nil, fmt.Errorf("signed with %v: only the chip's own key, VCEK, counts", signer.SigningKey)
	}
	return report, nil
}

// snpTCB compares the versions that the host reports, which the signing key is
// bound to, and those that it has committed to.
func snpTCB(claims *Claims, report *sevpb.Report, line string, o Options) {
	reported, committed := tcbOf(line, report.GetReportedTcb()), tcbOf(line, report.GetCommittedTcb())
	min, bounded := o.SNPMinTCB[line]
	var err error
	want := ""
	if bounded {
		want = "at least " + min.String()
		switch {
		case !reported.atLeast(min):
			err = errors.New("the reported firmware is below the minimum")
		case !committed.atLeast(min):
			err = fmt.Errorf("the host may go back to firmware below the minimum: committed is %s", committed)
		}
	}
	claims.add("tcb", reported.String(), want, err)
}

// tcbOf splits a TCB_VERSION (AMD publication 56860): one byte a component. On
// Turin the first byte is the FMC's, and the others come one later.
func tcbOf(line string, tcb uint64) SNPTCB {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], tcb)
	if line == "Turin" {
		return SNPTCB{Bootloader: b[1], TEE: b[2], SNP: b[3], Microcode: b[7]}
	}
	return SNPTCB{Bootloader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7]}
}

func snpMeasurement(claims *Claims, got []byte, o Options) {
	var want []string
	for _, m := range o.Measurements {
		if m.Kind == evidence.SNP {
			want = append(want, hex.EncodeToString(m.Digest))
		}
	}
	value := hex.EncodeToString(got)
	claims.add("measurement", value, strings.Join(want, " or "), inList(slices.Contains(want, value), len(want)))
}

// inList is the verdict about a measurement among n expected ones.
func inList(found bool, n int) error {
	switch {
	case n == 0:
		return errors.New("no expected measurement of this kind is given")
	case !found:
		return errors.New("it is none of the expected ones")
	}
	return nil
}

func snpConsistent(attestation *sevpb.Attestation, o Options) error {
	level := 0
	return sevvalidate.SnpAttestation(attestation, &sevvalidate.Options{
		GuestPolicy: abi.SnpPolicy{SMT: true}, // the greatest: no debug, no migration
		ReportData:  o.ReportData, HostData: o.HostData, VMPL: &level,
		PermitProvisionalFirmware: true,
	})
}

// snpRevocation looks the product's signing key and the chip up in the lists.
func (o Options) snpRevocation(claims *Claims, line string, vcek *x509.Certificate, roots map[string][]*trust.AMDRootCerts) {
	const name = "revocation"
	if len(o.AMDCRLs) == 0 && o.MaxCRLAge == 0 {
		claims.skip(name, "no revocation list given")
		return
	}
	list, err := o.amdRevoked(line, vcek, roots)
	claims.add(name, list, "neither product nor chip revoked"+o.ageLimit(), err)
}

// amdRevoked returns the list that it looked into, in words.
func (o Options) amdRevoked(line string, vcek *x509.Certificate, roots map[string][]*trust.AMDRootCerts) (list string, err error) {
	trusted := roots[line]
	if len(roots) == 0 {
		root, err := trust.GetDefaultRootCerts(line)
		if err != nil {
			return "", err
		}
		trusted = append(trusted, root)
	}
	for _, root := range trusted {
		for _, raw := range o.AMDCRLs {
			crl, err := x509.ParseRevocationList(der(raw))
			if err != nil {
				return "", fmt.Errorf("revocation list: %w", err)
			}
			if crl.CheckSignatureFrom(root.ProductCerts.Ark) != nil {
				continue // of another product
			}
			return listed(crl), o.revokes(crl, line, root.ProductCerts.Ask, vcek)
		}
	}
	return "", fmt.Errorf("no revocation list of %s's root key is given", line)
}

func (o Options) revokes(crl *x509.RevocationList, line string, ask, vcek *x509.Certificate) error {
	if err := o.fresh(crl.ThisUpdate, crl.NextUpdate); err != nil {
		return err
	}
	for _, entry := range crl.RevokedCertificateEntries {
		switch {
		case entry.SerialNumber.Cmp(ask.SerialNumber) == 0:
			return fmt.Errorf("AMD revoked the signing key of %s", line)
		// The chips' certificates all have the serial number 0.
		case vcek.SerialNumber.Sign() != 0 && entry.SerialNumber.Cmp(vcek.SerialNumber) == 0:
			return errors.New("AMD revoked the chip's certificate")
		}
	}
	return nil
}

// refuse is the network of a verifier that has none.
type refuse struct{}

func (refuse) Get(string) ([]byte, error) {
	return nil, errors.New("nothing is fetched from the network")
}

// amdRoots reads ASK and ARK certificates, two for a product, by their names
// (AMD publication 57230). Nil stands for the pinned ones.
func amdRoots(text []byte) (map[string][]*trust.AMDRootCerts, error) {
	if text == nil {
		return nil, nil
	}
	certs, err := certificates(text)
	if err != nil {
		return nil, fmt.Errorf("AMD roots: %w", err)
	}
	lines := map[string]*trust.ProductCerts{}
	of := func(line string) *trust.ProductCerts {
		if lines[line] == nil {
			lines[line] = &trust.ProductCerts{}
		}
		return lines[line]
	}
	for _, cert := range certs {
		kind, line, _ := strings.Cut(cert.Subject.CommonName, "-")
		switch {
		case kind == "ARK" && cert.IsCA:
			of(line).Ark = cert
		case kind == "SEV" && cert.IsCA:
			of(line).Ask = cert
		default:
			return nil, fmt.Errorf("AMD roots: %q is neither ARK nor ASK", cert.Subject.CommonName)
		}
	}
	roots := map[string][]*trust.AMDRootCerts{}
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		pair := lines[line]
		if pair.Ark == nil || pair.Ask == nil {
			return nil, fmt.Errorf("AMD roots: %s has not both ASK and ARK", line)
		}
		roots[line] = []*trust.AMDRootCerts{{ProductLine: line, ProductCerts: pair}}
	}
	return roots, nil
}

// vcek returns the chip's certificate: the given one, else that of the table.
func (o Options) vcek(report *sevpb.Report, table []byte) (*x509.Certificate, error) {
	for _, given := range o.VCEKs {
		cert, ext, err := parseVCEK(der(given))
		if err != nil {
			return nil, err
		}
		if bytes.Equal(ext.HWID, report.GetChipId()) && uint64(ext.TCBVersion) == report.GetReportedTcb() {
			return cert, nil
		}
	}
	raw, err := fromTable(table, abi.VcekGUID)
	if err != nil {
		return nil, err
	}
	cert, _, err := parseVCEK(raw)
	return cert, err
}

func parseVCEK(raw []byte) (*x509.Certificate, *kds.Extensions, error) {
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("VCEK: %w", err)
	}
	ext, err := kds.VcekCertificateExtensions(cert)
	if err != nil {
		return nil, nil, fmt.Errorf("VCEK: %w", err)
	}
	return cert, ext, nil
}

func unless(ok bool, reason string) error {
	if ok {
		return nil
	}
	return errors.New(reason)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
