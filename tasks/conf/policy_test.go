package conf

// Green here means that the words are translated as this package says and that
// no bit is left without a word. What a processor does with them is AMD's and
// Intel's to say: the meanings were taken from their documents.

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// accepted tells whether a configuration with these words loads.
func accepted(t *testing.T, c Config) bool {
	t.Helper()
	return checkLegacyPolicy(&c) == "" && checkSNPPolicy(&c) == "" && checkTDXPolicy(&c) == ""
}

func TestALegacyWordIsTranslatedThereAndBack(t *testing.T) {
	t.Parallel()
	for word := range uint64(1 << 7) {
		c := Config{TEE: TEE{Policy: word, InsecureDebug: true}}
		settlePolicy(&c)
		if !accepted(t, c) {
			if word&^sevKnown == 0 && word&sevNoShare != 0 {
				t.Errorf("%#x is refused", word)
			}
			continue
		}
		for name, other := range map[string]uint64{"TEE_POLICY_SNP": c.TEE.PolicySNP, "TEE_POLICY_TDX": c.TEE.PolicyTDX} {
			if got, want := translateBack(name, other), word&(sevNoDebug|sevNoShare); got != want {
				t.Errorf("%#x becomes %s %#x, which becomes %#x, not %#x", word, name, other, got, want)
			}
		}
		if notes := c.contradictions(); len(notes) > 0 {
			t.Errorf("%#x contradicts its translation: %s", word, notes)
		}
	}
}

// Whatever words are set by hand: translated to a legacy word and back, they say
// the same about debugging, and no more is allowed than by the one that was set.
func TestOtherWordsAreTranslatedBackAndThere(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	tried := 0
	for range 20000 {
		c := Config{TEE: TEE{
			Policy: 0x03, InsecureDebug: true,
			PolicySNP: random.Uint64()&snpKnown | snpRequired, PolicyTDX: random.Uint64()&tdxKnown | tdxRequired,
		}}
		if !accepted(t, c) {
			continue
		}
		tried++
		snp, _ := translate(translateBack("TEE_POLICY_SNP", c.TEE.PolicySNP))
		_, tdx := translate(translateBack("TEE_POLICY_TDX", c.TEE.PolicyTDX))
		if (snp^c.TEE.PolicySNP)&snpDebug != 0 || (tdx^c.TEE.PolicyTDX)&tdxDebug != 0 {
			t.Errorf("SNP %#x became %#x, TDX %#x became %#x", c.TEE.PolicySNP, snp, c.TEE.PolicyTDX, tdx)
		}
		if snp&^(snpSMT|snpRequired|snpDebug) != 0 || tdx&^(tdxRequired|tdxDebug) != 0 {
			t.Errorf("a translation allows more: SNP %#x, TDX %#x", snp, tdx)
		}
	}
	if tried < 10000 {
		t.Errorf("only %d words were accepted", tried)
	}
}

func TestWordsThatContradictTheLegacyWordAreNoted(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ text, want string }{
		{"TEE_POLICY_SNP=0xb0000\nINSECURE_DEBUG=yes", "TEE_POLICY_SNP=0xb0000 is in force and says 0x02 as a legacy word, which is not the 0x03 of TEE_POLICY."},
		{"TEE_POLICY_TDX=0x10000001\nINSECURE_DEBUG=yes", "TEE_POLICY_TDX=0x10000001 is in force and says 0x02"},
		{"TEE_POLICY=0x02\nTEE_POLICY_SNP=0x30000\nINSECURE_DEBUG=yes", "TEE_POLICY_SNP=0x30000 is in force and says 0x03 as a legacy word, which is not the 0x02 of TEE_POLICY."},
		{"TEE_POLICY_SNP=0xb0000\nINSECURE_DEBUG=yes\nTEE_TYPE=tdx\n" + operator, ""},
		{"TEE_POLICY_SNP=0x20000\nTEE_POLICY_TDX=0x50000000", ""},
		{"TEE_POLICY=0x3f", ""},
	} {
		notes := strings.Join(mustLoad(t, tc.text).Notes(), "\n")
		if tc.want != "" && !strings.Contains(notes, tc.want) || tc.want == "" && strings.Contains(notes, "as a legacy word") {
			t.Errorf("%q: want %q in\n%s", tc.text, tc.want, notes)
		}
	}
}

