package validation

import (
	"context"
	"fmt"
	"io"
	"strings"

	"cc-base/installer/unpacked"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal/header"
	"cc-base/validation/check"
)

func (e *Env) keysChecks() []check.Check {
	return []check.Check{
		{ID: "keys.image-key", Title: "the image key is there and only its owner can read it", Area: "keys",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact,
			Remedy: "chmod 600 image.key, or install with --image-key FILE", Func: e.on(imageKey)},
		{ID: "keys.encrypted", Title: "the partitions that are said to be encrypted are LUKS, and no others", Area: "keys",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact,
			Remedy: "build the image again", Func: e.on(encryptedOnes)},
		{ID: "keys.headers", Title: "each LUKS2 header is whole, with one keyslot and one encrypted segment", Area: "keys",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact,
			Remedy: "build the image again; such a header must not be opened", Func: e.on(headers)},
	}
}

func imageKey(_ context.Context, env *Env) check.Verdict {
	folder, _, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	info, err := folder.Stat(unpacked.ImageKey)
	if err != nil {
		if _, err := folder.Stat(unpacked.ImageKey + ".asc"); err == nil {
			return check.Skipped("the key travels encrypted to its recipients, as %s.asc", unpacked.ImageKey)
		}
		return check.Skipped("the key does not travel in this installer")
	}
	switch {
	case !info.Mode().IsRegular():
		return check.Failed("%s is not a regular file", unpacked.ImageKey)
	case info.Size() < 16:
		return check.Failed("%s has %d bytes, too few for a key", unpacked.ImageKey, info.Size())
	case info.Mode().Perm()&0o077 != 0:
		return check.Failed("%s has mode %04o", unpacked.ImageKey, info.Mode().Perm())
	}
	return check.Passed("mode %04o; it opens the shipped image, which is not secret", info.Mode().Perm())
}

// sealed returns the partitions with content of the build in them.
func sealed(d manifest.Disk) []manifest.Partition {
	var out []manifest.Partition
	for _, p := range d.Partitions {
		if p.ContentSize > 0 {
			out = append(out, p)
		}
	}
	return out
}

func encryptedOnes(_ context.Context, env *Env) check.Verdict {
	image, d, err := env.disk()
	if err != nil {
		return check.Broken(err)
	}
	var findings, encrypted []string
	for _, p := range sealed(d) {
		var start [6]byte
		if _, err := image.ReadAt(start[:], p.Start); err != nil {
			return check.Broken(err)
		}
		is := header.IsLUKS(start[:])
		if is != p.Encrypted {
			findings = append(findings, fmt.Sprintf("%s: encrypted is %v in the manifest, %v on the disk", p.Label, p.Encrypted, is))
		}
		if is {
			encrypted = append(encrypted, p.Label)
		}
	}
	return check.Judge(findings, "encrypted: %s", strings.Join(encrypted, ", "))
}

func headers(_ context.Context, env *Env) check.Verdict {
	image, d, err := env.disk()
	if err != nil {
		return check.Broken(err)
	}
	var findings, seen []string
	for _, p := range sealed(d) {
		if !p.Encrypted {
			continue
		}
		c, err := header.Read(io.NewSectionReader(image, p.Start, p.ContentSize))
		if err != nil {
			findings = append(findings, p.Label+": "+err.Error())
			continue
		}
		for _, f := range shipped(c) {
			findings = append(findings, p.Label+": "+f)
		}
		for _, s := range c.Metadata().Segments {
			seen = append(seen, p.Label+" "+s.Encryption)
		}
	}
	if len(findings) == 0 && len(seen) == 0 {
		return check.Skipped("this image has no encrypted volume")
	}
	return check.Judge(findings, "%s", strings.Join(seen, ", "))
}

// shipped returns everything that the header of a shipped volume must not have:
// the guest takes one copy where a write was cut off, and slots and tokens of
// its own, but the build leaves two whole copies and the image key's slot.
func shipped(c *header.Copy) []string {
	var out []string
	err := c.Check(header.Rules{Cipher: "aes-xts-plain64", SectorSize: 4096, HeaderSize: header.Size})
	if err != nil {
		out = strings.Split(err.Error(), "\n")
	}
	if err := c.Damage(); err != nil {
		out = append(out, err.Error())
	}
	if m := c.Metadata(); len(m.Keyslots) != 1 || len(m.Tokens) != 0 {
		out = append(out, fmt.Sprintf("%d keyslots and %d tokens, not 1 and 0", len(m.Keyslots), len(m.Tokens)))
	}
	return out
}
