// Package cmdline reads cc-base's parameters from the kernel command line.
//
// The command line is measured and holds the root hashes, so whatever is
// doubtful in it is an error, never a default: a parameter that is missing,
// given twice, unknown or not exactly in its form. The forms are
//
//	cc.root=luks+verity:<64 hex digits>:<hash offset in bytes>
//	cc.app=verity:<64 hex digits>:<hash offset in bytes>
//	cc.keys=tpm
//	cc.lockdown=late
//	cc.readall=1
//	cc.test=1
//	cc.debug=1
package cmdline

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// BlockSize is the data and hash block size of every verity volume.
	BlockSize = 4096
	// HashDigits is the length of a SHA-256 root hash in hexadecimal.
	HashDigits = 64

	// prefix marks the parameters that belong to cc-base.
	prefix = "cc."
	// maxBytes is the kernel's COMMAND_LINE_SIZE on x86.
	maxBytes = 2048
	// maxOffset keeps offset arithmetic far from overflow (1 PiB).
	maxOffset = 1 << 50
)

// Key profiles: where the secrets that open volumes come from.
const (
	TPM      = "tpm"
	SNP      = "snp"
	Attested = "attested"
)

// Volume says how one volume is opened.
type Volume struct {
	Name       string // mapped name and partition label, such as cc-root
	Encrypted  bool   // LUKS2 lies between the partition and verity
	RootHash   string // 64 lower-case hexadecimal digits
	HashOffset int64  // where the verity superblock begins, in bytes
}

// Params is everything that cc-base takes from the command line.
type Params struct {
	Root, App, Config Volume
	Keys              string // the key profile
	LateLockdown      bool   // cc-guest locks the kernel, when the GPU's driver is loaded
	ReadAll           bool   // read every byte before the machine is called ready
	Test              bool   // the measured mark of an image with devices that are not real
	Debug             bool   // the measured mark of an image with a shell on its console
}

// Volumes returns the volumes in the order in which they are opened.
func (p Params) Volumes() []Volume { return []Volume{p.Root, p.App, p.Config} }

// Encrypted tells whether any volume needs a key.
func (p Params) Encrypted() bool {
	return p.Root.Encrypted || p.App.Encrypted || p.Config.Encrypted
}

// Parse reads line as /proc/cmdline gives it, with or without the newline.
func Parse(line string) (Params, error) {
	line = strings.TrimSuffix(line, "\n")
	if len(line) > maxBytes {
		return Params{}, fmt.Errorf("the command line is longer than %d bytes", maxBytes)
	}
	// The kernel takes quotes away before it hands a parameter to a driver, so
	// a quoted cc.root would mean one thing to it and another to us.
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' || r == '"' }); i >= 0 {
		return Params{}, fmt.Errorf("the command line has a byte at %d that is not allowed", i)
	}

	var p Params
	volumes := map[string]*Volume{"cc.root": &p.Root, "cc.app": &p.App, "cc.config": &p.Config}
	seen := make(map[string]bool)
	for _, word := range strings.Split(line, " ") {
		if !strings.HasPrefix(word, prefix) {
			continue
		}
		key, value, _ := strings.Cut(word, "=")
		if seen[key] {
			return Params{}, fmt.Errorf("%s is given twice", key)
		}
		seen[key] = true
		if other, err := p.setting(key, value); other {
			if err != nil {
				return Params{}, err
			}
			continue
		}
		target, known := volumes[key]
		if !known {
			return Params{}, fmt.Errorf("%s is not a parameter of cc-base", key)
		}
		v, err := parseVolume(value)
		if err != nil {
			return Params{}, fmt.Errorf("%s: %w", key, err)
		}
		v.Name = "cc-" + strings.TrimPrefix(key, prefix)
		*target = v
	}
	for _, key := range []string{"cc.root", "cc.app", "cc.config", "cc.keys"} {
		if !seen[key] {
			return Params{}, fmt.Errorf("%s is missing", key)
		}
	}
	return p, nil
}

// setting takes a parameter that is no volume.
func (p *Params) setting(key, value string) (known bool, err error) {
	switch key {
	case "cc.keys":
		if value != TPM && value != SNP && value != Attested {
			return true, errors.New("cc.keys is not a key profile")
		}
		p.Keys = value
	case "cc.lockdown":
		if value != "late" {
			return true, errors.New("cc.lockdown is not late")
		}
		p.LateLockdown = true
	case "cc.readall", "cc.test", "cc.debug":
		if value != "1" {
			return true, fmt.Errorf("%s is not 1", key)
		}
		p.ReadAll = p.ReadAll || key == "cc.readall"
		p.Test = p.Test || key == "cc.test"
		p.Debug = p.Debug || key == "cc.debug"
	default:
		return false, nil
	}
	return true, nil
}

// parseVolume reads the value of a volume's parameter.
func parseVolume(value string) (Volume, error) {
	parts := strings.Split(value, ":")
	if len(parts) != 3 {
		return Volume{}, errors.New("want protection:root hash:hash offset")
	}
	var v Volume
	switch parts[0] {
	case "luks+verity":
		v.Encrypted = true
	case "verity":
	default:
		return Volume{}, errors.New("the protection is neither luks+verity nor verity")
	}
	if len(parts[1]) != HashDigits || strings.Trim(parts[1], "0123456789abcdef") != "" {
		return Volume{}, fmt.Errorf("the root hash is not %d lower-case hexadecimal digits", HashDigits)
	}
	v.RootHash = parts[1]
	offset, err := parseOffset(parts[2])
	if err != nil {
		return Volume{}, err
	}
	v.HashOffset = offset
	return v, nil
}

// parseOffset accepts exactly one spelling of each offset, so that equal
// volumes have equal command lines.
func parseOffset(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != text {
		return 0, errors.New("the hash offset is not a plain decimal number")
	}
	if n <= 0 || n > maxOffset || n%BlockSize != 0 {
		return 0, fmt.Errorf("the hash offset is not a positive multiple of %d", BlockSize)
	}
	return n, nil
}

// String renders v as its parameter, the inverse of [Parse].
func (v Volume) String() string {
	protection := "verity"
	if v.Encrypted {
		protection = "luks+verity"
	}
	return fmt.Sprintf("%s%s=%s:%s:%d", prefix, strings.TrimPrefix(v.Name, "cc-"), protection, v.RootHash, v.HashOffset)
}
