package cmdline

// Green here means that the grammar accepts one spelling and refuses the rest.
// It does not prove that the kernel, systemd-stub and firmware deliver the
// measured line unchanged: that is for the boots and for the comparison with
// the line that the image carries.

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func good() string {
	return "root=/dev/mapper/cc-root ro cc.root=luks+verity:" + hash + ":8192 cc.app=verity:" + hash + ":4096 cc.config=verity:" + hash + ":1048576 cc.keys=tpm console=ttyS0"
}

func TestParseReadsAllThreeVolumes(t *testing.T) {
	t.Parallel()
	got, err := Parse(good() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	want := Params{
		Root:   Volume{Name: "cc-root", Encrypted: true, RootHash: hash, HashOffset: 8192},
		App:    Volume{Name: "cc-app", RootHash: hash, HashOffset: 4096},
		Config: Volume{Name: "cc-config", RootHash: hash, HashOffset: 1048576},
		Keys:   TPM,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("params (-want +got):\n%s", diff)
	}
	if !got.Encrypted() {
		t.Error("an encrypted root is not reported as encrypted")
	}
	if got, err = Parse(good() + " cc.readall=1"); err != nil || !got.ReadAll || got.Test {
		t.Errorf("cc.readall=1: %+v, err=%v", got, err)
	}
	if got, err = Parse(good() + " cc.test=1"); err != nil || got.ReadAll || !got.Test {
		t.Errorf("cc.test=1: %+v, err=%v", got, err)
	}
	for _, profile := range []string{SNP, Attested} {
		if got, err = Parse(strings.Replace(good(), "cc.keys=tpm", "cc.keys="+profile, 1)); err != nil || got.Keys != profile {
			t.Errorf("%s: %q, err=%v", profile, got.Keys, err)
		}
	}
}

func TestParseRefusesEveryDoubtfulLine(t *testing.T) {
	t.Parallel()
	root := "cc.root=luks+verity:" + hash + ":8192"
	replace := func(value string) string { return strings.Replace(good(), root, value, 1) }
	for name, tc := range map[string]struct{ line, want string }{
		"empty line":                {"", "cc.root is missing"},
		"root missing":              {replace(""), "cc.root is missing"},
		"app missing":               {strings.Replace(good(), "cc.app", "xx.app", 1), "cc.app is missing"},
		"config missing":            {strings.Replace(good(), "cc.config", "xx.config", 1), "cc.config is missing"},
		"same root twice":           {good() + " " + root, "given twice"},
		"other root after":          {good() + " cc.root=verity:" + strings.Repeat("f", 64) + ":4096", "given twice"},
		"empty first value":         {"cc.root= " + good(), "protection:root hash"},
		"no value":                  {replace("cc.root"), "protection:root hash"},
		"key without hash":          {replace("cc.root=luks+verity"), "protection:root hash"},
		"four fields":               {replace(root + ":1"), "protection:root hash"},
		"unknown protection":        {replace("cc.root=luks:" + hash + ":8192"), "neither"},
		"protection in upper case":  {replace("cc.root=VERITY:" + hash + ":8192"), "neither"},
		"short hash":                {replace("cc.root=verity:" + hash[1:] + ":8192"), "hexadecimal"},
		"long hash":                 {replace("cc.root=verity:" + hash + "0:8192"), "hexadecimal"},
		"upper-case hash":           {replace("cc.root=verity:" + strings.ToUpper(hash) + ":8192"), "hexadecimal"},
		"hash not hex":              {replace("cc.root=verity:" + hash[1:] + "g:8192"), "hexadecimal"},
		"no offset":                 {replace("cc.root=verity:" + hash + ":"), "decimal"},
		"negative offset":           {replace("cc.root=verity:" + hash + ":-4096"), "multiple"},
		"zero offset":               {replace("cc.root=verity:" + hash + ":0"), "multiple"},
		"offset between blocks":     {replace("cc.root=verity:" + hash + ":4097"), "multiple"},
		"offset with leading zero":  {replace("cc.root=verity:" + hash + ":08192"), "decimal"},
		"offset with sign":          {replace("cc.root=verity:" + hash + ":+8192"), "decimal"},
		"hexadecimal offset":        {replace("cc.root=verity:" + hash + ":0x2000"), "decimal"},
		"offset too large":          {replace("cc.root=verity:" + hash + ":9223372036854775807"), "multiple"},
		"offset overflows":          {replace("cc.root=verity:" + hash + ":18446744073709551616"), "decimal"},
		"quoted parameter":          {replace(`"` + root + `"`), "not allowed"},
		"tab as separator":          {replace("x\t" + root), "not allowed"},
		"second line":               {good() + "\n" + root + "\n", "not allowed"},
		"byte above ASCII":          {good() + " x=\u00e9", "not allowed"},
		"unknown parameter":         {good() + " cc.shell=1", "not a parameter"},
		"prefix only":               {good() + " cc.", "not a parameter"},
		"readall with other value":  {good() + " cc.readall=0", "not 1"},
		"keys missing":              {strings.Replace(good(), "cc.keys=tpm", "", 1), "cc.keys is missing"},
		"keys unresolved":           {strings.Replace(good(), "cc.keys=tpm", "cc.keys=auto", 1), "not a key profile"},
		"keys twice":                {good() + " cc.keys=snp", "given twice"},
		"debug with other value":    {good() + " cc.debug=yes", "not 1"},
		"test with other value":     {good() + " cc.test=yes", "not 1"},
		"readall twice":             {good() + " cc.readall=1 cc.readall=1", "given twice"},
		"longer than the kernel's":  {good() + " " + strings.Repeat("x", maxBytes), "longer"},
		"root in other volume form": {replace("cc-root=verity:" + hash + ":8192"), "cc.root is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(tc.line)
			if err == nil {
				t.Fatalf("accepted as %+v", got)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q does not say %q", err, tc.want)
			}
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("error %q is not one line", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good())
	f.Add(good() + " cc.readall=1\n")
	f.Add("cc.root=luks+verity::")
	f.Fuzz(func(t *testing.T, line string) {
		p, err := Parse(line)
		if err != nil {
			return
		}
		// What was accepted must stand in the line once, exactly so.
		words := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		for _, v := range p.Volumes() {
			n := 0
			for _, w := range words {
				if w == v.String() {
					n++
				}
			}
			if n != 1 {
				t.Fatalf("%s stands %d times in %q", v, n, line)
			}
		}
	})
}
