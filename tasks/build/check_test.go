package build

// What green does not prove: the hosts are made after documentation, not
// recorded; that a guest starts on a host that passes is for a boot to show.

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"cc-base/tasks/facts"
	"cc-base/tasks/facts/factstest"
	"cc-base/tasks/fault"
)

func TestCheckTEEFailsOnlyForATEEThatIsAskedForAndMissing(t *testing.T) {
	t.Parallel()
	snpOff := factstest.EPYC()
	snpOff.Edit("sys/module/kvm_amd/parameters/sev_snp", "Y", "N")
	for _, c := range []struct {
		name, wanted string
		host         factstest.Host
		fails        bool
		says         string
	}{
		{"SNP on EPYC", "sev-snp", factstest.EPYC(), false, "the machine has it"},
		{"TDX on EPYC", "tdx", factstest.EPYC(), true, "the machine lacks it"},
		{"TDX on Xeon", "tdx", factstest.Xeon(), false, "the machine has it"},
		{"SNP on Xeon", "sev-snp", factstest.Xeon(), true, "the machine lacks it"},
		{"SNP switched off, which libvirt has not noticed", "sev-snp", snpOff, true, "kvm_amd.sev_snp=N"},
		{"auto on EPYC", "auto", factstest.EPYC(), false, "would run under sev-snp"},
		{"auto on a plain host", "auto", factstest.Plain(), false, "without protection"},
		{"none on a plain host", "none", factstest.Plain(), false, "without protection"},
		{"SNP on a plain host", "sev-snp", factstest.Plain(), true, "the machine lacks it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := judgeTEE(facts.Gather(t.Context(), c.host.World()), c.wanted, &out)
			if (err != nil) != c.fails {
				t.Errorf("error %v, want one: %v", err, c.fails)
			}
			var coded *fault.Error
			if c.fails && (!errors.As(err, &coded) || coded.Code != fault.HostUnfit) {
				t.Errorf("error %v has not the code %s", err, fault.HostUnfit)
			}
			if !strings.Contains(out.String(), c.says) {
				t.Errorf("the output lacks %q:\n%s", c.says, &out)
			}
		})
	}
}
