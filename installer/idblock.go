package main

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/tee/snp"
	"cc-base/tasks/tee/snp/idblock"
)

// idBlockUsage is the arguments of measure idblock, as the help shows them.
const idBlockUsage = "--new-key FILE | (--digest HEX | --firmware F --vcpus N --cpu-model M [--guest-features 0x1] [--kernel K [--initrd I] [--append S]])" +
	" --id-key FILE [--author-key FILE] [--guest-svn N] [--policy 0x30000] [--family-id HEX] [--image-id HEX] --out-block F --out-auth F [--json]"

// idBlockFlags are the flags of measure idblock.
type idBlockFlags struct {
	newKey, digest, idKey, authorKey, guestSVN, policy, familyID, imageID, outBlock, outAuth string
	launch                                                                                   launchFlags
	json                                                                                     bool
}

// launchFlags say what a launch digest is computed from.
type launchFlags struct {
	firmware, vcpus, cpuModel, features, kernel, initrd, append string
}

// idBlockResult is what measure idblock --json writes; block and auth are for
// QEMU's id-block= and id-auth= and libvirt's elements of that name.
type idBlockResult struct {
	LaunchDigest    snp.Digest `json:"launchDigest"`
	Policy          string     `json:"policy"`
	GuestSVN        uint32     `json:"guestSVN"`
	FamilyID        string     `json:"familyID"` // 32 hexadecimal digits
	ImageID         string     `json:"imageID"`
	IDKeyDigest     snp.Digest `json:"idKeyDigest"`
	AuthorKeyDigest string     `json:"authorKeyDigest,omitempty"` // 96 hexadecimal digits
	Block           string     `json:"block"`                     // base64
	Auth            string     `json:"auth"`                      // base64
}

// measureIDBlock signs the launch digest of an SEV-SNP guest, or makes a key for
// that.
func measureIDBlock(_ context.Context, a *app, args []string) error {
	f, err := parseIDBlock(args)
	if err != nil {
		return err
	}
	if f.newKey != "" {
		return a.newIDKey(f.newKey)
	}
	block, err := f.block()
	if err != nil {
		return err
	}
	id, err := idblock.ReadKey(f.idKey)
	if err != nil {
		return err
	}
	var author *ecdsa.PrivateKey
	if f.authorKey != "" {
		if author, err = idblock.ReadKey(f.authorKey); err != nil {
			return err
		}
	}
	signed, err := idblock.Sign(block, id, author)
	if err != nil {
		return err
	}
	// What goes out must be what a processor will accept.
	if _, _, _, err := idblock.Verify(signed.Block[:], signed.Auth[:]); err != nil {
		return fault.New(fault.Signing, err)
	}
	for _, out := range []struct {
		file string
		data []byte
	}{{f.outBlock, signed.Block[:]}, {f.outAuth, signed.Auth[:]}} {
		if err := atomicfile.Write(out.file, 0o644, out.data); err != nil {
			return err
		}
	}
	result := idBlockResult{
		LaunchDigest: block.LaunchDigest, Policy: fmt.Sprintf("%#x", block.Policy), GuestSVN: block.GuestSVN,
		FamilyID: hex.EncodeToString(block.FamilyID[:]), ImageID: hex.EncodeToString(block.ImageID[:]),
		Block: base64.StdEncoding.EncodeToString(signed.Block[:]), Auth: base64.StdEncoding.EncodeToString(signed.Auth[:]),
	}
	if result.IDKeyDigest, err = idblock.KeyDigest(&id.PublicKey); err != nil {
		return err
	}
	if author != nil {
		sum, err := idblock.KeyDigest(&author.PublicKey)
		if err != nil {
			return err
		}
		result.AuthorKeyDigest = hex.EncodeToString(sum[:])
	}
	if f.json {
		return a.writeJSON(result)
	}
	return result.text(a)
}

func (r idBlockResult) text(a *app) error {
	author := r.AuthorKeyDigest
	if author == "" {
		author = "none"
	}
	_, err := fmt.Fprintf(a.out, "launch digest      %s\npolicy             %s\nguest svn          %d\nid key digest      %s\nauthor key digest  %s\n",
		r.LaunchDigest, r.Policy, r.GuestSVN, r.IDKeyDigest, author)
	return err
}

// newIDKey makes a key and prints the digest by which reports name it.
func (a *app) newIDKey(path string) error {
	public, err := idblock.CreateKey(path)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists, and a key is never overwritten", path)
	}
	if err != nil {
		return err
	}
	sum, err := idblock.KeyDigest(public)
	if err != nil {
		return err
	}
	a.say("measure: the private key is in %s; keep it where no host of a VM can reach it", path)
	_, err = fmt.Fprintf(a.out, "%x\n", sum)
	return err
}

