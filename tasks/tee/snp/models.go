package snp

import (
	"fmt"
	"strings"
)

// family is a processor generation and the names of its CPU models.
type family struct {
	short     string // what people call it
	model     string // QEMU's name without version
	signature uint32 // CPUID leaf 1, EAX: family, model, stepping
	versions  int    // QEMU's model-v1 to model-vN
	aliases   []string
}

// families is what QEMU's table of CPU models (target/i386/cpu.c,
// builtin_x86_defs) says of AMD's SEV-SNP processors and of EPYC, which is the
// model to name where a guest shall move between generations. A version
// differs from the next in features, never in the signature.
func families() []family {
	return []family{
		{"", "EPYC", 0x800f12, 5, []string{"EPYC-IBPB"}},
		{"Rome", "EPYC-Rome", 0x830f10, 5, nil},
		{"Milan", "EPYC-Milan", 0xa00f11, 3, nil},
		{"Genoa", "EPYC-Genoa", 0xa10f10, 2, nil},
		{"Turin", "EPYC-Turin", 0xb00f00, 1, nil},
	}
}

// Models returns the names of all CPU models that a digest can be computed
// for: QEMU's, which are also libvirt's, and the short ones Rome, Milan, Genoa
// and Turin.
func Models() []string {
	var out []string
	for _, f := range families() {
		if f.short != "" {
			out = append(out, f.short)
		}
		out = append(out, f.model)
		for v := 1; v <= f.versions; v++ {
			out = append(out, fmt.Sprintf("%s-v%d", f.model, v))
		}
		out = append(out, f.aliases...)
	}
	return out
}

// Signature returns what CPUID leaf 1 of the model returns in EAX, the only
// thing of a model that a launch measures. An unknown name is an error: a
// guessed signature would make a digest that no guest ever has. "host" and
// "max" have no digest that a build could know.
func Signature(model string) (uint32, error) {
	for _, f := range families() {
		names := append([]string{f.model}, f.aliases...)
		if f.short != "" {
			names = append(names, f.short)
		}
		for v := 1; v <= f.versions; v++ {
			names = append(names, fmt.Sprintf("%s-v%d", f.model, v))
		}
		for _, n := range names {
			if n == model {
				return f.signature, nil
			}
		}
	}
	return 0, fmt.Errorf("unknown CPU model %q; known: %s", model, strings.Join(Models(), " "))
}
