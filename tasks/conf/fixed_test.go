package conf

import (
	"strings"
	"testing"
)

func TestOnlyKeysThatAreReadLaterMayDiffer(t *testing.T) {
	t.Parallel()
	image := mustLoad(t, "")
	for name, tt := range map[string]struct {
		edit string // of a profile
		open []When
		want []string
	}{
		"nothing":                   {"", nil, nil},
		"memory, at run time":       {`TEE_MEMORY_SIZE="16G"`, []When{AtRun}, nil},
		"memory, at no time":        {`TEE_MEMORY_SIZE="16G"`, nil, []string{"TEE_MEMORY_SIZE: is"}},
		"the boot mode, installing": {`BOOT_MODE="disk"`, []When{AtInstall, AtRun}, nil},
		"the boot mode, afterwards": {`BOOT_MODE="disk"`, []When{AtRun}, []string{"BOOT_MODE", "install it again"}},
		"two that need a build": {`LUKS_HASH="sha256"` + "\n" + `SUITE="forky"`, []When{AtInstall, AtRun},
			[]string{"SUITE: is", "LUKS_HASH: is", "build the image again"}},
	} {
		got := mustLoad(t, tt.edit).Fixed(image, tt.open...)
		if len(got) > 0 != (tt.want != nil) {
			t.Errorf("%s: %v", name, got)
			continue
		}
		for _, part := range tt.want {
			if !strings.Contains(got.Error(), part) {
				t.Errorf("%s: %q is not in\n%v", name, part, got)
			}
		}
	}
}
