// Package launchdata reads what the host bound to this guest at its launch and
// the processor keeps beside the measurement: HOST_DATA on SEV-SNP, MRCONFIGID
// on TDX.
//
// The answer must not pass through the host. On SEV-SNP it comes from the
// firmware over a channel that the host cannot read or change (AMD publication
// 56860, guest messages). A TDX quote comes from a service of the host, so the
// report that the TDX module writes into the guest's memory is read instead
// (Intel TDX Module ABI, TDG.MR.REPORT).
package launchdata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/client"
	tdxabi "github.com/google/go-tdx-guest/client/linuxabi"
	"golang.org/x/sys/unix"

	"cc-base/tasks/fault"
	"cc-base/tasks/site"
)

// The kernel's devices; each is there only where its processor is.
const (
	snpDevice = "/dev/sev-guest"
	tdxDevice = "/dev/tdx_guest"
)

// Layout of TDREPORT_STRUCT and, in it, TDINFO_STRUCT (Intel TDX Module ABI).
const (
	typeTDX      = 0x81
	atTDInfo     = 512
	atMRConfigID = atTDInfo + 8 + 8 + 48 // behind ATTRIBUTES, XFAM, MRTD
	sizeMRConfig = 48
)

// Devices opens the processor's devices; each returns an error that is
// fs.ErrNotExist where there is none.
type Devices struct {
	SNP func() (client.Device, error)
	TDX func() ([tdxabi.TdReportSize]byte, error) // a report without data
}

// System is the running machine's.
func System() Devices { return Devices{SNP: openSNP, TDX: reportTDX} }

// Read returns what the launch fixed. A machine with neither device is a plain
// one; whether it may be is for the caller to know, because in a confidential
// guest the devices can be missing, too. Errors have code fault.GuestTEE.
func (d Devices) Read(ctx context.Context) (site.Launch, error) {
	for _, read := range []func() (site.Launch, error){d.snp, d.tdx} {
		if err := ctx.Err(); err != nil {
			return site.Launch{}, err
		}
		l, err := read()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return site.Launch{}, fault.Newf(fault.GuestTEE, "reading what the launch was bound to: %w", err)
		}
		return l, nil
	}
	return site.Launch{}, nil
}

func (d Devices) snp() (site.Launch, error) {
	device, err := d.SNP()
	if err != nil {
		return site.Launch{}, err
	}
	defer device.Close()
	report, err := client.GetReportAtVmpl(device, [abi.ReportDataSize]byte{}, 0)
	if err != nil {
		return site.Launch{}, fmt.Errorf("SNP report: %w", err)
	}
	return site.Launch{Kind: site.SNP, Data: report.GetHostData()}, nil
}

func (d Devices) tdx() (site.Launch, error) {
	report, err := d.TDX()
	if err != nil {
		return site.Launch{}, err
	}
	if report[0] != typeTDX {
		return site.Launch{}, fmt.Errorf("TDX report: it is of type %#x, not %#x", report[0], typeTDX)
	}
	return site.Launch{Kind: site.TDX, Data: bytes.Clone(report[atMRConfigID : atMRConfigID+sizeMRConfig])}, nil
}

// openSNP looks for the device first, because the library's error does not tell
// that there is none.
func openSNP() (client.Device, error) {
	if _, err := os.Stat(snpDevice); err != nil {
		return nil, err
	}
	return client.OpenDevice()
}

func reportTDX() ([tdxabi.TdReportSize]byte, error) {
	var request tdxabi.TdxReportReq
	f, err := os.OpenFile(tdxDevice, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return request.TdReport, err
	}
	defer f.Close()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), tdxabi.IocTdxGetReport, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return request.TdReport, fmt.Errorf("TDX report: %w", errno)
	}
	return request.TdReport, nil
}
