// Package trust decides whether an installer is accepted: who may have signed
// it, until when, and how old it may be. The rules are in a file of whoever
// accepts; nothing that comes with an installer adds to them.
//
//	# whom this site trusts
//	key 0123456789ABCDEF0123456789ABCDEF01234567 until 2027-06-30
//	revoked 89ABCDEF0123456789ABCDEF0123456789ABCDEF
//	minimum-epoch 1764115200
//
// One rule a line; empty lines and what follows a # are skipped. A revocation
// holds whatever else the file says. allow-unsigned, alone on a line, accepts
// installers without a signature; a signature that is there and bad is refused
// all the same.
package trust

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cc-base/tasks/fault"
)

// Rules are what a trust file says.
type Rules struct {
	Keys          map[string]time.Time // fingerprint to the first moment when it is trusted no more; zero for no end
	Revoked       map[string]bool      // by fingerprint
	MinimumEpoch  int64                // seconds since 1970 that an image's sources must have reached
	AllowUnsigned bool
}

// maxFile is far above any list that a person keeps, in bytes.
const maxFile = 1 << 20

// Read reads a trust file. Errors have code [fault.TrustFile] and name every
// line that is wrong.
func Read(file string) (Rules, error) {
	info, err := os.Stat(file)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFile) {
		err = fmt.Errorf("%s: not a file of at most %d bytes", file, maxFile)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return Rules{}, fault.New(fault.TrustFile, err)
	}
	return Parse(file, string(text))
}

// Parse reads the text of a trust file; name is for messages.
func Parse(name, text string) (Rules, error) {
	r := Rules{Keys: map[string]time.Time{}, Revoked: map[string]bool{}}
	var errs []error
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := r.add(words); err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", name, i+1, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Rules{}, fault.New(fault.TrustFile, err).
			Hint("the rules are: key FINGERPRINT [until DATE], revoked FINGERPRINT, minimum-epoch SECONDS, allow-unsigned")
	}
	return r, nil
}

func (r *Rules) add(words []string) error {
	rule, args := words[0], words[1:]
	switch {
	case rule == "key" && (len(args) == 1 || len(args) == 3 && args[1] == "until"):
		return r.addKey(args)
	case rule == "revoked" && len(args) == 1:
		fingerprint, err := Fingerprint(args[0])
		r.Revoked[fingerprint] = true
		return err
	case rule == "minimum-epoch" && len(args) == 1:
		epoch, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || epoch <= 0 {
			return fmt.Errorf("%q is not a number of seconds since 1970", args[0])
		}
		if r.MinimumEpoch != 0 {
			return errors.New("minimum-epoch is there twice")
		}
		r.MinimumEpoch = epoch
	case rule == "allow-unsigned" && len(args) == 0:
		r.AllowUnsigned = true
	default:
		return fmt.Errorf("%q is not a rule", strings.Join(words, " "))
	}
	return nil
}

func (r *Rules) addKey(args []string) error {
	fingerprint, err := Fingerprint(args[0])
	if err != nil {
		return err
	}
	if _, twice := r.Keys[fingerprint]; twice {
		return fmt.Errorf("key %s is there twice", fingerprint)
	}
	var end time.Time
	if len(args) == 3 {
		day, err := time.Parse(time.DateOnly, args[2])
		if err != nil {
			return fmt.Errorf("%q is not a date such as 2027-06-30", args[2])
		}
		end = day.AddDate(0, 0, 1) // the day itself counts
	}
	r.Keys[fingerprint] = end
	return nil
}

// Fingerprint returns the one way in which fingerprints of OpenPGP version 4
// keys are compared: 40 hexadecimal digits, upper case.
func Fingerprint(s string) (string, error) {
	s = strings.ToUpper(s)
	if !regexp.MustCompile(`^[0-9A-F]{40}$`).MatchString(s) {
		return "", fmt.Errorf("%q is not a fingerprint of 40 hexadecimal digits", s)
	}
	return s, nil
}
