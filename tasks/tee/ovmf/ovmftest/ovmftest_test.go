package ovmftest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An image that is not there must leave a trace where somebody looks.
func TestAMissingImageIsNamed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "not-run")
	t.Setenv(FirmwareEnv, dir)
	t.Setenv(NotRunEnv, file)
	skipped := false
	t.Run("vectors", func(t *testing.T) {
		defer func() { skipped = t.Skipped() }()
		AMDSEV().Read(t)
	})
	text, err := os.ReadFile(file)
	if err != nil || !skipped || !strings.Contains(string(text), "TestAMissingImageIsNamed/vectors: vectors of "+AMDSEV().Name) {
		t.Errorf("skipped %t, wrote %q, %v", skipped, text, err)
	}
}
