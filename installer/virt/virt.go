// Package virt asks libvirt through virsh, the client that every host with
// libvirt has and that an operator can repeat by hand: one command per method,
// an argument vector and no shell, XML on standard input.
//
//	c := virt.Client{Run: sh.Host{}, URI: virt.System}
//	err := c.Define(ctx, text)
//
// Errors have a code: fault.NoLibvirt when nobody answers at the URI, fault.NoVM
// when there is no domain of that name, fault.Libvirt for everything else that
// libvirt refuses. What is not there, domain, network or filter, is
// [ErrNotFound] besides.
package virt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// System is the URI of the host's own libvirt.
const System = "qemu:///system"

// ErrNotFound is in the chain of an error about a domain, network or filter
// that libvirt does not know.
var ErrNotFound = errors.New("libvirt does not know it")

// Client is virsh at one URI.
type Client struct {
	Run sh.Runner // runs virsh
	URI string    // empty means System
}

// State is the state of a domain, in virsh's words.
type State string

// The states that callers tell apart (virsh(1), list).
const (
	Running State = "running"
	ShutOff State = "shut off"
	Crashed State = "crashed"
)

// Domain is a line of `virsh list --all`.
type Domain struct {
	Name  string `json:"name"`
	State State  `json:"state"`
}

// Define makes a persistent domain, or redefines the one of that name.
func (c Client) Define(ctx context.Context, xml string) error {
	return c.give(ctx, xml, "define", "/dev/stdin")
}

// Undefine removes a domain's definition with everything that libvirt keeps
// for it: its EFI variables and, from libvirt 8.9, which is the first to ask
// for it, its TPM's state.
func (c Client) Undefine(ctx context.Context, name string) error {
	v, err := c.Version(ctx)
	if err != nil {
		return err
	}
	args := []string{"undefine", "--domain", name, "--managed-save", "--nvram"}
	if v.Library.AtLeast(8, 9) && v.Daemon.AtLeast(8, 9) {
		args = append(args, "--tpm")
	}
	return c.do(ctx, args...)
}

// Start starts a defined domain.
func (c Client) Start(ctx context.Context, name string) error {
	return c.do(ctx, "start", "--domain", name)
}

// Destroy ends a running domain as pulling its plug would.
func (c Client) Destroy(ctx context.Context, name string) error {
	return c.do(ctx, "destroy", "--domain", name)
}

// Shutdown asks the guest to end; it returns at once.
func (c Client) Shutdown(ctx context.Context, name string) error {
	return c.do(ctx, "shutdown", "--domain", name)
}

// Autostart says whether the domain is started with the host.
func (c Client) Autostart(ctx context.Context, name string, on bool) error {
	return c.do(ctx, autostart("autostart", "--domain", name, on)...)
}

func autostart(command, option, name string, on bool) []string {
	args := []string{command, option, name}
	if !on {
		args = append(args, "--disable")
	}
	return args
}

// State returns a domain's state.
func (c Client) State(ctx context.Context, name string) (State, error) {
	out, err := c.text(ctx, "domstate", "--domain", name)
	return State(strings.TrimSpace(out)), err
}

// XML returns a domain's definition, which is in force from its next start.
func (c Client) XML(ctx context.Context, name string) (string, error) {
	return c.text(ctx, "dumpxml", "--inactive", "--domain", name)
}

// row is a line of a list: an identifier, a name, which may have blanks, and a
// state of one or two words (virsh-domain-monitor.c).
var row = regexp.MustCompile(`^ *(?:-|[0-9]+) +(.*?) +(no state|running|idle|paused|in shutdown|shut off|crashed|pmsuspended)$`)

// List returns every domain, running or not, by name.
func (c Client) List(ctx context.Context) ([]Domain, error) {
	out, err := c.text(ctx, "list", "--all")
	if err != nil {
		return nil, err
	}
	var domains []Domain
	for _, line := range lines(out)[min(2, len(lines(out))):] { // heading and rule
		m := row.FindStringSubmatch(strings.TrimRight(line, " "))
		if m == nil {
			return nil, fault.Newf(fault.Libvirt, "virsh list: the line %q cannot be read", line)
		}
		domains = append(domains, Domain{Name: m[1], State: State(m[2])})
	}
	slices.SortFunc(domains, func(a, b Domain) int { return strings.Compare(a.Name, b.Name) })
	return domains, nil
}

// do runs a command for its effect.
func (c Client) do(ctx context.Context, args ...string) error {
	_, err := c.text(ctx, args...)
	return err
}

// text runs a command and returns what it prints.
func (c Client) text(ctx context.Context, args ...string) (string, error) {
	return c.virsh(ctx, nil, args)
}

// give runs a command that reads XML from standard input, so that no file with
// it is ever left behind.
func (c Client) give(ctx context.Context, xml string, args ...string) error {
	_, err := c.virsh(ctx, strings.NewReader(xml), args)
	return err
}

func (c Client) virsh(ctx context.Context, stdin *strings.Reader, args []string) (string, error) {
	uri := c.URI
	if uri == "" {
		uri = System
	}
	var out bytes.Buffer
	cmd := sh.Cmd{Name: "virsh", Args: append([]string{"-c", uri}, args...), Env: []string{"LC_ALL=C"}, Stdout: &out}
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if err := c.Run.Run(ctx, cmd); err != nil {
		return "", failure(args[0], err)
	}
	return out.String(), nil
}

// lines are the lines of a text that are not blank.
func lines(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
}

// absent is how virsh says that something is not there. With a domain, libvirt
// 11.3 prints no second line with the reason.
var absent = regexp.MustCompile(`failed to get (domain|network|nwfilter|nwfilter binding) '`)

// failure gives a failed virsh its code, and the reason that it printed.
func failure(command string, err error) error {
	var ran *sh.Error
	if !errors.As(err, &ran) || ran.Cause != nil && !errors.Is(ran.Cause, exec.ErrNotFound) {
		return fmt.Errorf("virsh %s: %w", command, err)
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fault.New(fault.NoLibvirt, fmt.Errorf("virsh: %w", exec.ErrNotFound)).
			Hint("install libvirt's client, on Debian and Ubuntu: apt-get install libvirt-clients")
	}
	var said []string
	for _, line := range ran.Tail {
		if reason, ok := strings.CutPrefix(line, "error: "); ok {
			said = append(said, strings.TrimSuffix(reason, ":"))
		}
	}
	text := strings.Join(said, ": ")
	switch {
	case strings.Contains(text, "failed to connect to the hypervisor"):
		return fault.New(fault.NoLibvirt, &refusal{command, text, err}).
			Hint("start it: systemctl start libvirtd, or virtqemud.socket on hosts with its modular daemons")
	case absent.MatchString(text):
		code := fault.Libvirt
		if absent.FindStringSubmatch(text)[1] == "domain" {
			code = fault.NoVM
		}
		return fault.New(code, &refusal{command, text, errors.Join(ErrNotFound, err)})
	case text == "":
		return fault.New(fault.Libvirt, fmt.Errorf("virsh %s: %w", command, err))
	}
	return fault.New(fault.Libvirt, &refusal{command, text, err})
}

// refusal shows libvirt's reason alone: the lines around it say it once more.
type refusal struct {
	command, reason string
	err             error
}

func (r *refusal) Error() string { return "virsh " + r.command + ": " + r.reason }
func (r *refusal) Unwrap() error { return r.err }