func parseIDBlock(args []string) (idBlockFlags, error) {
	var f idBlockFlags
	set := measureFlags("idblock")
	set.StringVar(&f.newKey, "new-key", "", "")
	set.StringVar(&f.digest, "digest", "", "")
	set.StringVar(&f.idKey, "id-key", "", "")
	set.StringVar(&f.authorKey, "author-key", "", "")
	set.StringVar(&f.guestSVN, "guest-svn", "0", "")
	set.StringVar(&f.policy, "policy", "0x30000", "")
	set.StringVar(&f.familyID, "family-id", "", "")
	set.StringVar(&f.imageID, "image-id", "", "")
	set.StringVar(&f.outBlock, "out-block", "", "")
	set.StringVar(&f.outAuth, "out-auth", "", "")
	set.StringVar(&f.launch.firmware, "firmware", "", "")
	set.StringVar(&f.launch.vcpus, "vcpus", "", "")
	set.StringVar(&f.launch.cpuModel, "cpu-model", "", "")
	set.StringVar(&f.launch.features, "guest-features", "0x1", "")
	set.StringVar(&f.launch.kernel, "kernel", "", "")
	set.StringVar(&f.launch.initrd, "initrd", "", "")
	set.StringVar(&f.launch.append, "append", "", "")
	set.BoolVar(&f.json, "json", false, "")
	if err := parseMeasure(set, args); err != nil {
		return f, err
	}
	if f.newKey != "" {
		if set.NFlag() > 1 {
			return f, errors.New("--new-key stands alone")
		}
		return f, nil
	}
	return f, f.check()
}

// check says what is missing or given twice.
func (f idBlockFlags) check() error {
	for _, needed := range [][2]string{{"id-key", f.idKey}, {"out-block", f.outBlock}, {"out-auth", f.outAuth}} {
		if needed[1] == "" {
			return fmt.Errorf("--%s is missing", needed[0])
		}
	}
	l := f.launch
	switch {
	case f.digest == "" && l.firmware == "":
		return errors.New("--digest or --firmware is missing")
	case f.digest != "" && (l.firmware+l.vcpus+l.cpuModel+l.kernel+l.initrd+l.append != "" || l.features != "0x1"):
		return errors.New("--digest stands for what --firmware and the flags beside it would give")
	case f.digest == "" && (l.vcpus == "" || l.cpuModel == ""):
		return errors.New("--firmware needs --vcpus and --cpu-model")
	case f.authorKey != "" && sameFile(f.authorKey, f.idKey):
		return errors.New("the author key is there to outlive the ID key: it must be another one")
	case l.kernel == "" && l.initrd+l.append != "":
		return errors.New("--initrd and --append are measured with --kernel only")
	}
	return f.distinct()
}

// distinct refuses an output that is another file of the command: it would
// replace a key.
func (f idBlockFlags) distinct() error {
	files := []struct{ flag, path string }{
		{"--out-block", f.outBlock}, {"--out-auth", f.outAuth}, {"--id-key", f.idKey}, {"--author-key", f.authorKey},
		{"--firmware", f.launch.firmware}, {"--kernel", f.launch.kernel}, {"--initrd", f.launch.initrd},
	}
	for i, out := range files[:2] {
		for _, other := range files[i+1:] {
			if other.path != "" && sameFile(out.path, other.path) {
				return fmt.Errorf("%s and %s are one file", out.flag, other.flag)
			}
		}
	}
	return nil
}

func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	two, err := os.Stat(b)
	return err == nil && os.SameFile(one, two)
}

// block is what is to be signed.
func (f idBlockFlags) block() (idblock.Block, error) {
	var b idblock.Block
	svn, err := strconv.ParseUint(f.guestSVN, 10, 32)
	if err != nil {
		return b, fmt.Errorf("--guest-svn %q is not a number of 32 bits", f.guestSVN)
	}
	b.GuestSVN = uint32(svn)
	if b.Policy, err = strconv.ParseUint(f.policy, 0, 64); err != nil {
		return b, fmt.Errorf("--policy %q is not a number such as 0x30000", f.policy)
	}
	for _, field := range []struct {
		flag, text string
		to         []byte
	}{{"family-id", f.familyID, b.FamilyID[:]}, {"image-id", f.imageID, b.ImageID[:]}, {"digest", f.digest, b.LaunchDigest[:]}} {
		if field.text == "" {
			continue
		}
		data, err := hex.DecodeString(field.text)
		if err != nil || len(data) != len(field.to) {
			return b, fmt.Errorf("--%s is not %d hexadecimal digits", field.flag, 2*len(field.to))
		}
		copy(field.to, data)
	}
	if f.digest == "" {
		digest, err := f.launch.digest()
		if err != nil {
			return b, err
		}
		b.LaunchDigest = digest
	}
	return b, nil
}

// digest computes what measure snp prints for the same flags.
func (l launchFlags) digest() (snp.Digest, error) {
	o := snp.Options{Model: l.cpuModel}
	var err error
	if o.VCPUs, err = strconv.Atoi(l.vcpus); err != nil {
		return snp.Digest{}, fmt.Errorf("--vcpus %q is not a number", l.vcpus)
	}
	if o.Features, err = strconv.ParseUint(l.features, 0, 64); err != nil {
		return snp.Digest{}, fmt.Errorf("--guest-features %q is not a number such as 0x1", l.features)
	}
	image, err := readFirmware(l.firmware)
	if err != nil {
		return snp.Digest{}, err
	}
	if l.kernel != "" {
		hashes, err := hashBoot(l.kernel, l.initrd, l.append)
		if err != nil {
			return snp.Digest{}, err
		}
		o.Kernel = &hashes
	}
	digest, err := snp.Launch(image, o)
	return digest, named(l.firmware, err)
}
