package tpm

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// PCRCount is how many platform configuration registers a PC Client TPM has:
// they are numbered from 0 (PC Client Platform TPM Profile, 4.6).
const PCRCount = 24

// PCRs are values of the SHA-256 bank by register number.
type PCRs map[int][32]byte

// numbers returns the registers in ascending order.
func (p PCRs) numbers() []int { return slices.Sorted(maps.Keys(p)) }

// firmwarePCRs is the number of registers, from 0, that firmware always
// extends, if only by a separator (PC Client Platform Firmware Profile, 3.3.4).
const firmwarePCRs = 8

// Sane returns ErrBank when one of the given PCRs 0 to 7 is all zeros or all
// ones: firmware always extends those, so nothing was measured, and a policy
// over such values would hold for any system. It says nothing about others.
func (p PCRs) Sane() error {
	for _, n := range p.numbers() {
		value := p[n]
		if n >= 0 && n < firmwarePCRs && uniform(value) {
			return fmt.Errorf("%w: PCR %d is %#02x throughout: nothing was measured", ErrBank, n, value[0])
		}
	}
	return nil
}

// uniform tells whether a register is as a reset leaves it.
func uniform(value [32]byte) bool {
	for _, b := range value {
		if b != value[0] {
			return false
		}
	}
	return value[0] == 0 || value[0] == 0xff
}

// registers sorts the numbers and refuses those that no TPM has.
func registers(pcrs []int) ([]int, error) {
	sorted := slices.Compact(slices.Sorted(slices.Values(pcrs)))
	for _, n := range sorted {
		if n < 0 || n >= PCRCount {
			return nil, fmt.Errorf("there is no PCR %d", n)
		}
	}
	return sorted, nil
}

// selection selects registers of the SHA-256 bank. The bitmap always has three
// bytes, because it is part of what a policy hashes.
func selection(pcrs []int) tpm2.TPMLPCRSelection {
	bits := make([]byte, PCRCount/8)
	for _, n := range pcrs {
		if n >= 0 && n < PCRCount {
			bits[n/8] |= 1 << (n % 8)
		}
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bits}}}
}

// selected tells whether the bitmap has the register.
func selected(s tpm2.TPMSPCRSelection, pcr int) bool {
	return pcr/8 < len(s.PCRSelect) && s.PCRSelect[pcr/8]>>(pcr%8)&1 == 1
}

// ReadPCRs returns the present values, ErrBank when the SHA-256 bank does not
// have all of them.
func (t *TPM) ReadPCRs(pcrs ...int) (PCRs, error) {
	left, err := registers(pcrs)
	if err != nil {
		return nil, err
	}
	values := PCRs{}
	for len(left) > 0 { // a TPM returns as many as fit into one response
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(left)}.Execute(t.dev)
		if err != nil {
			return nil, failed("reading PCRs", err)
		}
		var got []int
		for _, s := range rsp.PCRSelectionOut.PCRSelections {
			for n := range PCRCount {
				if s.Hash == tpm2.TPMAlgSHA256 && selected(s, n) {
					got = append(got, n)
				}
			}
		}
		if len(got) == 0 {
			return nil, fmt.Errorf("%w: it has no PCR %d", ErrBank, left[0])
		}
		if len(got) != len(rsp.PCRValues.Digests) {
			return nil, fmt.Errorf("tpm: %d values of %d PCRs", len(rsp.PCRValues.Digests), len(got))
		}
		for i, n := range got {
			value := rsp.PCRValues.Digests[i].Buffer
			at, asked := slices.BinarySearch(left, n)
			if len(value) != 32 || !asked {
				return nil, fmt.Errorf("tpm: %d bytes for PCR %d", len(value), n)
			}
			values[n] = [32]byte(value)
			left = slices.Delete(left, at, at+1)
		}
	}
	return values, nil
}

// Extend measures data into the register: its hash extends every active bank,
// as systemd-pcrextend does it.
func (t *TPM) Extend(pcr int, data []byte) error {
	return t.extend(pcr, func(newHash func() hash.Hash) []byte {
		h := newHash()
		h.Write(data)
		return h.Sum(nil)
	})
}

// ExtendSecret measures that this secret belongs to data: every active bank is
// extended by the HMAC of data keyed with the secret, as systemd's
// tpm2_pcr_extend_bytes does with a volume key. The wire sees no plain hash of
// the secret.
func (t *TPM) ExtendSecret(pcr int, data, secret []byte) error {
	if len(secret) == 0 {
		return errors.New("an empty secret")
	}
	return t.extend(pcr, func(newHash func() hash.Hash) []byte {
		h := hmac.New(newHash, secret)
		h.Write(data)
		return h.Sum(nil)
	})
}

// extend extends every active bank by what digest makes with its algorithm. A
// bank of an algorithm that cannot be computed here is an error: left alone, it
// would show a machine that has not gone on.
func (t *TPM) extend(pcr int, digest func(func() hash.Hash) []byte) error {
	if _, err := registers([]int{pcr}); err != nil {
		return err
	}
	banks, err := t.banks()
	if err != nil {
		return err
	}
	var values tpm2.TPMLDigestValues
	for _, bank := range banks {
		if !selected(bank, pcr) {
			continue
		}
		algorithm, err := bank.Hash.Hash()
		if err != nil {
			return fmt.Errorf("tpm: extending PCR %d: %w", pcr, err)
		}
		values.Digests = append(values.Digests, tpm2.TPMTHA{HashAlg: bank.Hash, Digest: digest(algorithm.New)})
	}
	if len(values.Digests) == 0 {
		return fmt.Errorf("%w: no bank has a PCR %d", ErrBank, pcr)
	}
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   values,
	}.Execute(t.dev)
	if err != nil {
		return failed(fmt.Sprintf("extending PCR %d", pcr), err)
	}
	return nil
}

// banks returns the allocated banks; an inactive one has an empty bitmap.
func (t *TPM) banks() ([]tpm2.TPMSPCRSelection, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(t.dev)
	if err != nil {
		return nil, failed("asking for its banks", err)
	}
	assigned, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, failed("asking for its banks", err)
	}
	return assigned.PCRSelections, nil
}
