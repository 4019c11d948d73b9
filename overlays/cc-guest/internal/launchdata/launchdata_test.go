package launchdata

// What green does not prove: the SNP device is go-sev-guest's stand-in and the
// TDX report is put together here by Intel's document. That the kernel answers
// like that, and on which platforms its devices are there in the initrd, is seen
// on hardware only.
//
// The tests run one after the other: the stand-in shares a source of randomness
// without a lock.

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/client"
	labi "github.com/google/go-sev-guest/client/linuxabi"
	sevtest "github.com/google/go-sev-guest/testing"
	tdxabi "github.com/google/go-tdx-guest/client/linuxabi"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/site"
)

func noSNP() (client.Device, error) { return nil, fs.ErrNotExist }

func noTDX() (report [tdxabi.TdReportSize]byte, err error) { return report, fs.ErrNotExist }

// snp is a guest that was launched with the host data.
func snp(t *testing.T, hostData []byte) func() (client.Device, error) {
	t.Helper()
	signer, err := sevtest.DefaultTestOnlyCertChain(sevtest.GetProductName(), time.Date(2024, time.June, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	report := sevtest.TestRawReport([64]byte{})
	copy(report[0x0C0:], hostData) // AMD publication 56860, ATTESTATION_REPORT
	return func() (client.Device, error) {
		return &sevtest.Device{
			ReportDataRsp: map[string]any{hex.EncodeToString(make([]byte, 64)): &sevtest.GetReportResponse{Resp: labi.SnpReportRespABI{Data: report}}},
			Signer:        signer, SevProduct: abi.DefaultSevProduct(),
		}, nil
	}
}

// tdx is a guest that was launched with the MRCONFIGID. Every other register of
// the report has other bytes.
func tdx(id []byte) func() ([tdxabi.TdReportSize]byte, error) {
	var report [tdxabi.TdReportSize]byte
	copy(report[:], bytes.Repeat([]byte{0xEE}, len(report)))
	report[0] = 0x81
	// REPORTMACSTRUCT 256, TEE_TCB_INFO 239, reserved 17; then ATTRIBUTES,
	// XFAM, MRTD.
	copy(report[256+239+17+8+8+48:], id)
	return func() ([tdxabi.TdReportSize]byte, error) { return report, nil }
}

func TestWhatTheLaunchWasBoundTo(t *testing.T) {
	text := []byte("HOSTNAME=\"a\"\n")
	data, id := site.HostData(text), site.MRConfigID(text)
	for name, tc := range map[string]struct {
		devices Devices
		kind    string
		want    []byte
	}{
		"SEV-SNP": {Devices{snp(t, data[:]), noTDX}, site.SNP, data[:]},
		"TDX":     {Devices{noSNP, tdx(id[:])}, site.TDX, id[:]},
		"plain":   {Devices{noSNP, noTDX}, "", nil},
	} {
		l, err := tc.devices.Read(t.Context())
		if err != nil || l.Kind != tc.kind || !bytes.Equal(l.Data, tc.want) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
		if err := l.Check(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := l.Check([]byte("HOSTNAME=\"b\"\n")); (err == nil) != (name == "plain") {
			t.Errorf("%s: another file: %v", name, err)
		}
	}
}

func TestADeviceThatDoesNotAnswerIsARefusal(t *testing.T) {
	broken := errors.New("broken")
	for name, d := range map[string]Devices{
		"SNP opens not":     {func() (client.Device, error) { return nil, broken }, noTDX},
		"SNP has no report": {func() (client.Device, error) { return &sevtest.Device{}, nil }, noTDX},
		"TDX answers not":   {noSNP, func() (r [tdxabi.TdReportSize]byte, err error) { return r, broken }},
		"TDX gives zeros":   {noSNP, func() (r [tdxabi.TdReportSize]byte, err error) { return r, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := d.Read(t.Context())
			if !l.Plain() {
				t.Errorf("%+v", l)
			}
			faulttest.Want(t, err, fault.GuestTEE)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Devices{noSNP, noTDX}).Read(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancellation: %v", err)
	}
}

// The build machine is neither: what the real functions say there is that the
// device is not there.
func TestWithoutDevicesAMachineIsPlain(t *testing.T) {
	for _, device := range []string{snpDevice, tdxDevice} {
		if _, err := os.Stat(device); err == nil {
			t.Skipf("this machine has %s", device)
		}
	}
	if l, err := System().Read(t.Context()); err != nil || !l.Plain() {
		t.Errorf("%+v, %v", l, err)
	}
}
