// Package acpi reads the ACPI tables that a QEMU makes for a guest, from the
// same QEMU and without starting the guest: QEMU builds them when the firmware
// asks, and its test protocol (qtest) can ask in the firmware's place.
//
//	tables, err := acpi.Read(ctx, run, dir, "qemu-system-x86_64", "-machine", "q35,smm=off", "-smp", "4", …)
//
// No processor, KVM or firmware runs for it.
package acpi

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cc-base/tasks/sh"
	"cc-base/tasks/tee/tdx"
)

// start is how long QEMU may take to connect; answers come within moments.
const (
	start  = 60 * time.Second
	answer = 30 * time.Second
)

// Read starts QEMU with the arguments of a guest and returns the guest's ACPI
// tables. dir is a folder that the runner's programs see at the same path; a
// socket is made in it, so its path has at most 90 bytes. The machine must be a
// q35 with at least 16 MiB of memory; the arguments must not choose an
// accelerator, a confidential-guest object (it needs the hardware; the tables
// do not depend on it) or -S.
func Read(ctx context.Context, run sh.Runner, dir, qemu string, args ...string) (tdx.ACPI, error) {
	socket := filepath.Join(dir, "qtest.sock")
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return tdx.ACPI{}, err
	}
	defer os.Remove(socket)
	defer listener.Close()

	// QEMU does not end by itself: it is cancelled when the tables are read,
	// and when it ends before, nobody waits for it any longer.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := run.Run(ctx, sh.Cmd{Name: qemu, Args: append(args[:len(args):len(args)],
			"-accel", "tcg", "-S", "-display", "none", "-qtest", "unix:"+socket, "-qtest-log", "none")})
		listener.Close()
		ended <- err
	}()
	out, err := read(ctx, listener.(*net.UnixListener))
	early := ctx.Err() == nil && err != nil
	if early {
		// An error of QEMU's says more than a broken connection, if it comes.
		select {
		case failed := <-ended:
			if failed == nil {
				failed = errors.New("QEMU ended before its tables were read")
			}
			return tdx.ACPI{}, errors.Join(failed, err)
		case <-time.After(time.Second):
		}
	}
	cancel()
	<-ended
	return out, err
}

func read(ctx context.Context, listener *net.UnixListener) (tdx.ACPI, error) {
	if err := listener.SetDeadline(time.Now().Add(start)); err != nil {
		return tdx.ACPI{}, err
	}
	conn, err := listener.Accept()
	if err != nil {
		return tdx.ACPI{}, fmt.Errorf("QEMU did not connect: %w", err)
	}
	defer conn.Close()
	// A cancelled context ends a read that waits.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	q := &client{conn: conn, in: bufio.NewReader(conn)}
	if err := q.chipset(); err != nil {
		return tdx.ACPI{}, err
	}
	var out tdx.ACPI
	files, err := q.directory()
	if err != nil {
		return tdx.ACPI{}, err
	}
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{"etc/table-loader", &out.Loader}, {"etc/acpi/rsdp", &out.RSDP}, {"etc/acpi/tables", &out.Tables}} {
		entry, ok := files[f.name]
		if !ok {
			return tdx.ACPI{}, fmt.Errorf("QEMU has no fw_cfg file %s: the machine has no ACPI", f.name)
		}
		if *f.to, err = q.item(entry.selector, entry.size); err != nil {
			return tdx.ACPI{}, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return out, nil
}

// client speaks qtest (QEMU system/qtest.c): one command a line, answered by a
// line that begins with OK.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

func (q *client) do(format string, args ...any) (string, error) {
	command := fmt.Sprintf(format, args...)
	if err := q.conn.SetDeadline(time.Now().Add(answer)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(q.conn, command); err != nil {
		return "", err
	}
	for {
		line, err := q.in.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("qtest: %w", err)
		}
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "IRQ ") {
			continue // an event, not the answer
		}
		result, ok := strings.CutPrefix(line, "OK")
		if !ok {
			return "", fmt.Errorf("qtest: %s: %.80s", strings.Fields(command)[0], line)
		}
		return strings.TrimSpace(result), nil
	}
}