func TestEveryBitOfAPolicyWordHasItsMeaning(t *testing.T) {
	t.Parallel()
	for name, width := range map[string]int{"TEE_POLICY": 32, "TEE_POLICY_SNP": 64, "TEE_POLICY_TDX": 64} {
		next := 0
		for _, b := range policyBits(name) {
			if b.low != next || b.high < b.low {
				t.Errorf("%s: bits %d to %d follow bit %d", name, b.low, b.high, next-1)
			}
			next = b.high + 1
			single := b.high == b.low
			if single != (b.number == "") || single != (b.set != "" && b.clear != "") || b.set != "" && b.set == b.clear {
				t.Errorf("%s: %s is not explained: %+v", name, b.place(), b)
			}
		}
		if next != width {
			t.Errorf("%s: %d of %d bits are explained", name, next, width)
		}
	}
}

// What config:show -verbose prints must add up to the word again, and name as
// refused or invalid what is.
func TestShowVerboseNamesEveryBitOfEveryWord(t *testing.T) {
	t.Parallel()
	line := regexp.MustCompile(`^ {6}bits? (\d+)(?::(\d+))? = (\d+)  \S`)
	for _, text := range []string{"", "TEE_POLICY=0x07", "TEE_POLICY=0x02\nINSECURE_DEBUG=yes", "TEE_POLICY_SNP=0x1b001a\nTEE_POLICY_TDX=0x80000000d0000001\nINSECURE_DEBUG=yes"} {
		c := mustLoad(t, text)
		var out strings.Builder
		if err := c.Show(&out, true); err != nil {
			t.Fatal(err)
		}
		words, seen, key := map[string]uint64{}, map[string]int{}, ""
		for l := range strings.Lines(out.String()) {
			if strings.HasPrefix(l, "  ") && !strings.HasPrefix(l, "   ") {
				key, _, _ = strings.Cut(strings.TrimSpace(l), "=")
			}
			m := line.FindStringSubmatch(l)
			if m == nil {
				continue
			}
			high, _ := strconv.Atoi(m[1])
			low := high
			if m[2] != "" {
				low, _ = strconv.Atoi(m[2])
			}
			value, _ := strconv.ParseUint(m[3], 10, 64)
			words[key] |= value << low
			seen[key] += high - low + 1
		}
		want := fmt.Sprint(map[string]uint64{"TEE_POLICY": c.TEE.Policy, "TEE_POLICY_SNP": c.TEE.PolicySNP, "TEE_POLICY_TDX": c.TEE.PolicyTDX})
		if got := fmt.Sprint(words); got != want {
			t.Errorf("%q: the bits shown make %s, want %s", text, got, want)
		}
		if got := fmt.Sprint(seen); got != "map[TEE_POLICY:32 TEE_POLICY_SNP:64 TEE_POLICY_TDX:64]" {
			t.Errorf("%q: bits shown: %s", text, got)
		}
		if !strings.Contains(out.String(), "      translated: SEV-SNP ") || strings.Count(out.String(), "      as a legacy word: 0x0") != 2 {
			t.Errorf("%q: no translation in\n%s", text, out.String())
		}
	}
}

func TestABitIsRefusedExactlyWhereItIsSaidToBe(t *testing.T) {
	t.Parallel()
	for name, check := range map[string]func(word uint64) string{
		"TEE_POLICY_SNP": func(w uint64) string {
			return checkSNPPolicy(&Config{TEE: TEE{Policy: 0x03, PolicySNP: w, InsecureDebug: true}})
		},
		"TEE_POLICY_TDX": func(w uint64) string {
			return checkTDXPolicy(&Config{TEE: TEE{Policy: 0x03, PolicyTDX: w, InsecureDebug: true}})
		},
		"TEE_POLICY": func(w uint64) string {
			return checkLegacyPolicy(&Config{TEE: TEE{Policy: w, InsecureDebug: true}})
		},
	} {
		base := map[string]uint64{"TEE_POLICY": sevNoDebug | sevNoShare, "TEE_POLICY_SNP": snpRequired, "TEE_POLICY_TDX": tdxRequired}[name]
		if text := check(base); text != "" {
			t.Fatalf("%s: %s", name, text)
		}
		for _, b := range policyBits(name) {
			for n := b.low; n <= b.high; n++ {
				said := strings.Contains(b.number, "must be 0") || strings.HasPrefix(b.set, "REFUSED")
				if got := check(base|1<<n) != ""; got != said {
					t.Errorf("%s: bit %d set: refused %v, said to be %v", name, n, got, said)
				}
			}
			if strings.HasPrefix(b.clear, "INVALID") && check(base&^(1<<b.low)) == "" {
				t.Errorf("%s: bit %d clear: accepted", name, b.low)
			}
		}
	}
}
