package verify

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	tdxabi "github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/pcs"
	tdxpb "github.com/google/go-tdx-guest/proto/tdx"
	tdxverify "github.com/google/go-tdx-guest/verify"

	"cc-base/tasks/tee/evidence"
)

// intelRoot is the SHA-256 of the Intel SGX Root CA certificate, DER, of 2018
// to 2049. The certificate itself stands in every quote.
const intelRoot = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"

// qeSigner and qeProduct are Intel's TD quoting enclave: MRSIGNER and ISVPRODID
// of the TD_QE identity that Intel's PCS serves. The platform's certificate
// alone would vouch for any enclave that the host may start with a provisioning
// key.
const (
	qeSigner  = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
	qeProduct = 2
)

// sgxDebug is bit 1 of an enclave's attributes (Intel SDM volume 3D, SECS).
const sgxDebug = 0x02

// tdxDebugBits are the TUD byte of TD ATTRIBUTES: bit 0 is DEBUG, the others
// are kept for more of its kind (Intel TDX module base specification).
const tdxDebugBits = 0xFF

// Collateral is what Intel's PCS serves about a platform, as the bodies of its
// answers, and the issuer chains of their headers as PEM.
type Collateral struct {
	TCBInfo, TCBInfoChain       []byte // tcb?fmspc=…, JSON
	QEIdentity, QEIdentityChain []byte // qe/identity, JSON
	PCKCRL, PCKCRLChain         []byte // pckcrl?ca=…&encoding=der
	RootCRL                     []byte // Intel's root CRL, DER
}

// tdx judges a quote.
func tdx(e evidence.Evidence, o Options) Claims {
	var claims Claims
	quote, err := tdxQuote(e.Report)
	claims.add("format", fmt.Sprintf("TDX quote, %d bytes, version %d", len(e.Report), quote.GetHeader().GetVersion()), "version 4", err)
	if err != nil {
		return claims
	}
	chain := quote.GetSignedData().GetCertificationData().GetQeReportCertificationData()
	roots, err := o.intelRoots(chain.GetPckCertificateChainData().GetPckCertChain())
	if err == nil {
		err = guard(func() error {
			return tdxverify.TdxQuote(quote, &tdxverify.Options{Now: o.Now, TrustedRoots: roots, Getter: offline{}})
		})
	}
	claims.add("signature", "", "by a quoting enclave on a platform that Intel vouches for", err)
	o.collateral(&claims, quote, roots)
	tdxQE(&claims, chain.GetQeReport())
	fmspc, err := fmspc(chain.GetPckCertificateChainData().GetPckCertChain())
	if err != nil {
		claims.add("product", "", strings.Join(o.Products, ", "), err)
	} else {
		claims.product(fmspc, o)
	}

	body := quote.GetTdQuoteBody()
	seam := slices.Concat(body.GetMrSignerSeam(), body.GetSeamAttributes())
	claims.add("tdx module", hex.EncodeToString(body.GetMrSeam()), "signed by Intel", unless(zero(seam), "the module is not one of Intel's"))
	var below error
	for i, min := range o.TDXMinTCB {
		if body.GetTeeTcbSvn()[i] < min {
			below = fmt.Errorf("component %d is %d, at least %d", i, body.GetTeeTcbSvn()[i], min)
			break
		}
	}
	claims.add("tcb", hex.EncodeToString(body.GetTeeTcbSvn()), hex.EncodeToString(o.TDXMinTCB), below)
	attributes := binary.LittleEndian.Uint64(body.GetTdAttributes())
	claims.add("debug", onOff(attributes&tdxDebugBits != 0), "off", unless(attributes&tdxDebugBits == 0, "the host may debug the guest, and so read and change it"))
	accepted := o.TDXAttributes
	if accepted == nil {
		accepted = []uint64{DefaultTDXAttributes}
	}
	claims.add("attributes", fmt.Sprintf("%#x", attributes), fmt.Sprintf("%#x", accepted), unless(slices.Contains(accepted, attributes), "they are none of the accepted ones"))
	tdxMeasurement(&claims, body, o)
	claims.compare("report data", body.GetReportData(), o.ReportData)
	if o.MRConfigID == nil {
		claims.skip("mrConfigId", "not compared")
	} else {
		claims.compare("mrConfigId", body.GetMrConfigId(), o.MRConfigID)
	}
	return claims
}

// tdxQuote parses a quote, and refuses one that the parser does not give back
// byte for byte: what is judged must be what was signed.
func tdxQuote(raw []byte) (quote *tdxpb.QuoteV4, err error) {
	err = guard(func() error {
		any, err := tdxabi.QuoteToProto(raw)
		if err != nil {
			return err
		}
		var ok bool
		if quote, ok = any.(*tdxpb.QuoteV4); !ok {
			return errors.New("not a version 4 quote")
		}
		again, err := tdxabi.QuoteToAbiBytes(quote)
		if err == nil && !bytes.Equal(again, raw) {
			err = errors.New("the quote has bytes that belong to none of its fields")
		}
		if err == nil && quote.GetHeader().GetTeeType() != tdxabi.TeeTDX {
			err = fmt.Errorf("the quote is of TEE type %#x, not TDX", quote.GetHeader().GetTeeType())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return quote, nil
}

// guard makes an error of a panic: the library's readers index by lengths that
// stand in the quote, and panic where one of them is wrong.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a length in the quote is wrong: %v", r)
		}
	}()
	return f()
}

