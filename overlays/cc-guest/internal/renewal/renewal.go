// Package renewal gives a volume another key: the one thing that revokes an
// old header, because whoever has kept one, and what opened it, has the old key.
//
// The running system asks for it with a note in the header ([vault.Vault.Ask]).
// At the next boot, before the volume is mapped, [Changer.Start] adds the second
// key to a copy of the header and writes that in one go. From there on the work
// is cryptsetup reencrypt's, on the header on the disk, so that what was cut off
// goes on; [Changer.Resume] looks at the header before and after each run,
// because there are states in which cryptsetup must not be started again (see
// [header.Copy.Renewed]). In the end [Changer.Adopt] binds the volume to the
// machine anew.
//
// All of this trusts that nobody else writes to the disk meanwhile: it is for
// the key profile in which the host is trusted.
package renewal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
	"cc-base/tasks/seal/header"
)

// ErrBegun is in the chain when the volume may have two keys already: it must
// not be mapped before the change has ended.
var ErrBegun = errors.New("the change of the volume key has begun")

// maxRuns bounds how often cryptsetup is started in one boot: once to play its
// journal back, once to go on, and once more for good measure.
const maxRuns = 3

// Possible tells whether the key of the writable volume can be changed. In the
// other profiles a hostile host could change the header on the disk while
// cryptsetup works with it; and cryptsetup 2.7 does not re-encrypt a volume that
// keeps authentication codes.
func Possible(profile string, integrity bool) bool { return profile == cmdline.TPM && !integrity }

// Device is the partition.
type Device interface {
	io.ReaderAt
	header.Device
}

// Changer changes the key of one volume.
type Changer struct {
	Runner vault.Runner
	Source vault.Source
	Rules  header.Rules
	Device Device
	Label  string
	Node   string // /dev/…, of the same partition
}

// Start begins the change of a volume that o opens and goes on to its end. An
// error without [ErrBegun] in it means that the disk is as it was.
func (c Changer) Start(ctx context.Context, v *vault.Vault, o *vault.Open) error {
	begun, err := c.begin(ctx, v, o)
	if err != nil {
		// The file may hold half of it.
		return c.coded(errors.Join(err, os.WriteFile(v.File, v.Header.Bytes(), 0o600)))
	}
	if err := header.Store(c.Device, v.Header, begun); err != nil {
		return c.coded(fmt.Errorf("%w: writing the header: %w", ErrBegun, err))
	}
	if err := c.Resume(ctx, begun); err != nil {
		return fmt.Errorf("%w: %w", ErrBegun, err)
	}
	return nil
}

// begin returns the header with two keys. It is made from the copy in memory
// and goes to the disk by the writes of [header.Store]: those of cryptsetup
// would leave headers that look like nothing the guest makes.
func (c Changer) begin(ctx context.Context, v *vault.Vault, o *vault.Open) (*header.Copy, error) {
	err := c.cryptsetup(ctx, o.Passphrase, "reencrypt", "--init-only", "--header="+v.File, "--key-slot="+o.Slot,
		"--resilience=journal", "--force-offline-reencrypt",
		"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--hash="+c.Rules.Hash)
	if err != nil {
		return nil, err
	}
	area, err := os.ReadFile(v.File)
	if err != nil {
		return nil, err
	}
	h, err := header.Parse(area)
	if err != nil {
		return nil, err
	}
	n, err := h.CheckRenewal(c.Rules)
	if err != nil {
		return nil, err
	}
	if len(n.New) != 1 {
		return nil, fmt.Errorf("keyslots %q of the new key", n.New)
	}
	key, err := h.VolumeKey(n.New[0], o.Passphrase)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return v.Started(h, key)
}

// Resume goes on with the change that h, the one reading of the header, says
// has begun, until the header on the disk has one key. The guest's own note
// must say so, too.
func (c Changer) Resume(ctx context.Context, h *header.Copy) error {
	// It takes as long as the disk is large; the time limit of a boot would
	// only cut it off.
	ctx = context.WithoutCancel(ctx)
	var passphrase []byte
	defer func() { clear(passphrase) }()
	for range maxRuns {
		now, err := h.Earlier()
		if err != nil {
			return c.coded(err)
		}
		if !now.Renewing() { // cut off before it had begun
			return c.coded(header.Store(c.Device, now, now))
		}
		n, err := now.CheckRenewal(c.Rules)
		if err != nil {
			return c.coded(err)
		}
		if passphrase == nil {
			if passphrase, err = c.announced(ctx, now, n); err != nil {
				return c.coded(err)
			}
		}
		if n.Done {
			return c.coded(c.end(now, n))
		}
		if err := c.run(ctx, now, n, passphrase); err != nil {
			return c.coded(err)
		}
		if h, err = header.Read(c.Device); err != nil {
			return c.coded(err)
		}
		if !h.Renewing() {
			return nil
		}
	}
	return c.coded(errors.New("it does not come to an end"))
}

