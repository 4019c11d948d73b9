package conf

import (
	"fmt"
	"strings"
)

// The three policy words speak different languages, and the debug bit changes
// its meaning between them: legacy SEV sets bit 0 to forbid debugging, SNP and
// TDX set a bit to allow it. Sources: AMD "Secure Encrypted Virtualization
// API" (legacy policy), AMD "SEV Secure Nested Paging Firmware ABI" (guest
// policy), Intel "TDX Module ABI" (TD attributes).
const (
	sevNoDebug = uint64(1) << 0
	sevNoShare = uint64(1) << 1
	sevKnown   = uint64(0x3f)

	snpSMT      = uint64(1) << 16
	snpRequired = uint64(1) << 17
	snpDebug    = uint64(1) << 19
	snpKnown    = uint64(1)<<26 - 1

	tdxDebug    = uint64(1) << 0
	tdxRequired = uint64(1) << 28 // SEPT_VE_DISABLE
	tdxKnown    = tdxDebug | tdxRequired | 1<<30 | 1<<31 | 1<<63
)

// settlePolicy fills the SNP and TDX words that were left empty from the
// legacy word: the abstract policy "no debugging, no sharing, no migration".
func settlePolicy(c *Config) {
	debug := c.TEE.Policy&sevNoDebug == 0
	if c.TEE.PolicySNP == 0 {
		c.TEE.PolicySNP = snpSMT | snpRequired
		if debug {
			c.TEE.PolicySNP |= snpDebug
		}
	}
	if c.TEE.PolicyTDX == 0 {
		c.TEE.PolicyTDX = tdxRequired
		if debug {
			c.TEE.PolicyTDX |= tdxDebug
		}
	}
}

const needsInsecure = "the host could read and change the guest's memory; only with INSECURE_DEBUG=yes"

func checkLegacyPolicy(c *Config) string {
	w := c.TEE.Policy
	switch {
	case w&^sevKnown != 0:
		return fmt.Sprintf("%s has bits that have no translation: %s", formatWord(w), bitList(w&^sevKnown))
	case w&sevNoShare == 0:
		return fmt.Sprintf("%s asks for key sharing (bit 1 clear), which SEV-SNP and TDX do not have", formatWord(w))
	case w&sevNoDebug == 0 && !c.TEE.InsecureDebug:
		return fmt.Sprintf("%s allows debugging (bit 0 clear): %s", formatWord(w), needsInsecure)
	}
	return ""
}

func checkSNPPolicy(c *Config) string {
	w := c.TEE.PolicySNP
	switch {
	case w&^snpKnown != 0:
		return fmt.Sprintf("%s has reserved bits: %s", formatWord(w), bitList(w&^snpKnown))
	case w&snpRequired == 0:
		return fmt.Sprintf("%s is not a valid policy: bit 17 must be set", formatWord(w))
	case w&snpDebug != 0 && !c.TEE.InsecureDebug && c.TEE.Policy&sevNoDebug != 0: // else said of TEE_POLICY
		return fmt.Sprintf("%s allows debugging (bit 19): %s", formatWord(w), needsInsecure)
	}
	return ""
}

func checkTDXPolicy(c *Config) string {
	w := c.TEE.PolicyTDX
	switch {
	case w&^tdxKnown != 0:
		return fmt.Sprintf("%s has bits that are reserved or unknown: %s", formatWord(w), bitList(w&^tdxKnown))
	case w&tdxRequired == 0:
		return fmt.Sprintf("%s lacks bit 28 (SEPT_VE_DISABLE), without which Linux refuses to start", formatWord(w))
	case w&tdxDebug != 0 && !c.TEE.InsecureDebug && c.TEE.Policy&sevNoDebug != 0: // else said of TEE_POLICY
		return fmt.Sprintf("%s allows debugging (bit 0): %s", formatWord(w), needsInsecure)
	}
	return ""
}

func bitList(w uint64) string {
	var bits []string
	for i := 0; i < 64; i++ {
		if w>>i&1 == 1 {
			bits = append(bits, fmt.Sprint(i))
		}
	}
	if len(bits) > 8 {
		bits = append(bits[:8], "…")
	}
	return strings.Join(bits, ", ")
}

// bit is the meaning of one bit of a policy word when set and when clear.
type bit struct {
	n          int
	set, clear string
}

func policyBits(name string) []bit {
	switch name {
	case "TEE_POLICY":
		return []bit{
			{0, "debugging forbidden", "DEBUGGING ALLOWED"},
			{1, "key sharing between guests forbidden", "key sharing allowed"},
			{2, "encrypted CPU state (SEV-ES) required", "SEV-ES not required here; SEV-SNP and TDX always encrypt CPU state"},
			{3, "sending to another host forbidden", "sending not forbidden here; the translation never allows it"},
			{4, "moving outside the domain forbidden", "domain not restricted; no effect after translation"},
			{5, "moving to a host without SEV forbidden", "not restricted; no effect after translation"},
		}
	case "TEE_POLICY_SNP":
		return []bit{
			{16, "simultaneous multithreading allowed on the host", "host must have simultaneous multithreading off"},
			{17, "reserved, always 1", "INVALID: must be 1"},
			{18, "a migration agent may move the guest", "no migration agent"},
			{19, "DEBUGGING ALLOWED", "debugging forbidden"},
			{20, "guest stays on one socket", "guest may use several sockets"},
			{21, "CXL devices allowed", "CXL devices must be off"},
			{22, "memory encryption must be AES-256-XTS", "AES-128 memory encryption accepted"},
			{23, "power reporting (RAPL) must be off", "power reporting (RAPL) accepted"},
			{24, "ciphertext hiding must be on", "ciphertext hiding not required"},
			{25, "page swapping commands must be disabled", "page swapping commands accepted"},
		}
	case "TEE_POLICY_TDX":
		return []bit{
			{0, "DEBUGGING ALLOWED", "debugging forbidden"},
			{28, "removed pages cannot be faked (SEPT_VE_DISABLE)", "INVALID: Linux refuses to start"},
			{30, "supervisor protection keys available", "no supervisor protection keys"},
			{31, "Key Locker available", "no Key Locker"},
			{63, "performance counters available", "no performance counters"},
		}
	}
	return nil
}

// explainPolicy returns one line per known bit of a policy word.
func explainPolicy(name string, w uint64) []string {
	var lines []string
	if name == "TEE_POLICY_SNP" {
		lines = append(lines, fmt.Sprintf("bits 15:0 = %d.%d  lowest firmware ABI version accepted", w>>8&0xff, w&0xff))
	}
	for _, b := range policyBits(name) {
		v, text := w>>b.n&1, b.clear
		if v == 1 {
			text = b.set
		}
		lines = append(lines, fmt.Sprintf("bit %d = %d  %s", b.n, v, text))
	}
	return lines
}
