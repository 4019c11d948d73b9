package measurements

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// rvpsMessage is what Trustee's Reference Value Provider Service takes in: a
// payload in the form of the extractor that the type names (Trustee, rvps:
// struct Message of lib.rs, and extractors/sample).
type rvpsMessage struct {
	Version string `json:"version"`
	Type    string `json:"type"`
	Payload string `json:"payload"` // base64 of a JSON object: name to values
}

// RVPS returns rvps.json: the document as reference values for Trustee, under
// the names that its default policy for processors asks for. A name without
// values is left out.
//
// Such values are flat lists: a policy that looks them up one by one cannot know
// that an MRTD and an RTMR belong to one row.
func (d Document) RVPS() ([]byte, error) {
	values := map[string][]string{}
	add := func(name, value string) {
		if !slices.Contains(values[name], value) {
			values[name] = append(values[name], value)
		}
	}
	const launch = "snp_launch_measurement"
	for _, r := range d.SNP {
		add(launch, r.Digest)
	}
	for _, r := range d.SNP {
		// Trustee's claim was in base64 before it was in hexadecimal digits;
		// neither can be taken for the other.
		raw, err := hex.DecodeString(r.Digest)
		if err != nil {
			return nil, err
		}
		add(launch, base64.StdEncoding.EncodeToString(raw))
	}
	for _, r := range d.TDX {
		add("mr_td", r.MRTD)
		add("rtmr_1", r.RTMR1)
		add("rtmr_2", r.RTMR2)
	}
	for _, p := range d.PCR11 {
		// Before the end of the initrd nobody is there to attest.
		if p.After != "uki" && p.After != "enter-initrd" {
			add("tpm_pcr11", p.SHA256)
		}
	}
	payload, err := json.Marshal(values)
	if err != nil {
		return nil, err
	}
	message, err := json.MarshalIndent(rvpsMessage{Version: "0.1.0", Type: "sample", Payload: base64.StdEncoding.EncodeToString(payload)}, "", "  ")
	return append(message, '\n'), err
}
