package main

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/dynamic"
	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/port"
	"cc-base/overlays/cc-guest/internal/source"
	"cc-base/overlays/cc-guest/internal/unlock"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/fault"
	"cc-base/tasks/release"
	"cc-base/tasks/tpm"
)

const (
	// stubDir is where systemd-stub puts what it found beside the kernel
	// (systemd-stub(7), INITRD RESOURCES).
	stubDir = "/.extra"
	// The image's signature over PCR 11 and the key that made it. The initrd
	// keeps copies for the running system.
	signatureFile = "tpm2-pcr-signature.json"
	signerFile    = "tpm2-pcr-public-key.pem"

	// deviceWait bounds the wait for the TPM's driver.
	deviceWait = 20 * time.Second
	// rootSecret is the operator's secret in the keyring.
	rootSecret = "released"
)

// pcrPhase holds the boot image and the phase of the boot.
const pcrPhase = 11

// initrdMachine makes ready what a key profile needs before the volumes are
// open.
type initrdMachine struct{ settings settings.Settings }

func (b initrdMachine) make(ctx context.Context, profile string, i unlock.Instance) (unlock.Machine, error) {
	device, err := b.tpm(ctx)
	if err != nil && profile == cmdline.TPM {
		return unlock.Machine{}, err
	}
	var m unlock.Machine
	var half *source.TPM
	if device != nil {
		if err := keepStubFiles(); err != nil {
			return m, fault.New(fault.GuestTPM, err)
		}
		if half, err = tpmSource(device, b.settings, stubDir); err != nil {
			return m, err
		}
		m.TPM = device
	}
	switch profile {
	case cmdline.TPM:
		if err := half.Measured(); err != nil {
			return m, err
		}
		if half.Key == nil {
			return m, fault.Newf(fault.GuestTPM, "the boot image carries no signature for the TPM's PCR 11")
		}
		m.Source = half
	case cmdline.SNP:
		root, err := snpRoot()
		if err != nil {
			return m, err
		}
		m.Source = source.TEE{Profile: profile, Root: root, Half: half}
	default:
		root, err := b.released(ctx, i)
		if err != nil {
			return m, err
		}
		m.Source = source.TEE{Profile: profile, Root: root, Instance: i.ID}
	}
	return m, nil
}

// tpm opens the TPM and records that the initrd has begun: the signature over
// PCR 11 is for this phase of the boot and no later one.
func (b initrdMachine) tpm(ctx context.Context) (*tpm.TPM, error) {
	ctx, cancel := context.WithTimeout(ctx, deviceWait)
	defer cancel()
	for {
		device, err := tpm.Open(b.settings.Keys.TPMDevice)
		if err == nil {
			if err := device.Extend(pcrPhase, []byte("enter-initrd")); err != nil {
				return nil, fault.New(fault.GuestTPM, err)
			}
			return device, nil
		}
		select {
		case <-ctx.Done():
			return nil, fault.New(fault.GuestTPM, err)
		case <-time.After(100 * time.Millisecond):
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fault.New(fault.GuestTPM, err)
		}
	}
}

// keepStubFiles copies what the stub left for the running system, from which
// the initrd's files are gone.
func keepStubFiles() error {
	if err := os.MkdirAll(keystate.Dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{signatureFile, signerFile} {
		data, err := os.ReadFile(filepath.Join(stubDir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(keystate.Dir, name), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tpmSource returns the TPM as a source; dir holds the image's signature. An
// image that was not started by systemd-stub has none.
func tpmSource(device *tpm.TPM, s settings.Settings, dir string) (*source.TPM, error) {
	t := &source.TPM{Device: device, PCRs: s.Keys.PCRs}
	signer, err := os.ReadFile(filepath.Join(dir, signerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fault.New(fault.GuestTPM, err)
	}
	if t.Key, err = parseSigner(signer); err != nil {
		return nil, fault.Newf(fault.GuestTPM, "%s: %w", signerFile, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, signatureFile))
	if err != nil {
		return nil, fault.New(fault.GuestTPM, err)
	}
	if t.Signatures, err = tpm.ParseSignatures(text); err != nil {
		return nil, fault.Newf(fault.GuestTPM, "%s: %w", signatureFile, err)
	}
	return t, nil
}

func parseSigner(text []byte) (*rsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T", key)
	}
	return public, nil
}

// runningSource returns the source of the profile in the running system, and
// what gives its device back.
func runningSource(s settings.Settings, profile string) (vault.Source, func(), error) {
	var half *source.TPM
	done := func() {}
	device, err := tpm.Open(s.Keys.TPMDevice)
	if err != nil && profile == cmdline.TPM {
		return nil, done, fault.New(fault.GuestTPM, err)
	}
	if err == nil {
		done = func() { _ = device.Close() }
		if half, err = tpmSource(device, s, keystate.Dir); err != nil {
			return nil, done, err
		}
		half.Running = true
	}
	switch profile {
	case cmdline.TPM:
		return half, done, nil
	case cmdline.SNP:
		root, err := snpRoot()
		return source.TEE{Profile: profile, Root: root, Half: half}, done, err
	default:
		state, err := keystate.Read(keystate.Dir)
		if err != nil {
			return nil, done, err
		}
		key, err := kept(rootSecret)
		return source.TEE{Profile: profile, Root: fixed(key), Instance: state.Instance}, done, err
	}
}

// fixed is a root secret that was released once.
type fixed []byte

// Key implements source.Root. A released secret has no security version.
func (f fixed) Key(context.Context, uint64) ([]byte, uint64, error) {
	return append([]byte(nil), f...), 0, nil
}

// released asks the operator for the root secret of this instance. The running
// system needs it again, to rotate, and gets it through the keyring.
func (b initrdMachine) released(ctx context.Context, i unlock.Instance) (fixed, error) {
	operator, err := release.ParseOperatorKey(b.settings.Keys.OperatorKey)
	if err != nil {
		return nil, fault.New(fault.ReleaseForeign, err).Hint("build the image with OPERATOR_KEY set")
	}
	reporter, err := reporter()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, releaseWait)
	defer cancel()
	p, err := openPort(ctx, release.PortName)
	if err != nil {
		return nil, fault.New(fault.ReleaseNoAnswer, err).Hint("give the VM a virtio-serial port of that name, with the operator's service at its other end")
	}
	defer p.Close()
	asker := release.Asker{Operator: operator, Reporter: reporter, Log: func(line string) { say("cc-base: release: " + line) }}
	key, err := release.OverPort{Asker: asker, Port: p.With(ctx)}.InstanceKey(ctx, release.Question{
		Instance: i.ID, Volumes: []string{"cc-root", "cc-app", dynamic.Label}, CreatedThisBoot: i.New,
	})
	if err != nil {
		return nil, err
	}
	return key, keep(rootSecret, key)
}

// openPort waits for the port's driver.
func openPort(ctx context.Context, name string) (*port.Port, error) {
	ctx, cancel := context.WithTimeout(ctx, deviceWait)
	defer cancel()
	for {
		p, err := port.Open(os.DirFS("/sys"), name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
