package main

// What green does not prove: sysfs and the launch are the test's. That the unlock
// verb calls applySite is seen in a boot only.

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/site"
)

const siteText = "# rack 7\nHOSTNAME='node-7'\nFIREWALL_ALLOW=\"tcp/443\"\n"

// at is a machine with the file, nil for none, and what it says.
func at(t *testing.T, text []byte, profile string, launch site.Launch) (place, *[]string) {
	t.Helper()
	sys := fstest.MapFS{}
	if text != nil {
		sys[siteInput] = &fstest.MapFile{Data: text}
	}
	said := &[]string{}
	return place{
		sys: sys, profile: profile, file: filepath.Join(t.TempDir(), "cc", "site.conf"),
		launch: func(context.Context) (site.Launch, error) { return launch, nil },
		say:    func(line string) { *said = append(*said, line) },
	}, said
}

func TestSiteIsCheckedAndLeftInItsCanonicalSpelling(t *testing.T) {
	t.Parallel()
	text := []byte(siteText)
	data, id := site.HostData(text), site.MRConfigID(text)
	for name, tc := range map[string]struct {
		profile string
		launch  site.Launch
		says    string
	}{
		"plain":               {cmdline.TPM, site.Launch{}, "nothing to hold it against"},
		"SNP":                 {cmdline.SNP, site.Launch{Kind: site.SNP, Data: data[:]}, "the launch names it (SEV-SNP)"},
		"TDX":                 {cmdline.Attested, site.Launch{Kind: site.TDX, Data: id[:]}, "the launch names it (TDX)"},
		"profile tpm on SNP":  {cmdline.TPM, site.Launch{Kind: site.SNP, Data: data[:]}, "the launch names it (SEV-SNP)"},
		"attested on SEV-SNP": {cmdline.Attested, site.Launch{Kind: site.SNP, Data: data[:]}, "the launch names it (SEV-SNP)"},
	} {
		p, said := at(t, text, tc.profile, tc.launch)
		// As the folder of the keys leaves it.
		if err := os.MkdirAll(filepath.Dir(p.file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := p.apply(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := os.ReadFile(p.file)
		if want := "HOSTNAME=\"node-7\"\nFIREWALL_ALLOW=\"tcp/443\"\n"; err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		for path, mode := range map[string]fs.FileMode{p.file: 0o644, filepath.Dir(p.file): 0o755} {
			if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
				t.Errorf("%s: %s has mode %v, %v", name, path, st.Mode(), err)
			}
		}
		if len(*said) != 1 || !strings.Contains((*said)[0], tc.says) {
			t.Errorf("%s: said %q", name, *said)
		}
	}
}

func TestWithoutSiteNothingIsWritten(t *testing.T) {
	t.Parallel()
	for name, launch := range map[string]site.Launch{
		"plain": {}, "SNP": {Kind: site.SNP, Data: make([]byte, 32)}, "TDX": {Kind: site.TDX, Data: make([]byte, 48)},
	} {
		profile := cmdline.Attested
		if launch.Plain() {
			profile = cmdline.TPM
		}
		p, said := at(t, nil, profile, launch)
		if err := p.apply(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(p.file); !errors.Is(err, fs.ErrNotExist) || len(*said) > 0 {
			t.Errorf("%s: %v, %q", name, err, *said)
		}
	}
}

func TestSiteRefusals(t *testing.T) {
	t.Parallel()
	text := []byte(siteText)
	data := site.HostData(text)
	wrong := []byte("HOSTNAME=UPPER\n")
	wrongData := site.HostData(wrong)
	long := []byte("#" + strings.Repeat("x", site.MaxSize) + "\n")
	for name, tc := range map[string]struct {
		text    []byte
		profile string
		launch  site.Launch
		code    fault.Code
		says    string
	}{
		"another file":                    {[]byte(siteText + "\n"), cmdline.SNP, site.Launch{Kind: site.SNP, Data: data[:]}, fault.SiteOther, "has digest"},
		"another file that is malformed":  {wrong, cmdline.SNP, site.Launch{Kind: site.SNP, Data: data[:]}, fault.SiteOther, "has digest"},
		"none where one is named":         {nil, cmdline.SNP, site.Launch{Kind: site.SNP, Data: data[:]}, fault.SiteOther, "there is none"},
		"one where none is named":         {text, cmdline.Attested, site.Launch{Kind: site.TDX, Data: make([]byte, 48)}, fault.SiteOther, "names none"},
		"malformed, but named":            {wrong, cmdline.SNP, site.Launch{Kind: site.SNP, Data: wrongData[:]}, fault.SiteInvalid, "site.conf:1:1: HOSTNAME"},
		"malformed on a plain machine":    {wrong, cmdline.TPM, site.Launch{}, fault.SiteInvalid, "HOSTNAME"},
		"empty":                           {[]byte{}, cmdline.TPM, site.Launch{}, fault.SiteInvalid, "0 bytes"},
		"too long":                        {long, cmdline.TPM, site.Launch{}, fault.SiteInvalid, "bytes"},
		"no SNP device in profile snp":    {text, cmdline.SNP, site.Launch{}, fault.GuestTEE, "no device"},
		"no device in profile attested":   {text, cmdline.Attested, site.Launch{}, fault.GuestTEE, "no device"},
		"no device and no file":           {nil, cmdline.SNP, site.Launch{}, fault.GuestTEE, "no device"},
		"the first bytes of one too long": {long, cmdline.SNP, cutOff(long), fault.SiteInvalid, "bytes"},
	} {
		p, said := at(t, tc.text, tc.profile, tc.launch)
		err := p.apply(t.Context())
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		faulttest.Want(t, err, tc.code, tc.says)
		if _, err := os.Stat(p.file); !errors.Is(err, fs.ErrNotExist) || len(*said) > 0 {
			t.Errorf("%s: left %v, said %q", name, err, *said)
		}
	}
}

// cutOff is a launch that names what is read of a file that is too long.
func cutOff(text []byte) site.Launch {
	sum := site.HostData(text[:site.MaxSize+1])
	return site.Launch{Kind: site.SNP, Data: sum[:]}
}

func TestSiteKeepsTheCodeOfADeviceThatFails(t *testing.T) {
	t.Parallel()
	p, _ := at(t, []byte(siteText), cmdline.SNP, site.Launch{})
	p.launch = func(context.Context) (site.Launch, error) {
		return site.Launch{}, fault.Newf(fault.GuestTEE, "no answer")
	}
	faulttest.Want(t, p.apply(t.Context()), fault.GuestTEE, "no answer")
	p, _ = at(t, []byte(siteText), cmdline.TPM, site.Launch{})
	p.sys = fstest.MapFS{siteInput: &fstest.MapFile{Mode: fs.ModeDir}}
	faulttest.Want(t, p.apply(t.Context()), fault.SiteInvalid, "reading site.conf")
	p, _ = at(t, []byte(siteText), cmdline.TPM, site.Launch{})
	p.file = filepath.Join(os.DevNull, "site.conf")
	faulttest.Want(t, p.apply(t.Context()), fault.GuestBoot)
}
