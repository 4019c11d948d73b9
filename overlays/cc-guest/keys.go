package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"cc-base/overlays/cc-guest/control"
	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/dynamic"
	"cc-base/overlays/cc-guest/internal/identity"
	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/port"
	"cc-base/overlays/cc-guest/internal/rotation"
	"cc-base/overlays/cc-guest/internal/source"
	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/fault"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/tpm"
)

// plainVerbs may be called by root at any time.
func plainVerbs() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"keys status":          showStatus,
		"keys status --json":   printStatus,
		"keys rotate":          func(ctx context.Context) error { return rotate(ctx, false) },
		"keys rotate --if-due": func(ctx context.Context) error { return rotate(ctx, true) },
		"keys prepare":         func(ctx context.Context) error { return prepare(ctx, os.Stdin) },
		"keys recovery":        printRecovery,
		"keys renew-volume":    renewVolume,
		"keys generate":        generateIdentity,
		"serve":                serve,
	}
}

// keys returns the view of the volumes, and the settings it is made from.
func keys() (rotation.Keys, settings.Settings, error) {
	s, err := readSettings()
	if err != nil {
		return rotation.Keys{}, s, err
	}
	state, err := keystate.Read(keystate.Dir)
	if err != nil {
		return rotation.Keys{}, s, fault.New(fault.GuestRotate, err)
	}
	l := s.Keys.LUKS
	return rotation.Keys{
		Dir: keystate.Dir, Runner: tools{}, Now: time.Now,
		Rules: func(label string) header.Rules {
			r := header.Rules{Cipher: l.Cipher, KeyBits: l.KeyBits, Hash: l.Hash, SectorSize: cmdline.BlockSize, HeaderSize: dynamic.HeaderSize}
			if label == dynamic.Label && state.Integrity {
				r.Integrity = dynamic.Integrity
			}
			return r
		},
		Open:   func(node string) (rotation.Partition, error) { return openPartition(node) },
		Secret: kept, Keep: keep,
	}, s, nil
}

func status() (rotation.Status, error) {
	k, _, err := keys()
	if err != nil {
		return rotation.Status{}, err
	}
	return k.Status()
}

func printStatus(context.Context) error {
	s, err := status()
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(data, '\n'))
	return err
}

func showStatus(context.Context) error {
	s, err := status()
	if err != nil {
		return err
	}
	fmt.Printf("profile %s\n", s.Profile)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "volume\tslot\tkind\tepoch\tstate\tmade")
	for _, v := range s.Volumes {
		for _, slot := range v.Slots {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", v.Label, slot.Slot, slot.Kind, slot.Epoch, slot.State, slot.Made)
		}
	}
	return w.Flush()
}

func rotate(ctx context.Context, ifDue bool) error {
	k, s, err := keys()
	if err != nil {
		return err
	}
	if ifDue {
		due, err := k.Due(time.Duration(s.Keys.RotationInterval) * time.Second)
		if err != nil || !due {
			return err
		}
	}
	return withSource(&k, s, func() error { return k.Rotate(ctx) })
}

// withSource gives k the source of the machine's key profile.
func withSource(k *rotation.Keys, s settings.Settings, do func() error) error {
	params, err := readParams()
	if err != nil {
		return err
	}
	from, done, err := runningSource(s, params.Keys)
	if err != nil {
		return err
	}
	defer done()
	k.Source = from
	return do()
}

// prediction is what another boot image will measure, as `mage tpm:pcrs -json`
// prints it: SHA-256 values by PCR number.
type prediction struct {
	PCRs map[string]string `json:"pcrs"`
}

// prepare reads a prediction and binds the volumes to it as well. PCR 11 needs
// none: the signature of the image's maker covers it.
func prepare(ctx context.Context, from io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(from, 64<<10))
	if err != nil {
		return err
	}
	return prepareFor(ctx, data)
}