// announced gets the passphrase back that opens the new key, if the guest's
// note vouches for that key.
func (c Changer) announced(ctx context.Context, h *header.Copy, n header.Renewal) ([]byte, error) {
	v := &vault.Vault{Label: c.Label, Header: h}
	var failed error
	for _, t := range c.tokens(h) {
		passphrase, err := c.Source.Passphrase(ctx, c.Label, t.raw)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		for _, slot := range t.Keyslots {
			if !slices.Contains(n.New, slot) {
				continue
			}
			key, err := h.VolumeKey(slot, passphrase)
			ours := err == nil && v.Renewal(key) == vault.Running
			clear(key)
			if ours {
				return passphrase, nil
			}
		}
		clear(passphrase)
	}
	if failed != nil {
		return nil, failed
	}
	return nil, fault.Newf(fault.HeaderRequirement, "its volume key is being changed, and this guest has not begun that")
}

type token struct {
	Type     string   `json:"type"`
	Keyslots []string `json:"keyslots"`
	raw      json.RawMessage
}

// tokens are those of the machine's source.
func (c Changer) tokens(h *header.Copy) []token {
	var out []token
	for _, raw := range h.Metadata().Tokens {
		t := token{raw: raw}
		if json.Unmarshal(raw, &t) == nil && t.Type == c.Source.TokenType() && len(t.Keyslots) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// run lets cryptsetup play its journal back, or go on, with a header of which
// both copies are h.
func (c Changer) run(ctx context.Context, h *header.Copy, n header.Renewal, passphrase []byte) error {
	if err := header.Store(c.Device, h, h); err != nil {
		return err
	}
	if n.Hot {
		return c.cryptsetup(ctx, passphrase, "repair")
	}
	return c.cryptsetup(ctx, passphrase, "reencrypt", "--resume-only", "--resilience=journal", "--force-offline-reencrypt")
}

// end writes the header with the new key alone.
func (c Changer) end(h *header.Copy, n header.Renewal) error {
	after, err := h.Renewed(n)
	if err != nil {
		return err
	}
	if err := after.Check(c.Rules); err != nil {
		return err
	}
	return header.Store(c.Device, h, after)
}

// Adopt opens a volume whose change has ended, and which is bound to the
// machine by the code over its former header still, and binds it anew. It
// returns nothing where there is no such note.
func (c Changer) Adopt(ctx context.Context, v *vault.Vault) (*vault.Open, error) {
	if v.Renewal(nil) != vault.Running {
		return nil, nil
	}
	o := c.open(ctx, v)
	if o == nil {
		return nil, nil
	}
	defer o.Wipe()
	if err := v.Clear(); err != nil {
		return nil, c.coded(err)
	}
	fresh, err := v.Bind(ctx, c.Source, o)
	return fresh, c.coded(err)
}

// open tries every token whatever its code says: the note vouches for the key.
func (c Changer) open(ctx context.Context, v *vault.Vault) *vault.Open {
	for _, t := range c.tokens(v.Header) {
		passphrase, err := c.Source.Passphrase(ctx, c.Label, t.raw)
		if err != nil {
			continue
		}
		o, err := v.ByPassphrase(passphrase, t.Keyslots)
		clear(passphrase)
		if err == nil && o != nil && v.Renewal(o.Key) == vault.Running {
			return o
		}
		o.Wipe()
	}
	return nil
}

// cryptsetup runs on the partition itself.
func (c Changer) cryptsetup(ctx context.Context, passphrase []byte, action string, args ...string) error {
	all := append([]string{action, "--batch-mode", "--disable-locks",
		"--key-file=/proc/self/fd/3", "--keyfile-size=" + strconv.Itoa(len(passphrase))}, args...)
	_, status, err := c.Runner.Run(ctx, [][]byte{passphrase}, nil, "/usr/sbin/cryptsetup", append(all, c.Node)...)
	if err != nil {
		return fmt.Errorf("running cryptsetup %s: %w", action, err)
	}
	if status != 0 {
		return fmt.Errorf("cryptsetup %s failed (exit status %d)", action, status)
	}
	return nil
}

// coded gives an error its code unless it has one that says more.
func (c Changer) coded(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", c.Label, err)
	if fault.Of(err) != nil {
		return err
	}
	return fault.New(fault.GuestRenew, err)
}
