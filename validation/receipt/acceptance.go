package receipt

import "cc-base/validation/check"

// Acceptance is a row of what NVIDIA wants to see from a confidential VM before
// a proprietary model is deployed in it: Reference Architecture for Deploying
// Proprietary Models on Self-Hosted Confidential VMs, June 2026, required
// capabilities and appendix E.
type Acceptance struct {
	Row    string
	Needs  check.Tier // below it a pass is no proof of the row
	Checks []string   // IDs; the row is proven when each of them is
}

// AcceptanceRows are the rows in the document's order. A row without checks has
// nothing in the registry that could prove it; it is listed so that the page
// says so.
func AcceptanceRows() []Acceptance {
	return []Acceptance{
		{"the image is measured, and its measurement known before it starts", check.TierSilicon, []string{"measurements.computed", "apps.command-line", "apps.root-hashes", "keys.measured"}},
		{"the artefacts are the published ones", check.TierArtefact, []string{"bundle.checksums", "bundle.unlisted", "bundle.manifest"}},
		{"artefacts are encrypted outside of the VM", check.TierArtefact, []string{"keys.encrypted", "keys.headers"}},
		{"the host's CPU, firmware and kernel run confidential VMs", check.TierKVM, []string{"host.tee.available", "host.tee.firmware"}},
		{"fresh evidence of CPU, GPU, image, launch configuration and firmware with the verifier's nonce", check.TierSilicon, []string{"attestation.device"}},
		{"keys are out of storage that the host can read", check.TierSilicon, []string{"boot.identity-key", "boot.swap", "hardening.core-limit"}},
		{"SSH is disabled, and there is no root shell", check.TierTCG, []string{"network.port-22", "hardening.no-shell", "hardening.masked-units"}},
		{"an integrity error stops the guest", check.TierTCG, []string{"boot.monitor"}},
		{"the audit has no content of requests", check.TierTCG, nil},
		{"positive key release", check.TierSilicon, nil},
		{"unapproved image: no key", check.TierSilicon, nil},
		{"tampered launch parameters: no key", check.TierSilicon, nil},
		{"GPU with confidential computing off, or with bad evidence: no key", check.TierSilicon, []string{"gpu.cc-mode", "gpu.devtools"}},
		{"expired or revoked collateral: no key", check.TierSilicon, nil},
		{"outage of the key broker: fail closed", check.TierKVM, nil},
		{"key revocation", check.TierKVM, nil},
		{"administrator bypass: console, QEMU monitor, attaching, memory dump, direct disk", check.TierSilicon, []string{"hardening.no-shell", "boot.host-credentials", "boot.host-units", "boot.foreign-mounts", "attestation.device"}},
		{"artefact and key rotation", check.TierKVM, nil},
	}
}
