package build

import (
	"context"
	"fmt"
	"os"
	"strings"

	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal"
)

func encryptStage() stage {
	return stage{
		name:    "encrypt",
		title:   "sealing the root volume",
		keys:    append(sealingKeys(), "ROOT_ENCRYPT"),
		reads:   []string{"prepare", "tee"},
		facts:   imageKeyDigest,
		cached:  true,
		outputs: func(b *Build) []string { return sealedFiles(b, "root") },
		run: func(ctx context.Context, b *Build) error {
			return b.seal(ctx, "root", b.scratch("root.tar"))
		},
	}
}

// sealingKeys are the settings that every sealed volume depends on.
func sealingKeys() []string {
	return []string{"LUKS_CIPHER", "LUKS_KEY_SIZE", "LUKS_HASH", "SOURCE_DATE_EPOCH"}
}

// sealedFiles are what seal writes for the volume.
func sealedFiles(b *Build, name string) []string {
	return []string{b.scratch(name + ".volume"), b.scratch(name + ".json")}
}

func (b *Build) imageKeyFile() string { return b.out("keys", "image.key") }

// imageKeyDigest makes the volumes depend on the image key, so that a new key
// gives new volumes. The key has 256 bits of entropy: its digest tells nothing.
func imageKeyDigest(b *Build) (map[string]string, error) {
	key, err := os.ReadFile(b.imageKeyFile())
	if os.IsNotExist(err) {
		return map[string]string{"image key": toBeMade}, nil
	}
	if err != nil {
		return nil, err
	}
	defer seal.Wipe(key)
	return map[string]string{"image key": digest.Bytes(append([]byte("cc-base image key/"), key...))}, nil
}

// seal builds the volume of the partition called name from a tar tree: its
// image under scratch/NAME.volume, what opens it under scratch/NAME.json.
func (b *Build) seal(ctx context.Context, name, tarFile string) error {
	p, ok := b.Config.Partition(name)
	if !ok {
		return fmt.Errorf("the disk table has no %s", name)
	}
	s := b.Config.Security
	v := seal.Volume{
		Label: p.Label, Tar: tarFile, Epoch: b.Config.OS.SourceDateEpoch, Encrypt: p.Encrypt,
		Encryption: seal.Encryption{Cipher: s.LUKSCipher, KeyBits: s.LUKSKeySize, Hash: s.LUKSHash},
	}
	how := "erofs and verity"
	if p.Encrypt {
		key, made, err := seal.ImageKey(b.imageKeyFile())
		if err != nil {
			return err
		}
		defer seal.Wipe(key)
		if made {
			b.log.event(name, "made the image key %s", b.imageKeyFile())
		}
		v.Key = key
		how = "erofs and verity in LUKS2 (" + s.LUKSCipher + ")"
	}
	b.log.event(name, "sealing %s as %s", fileSize(tarFile), how)
	verity, err := seal.Build(ctx, b.Tools, v, b.scratch(name+".volume"))
	if err != nil {
		return err
	}
	if p.Size > 0 {
		info, err := os.Stat(b.scratch(name + ".volume"))
		if err != nil {
			return err
		}
		if info.Size() > p.Size {
			return fault.Newf(fault.VolumeTooBig, "%s: the volume of %s is larger than its partition of %s", p.Label, size(info.Size()), size(p.Size)).
				Hint("set %s_SIZE to auto in config/partition.conf", strings.ToUpper(name))
		}
	}
	b.log.event(name, "%s sealed: %s, root hash %s…", p.Label, fileSize(b.scratch(name+".volume")), verity.RootHash[:16])
	return b.keep(name+".json", verity)
}

// sealed reads what seal kept.
func (b *Build) sealed(name string) (manifest.Verity, error) {
	var v manifest.Verity
	return v, b.kept(name+".json", &v)
}
