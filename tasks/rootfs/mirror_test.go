package rootfs

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/sh"
)

// row returns the distribution's row of the table.
func row(t *testing.T, name string) Distribution {
	t.Helper()
	d, err := DistributionByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTheMirrorIsTheHosts(t *testing.T) {
	t.Parallel()
	const (
		main     = "https://mirror.example.org/debian"
		security = "https://mirror.example.org/debian-security"
		ubuntu   = "http://mirror.example.org/ubuntu"
		fixes    = "http://security.example.org/ubuntu"
	)
	both := Mirror{Main: main, Security: security}
	tests := []struct {
		name, distribution, lines string
		want                      Mirror
	}{
		{"nothing configured", "debian", "", Mirror{}},
		{"a Debian host with lists", "debian",
			"Debian|Debian|trixie|" + main + "/\nDebian|Debian|trixie-updates|" + main + "/\nDebian|Debian-Security|trixie-security|" + security + "/\n", both},
		{"a Debian host without lists", "debian",
			"||trixie|" + main + "/\n||trixie-updates|" + main + "/\n||trixie-security|" + security + "/\n", both},
		{"the security archive first", "debian", "Debian|Debian-Security|trixie-security|" + security + "\nDebian|Debian|trixie|" + main + "\n", both},
		{"the first of several mirrors", "debian", "Debian|Debian|trixie|" + main + "\nDebian|Debian|trixie|https://other.example.org/debian\n", Mirror{Main: main}},
		{"a mirror under another name, with lists", "debian", "Debian|Debian|trixie|https://cache.example.org/deb/\n", Mirror{Main: "https://cache.example.org/deb"}},
		{"a mirror under another name, without lists", "debian", "||trixie|https://cache.example.org/deb/\n", Mirror{}},
		{"both archives in one place", "debian",
			"Debian|Debian|trixie|" + main + "\nDebian|Debian|trixie-security|" + main + "\n", Mirror{Main: main, Security: main}},
		{"third-party archives are not it", "debian",
			"Docker|Docker CE|trixie|https://download.example.org/linux/debian\nVendor|Debian|trixie|https://vendor.example.org/debian\nDebian|Debian|trixie|" + main + "\n", Mirror{Main: main}},
		{"a third-party archive without lists", "debian", "||stable|https://vendor.example.org/tools\n||trixie|" + main + "\n", Mirror{Main: main}},
		{"backports of the same origin are not it", "debian",
			"Debian Backports|Debian Backports|trixie-backports|" + main + "2\nDebian|Debian Backports|trixie-backports|" + main + "3\nDebian|Debian|trixie|" + main + "\n", Mirror{Main: main}},
		{"files and discs cannot be reached from a tree", "debian",
			"Debian|Debian|trixie|file:/srv/debian/\nDebian|Debian|trixie|cdrom://[Debian GNU-Linux 13]/\nDebian|Debian|trixie|copy:/srv/debian\nDebian|Debian|trixie|mirror+file:/etc/apt/debian\n", Mirror{}},
		{"a disc before a mirror", "debian", "||trixie|cdrom:[Debian GNU-Linux 13]/debian\n||trixie|" + main + "\n", Mirror{Main: main}},
		{"an Ubuntu host for a Debian tree", "debian", "Ubuntu|Ubuntu|noble|" + ubuntu + "\n||noble|" + ubuntu + "\n", Mirror{}},
		{"an Ubuntu host for an Ubuntu tree", "ubuntu",
			"Ubuntu|Ubuntu|noble|" + ubuntu + "/\nUbuntu|Ubuntu|noble-updates|" + ubuntu + "/\nUbuntu|Ubuntu|noble-security|" + fixes + "/\n", Mirror{Main: ubuntu, Security: fixes}},
		{"Ubuntu's security archive first", "ubuntu", "Ubuntu|Ubuntu|noble-security|" + fixes + "\nUbuntu|Ubuntu|noble|" + ubuntu + "\n", Mirror{Main: ubuntu, Security: fixes}},
		{"an Ubuntu host without lists", "ubuntu", "||noble|" + ubuntu + "\n||noble-security|" + fixes + "\n", Mirror{Main: ubuntu, Security: fixes}},
		{"an Ubuntu host's private archives", "ubuntu", "LP-PPA-x|PPA|noble|https://ppa.example.org/x/ubuntu\nUbuntu|Ubuntu|noble|" + ubuntu + "\n", Mirror{Main: ubuntu}},
		{"a Debian host for an Ubuntu tree", "ubuntu", "Debian|Debian|trixie|" + main + "\n", Mirror{}},
		{"lines that are none", "debian", "|\n|||\n%zz\nDebian|Debian|trixie|http://[bad\n", Mirror{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, pickMirror(tt.lines, row(t, tt.distribution))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheHostIsAskedThroughApt(t *testing.T) {
	t.Parallel()
	run := &sh.Recorder{Answer: func(sh.Cmd) (string, error) { return "Debian|Debian|trixie|https://mirror.example.org/debian/\n", nil }}
	got, err := HostMirror(t.Context(), run, row(t, "debian"))
	if err != nil || got != (Mirror{Main: "https://mirror.example.org/debian"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	want := "apt-get indextargets --format $(ORIGIN)|$(LABEL)|$(RELEASE)|$(REPO_URI) Created-By: Packages\n"
	if run.Transcript() != want {
		t.Errorf("ran %q, want %q", run.Transcript(), want)
	}
	broken := errors.New("E: malformed sources")
	run = &sh.Recorder{Answer: func(sh.Cmd) (string, error) {
		return "Debian|Debian|trixie|https://mirror.example.org/debian/\n", broken
	}}
	if got, err := HostMirror(t.Context(), run, row(t, "debian")); !errors.Is(err, broken) || got != (Mirror{}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := HostAptOptions(t.Context(), run); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestTheHostsProxyIsPassedOn(t *testing.T) {
	t.Parallel()
	dump := `APT "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.invalid:3128/";
Acquire::https::Proxy::mirror.example.org "DIRECT";
acquire::HTTP::proxy "http://other.invalid/";
Acquire::http::Timeout "5";
Acquire::Retries "9";
`
	run := &sh.Recorder{Answer: func(sh.Cmd) (string, error) { return dump, nil }}
	got, err := HostAptOptions(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`Acquire::http::Proxy "http://proxy.invalid:3128/";`, `Acquire::https::Proxy::mirror.example.org "DIRECT";`, `acquire::HTTP::proxy "http://other.invalid/";`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSourcesNameWhatIsKnown(t *testing.T) {
	t.Parallel()
	const uri = "https://mirror.example.org/debian"
	tests := []struct {
		name   string
		mirror Mirror
		want   []string
	}{
		{"an unknown mirror is mmdebstrap's choice", Mirror{Security: uri + "-security"}, nil},
		{"a mirror alone", Mirror{Main: uri}, []string{"deb " + uri + " trixie main contrib", "deb " + uri + " trixie-updates main contrib"}},
		{"with its security archive", Mirror{Main: uri, Security: uri + "-security"}, []string{
			"deb " + uri + " trixie main contrib", "deb " + uri + " trixie-updates main contrib", "deb " + uri + "-security trixie-security main contrib"}},
		{"a snapshot is the suite alone", Mirror{Main: uri, Security: uri + "-security", Snapshot: true}, []string{"deb " + uri + " trixie main contrib"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, tt.mirror.Sources(row(t, "debian"), "trixie", []string{"main", "contrib"})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
