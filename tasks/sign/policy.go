package sign

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cc-base/tasks/fault"
)

// Environment variables that decide about signing. None of them holds a secret.
const (
	KeyFileEnv      = "CC_SIGNING_KEY_FILE"      // path of an armoured private key
	PassphraseFDEnv = "CC_SIGNING_PASSPHRASE_FD" // number of an inherited descriptor
	CommandEnv      = "CC_SIGN_COMMAND"          // path of a program that signs; see External
	CommandKeyEnv   = "CC_SIGN_COMMAND_KEY"      // path of its armoured public key
	ciEnv           = "CI"
)

// secretEnvs are names that people try. A secret there can be read by every
// process of the user and ends up in logs, so their mere presence is an error.
func secretEnvs() []string {
	return []string{"CC_SIGNING_PASSPHRASE", "CC_SIGNING_KEY"}
}

// Lookup is os.LookupEnv or a test's stand-in.
type Lookup func(name string) (value string, ok bool)

// Source says where the signing key comes from.
type Source int

// The sources.
const (
	Unsigned   Source = iota // no signature; a stale one must go
	GivenKey                 // the file that CC_SIGNING_KEY_FILE names
	ProjectKey               // the developer's key in the keys folder
	Command                  // the program that CC_SIGN_COMMAND names; Path is its public key
)

// Choice is the decision of [Choose].
type Choice struct {
	Source Source
	Path   string // of the private key, for Command of the public one; empty for Unsigned
	Create bool   // the project key does not exist yet
	Why    string // one line for the log, lower case
}

// Choose decides which key signs. It reads no key and writes nothing.
//
// CC_SIGN_COMMAND, when set and not empty, signs instead of any key; with
// CC_SIGNING_KEY_FILE as well, or without its public key, it is an error. Else:
//
//  1. CC_SIGNING_KEY_FILE, when set and not empty. A file that is not there is
//     an error, not a reason to take another key.
//  2. Else nothing under CI (CI set, and not to false or 0): a key that each
//     run makes for itself would look like a signature and prove nothing.
//  3. Else the project key under keysDir, which is made once.
//
// Errors have code [fault.SigningKey].
func Choose(env Lookup, keysDir string) (Choice, error) {
	for _, name := range secretEnvs() {
		if value, ok := env(name); ok && value != "" {
			return Choice{}, fault.Newf(fault.SigningKey, "%s is set: a secret does not belong into the environment", name).
				Hint("unset it; %s names a file, %s a descriptor to read the passphrase from", KeyFileEnv, PassphraseFDEnv)
		}
	}
	path, given := env(KeyFileEnv)
	if program, set := env(CommandEnv); set && program != "" {
		return chooseCommand(env, path)
	}
	if path != "" {
		st, err := os.Stat(path)
		if err != nil {
			return Choice{}, fault.Newf(fault.SigningKey, "%s: %w", KeyFileEnv, err)
		}
		if !st.Mode().IsRegular() {
			return Choice{}, fault.Newf(fault.SigningKey, "%s: %s is not a regular file", KeyFileEnv, path)
		}
		return Choice{Source: GivenKey, Path: path, Why: "signing with the key that " + KeyFileEnv + " names"}, nil
	}
	if inCI(env) {
		why := "not signed: CI is set and " + KeyFileEnv + " is not"
		if given {
			// An undefined secret of a CI system arrives as an empty value.
			why = "not signed: CI is set and " + KeyFileEnv + " is empty"
		}
		return Choice{Source: Unsigned, Why: why}, nil
	}
	path = filepath.Join(keysDir, PrivateName)
	_, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Choice{Source: ProjectKey, Path: path, Create: true,
			Why: "making a project signing key, " + path + ": keep it, and give " + PublicName + " to those who verify"}, nil
	case err != nil:
		return Choice{}, fault.New(fault.SigningKey, err)
	}
	return Choice{Source: ProjectKey, Path: path, Why: "signing with the project key " + path}, nil
}

// chooseCommand takes the program that signs; keyFile is the rival setting.
func chooseCommand(env Lookup, keyFile string) (Choice, error) {
	if keyFile != "" {
		return Choice{}, fault.Newf(fault.SigningKey, "%s and %s are both set: only one can sign", CommandEnv, KeyFileEnv)
	}
	public, _ := env(CommandKeyEnv)
	if public == "" {
		return Choice{}, fault.Newf(fault.SigningKey, "%s is set and %s is not", CommandEnv, CommandKeyEnv).
			Hint("it names the armoured public key, which shows whether the program has signed rightly")
	}
	if _, err := os.Stat(public); err != nil {
		return Choice{}, fault.Newf(fault.SigningKey, "%s: %w", CommandKeyEnv, err)
	}
	return Choice{Source: Command, Path: public, Why: "signing with the program that " + CommandEnv + " names"}, nil
}

func inCI(env Lookup) bool {
	switch value, _ := env(ciEnv); value {
	case "", "0", "false":
		return false
	}
	return true
}

// Key loads the chosen key, or makes the project key from spec. For [Unsigned]
// it returns nil and no error. passphrase is as for [LoadKey].
func (c Choice) Key(passphrase func() ([]byte, error), spec Spec) (*Key, error) {
	switch c.Source {
	case Unsigned:
		return nil, nil
	case GivenKey:
		return LoadKey(c.Path, passphrase)
	case Command:
		return nil, fault.Newf(fault.SigningKey, "%s signs files only, and this needs a key", CommandEnv).
			Hint("unset it and set %s", KeyFileEnv)
	}
	dir := filepath.Dir(c.Path)
	if c.Create {
		k, err := GenerateKey(dir, spec)
		if !errors.Is(err, fs.ErrExist) {
			return k, err
		}
		// Another build made it since Choose looked; use that one.
	}
	k, err := LoadKey(c.Path, passphrase)
	if err != nil {
		return nil, err
	}
	// A build killed between the two files leaves the public half out.
	if _, err := os.Lstat(filepath.Join(dir, PublicName)); errors.Is(err, fs.ErrNotExist) {
		if err := k.savePublic(dir); err != nil {
			k.Wipe()
			return nil, fault.New(fault.SigningKey, fmt.Errorf("public key: %w", err))
		}
	}
	return k, nil
}
