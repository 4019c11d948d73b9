package validation

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cc-base/validation/check"
)

func (e *Env) bundleChecks() []check.Check {
	const again = "unpack the tarball again after checking its .sha256 and .asc; do not use this folder"
	return []check.Check{
		{ID: "bundle.checksums", Title: "every file that SHA256SUMS lists is the one that was built", Area: "bundle",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact, Remedy: again, Func: e.on(checksums)},
		{ID: "bundle.unlisted", Title: "there is no file that SHA256SUMS does not list", Area: "bundle",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact, Remedy: again, Func: e.on(unlisted)},
		{ID: "bundle.manifest", Title: "the manifest and SHA256SUMS agree about the files", Area: "bundle",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact, Remedy: again, Func: e.on(manifestFiles)},
	}
}

func checksums(ctx context.Context, env *Env) check.Verdict {
	folder, _, err := env.installer()
	if err != nil {
		return check.Failed("%s", err)
	}
	if err := folder.Verify(ctx); err != nil {
		return check.Failed("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return check.Passed("all of them, %s among them", "cc-install")
}

func unlisted(_ context.Context, env *Env) check.Verdict {
	folder, _, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	names, err := folder.Unlisted()
	if err != nil {
		return check.Broken(err)
	}
	if len(names) > 0 {
		return check.Failed("not listed: %s", strings.Join(names, ", "))
	}
	return check.Passed("detached signatures apart, which are made after the list")
}

func manifestFiles(_ context.Context, env *Env) check.Verdict {
	folder, m, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	var findings []string
	for _, f := range m.Files {
		digest, listed := folder.Listed(f.Path)
		switch {
		case !listed:
			findings = append(findings, f.Path+" is not in SHA256SUMS")
		case digest != f.SHA256:
			findings = append(findings, f.Path+" has another checksum in SHA256SUMS")
		}
		if info, err := folder.Stat(f.Path); err != nil || info.Size() != f.Size {
			findings = append(findings, fmt.Sprintf("%s is not a file of %d bytes", f.Path, f.Size))
		}
	}
	slices.Sort(findings)
	return check.Judge(findings, "%d files", len(m.Files))
}
