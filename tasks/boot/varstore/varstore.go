// Package varstore puts our own Secure Boot keys into OVMF: into a variable
// store that lies beside the firmware's code ([Enrol]), or into firmware that
// carries its variables within itself ([Bake]).
//
//	keys := varstore.Keys{PK: "out/keys/secureboot/PK.crt", KEK: …, DB: …}
//	err := varstore.Enrol(ctx, tools, "/usr/share/OVMF/OVMF_VARS_4M.fd", "out/vars.fd", keys)
//
// The rules:
//
//   - What the template trusted before is taken out: Microsoft's keys, and a
//     distribution's, would let a host start what they have signed, and that is
//     most of what there is.
//   - The keys are there from the first boot on. A store in setup mode would let
//     whoever comes first enrol theirs.
//   - Equal keys and templates give equal bytes. The variables' time stamps are
//     the beginnings of the certificates' validity.
//   - Every result is read again and compared with the certificates before it
//     gets its name, by code that shares nothing with the program that wrote it.
package varstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/seal"
	"cc-base/tasks/sh"
)

// Keys are the certificates to be enrolled, as files in PEM: the platform key,
// the key exchange key, and the one whose signatures start (UEFI 2.10, section
// 32.3). The private halves have no place in a store.
type Keys struct{ PK, KEK, DB string }

// Owner is the signature owner of every certificate that is enrolled here. It
// names who put a key there and has no say in what is trusted (UEFI 2.10,
// section 32.4.1).
func Owner() uuid.UUID { return seal.Derive("cc-esp", "secure boot owner", "") }

// variables are those that hold keys or say what they are good for.
func variables() []string {
	return []string{"PK", "KEK", "db", "dbx", "dbt", "dbr", "SecureBootEnable", "CustomMode"}
}

// Enrol writes to out the variable store template with the keys in it and Secure
// Boot switched on, for firmware whose code is in another file. template is a
// path as the programs of run see it; out and the keys are absolute and seen by
// both. An error leaves no out that was not there before; it has the code
// fault.BootImage where it is not that of a file or of the context.
func Enrol(ctx context.Context, run sh.Runner, template, out string, keys Keys) error {
	return enrol(ctx, run, template, out, keys, false)
}

// Bake is [Enrol] for firmware in one file, code and variables together, such as
// OVMF.fd, which a machine that has no place for variables is started with: they
// are then part of what is measured before the first instruction (SEV-SNP) or
// by it (TDX). The code is not changed.
//
// It depends on the firmware whether it looks at the keys: a build without
// Secure Boot ignores them, and this package cannot tell.
func Bake(ctx context.Context, run sh.Runner, firmware, out string, keys Keys) error {
	return enrol(ctx, run, firmware, out, keys, true)
}

func enrol(ctx context.Context, run sh.Runner, template, out string, keys Keys, whole bool) error {
	want, err := keys.read()
	if err != nil {
		return fault.New(fault.BootImage, err)
	}
	part := out + atomicfile.Extension
	if err := atomicfile.Remove(part); err != nil {
		return err
	}
	defer os.Remove(part)
	args := []string{"--loglevel", "error", "--input", template, "--output", part}
	for _, name := range variables() {
		args = append(args, "--delete", name)
	}
	owner := Owner().String()
	args = append(args, "--set-pk", owner, keys.PK, "--add-kek", owner, keys.KEK, "--add-db", owner, keys.DB, "--secure-boot")
	if err := sh.Do(ctx, run, "virt-fw-vars", args...); err != nil {
		return fault.New(fault.BootImage, err)
	}
	data, err := os.ReadFile(part)
	if err != nil {
		return fault.New(fault.BootImage, err)
	}
	volume, err := check(data, want, whole)
	if err != nil {
		return fault.New(fault.BootImage, fmt.Errorf("the variable store as it was written: %w", err))
	}
	if whole {
		// The code behind the variables must be the template's, byte for byte.
		if err := sh.Do(ctx, run, "cmp", fmt.Sprintf("--ignore-initial=%d", volume), template, part); err != nil {
			return fault.New(fault.BootImage, err)
		}
	}
	return atomicfile.Publish(part, out)
}

// certificates are those of [Keys], read.
type certificates struct{ pk, kek, db *x509.Certificate }

func (k Keys) read() (certificates, error) {
	var c certificates
	for _, key := range []struct {
		file string
		to   **x509.Certificate
	}{{k.PK, &c.pk}, {k.KEK, &c.kek}, {k.DB, &c.db}} {
		text, err := os.ReadFile(key.file)
		if err != nil {
			return certificates{}, err
		}
		// One and nothing else: with two in a file, programs differ on which
		// they take.
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
			return certificates{}, fmt.Errorf("%s is not one certificate in PEM", key.file)
		}
		if *key.to, err = x509.ParseCertificate(block.Bytes); err != nil {
			return certificates{}, fmt.Errorf("%s: %w", key.file, err)
		}
	}
	return c, nil
}

// check compares what was written with what was wanted and returns the length of
// the variables' volume.
func check(data []byte, want certificates, whole bool) (volume uint64, err error) {
	volume, err = volumeSize(data)
	if err != nil {
		return 0, err
	}
	switch all := uint64(len(data)); {
	case whole && volume == all:
		return 0, errors.New("there is no firmware behind the variables")
	case !whole && volume != all:
		return 0, fmt.Errorf("%d bytes follow the variables: this is firmware, not a store", all-volume)
	}
	got, err := List(data)
	if err != nil {
		return 0, err
	}
	if !got.On {
		return 0, errors.New("Secure Boot is off")
	}
	for _, v := range []struct {
		name string
		got  []Entry
		want *x509.Certificate
	}{{"PK", got.PK, want.pk}, {"KEK", got.KEK, want.kek}, {"db", got.DB, want.db}} {
		if len(v.got) != 1 || v.got[0].Owner != Owner() || !bytes.Equal(v.got[0].Data, v.want.Raw) || v.got[0].Kind != X509 {
			return 0, fmt.Errorf("%s does not hold the certificate and nothing else", v.name)
		}
	}
	// Firmware wants the variable, and this entry forbids nothing.
	nothing := sha256.Sum256(nil)
	if len(got.DBX) != 1 || got.DBX[0].Kind != SHA256 || !bytes.Equal(got.DBX[0].Data, nothing[:]) {
		return 0, errors.New("dbx does not hold the digest of nothing and nothing else")
	}
	return volume, nil
}
