package snpkey_test

// What green does not prove: the device is go-sev-guest's stand-in, which maps
// requests to canned keys. That a processor mixes what the request names, and
// nothing else, is AMD's promise; no SEV-SNP processor was asked.
//
// The tests run one after the other: the stand-in signs with a source of
// randomness that all of its instances share without a lock.

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	labi "github.com/google/go-sev-guest/client/linuxabi"
	sevtest "github.com/google/go-sev-guest/testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/tee/snpkey"
)

const committed = 0x7308000000000003

// request is what the ABI says for: root VCEK, fields policy, measurement, SVN
// and TCB, level 0.
func request(svn uint32, tcb uint64) string {
	return sevtest.DerivedKeyRequestToString(&labi.SnpDerivedKeyReqABI{
		RootKeySelect: 0, GuestFieldSelect: 1<<0 | 1<<3 | 1<<4 | 1<<5, Vmpl: 0, GuestSVN: svn, TCBVersion: tcb,
	})
}

func device(t *testing.T, tcb uint64, keys map[string][]byte) *snpkey.Device {
	t.Helper()
	signer, err := sevtest.DefaultTestOnlyCertChain(sevtest.GetProductName(), time.Date(2024, time.June, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	report := sevtest.TestRawReport([64]byte{})
	binary.LittleEndian.PutUint32(report[0x04:], 7) // GUEST_SVN
	binary.LittleEndian.PutUint64(report[0x1E0:], tcb)
	return &snpkey.Device{Guest: &sevtest.Device{
		ReportDataRsp: map[string]any{hex.EncodeToString(make([]byte, 64)): &sevtest.GetReportResponse{Resp: labi.SnpReportRespABI{Data: report}}},
		Keys:          keys, Signer: signer, SevProduct: abi.DefaultSevProduct(),
	}}
}

func TestKeyIsMixedFromChipMeasurementPolicySVNAndTCB(t *testing.T) {
	want := bytes.Repeat([]byte{0xA5}, snpkey.Size)
	old := bytes.Repeat([]byte{0x5A}, snpkey.Size)
	const oldTCB = 0x7307000000000003
	d := device(t, committed, map[string][]byte{request(7, committed): want, request(7, oldTCB): old})
	root := snpkey.Root{Source: d}

	key, used, err := root.Key(t.Context(), 0)
	if err != nil || used != committed || !bytes.Equal(key, want) {
		t.Fatalf("present version: %x at %#x, %v", key, used, err)
	}
	key, used, err = root.Key(t.Context(), oldTCB)
	if err != nil || used != oldTCB || !bytes.Equal(key, old) {
		t.Fatalf("former version: %x at %#x, %v", key, used, err)
	}
	if tcb, err := d.CommittedTCB(t.Context()); err != nil || tcb != committed {
		t.Errorf("committed version %#x, %v", tcb, err)
	}
}

func TestTheKeyIsTheCallersOwnToWipe(t *testing.T) {
	d := device(t, committed, map[string][]byte{request(7, committed): bytes.Repeat([]byte{1}, snpkey.Size)})
	first, err := d.Key(t.Context(), committed)
	if err != nil {
		t.Fatal(err)
	}
	clear(first)
	second, err := d.Key(t.Context(), committed)
	if err != nil || second[0] != 1 {
		t.Fatalf("%x, %v", second, err)
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name      string
		committed uint64
		ask       uint64
		keys      map[string][]byte
		word      string
	}{
		{"a key of zeros", committed, 0, map[string][]byte{request(7, committed): make([]byte, snpkey.Size)}, "zeros"},
		{"a request that the firmware refuses", committed, 0, nil, "derived key"},
		{"a version above the committed one in the highest component", committed, committed + 1<<56, map[string][]byte{request(7, committed+1<<56): {1}}, "above"},
		// Below as a number, above in a component.
		{"a version above the committed one in the lowest component", committed, committed - 1<<56 + 1, map[string][]byte{request(7, committed-1<<56+1): {1}}, "above"},
		{"a platform without a committed version", 0, 0, map[string][]byte{request(7, 0): {1}}, "zero"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key, _, err := snpkey.Root{Source: device(t, tc.committed, tc.keys)}.Key(t.Context(), tc.ask)
			faulttest.Want(t, err, fault.GuestTEE, tc.word)
			if key != nil {
				t.Errorf("a key came with the error")
			}
		})
	}
}

func TestNothingIsAskedAfterCancellation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := device(t, committed, map[string][]byte{request(7, committed): {1}})
	if _, err := d.Key(ctx, committed); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := d.CommittedTCB(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAReportThatCannotBeReadIsRefused(t *testing.T) {
	d := device(t, committed, nil)
	d.Guest.(*sevtest.Device).ReportDataRsp = nil
	_, err := d.Key(t.Context(), committed)
	faulttest.Want(t, err, fault.GuestTEE, "SNP report")
}