func prepareFor(ctx context.Context, data []byte) error {
	var p prediction
	if err := json.Unmarshal(data, &p); err != nil {
		return fault.Newf(fault.Usage, "reading the prediction: %w", err)
	}
	k, s, err := keys()
	if err != nil {
		return err
	}
	params, err := readParams()
	if err != nil {
		return err
	}
	if params.Keys != cmdline.TPM {
		return fault.Newf(fault.Usage, "in profile %s only the operator can prepare for another image: release the key to it", params.Keys)
	}
	return withSource(&k, s, func() error {
		next, ok := k.Source.(*source.TPM)
		if !ok {
			return errors.New("the source is not a TPM")
		}
		values, err := predicted(next, p)
		if err != nil {
			return err
		}
		next.Predicted = values
		return k.Prepare(ctx, next)
	})
}

// predicted completes a prediction by the values of now: what it does not name
// stays as it is.
func predicted(s *source.TPM, p prediction) (tpm.PCRs, error) {
	values, err := s.Device.ReadPCRs(s.Literal()...)
	if err != nil {
		return nil, fault.New(fault.GuestTPM, err)
	}
	for text, digest := range p.PCRs {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fault.Newf(fault.Usage, "%q is not a PCR", text)
		}
		if _, bound := values[n]; !bound {
			continue
		}
		raw, err := hex.DecodeString(digest)
		if err != nil || len(raw) != 32 {
			return nil, fault.Newf(fault.Usage, "PCR %d: not a SHA-256 value", n)
		}
		values[n] = [32]byte(raw)
	}
	return values, nil
}

func generateIdentity(context.Context) error {
	s, err := readSettings()
	if err != nil {
		return err
	}
	made, err := identity.Generate(s.Keys.Identity)
	if err != nil {
		return fault.New(fault.GuestEnrol, err)
	}
	sum, err := identity.Hash(s.Keys.Identity.Dir)
	if err != nil {
		return fault.New(fault.GuestEnrol, err)
	}
	word := "kept"
	if made {
		word = "made"
	}
	fmt.Printf("%s the identity key (%s), SHA-512 %x\n", word, s.Keys.Identity.Algo, sum)
	if os.Getenv("DEBUG") == "true" {
		fmt.Printf("%d bits in %s, in memory; the public half is identity.pub there; attestation reports carry its SHA-512\n", s.Keys.Identity.Size, s.Keys.Identity.Dir)
	}
	return nil
}

// serve answers the host for as long as the system runs.
func serve(ctx context.Context) error {
	p, err := port.Open(os.DirFS("/sys"), control.PortName)
	if err != nil {
		return fault.New(fault.GuestBoot, err)
	}
	defer p.Close()
	return control.Serve(ctx, p.With(ctx), map[string]control.Verb{
		"keys status":       func(context.Context, json.RawMessage) (any, error) { return status() },
		"keys rotate":       func(ctx context.Context, _ json.RawMessage) (any, error) { return nil, rotate(ctx, false) },
		"keys prepare":      func(ctx context.Context, data json.RawMessage) (any, error) { return nil, prepareFor(ctx, data) },
		"pcrs":              func(context.Context, json.RawMessage) (any, error) { return pcrs() },
		"keys recovery":     func(context.Context, json.RawMessage) (any, error) { return recoveryKey() },
		"keys renew-volume": func(ctx context.Context, _ json.RawMessage) (any, error) { return nil, askRenewal(ctx) },
		"attest":            func(ctx context.Context, data json.RawMessage) (any, error) { return attestFor(ctx, data) },
		"check":             func(ctx context.Context, _ json.RawMessage) (any, error) { return checked(ctx) },
		"eventlog":          func(context.Context, json.RawMessage) (any, error) { return os.ReadFile(eventLog) },
	})
}

// eventLog is what the firmware and those after it say that they have measured
// (Linux, drivers/char/tpm/eventlog/common.c).
const eventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

// pcrs returns every register of the SHA-256 bank by number.
func pcrs() (map[string]string, error) {
	s, err := readSettings()
	if err != nil {
		return nil, err
	}
	device, err := tpm.Open(s.Keys.TPMDevice)
	if err != nil {
		return nil, fault.New(fault.GuestTPM, err)
	}
	defer device.Close()
	out := map[string]string{}
	for n := range 24 {
		values, err := device.ReadPCRs(n)
		if err != nil {
			return nil, fault.New(fault.GuestTPM, err)
		}
		value := values[n]
		out[strconv.Itoa(n)] = hex.EncodeToString(value[:])
	}
	return out, nil
}
