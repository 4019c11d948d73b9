package keystate

// Green here means that the file survives a round and that no profile is said
// to protect more than the threat table grants. Whether it does is for the
// boots to show.

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStateSurvivesARound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := State{Profile: "tpm", Volumes: []Volume{{Label: "cc-root", Node: "/dev/vda2", Opened: ByMachine, Slot: "3", Epoch: 7}}}
	if err := Write(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestTheConsoleNamesTheProtectionTruly(t *testing.T) {
	t.Parallel()
	volumes := []Volume{{Label: "cc-root", Opened: ByEnrolment}, {Label: "cc-dynamic", Opened: Made}}
	for profile, want := range map[string]string{
		"tpm": "not against the host", "snp": "not against playing back", "attested": "for cc-dynamic, against the host",
	} {
		lines := State{Profile: profile, Volumes: volumes}.Lines()
		text := strings.Join(lines, "\n")
		for _, part := range []string{want, "profile " + profile, "cc-root enrolment, cc-dynamic made"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: %q does not say %q", profile, text, part)
			}
		}
	}
	if text := strings.Join((State{Profile: "tpm", Volumes: []Volume{{Opened: Unencrypted}}}).Lines(), "\n"); !strings.Contains(text, "nothing is encrypted") {
		t.Errorf("without encryption: %q", text)
	}
}
