// Package snpkey asks the SEV-SNP firmware for the key that only this guest, on
// this processor, can derive: MSG_KEY_REQ of the SEV-SNP firmware ABI
// (AMD publication 56860, section "Key Derivation").
//
//	key, tcb, err := snpkey.Root{Source: device}.Key(ctx, 0)
//	defer clear(key)
//	…                                   // the token records tcb
//
// The key is mixed from the chip's VCEK and from the guest's launch
// measurement, policy and security version, at a TCB version that the caller
// names. Hence:
//
//   - Another image, policy or chip gets another key. The VMRK, the other root
//     that the ABI offers, is new at every launch and opens no disk.
//   - A key stays derivable under its TCB version after the firmware was
//     updated, as every version up to the committed one is. Whoever keeps
//     something under a key keeps the version beside it, and derives anew when
//     the committed version rises: firmware that is older than that one had a
//     flaw, and could derive the old key.
//   - All-zero keys exist: firmware has been seen to answer a version above the
//     committed one with zeros and no error. They are refused.
package snpkey

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/client"

	"cc-base/tasks/fault"
)

// Size of a derived key, bytes.
const Size = 32

// Source gives derived keys.
type Source interface {
	// Key returns the 32-byte key at the TCB version, which must not be above
	// the committed one in any component. The caller wipes it. Failures have
	// code [fault.GuestTEE].
	Key(ctx context.Context, tcb uint64) (key []byte, err error)

	// CommittedTCB returns the TCB version that the platform will never go
	// below: the field COMMITTED_TCB of the attestation report.
	CommittedTCB(ctx context.Context) (uint64, error)
}

// Device is a [Source] over /dev/sev-guest, or a stand-in for it. It belongs to
// one goroutine.
type Device struct {
	Guest client.Device

	known     bool // the two below were read
	committed uint64
	svn       uint32
}

// Open opens /dev/sev-guest. Close it when the keys were derived.
func Open() (*Device, error) {
	guest, err := client.OpenDevice()
	if err != nil {
		return nil, fault.New(fault.GuestTEE, err)
	}
	return &Device{Guest: guest}, nil
}

// Close closes the device.
func (d *Device) Close() error { return d.Guest.Close() }

// vmpl is the privilege level that is mixed in. The guest has no SVSM below
// it, so its kernel runs at level 0, and no code at another level gets the key.
const vmpl = 0

// CommittedTCB implements [Source]. The report is asked for once: the library
// lets two seconds pass between two requests to the device.
func (d *Device) CommittedTCB(ctx context.Context) (uint64, error) {
	if err := d.read(ctx); err != nil {
		return 0, err
	}
	return d.committed, nil
}

func (d *Device) read(ctx context.Context) error {
	if d.known {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// The report comes from the firmware over a channel that the host cannot
	// read or change, so its signature and a nonce would add nothing here.
	report, err := client.GetReportAtVmpl(d.Guest, [abi.ReportDataSize]byte{}, vmpl)
	if err != nil {
		return fault.Newf(fault.GuestTEE, "SNP report: %w", err)
	}
	d.known, d.committed, d.svn = true, report.GetCommittedTcb(), report.GetGuestSvn()
	return nil
}

// Key implements [Source].
func (d *Device) Key(ctx context.Context, tcb uint64) ([]byte, error) {
	if err := d.read(ctx); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if above(tcb, d.committed) {
		return nil, fault.Newf(fault.GuestTEE, "SNP key: TCB version %#016x is above the platform's committed one, %#016x", tcb, d.committed).
			Hint("the key was made under newer firmware: start the VM on the host that it was enrolled on, or update this host's SEV firmware")
	}
	response, err := client.GetDerivedKeyAcknowledgingItsLimitations(d.Guest, &client.SnpDerivedKeyReq{
		UseVCEK: true,
		GuestFieldSelect: client.GuestFieldSelect{
			GuestPolicy: true, Measurement: true, GuestSVN: true, TCBVersion: true,
		},
		Vmpl: vmpl, GuestSVN: d.svn, TCBVersion: tcb,
	})
	if err != nil {
		return nil, fault.Newf(fault.GuestTEE, "SNP key: %w", err)
	}
	defer clear(response.Data[:])
	if response.Status != 0 {
		return nil, fault.Newf(fault.GuestTEE, "SNP key: the firmware answered with status %#x", response.Status)
	}
	if response.Data == [Size]byte{} {
		return nil, fault.Newf(fault.GuestTEE, "SNP key: the firmware gave a key of zeros")
	}
	return bytes.Clone(response.Data[:]), nil
}

// above tells whether a has a component that is higher than b's. A TCB version
// is eight bytes, one a component, whatever the product calls them; the number
// as a whole orders nothing.
func above(a, b uint64) bool {
	for shift := 0; shift < 64; shift += 8 {
		if byte(a>>shift) > byte(b>>shift) {
			return true
		}
	}
	return false
}

// Root is a [Source] for callers that keep the TCB version beside what the key
// protects.
type Root struct{ Source }

// Key returns the key at the TCB version, or at the committed one for 0, and
// the version it was derived at. The caller wipes the key.
//
// Version 0 cannot be asked for: no platform that runs SNP has it.
func (r Root) Key(ctx context.Context, tcb uint64) (key []byte, used uint64, err error) {
	if tcb == 0 {
		if tcb, err = r.Source.CommittedTCB(ctx); err != nil {
			return nil, 0, err
		}
		if tcb == 0 {
			return nil, 0, fault.New(fault.GuestTEE, fmt.Errorf("SNP key: the report's committed TCB version is zero"))
		}
	}
	key, err = r.Source.Key(ctx, tcb)
	return key, tcb, err
}
