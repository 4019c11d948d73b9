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
// legacy word.
func settlePolicy(c *Config) {
	snp, tdx := translate(c.TEE.Policy)
	if c.TEE.PolicySNP == 0 {
		c.TEE.PolicySNP = snp
	}
	if c.TEE.PolicyTDX == 0 {
		c.TEE.PolicyTDX = tdx
	}
}

// translate returns the words that say what a legacy word says of debugging.
// They allow neither sharing nor migration, whatever it says of those: SNP and
// TDX do not know the one, and nothing here would attest the other.
func translate(legacy uint64) (snp, tdx uint64) {
	snp, tdx = snpSMT|snpRequired, tdxRequired
	if legacy&sevNoDebug == 0 {
		snp, tdx = snp|snpDebug, tdx|tdxDebug
	}
	return snp, tdx
}

// translateBack returns the legacy word that says what an SNP or TDX word says,
// as far as legacy words are translated.
func translateBack(name string, word uint64) (legacy uint64) {
	debug := map[string]uint64{"TEE_POLICY_SNP": snpDebug, "TEE_POLICY_TDX": tdxDebug}[name]
	if word&debug != 0 {
		return sevNoShare
	}
	return sevNoDebug | sevNoShare
}

// contradictions are the words that were set beside TEE_POLICY and say something
// else than it does.
func (c Config) contradictions() []string {
	var found []string
	for _, w := range []struct {
		name, tee string
		word      uint64
	}{{"TEE_POLICY_SNP", "sev-snp", c.TEE.PolicySNP}, {"TEE_POLICY_TDX", "tdx", c.TEE.PolicyTDX}} {
		back := translateBack(w.name, w.word)
		if (back^c.TEE.Policy)&(sevNoDebug|sevNoShare) != 0 && (c.TEE.Type == "auto" || c.TEE.Type == w.tee) {
			found = append(found, fmt.Sprintf("%s=%s is in force and says %s as a legacy word, which is not the %s of TEE_POLICY.",
				w.name, formatWord(w.word), formatWord(back), formatWord(c.TEE.Policy)))
		}
	}
	return found
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

// bits is the meaning of one bit of a policy word when set and when clear, or of
// several that make a number together.
type bits struct {
	high, low  int
	set, clear string // of a single bit
	number     string // of several
}

func bit(n int, set, clear string) bits { return bits{high: n, low: n, set: set, clear: clear} }

func bitRange(high, low int, text string) bits { return bits{high: high, low: low, number: text} }

func reserved(high, low int) bits { return bitRange(high, low, "reserved, must be 0") }

// policyWords are the settings that hold policy words.
func policyWords() []string { return []string{"TEE_POLICY", "TEE_POLICY_SNP", "TEE_POLICY_TDX"} }

// policyBits returns the meaning of every bit of a policy word, from the lowest:
// a legacy word has 32, the others 64.
func policyBits(name string) []bits {
	switch name {
	case "TEE_POLICY":
		return []bits{
			bit(0, "debugging forbidden", "DEBUGGING ALLOWED"),
			bit(1, "key sharing between guests forbidden", "key sharing allowed"),
			bit(2, "encrypted CPU state (SEV-ES) required", "SEV-ES not required here; SEV-SNP and TDX always encrypt CPU state"),
			bit(3, "sending to another host forbidden", "sending not forbidden here; the translation never allows it"),
			bit(4, "moving outside the domain forbidden", "domain not restricted; no effect after translation"),
			bit(5, "moving to a host without SEV forbidden", "not restricted; no effect after translation"),
			reserved(15, 6),
			bitRange(23, 16, "lowest firmware API version accepted, major; not translated, must be 0"),
			bitRange(31, 24, "lowest firmware API version accepted, minor; not translated, must be 0"),
		}
	case "TEE_POLICY_SNP":
		return []bits{
			bitRange(7, 0, "lowest firmware ABI version accepted, minor"),
			bitRange(15, 8, "lowest firmware ABI version accepted, major"),
			bit(16, "simultaneous multithreading allowed on the host", "host must have simultaneous multithreading off"),
			bit(17, "reserved, always 1", "INVALID: must be 1"),
			bit(18, "a migration agent may move the guest", "no migration agent"),
			bit(19, "DEBUGGING ALLOWED", "debugging forbidden"),
			bit(20, "guest stays on one socket", "guest may use several sockets"),
			bit(21, "CXL devices allowed", "CXL devices must be off"),
			bit(22, "memory encryption must be AES-256-XTS", "AES-128 memory encryption accepted"),
			bit(23, "power reporting (RAPL) must be off", "power reporting (RAPL) accepted"),
			bit(24, "ciphertext hiding must be on", "ciphertext hiding not required"),
			bit(25, "page swapping commands must be disabled", "page swapping commands accepted"),
			reserved(63, 26),
		}
	case "TEE_POLICY_TDX":
		// Names: Linux arch/x86/include/asm/shared/tdx.h, TDX_ATTR_*.
		return []bits{
			bit(0, "DEBUGGING ALLOWED", "debugging forbidden"),
			reserved(3, 1),
			bit(4, "REFUSED: watched by HGS+ (HGS_PLUS_PROF)", "not watched by HGS+"),
			bit(5, "REFUSED: profiled by performance counters of the host (PERF_PROF)", "not profiled by performance counters"),
			bit(6, "REFUSED: profiled by telemetry of the host (PMT_PROF)", "not profiled by telemetry"),
			reserved(15, 7),
			bit(16, "REFUSED: single-step defence by instruction count (ICSSD)", "no single-step defence by instruction count"),
			reserved(26, 17),
			bit(27, "REFUSED: linear address space separation available (LASS)", "no linear address space separation"),
			bit(28, "removed pages cannot be faked (SEPT_VE_DISABLE)", "INVALID: Linux refuses to start"),
			bit(29, "REFUSED: the guest may be migrated (MIGRATABLE)", "no migration"),
			bit(30, "supervisor protection keys available", "no supervisor protection keys"),
			bit(31, "Key Locker available", "no Key Locker"),
			reserved(61, 32),
			bit(62, "REFUSED: a provisioning agent of TDX Connect (TPA)", "not a provisioning agent"),
			bit(63, "performance counters available", "no performance counters"),
		}
	}
	return nil
}

// ExplainPolicy returns a line for every bit of a policy word, TEE_POLICY,
// TEE_POLICY_SNP or TEE_POLICY_TDX, and what other words make of it.
func ExplainPolicy(name string, w uint64) []string {
	var lines []string
	for _, b := range policyBits(name) {
		value := w >> b.low & (1<<(b.high-b.low+1) - 1)
		text := b.number
		switch {
		case b.high > b.low:
		case value == 1:
			text = b.set
		default:
			text = b.clear
		}
		lines = append(lines, fmt.Sprintf("%s = %d  %s", b.place(), value, text))
	}
	if name == "TEE_POLICY" {
		snp, tdx := translate(w)
		return append(lines, fmt.Sprintf("translated: SEV-SNP %s, TDX %s", formatWord(snp), formatWord(tdx)))
	}
	return append(lines, "as a legacy word: "+formatWord(translateBack(name, w)))
}

func (b bits) place() string {
	if b.high > b.low {
		return "bits " + b.numbers()
	}
	return "bit " + b.numbers()
}

func (b bits) numbers() string {
	if b.high > b.low {
		return fmt.Sprintf("%d:%d", b.high, b.low)
	}
	return fmt.Sprint(b.low)
}
