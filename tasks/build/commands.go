package build

import (
	"fmt"
	"io"

	"cc-base/tasks/conf"
	"cc-base/tasks/sign"
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
	return conf.Load(conf.Options{Dir: o.ConfigDir, Profile: o.Profile})
}

// MakeSigningKey makes the project's signing key under out/keys. One that is
// there stays: its signatures are already in other hands.
func MakeSigningKey(o Options) error {
	if err := o.makeOut(); err != nil {
		return err
	}
	b := Build{Options: o}
	key, err := sign.GenerateKey(b.out("keys"), projectKey())
	if err != nil {
		return err
	}
	defer key.Wipe()
	fmt.Fprintf(o.Stderr, "keys: made %s, %s; give %s to those who verify\n", key.Identity(), key.Fingerprint(), b.out("keys", sign.PublicName))
	return nil
}
