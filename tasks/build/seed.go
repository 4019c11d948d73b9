package build

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/seal"
	"cc-base/tasks/toolbox"
)

const (
	// minSeed is the shortest seed in bytes: what one volume key has.
	minSeed = 32

	// drawn is how much is drawn from the seed for a volume, in bytes, and supplied how
	// much there is in all, the rest zeros. cryptsetup draws 32 MiB to wipe what it moved
	// the data from, and less than 1 for keys and salts; at the end of the file it would
	// wait for ever.
	drawn, supplied = 64 << 20, 1 << 30
)

// seed returns what CC_SEED_FILE holds. With it two builds give the same LUKS2
// volumes, and so the same disk, to the byte. Whoever has it has their keys.
func (b *Build) seed() ([]byte, error) {
	seed, err := os.ReadFile(b.SeedFile)
	if err != nil {
		return nil, fault.Newf(fault.Seeded, "CC_SEED_FILE: %w", err)
	}
	if len(seed) < minSeed {
		seal.Wipe(seed)
		return nil, fault.Newf(fault.Seeded, "CC_SEED_FILE: %s is shorter than %d bytes", b.SeedFile, minSeed)
	}
	return seed, nil
}

// sealingTools is the tools tree for sealing the volume. With a seed the programs that
// encrypt draw from that, which lies in a file until done is called.
func (b *Build) sealingTools(volume string, encrypt bool) (tools toolbox.Tree, done func(), err error) {
	if b.SeedFile == "" || !encrypt {
		return b.Tools, func() {}, nil
	}
	seed, err := b.seed()
	if err != nil {
		return tools, nil, err
	}
	defer seal.Wipe(seed)
	b.log.event(volume, "WARNING: its key comes from CC_SEED_FILE: whoever has that file reads the volume")
	stream := rand.NewChaCha8(sha256.Sum256(append(append([]byte{}, seed...), volume...)))
	file := b.scratch(volume + ".random")
	err = atomicfile.Fill(file, 0o600, func(w io.Writer) error {
		_, err := io.CopyN(w, stream, drawn)
		return err
	})
	if err == nil {
		err = os.Truncate(file, supplied)
	}
	tools = b.Tools
	tools.Random = file
	return tools, func() { os.Remove(file) }, err
}
