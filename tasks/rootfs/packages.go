package rootfs

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"cc-base/tasks/deb"
)

var sha256hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ReadPackages parses stanzas as `apt-cache show` prints them and returns the
// packages sorted by name, architecture and version. A package without a SHA256 is an
// error: what is not in a signed index must not be in an image.
func ReadPackages(file string) ([]deb.Package, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()

	var packages []deb.Package
	var p deb.Package
	line := 0
	flush := func() error {
		if p == (deb.Package{}) {
			return nil
		}
		if p.Name == "" || p.Version == "" || !sha256hex.MatchString(p.SHA256) {
			return fmt.Errorf("%s:%d: package %q has no version or no SHA256", file, line, p.Name)
		}
		packages = append(packages, p)
		p = deb.Package{}
		return nil
	}
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		line++
		text := in.Text()
		if text == "" {
			if err := flush(); err != nil {
				return nil, err
			}
			continue
		}
		key, value, ok := strings.Cut(text, ": ")
		if !ok || strings.HasPrefix(text, " ") {
			continue
		}
		switch key {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Architecture = value
		case "Source":
			p.Source = value
		case "Filename":
			p.Filename = value
		case "SHA256":
			p.SHA256 = value
		case "Size":
			if p.Size, err = strconv.ParseInt(value, 10, 64); err != nil {
				return nil, fmt.Errorf("%s:%d: size: %w", file, line, err)
			}
		}
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	if err := flush(); err != nil {
		return nil, err
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("%s: no packages", file)
	}
	sort.Slice(packages, func(i, j int) bool {
		if packages[i].Name != packages[j].Name {
			return packages[i].Name < packages[j].Name
		}
		if packages[i].Architecture != packages[j].Architecture {
			return packages[i].Architecture < packages[j].Architecture
		}
		return packages[i].Version < packages[j].Version
	})
	return packages, nil
}
