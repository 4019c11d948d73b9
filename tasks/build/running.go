package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
)

// Guest is a running virtual machine, by one of the ways to find it. The zero
// value is the one that [RunVM] has started.
type Guest struct {
	Socket string // of its control port
	Name   string // of the domain in libvirt
}

const (
	// patience bounds a talk with a guest: a boot, and secrets of three volumes
	// replaced, all of it emulated.
	patience = 5 * time.Minute
	// quiet is how long nothing is said about a wait, and then the pause
	// between two lines about it.
	quiet, every = 2 * time.Second, 10 * time.Second
)

// controlSocket is where the machine of [RunVM] is asked and told things.
func (o Options) controlSocket() string { return filepath.Join(o.OutDir, "vm", "control.sock") }

// socket returns the path to dial, and what to do when nobody is there.
func (g Guest) socket(o Options) (path, hint string, err error) {
	switch {
	case g.Socket != "" && g.Name != "":
		return "", "", fault.Newf(fault.Usage, "-socket and -name say the same in two ways")
	case g.Name != "":
		path, err = domain.ControlSocketOf(g.Name)
		return path, "`virsh start " + g.Name + "` starts it; its sockets are for root", err
	case g.Socket != "":
		return g.Socket, "it is the socket of the VM's port " + control.PortName, nil
	}
	return o.controlSocket(), "`mage vm` starts one; -socket=PATH or -name=DOMAIN asks another", nil
}

// RotateKeys replaces the secrets of a running guest's volumes and prints what
// opens them then.
func RotateKeys(ctx context.Context, o Options, g Guest, w io.Writer) error {
	return o.talk(ctx, g, "waiting for the guest to replace its secrets", func(ctx context.Context, c *control.Client) error {
		if err := c.Ask(ctx, "keys rotate", nil, nil); err != nil {
			return err
		}
		return showKeyStatus(ctx, c, w)
	})
}

// talk connects to the guest for do. While that waits, a line now and then
// tells what for.
func (o Options) talk(ctx context.Context, g Guest, what string, do func(context.Context, *control.Client) error) error {
	path, hint, err := g.socket(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := control.Dial(ctx, path)
	if err != nil {
		var cause *os.SyscallError // without the path, which stands there already
		if errors.As(err, &cause) {
			err = cause
		}
		return fault.Newf(fault.Machine, "no VM runs at %s: %w", path, err).Hint("%s", hint)
	}
	defer c.Close()
	defer waiting(o.Stderr, what)()
	err = do(ctx, c)
	switch {
	case err == nil || fault.Of(err) != nil:
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return fault.New(fault.Interrupted, err)
	case ctx.Err() != nil:
		return fault.Newf(fault.Machine, "the VM at %s does not answer: %w", path, err).
			Hint("its console tells whether it still boots or was refused; a port serves one program at a time")
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET):
		return fault.Newf(fault.Machine, "the VM at %s has hung up: %w", path, err)
	}
	return fault.Newf(fault.Machine, "talking to the VM at %s: %w", path, err)
}

// waiting says on w what is being waited for, until stop is called.
func waiting(w io.Writer, what string) (stop func()) {
	began, done, gone := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for pause := quiet; ; pause = every {
			select {
			case <-done:
				return
			case <-time.After(pause):
				fmt.Fprintf(w, "vm: %s, %.0f s\n", what, time.Since(began).Seconds())
			}
		}
	}()
	return func() { close(done); <-gone }
}

// keyStatus is as much of the guest's answer to "keys status" as is shown.
type keyStatus struct {
	Profile string
	Volumes []struct {
		Label string
		Slots []struct {
			Slot, Kind, State, Made string
			Epoch                   int
		}
	}
}

func showKeyStatus(ctx context.Context, c *control.Client, w io.Writer) error {
	var s keyStatus
	if err := c.Ask(ctx, "keys status", nil, &s); err != nil {
		return err
	}
	fmt.Fprintf(w, "profile %s\n", cell(s.Profile))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "volume\tslot\tkind\tepoch\tstate\tmade")
	for _, v := range s.Volumes {
		for _, slot := range v.Slots {
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\n", cell(v.Label), cell(slot.Slot), cell(slot.Kind), slot.Epoch, cell(slot.State), cell(slot.Made))
		}
	}
	return t.Flush()
}

// cell is a guest's word in a table.
func cell(text string) string {
	if text == "" {
		return "-"
	}
	return control.Printable(text)
}
