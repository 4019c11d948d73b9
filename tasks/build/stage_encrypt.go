package build

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cc-base/tasks/boot"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal"
	"cc-base/tasks/tpm"
	"cc-base/tasks/tpm/token"
)

func encryptStage() stage {
	return stage{
		name:    "encrypt",
		title:   "sealing the root volume",
		keys:    append(sealingKeys(), "ROOT_ENCRYPT", "TPM_SRK"),
		reads:   []string{"prepare", "tee"},
		facts:   volumeKeyDigests,
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

// imageKey returns what opens the image's volumes. The first of the stages that
// ask for it makes it.
func (b *Build) imageKey(name string) ([]byte, error) {
	b.making.Lock()
	defer b.making.Unlock()
	key, made, err := seal.ImageKey(b.imageKeyFile())
	if made {
		b.log.event(name, "made the image key %s", b.imageKeyFile())
	}
	return key, err
}

// sealedFiles are what seal writes for the volume.
func sealedFiles(b *Build, name string) []string {
	return []string{b.scratch(name + ".volume"), b.scratch(name + ".json")}
}

func (b *Build) imageKeyFile() string    { return b.keysDir("image.key") }
func (b *Build) recoveryKeyFile() string { return b.keysDir("recovery.key") }

// volumeKeyDigests makes the volumes depend on what opens them, so that a new
// key gives new volumes. The keys have 256 bits of entropy: their digests tell
// nothing. Unlike the image key, the recovery key is never made by a build:
// somebody has to keep it.
func volumeKeyDigests(b *Build) (map[string]string, error) {
	facts := map[string]string{"image key": toBeMade}
	if b.SeedFile != "" {
		seed, err := b.seed()
		if err != nil {
			return nil, err
		}
		facts["seed"] = secretDigest("seed", seed)
	}
	for name, file := range map[string]string{"image key": b.imageKeyFile(), "recovery key": b.recoveryKeyFile()} {
		key, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		facts[name] = secretDigest(name, key)
	}
	if srk := b.Config.Security.TPMSRK; srk != "" {
		var err error
		if facts["TPM_SRK file"], err = digest.File(b.configFile(srk)); err != nil {
			return nil, err
		}
		facts["PCR key"], err = digest.File(filepath.Join(b.pcrKeyDir(), "pcr.pub"))
		if os.IsNotExist(err) {
			facts["PCR key"], err = toBeMade, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return facts, nil
}

// secretDigest is a digest of a secret for one use, and wipes it.
func secretDigest(use string, secret []byte) string {
	defer seal.Wipe(secret)
	salted := append([]byte("cc-base "+use+"/"), secret...)
	defer seal.Wipe(salted)
	return digest.Bytes(salted)
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
		key, err := b.imageKey(name)
		if err != nil {
			return err
		}
		defer seal.Wipe(key)
		v.Key = key
		how = "erofs and verity in LUKS2 (" + s.LUKSCipher + ")"
		if v.Recovery, err = seal.RecoveryKey(b.recoveryKeyFile()); err != nil {
			return err
		}
		defer seal.Wipe(v.Recovery)
		if v.Recovery != nil {
			how += " with a recovery key"
		}
		if s.TPMSRK != "" {
			bound, err := b.boundToTPM(p.Label)
			if err != nil {
				return err
			}
			defer seal.Wipe(bound.Passphrase)
			v.Bound = append(v.Bound, bound)
			how += ", bound to the TPM of " + s.TPMSRK
		}
	}
	b.log.event(name, "sealing %s as %s", fileSize(tarFile), how)
	tools, done, err := b.sealingTools(name, p.Encrypt)
	if err != nil {
		return err
	}
	defer done()
	verity, err := seal.Build(ctx, tools, v, b.scratch(name+".volume"))
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

// pcrKey returns what signs the measurements that open the volumes. The first of
// the stages that ask for it makes it.
func (b *Build) pcrKey(name string) (boot.PCRKey, error) {
	b.making.Lock()
	defer b.making.Unlock()
	key, made, err := boot.LoadOrMakePCRKey(b.pcrKeyDir())
	if made {
		b.log.event(name, "made the PCR key %s", key.Public)
	}
	return key, err
}

// boundToTPM returns a new passphrase that the TPM of TPM_SRK alone gives back,
// to an image whose PCR 11 is signed with our key and to whose command line
// nothing was added (PCR 12: command line and credentials, 13: extensions; both
// zero). What else that machine measures is not known here: the guest binds to
// TPM_PCR when it enrols at its first boot.
func (b *Build) boundToTPM(label string) (seal.BoundKey, error) {
	key, err := b.pcrKey(label)
	if err != nil {
		return seal.BoundKey{}, err
	}
	file, err := os.ReadFile(b.configFile(b.Config.Security.TPMSRK))
	if err != nil {
		return seal.BoundKey{}, err
	}
	srk, err := tpm.ParseSRKPublic(file)
	if err != nil {
		return seal.BoundKey{}, fault.New(fault.Sealing, fmt.Errorf("%s: %w", b.Config.Security.TPMSRK, err))
	}
	policy, err := tpm.Policy{Literal: tpm.PCRs{12: {}, 13: {}}, Key: &key.Private.PublicKey, SignedPCRs: []int{11}}.Digest()
	if err != nil {
		return seal.BoundKey{}, fault.New(fault.Sealing, err)
	}
	secret := make([]byte, 32)
	defer seal.Wipe(secret)
	if _, err := rand.Read(secret); err != nil {
		return seal.BoundKey{}, err
	}
	sealed, err := tpm.SealTo(srk, secret, policy)
	if err != nil {
		return seal.BoundKey{}, fault.New(fault.Sealing, err)
	}
	extra, err := tokenFields(label)
	if err != nil {
		return seal.BoundKey{}, err
	}
	passphrase := make([]byte, base64.StdEncoding.EncodedLen(len(secret)))
	base64.StdEncoding.Encode(passphrase, secret)
	return seal.BoundKey{Passphrase: passphrase, Token: func(slot int) ([]byte, error) {
		return token.Token{
			Keyslots: []string{strconv.Itoa(slot)}, Sealed: sealed, PCRs: []int{12, 13}, Bank: "sha256", PrimaryAlg: "ecc",
			PolicyHash: policy[:], Key: &key.Private.PublicKey, SignedPCRs: []int{11}, SRK: token.SerializeSRK(srkOf(srk)), Extra: extra,
		}.Marshal()
	}}, nil
}

// srkOf names a storage root key: SHA-256 and its digest of the public area
// (TPM 2.0 Library Part 1, "Names"), without the length that comes first.
func srkOf(public []byte) tpm.SRK {
	sum := sha256.Sum256(public[2:])
	return tpm.SRK{Handle: tpm.SRKHandle, Name: append([]byte{0x00, 0x0b}, sum[:]...), Public: public}
}

// tokenFields are what cc-guest asks of a token of its own: the volume that it
// is for, and that it is in force. Epoch 0 is the build's; the guest counts from
// 1.
func tokenFields(label string) (map[string]json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	for name, value := range map[string]any{"cc-state": "active", "cc-epoch": 0, "cc-volume": label} {
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		fields[name] = raw
	}
	return fields, nil
}

// sealed reads what seal kept.
func (b *Build) sealed(name string) (manifest.Verity, error) {
	var v manifest.Verity
	return v, b.kept(name+".json", &v)
}