// intelRoots returns the accepted roots: the given ones, else the one of the
// quote if it is the pinned one.
func (o Options) intelRoots(chain []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if o.IntelRoots != nil {
		certs, err := certificates(o.IntelRoots)
		if err != nil {
			return nil, fmt.Errorf("intel roots: %w", err)
		}
		for _, cert := range certs {
			pool.AddCert(cert)
		}
		return pool, nil
	}
	certs, err := certificates(chain)
	if err != nil {
		return nil, fmt.Errorf("PCK chain: %w", err)
	}
	root := certs[len(certs)-1]
	if digest := sha256.Sum256(root.Raw); hex.EncodeToString(digest[:]) != intelRoot {
		return nil, fmt.Errorf("the chain ends in %q with SHA-256 %x, which is not Intel's root", root.Subject.CommonName, digest)
	}
	pool.AddCert(root)
	return pool, nil
}

// fmspc returns the platform's family, as the PCK certificate has it.
func fmspc(chain []byte) (string, error) {
	certs, err := certificates(chain)
	if err != nil {
		return "", fmt.Errorf("PCK chain: %w", err)
	}
	var ext *pcs.PckExtensions
	err = guard(func() (err error) { ext, err = pcs.PckCertificateExtensions(certs[0]); return err })
	if err != nil {
		return "", fmt.Errorf("PCK certificate: %w", err)
	}
	return strings.ToLower(ext.FMSPC), nil
}

func tdxQE(claims *Claims, qe *tdxpb.EnclaveReport) {
	signer := hex.EncodeToString(qe.GetMrSigner())
	var err error
	switch {
	case signer != qeSigner || qe.GetIsvProdId() != qeProduct:
		err = errors.New("not Intel's quoting enclave for TDX")
	case len(qe.GetAttributes()) == 0 || qe.GetAttributes()[0]&sgxDebug != 0:
		err = errors.New("the enclave runs in debug mode")
	}
	claims.add("quoting enclave", fmt.Sprintf("signer %.16s…, product %d, version %d", signer, qe.GetIsvProdId(), qe.GetIsvSvn()), fmt.Sprintf("signer %.16s…, product %d", qeSigner, qeProduct), err)
}

func tdxMeasurement(claims *Claims, body *tdxpb.TDQuoteBody, o Options) {
	value := func(mrtd []byte, rtmrs [][]byte) string {
		text := "mrtd " + hex.EncodeToString(mrtd)
		for n, r := range rtmrs {
			if r == nil {
				continue
			}
			text += fmt.Sprintf(", rtmr%d %x", n, r)
		}
		return text
	}
	var want []string
	found := false
	for _, m := range o.Measurements {
		if m.Kind != evidence.TDX {
			continue
		}
		want = append(want, value(m.MRTD, m.RTMR[:]))
		same := bytes.Equal(m.MRTD, body.GetMrTd())
		for n, r := range m.RTMR {
			same = same && (r == nil || bytes.Equal(r, body.GetRtmrs()[n]))
		}
		found = found || same
	}
	claims.add("measurement", value(body.GetMrTd(), body.GetRtmrs()), strings.Join(want, " or "), inList(found, len(want)))
}

// collateral judges with what Intel publishes: whether the platform's firmware
// is up to date, and whether a key of the chain was revoked.
func (o Options) collateral(claims *Claims, quote *tdxpb.QuoteV4, roots *x509.CertPool) {
	const name = "collateral"
	switch {
	case o.Collateral == nil && o.MaxCRLAge == 0:
		claims.skip(name, "no collateral given: neither revocation nor the platform's state was looked at")
		return
	case o.Collateral == nil:
		claims.add(name, "", "platform up to date, nothing revoked", errors.New("no collateral is given"))
		return
	case roots == nil:
		claims.add(name, "", "platform up to date, nothing revoked", errors.New("without a root there is nothing to check it against"))
		return
	}
	err := guard(func() error {
		return tdxverify.TdxQuote(quote, &tdxverify.Options{
			CheckRevocations: true, GetCollateral: true, Getter: offline{o.Collateral}, Now: o.Now, TrustedRoots: roots,
		})
	})
	var lists []string
	for _, raw := range [][]byte{o.Collateral.PCKCRL, o.Collateral.RootCRL} {
		crl, perr := x509.ParseRevocationList(der(raw))
		if perr == nil {
			lists = append(lists, listed(crl))
			perr = o.fresh(crl.ThisUpdate, crl.NextUpdate)
		}
		err = errors.Join(err, perr)
	}
	claims.add(name, strings.Join(lists, "; "), "platform up to date, nothing revoked"+o.ageLimit(), err)
}

// offline answers the library's requests to Intel's PCS from files.
type offline struct{ c *Collateral }

// Get implements the library's HTTPSGetter.
func (f offline) Get(address string) (map[string][]string, []byte, error) {
	none := errors.New("nothing is fetched from the network")
	if f.c == nil {
		return nil, nil, none
	}
	chain := func(header string, chain []byte) map[string][]string {
		return map[string][]string{header: {url.QueryEscape(strings.TrimSpace(string(chain)) + "\n")}}
	}
	// Names of the headers: Intel PCS API version 4.
	switch {
	case strings.Contains(address, "/tcb?"):
		return chain("Tcb-Info-Issuer-Chain", f.c.TCBInfoChain), f.c.TCBInfo, nil
	case strings.Contains(address, "/qe/identity"):
		return chain("Sgx-Enclave-Identity-Issuer-Chain", f.c.QEIdentityChain), f.c.QEIdentity, nil
	case strings.Contains(address, "/pckcrl?"):
		return chain("Sgx-Pck-Crl-Issuer-Chain", f.c.PCKCRLChain), der(f.c.PCKCRL), nil
	case strings.Contains(strings.ToLower(address), "rootca"):
		return nil, der(f.c.RootCRL), nil
	}
	return nil, nil, none
}

func zero(b []byte) bool {
	return !slices.ContainsFunc(b, func(b byte) bool { return b != 0 })
}
