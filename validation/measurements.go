package validation

import (
	"context"
	"strings"

	"cc-base/tasks/measurements"
	"cc-base/validation/check"
)

func (e *Env) measurementsChecks() []check.Check {
	return []check.Check{
		{ID: "measurements.computed", Title: "measurements.json and rvps.json hold what boot image, disk, firmware and certificates give", Area: "measurements",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact,
			Remedy: "trust no value in them; unpack the tarball again after checking its .sha256 and .asc", Func: e.on(computed)},
	}
}

// maxArtefact bounds what of the installer is read into memory at once, in
// bytes; a boot image is the largest.
const maxArtefact = 1 << 30

func computed(_ context.Context, env *Env) check.Verdict {
	folder, m, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	image, _, err := env.disk()
	if err != nil {
		return check.Broken(err)
	}
	read := func(name string) ([]byte, error) { return folder.Read(name, maxArtefact) }
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Path)
	}
	in, err := measurements.Load(m, image, names, read)
	if err != nil {
		return check.Broken(err)
	}
	document, err := read(measurements.File)
	if err != nil {
		return check.Broken(err)
	}
	values, err := read(measurements.RVPSFile)
	if err != nil {
		return check.Broken(err)
	}
	doc, err := measurements.Verify(document, values, in)
	if err != nil {
		return check.Failed("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	var without []string
	for _, n := range doc.NotComputed {
		without = append(without, n.What+" ("+n.Why+")")
	}
	detail := "nothing is left out"
	if len(without) > 0 {
		detail = "without " + strings.Join(without, ", ")
	}
	return check.Passed("%d SEV-SNP rows, %d TDX rows, %d TPM rows; %s", len(doc.SNP), len(doc.TDX), len(doc.TPM), detail)
}
