package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"time"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
	"cc-base/tasks/tee/evidence"
)

// attestUsage is the part of the usage for attest.
const attestUsage = `  cc-install attest (--name DOMAIN | --socket PATH) --nonce HEX
                                               have a running VM prove itself to whoever drew the
                                               nonce; judge the answer there with verify-evidence
`

// attestPatience bounds the wait for a guest that may still be booting.
const attestPatience = 2 * time.Minute

// attest passes a verifier's nonce to a guest of this host and writes what the
// guest answers. Nothing is judged: the host is not who should be convinced.
func (a *app) attest(ctx context.Context, args []string) error {
	var name, socket, nonce string
	set := flag.NewFlagSet("attest", flag.ContinueOnError)
	set.StringVar(&name, "name", "", "")
	set.StringVar(&socket, "socket", "", "")
	set.StringVar(&nonce, "nonce", "", "")
	rest, err := parseFlags(set, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(a.out, attestUsage)
		return nil
	}
	switch {
	case err != nil:
	case len(rest) > 0:
		err = fmt.Errorf("%q is no flag", rest[0])
	case (name == "") == (socket == ""):
		err = errors.New("one of --name and --socket is needed")
	case nonce == "":
		err = errors.New("--nonce is needed: without it an old answer would do")
	}
	if err != nil {
		return fault.Newf(fault.Usage, "attest: %w", err).Hint("cc-install help shows the usage")
	}
	if _, err := evidence.ParseNonce(nonce); err != nil {
		return err
	}
	if name != "" {
		if socket, err = domain.ControlSocketOf(name); err != nil {
			return err
		}
	}
	answer, err := askEvidence(ctx, socket, nonce)
	if err != nil {
		return err
	}
	_, err = a.out.Write(answer)
	return err
}

// askEvidence returns a line of JSON that verify-evidence can read.
func askEvidence(ctx context.Context, socket, nonce string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, attestPatience)
	defer cancel()
	c, err := control.Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var raw json.RawMessage
	if err := c.Ask(ctx, "attest", map[string]string{"nonce": nonce}, &raw); err != nil {
		if fault.Of(err) == nil {
			err = fault.New(fault.Machine, err).Hint("the VM's console tells whether it still boots")
		}
		return nil, err
	}
	if _, err := evidence.ParseAttestation(raw); err != nil {
		return nil, fault.Newf(fault.Machine, "the guest's answer: %w", err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, raw); err != nil {
		return nil, err
	}
	line.WriteByte('\n')
	return line.Bytes(), nil
}
