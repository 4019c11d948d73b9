package validation_test

import (
	"os"
	"path/filepath"
	"strings"

	"cc-base/tasks/manifest"
)

// overwrite puts other content into a file of the folder. A failure shows as a
// mutant that is not found.
func overwrite(dir, name string) {
	_ = os.WriteFile(filepath.Join(dir, name), []byte("other"), 0o600)
}

func fileEntry(name string) manifest.File {
	return manifest.File{Path: name, Size: 32, SHA256: strings.Repeat("0", 64)}
}