// configure writes a 32-bit register in the PCI configuration space of bus 0.
func (q *client) configure(device, function, register, value uint32) error {
	_, err := q.do("outl 0xcf8 %#x", 1<<31|device<<11|function<<8|register)
	if err == nil {
		_, err = q.do("outl 0xcfc %#x", value)
	}
	return err
}

// chipset does what OVMF does before it asks for the tables, as they hold these
// addresses: it places the PCI Express configuration space (MCFG) and the ACPI
// registers (FADT) (edk2 OvmfPkg/Library/PlatformInitLib/Platform.c).
func (q *client) chipset() error {
	return errors.Join(
		q.configure(0, 0, 0x64, 0),
		q.configure(0, 0, 0x60, 0xe0000001), // PCIEXBAR: 3.5 GiB, 256 buses, enabled
		q.configure(31, 0, 0x40, 0x600),     // PMBASE
		q.configure(31, 0, 0x44, 0x80),      // ACPI enable
	)
}

// Where the transfers happen in guest memory, which nothing else uses.
const (
	descriptor = 0x100000
	buffer     = 0x200000
	// mostItem bounds what QEMU may claim for one item; real ones have some
	// 128 KiB.
	mostItem = 8 << 20
)

// item reads an item of fw_cfg by DMA (QEMU docs/specs/fw_cfg.rst): byte by
// byte it would take seconds.
func (q *client) item(selector uint16, size uint32) ([]byte, error) {
	if size == 0 || size > mostItem {
		return nil, fmt.Errorf("fw_cfg item of %d bytes", size)
	}
	const selects, reads = 0x08, 0x02
	d := binary.BigEndian.AppendUint32(nil, uint32(selector)<<16|selects|reads)
	d = binary.BigEndian.AppendUint32(d, size)
	d = binary.BigEndian.AppendUint64(d, buffer)
	if _, err := q.do("write %#x %#x %#x", descriptor, len(d), d); err != nil {
		return nil, err
	}
	// The two halves of the descriptor's address, in big-endian order.
	if _, err := q.do("outl 0x514 0x0"); err != nil {
		return nil, err
	}
	if _, err := q.do("outl 0x518 %#x", bits.ReverseBytes32(descriptor)); err != nil {
		return nil, err
	}
	control, err := q.memory(descriptor, 4)
	if err != nil {
		return nil, err
	}
	if c := binary.BigEndian.Uint32(control); c != 0 {
		return nil, fmt.Errorf("fw_cfg transfer ended with %#x", c)
	}
	return q.memory(buffer, size)
}

func (q *client) memory(at, size uint32) ([]byte, error) {
	text, err := q.do("b64read %#x %#x", at, size)
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil || uint32(len(data)) != size {
		return nil, fmt.Errorf("qtest: %d bytes asked for, %d given", size, len(data))
	}
	return data, nil
}

// file is an entry of fw_cfg's directory.
type file struct {
	selector uint16
	size     uint32
}

// directory reads fw_cfg's list of files.
func (q *client) directory() (map[string]file, error) {
	const selector, entrySize, most = 0x19, 64, 4096
	head, err := q.item(selector, 4)
	if err != nil {
		return nil, err
	}
	count := binary.BigEndian.Uint32(head)
	if count > most {
		return nil, fmt.Errorf("fw_cfg has %d files", count)
	}
	data, err := q.item(selector, 4+count*entrySize)
	if err != nil {
		return nil, err
	}
	out := map[string]file{}
	for e := data[4:]; len(e) > 0; e = e[entrySize:] {
		name, _, _ := strings.Cut(string(e[8:entrySize]), "\x00")
		out[name] = file{size: binary.BigEndian.Uint32(e), selector: binary.BigEndian.Uint16(e[4:])}
	}
	return out, nil
}
