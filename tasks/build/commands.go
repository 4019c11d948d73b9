package build

import (
	"fmt"
	"io"
	"os"

	"cc-base/tasks/build/recipient"
	"cc-base/tasks/conf"
	"cc-base/tasks/sign"
	"cc-base/tasks/tpm"
)

// ValidateConfig loads the configuration, which reports every error at once,
// and prints what is allowed but worth knowing.
func ValidateConfig(o Options, w io.Writer) error {
	c, err := o.config()
	if err != nil {
		return err
	}
	for _, note := range c.Notes() {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	fmt.Fprintln(w, "the configuration is valid")
	return nil
}

// ShowConfig prints every setting in force.
func ShowConfig(o Options, w io.Writer, verbose bool) error {
	c, err := o.config()
	if err != nil {
		return err
	}
	return c.Show(w, verbose)
}

func (o Options) config() (conf.Config, error) {
	return conf.Load(conf.Options{Dir: o.ConfigDir, Profile: o.Profile, File: lookAt})
}

// lookAt reads a file that a key names, so that a wrong one is a mistake in the
// configuration and not the end of a build.
func lookAt(key, path string) error {
	if key == "KEY_RECIPIENTS" {
		_, err := recipient.Read(path)
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = tpm.ParseSRKPublic(text)
	return err
}

// MakeSigningKey makes the project's signing key under out/keys. One that is
// there stays: its signatures are already in other hands.
func MakeSigningKey(o Options) error {
	if err := o.makeOut(); err != nil {
		return err
	}
	config, err := o.config()
	if err != nil {
		return err
	}
	b := Build{Options: o, Config: config}
	key, err := sign.GenerateKey(b.keysDir(), b.projectKey())
	if err != nil {
		return err
	}
	defer key.Wipe()
	fmt.Fprintf(o.Stderr, "keys: made %s, %s; give %s to those who verify\n", key.Identity(), key.Fingerprint(), b.keysDir(sign.PublicName))
	return nil
}
