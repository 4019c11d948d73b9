package rootfs

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"strings"

	"cc-base/tasks/sh"
)

// Mirror is where a distribution's packages come from.
type Mirror struct {
	Main     string // base URI; empty lets mmdebstrap choose
	Security string // base URI of the security archive; empty when not known
	Snapshot bool   // a frozen archive, whose Release files are past their validity
}

// HostMirror reads the mirror of d from the machine's own apt configuration,
// so that a build fetches from where the machine already fetches. A machine of
// another distribution has none: the zero Mirror is returned.
func HostMirror(ctx context.Context, run sh.Runner, d Distribution) (Mirror, error) {
	text, err := sh.Text(ctx, run, "apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(RELEASE)|$(REPO_URI)", "Created-By: Packages").String()
	if err != nil {
		return Mirror{}, fmt.Errorf("reading the host's apt configuration: %w", err)
	}
	return pickMirror(text, d), nil
}

// pickMirror chooses from lines of origin|label|release|URI. Origin and label
// are empty before the machine's first apt-get update; then the URI's last
// element decides. Ubuntu's security archive has the label and the last element
// of the main one: there the release tells them apart.
func pickMirror(lines string, d Distribution) Mirror {
	var m Mirror
	for _, line := range strings.Split(lines, "\n") {
		origin, rest, _ := strings.Cut(line, "|")
		label, rest, _ := strings.Cut(rest, "|")
		release, uri, _ := strings.Cut(rest, "|")
		u, err := url.Parse(uri)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") {
			continue
		}
		if origin != "" && origin != d.Origin {
			continue
		}
		uri = strings.TrimRight(uri, "/")
		last := path.Base(u.Path)
		switch {
		case label == d.Origin+"-Security" || last == d.URIEnd+"-security":
			m.Security = first(m.Security, uri)
		case label != "" && label != d.Origin, label == "" && last != d.URIEnd:
			// Another archive of the same origin, such as backports.
		case strings.HasSuffix(release, d.Security):
			m.Security = first(m.Security, uri)
		default:
			m.Main = first(m.Main, uri)
		}
	}
	return m
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Sources returns the deb lines for suite: the suite itself, its updates and
// its security archive where the mirror is known, nothing otherwise (then
// mmdebstrap writes all three itself). A snapshot holds the suite alone,
// because its security archive is another one that MIRROR does not name.
func (m Mirror) Sources(d Distribution, suite string, components []string) []string {
	if m.Main == "" {
		return nil
	}
	comps := strings.Join(components, " ")
	lines := []string{fmt.Sprintf("deb %s %s %s", m.Main, suite, comps)}
	if m.Snapshot {
		return lines
	}
	lines = append(lines, fmt.Sprintf("deb %s %s-updates %s", m.Main, suite, comps))
	if m.Security != "" {
		lines = append(lines, fmt.Sprintf("deb %s %s%s %s", m.Security, suite, d.Security, comps))
	}
	return lines
}

// HostAptOptions returns the machine's proxy settings as apt.conf lines:
// mmdebstrap reads no host configuration by itself.
func HostAptOptions(ctx context.Context, run sh.Runner) ([]string, error) {
	text, err := sh.Text(ctx, run, "apt-config", "dump").String()
	if err != nil {
		return nil, fmt.Errorf("reading the host's apt configuration: %w", err)
	}
	var opts []string
	for _, line := range strings.Split(text, "\n") {
		key, _, _ := strings.Cut(line, " ")
		key = strings.ToLower(key)
		if strings.HasPrefix(key, "acquire::http::proxy") || strings.HasPrefix(key, "acquire::https::proxy") {
			opts = append(opts, line)
		}
	}
	return opts, nil
}
