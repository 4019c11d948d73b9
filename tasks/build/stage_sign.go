package build

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/measurements"
	"cc-base/tasks/sh"
	"cc-base/tasks/sign"
)

func signStage() stage {
	return stage{
		name:  "sign",
		title: "signing the installer",
		reads: []string{"package"},
		facts: func(b *Build) (map[string]string, error) {
			choice, err := b.signing()
			if err != nil {
				return nil, err
			}
			facts := map[string]string{"key": choice.Path}
			if choice.Source == sign.Command {
				facts["command"], _ = b.LookupEnv(sign.CommandEnv)
			}
			if choice.Path == "" {
				return facts, nil
			}
			// A digest of the (perhaps locked) key file; what it is made from
			// has full entropy.
			facts["key file"], err = digest.File(choice.Path)
			if errors.Is(err, fs.ErrNotExist) {
				facts["key file"], err = toBeMade, nil
			}
			return facts, err
		},
		outputs: func(b *Build) []string {
			choice, err := b.signing()
			if err != nil || choice.Source == sign.Unsigned {
				return nil
			}
			var signatures []string
			for _, file := range b.signed() {
				signatures = append(signatures, file+sign.Extension)
			}
			return signatures
		},
		run: signInstaller,
	}
}

// signed are the files that get a signature of their own: the installer, and
// what a verifier wants without it.
func (b *Build) signed() []string {
	return []string{b.installer(), b.out(measurements.File), b.out(measurements.RVPSFile)}
}

func (b *Build) signing() (sign.Choice, error) {
	choice, err := sign.Choose(b.LookupEnv, b.keysDir())
	if err != nil || choice.Source != sign.GivenKey && choice.Source != sign.Command {
		return choice, err
	}
	const given = sign.KeyFileEnv + " or " + sign.CommandEnv
	switch {
	case b.Config.Security.DebugImage:
		return sign.Choice{}, fault.Newf(fault.DebugImage, "%s is set, and this is a debug image: its console has a root shell", given).
			Hint("unset it: a debug image is signed with the key in %s, which is made for that", b.keysDir())
	case b.SeedFile != "":
		return sign.Choice{}, fault.Newf(fault.Seeded, "%s is set, and so is CC_SEED_FILE", given)
	}
	return choice, err
}

func signInstaller(ctx context.Context, b *Build) error {
	choice, err := b.signing()
	if err != nil {
		return err
	}
	b.log.event("sign", "%s", choice.Why)
	if choice.Source == sign.Unsigned {
		b.log.event("sign", "WARNING: %s is UNSIGNED; whoever installs it cannot tell where it comes from", filepath.Base(b.installer()))
		var errs []error
		for _, file := range b.signed() {
			_, err := sign.Unsign(file)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	if choice.Source == sign.Command {
		return b.signByCommand(ctx, choice.Path)
	}
	key, err := choice.Key(sign.Passphrase(ctx, b.LookupEnv), b.projectKey())
	if err != nil {
		return err
	}
	defer key.Wipe()
	for _, file := range b.signed() {
		if err := key.SignFile(ctx, file, time.Time{}); err != nil {
			return err
		}
	}
	b.log.event("sign", "signed by %s, %s", key.Identity(), key.Fingerprint())
	return nil
}

// signByCommand has another program sign, which gets this process's environment:
// it finds its agent or module there.
func (b *Build) signByCommand(ctx context.Context, publicKey string) error {
	public, err := os.ReadFile(publicKey)
	if err != nil {
		return fault.New(fault.SigningKey, err)
	}
	program, _ := b.LookupEnv(sign.CommandEnv)
	external := sign.External{Program: program, Public: public}
	var s sign.Signature
	for _, file := range b.signed() {
		if s, err = external.SignFile(ctx, sh.Host{Log: b.Stderr, Env: os.Environ()}, file); err != nil {
			return err
		}
	}
	b.log.event("sign", "signed by %s, %s", s.Identity, s.Fingerprint)
	return nil
}

// projectKey describes the key that a developer's first build makes.
func (b *Build) projectKey() sign.Spec {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	spec := sign.Spec{Name: "cc-base project key", Email: "cc-base@" + host}
	if b.Config.Security.DebugImage {
		spec.Name = "cc-base DEBUG key, not for production"
	}
	return spec
}
