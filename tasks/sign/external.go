package sign

import (
	"bytes"
	"context"
	"errors"
	"os"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// External is a signer that is another program, such as one that asks a hardware
// module: it has the private key, we have the public half.
//
// The program is started without arguments, once for each file. It reads what is
// to be signed from standard input, writes an armoured detached OpenPGP signature
// of it to standard output, and exits with status 0. What it writes is believed
// only after it was verified with the public key.
type External struct {
	Program string
	Public  []byte // armoured
}

// maxSignature is far above any detached signature, in bytes.
const maxSignature = 64 << 10

// SignFile writes path.asc as [Key.SignFile] does, and returns whose signature it
// is.
func (e External) SignFile(ctx context.Context, host sh.Runner, path string) (s Signature, err error) {
	defer func() {
		if err != nil {
			_, rerr := Unsign(path)
			err = errors.Join(err, rerr)
		}
	}()
	in, err := os.Open(path)
	if err != nil {
		return s, fault.New(fault.Signing, err)
	}
	defer in.Close()
	var out limited
	if err := host.Run(ctx, sh.Cmd{Name: e.Program, Stdin: in, Stdout: &out}); err != nil {
		return s, fault.Newf(fault.Signing, "%s: %w", CommandEnv, err)
	}
	again, err := os.Open(path) // the program had the first one's place in its hands
	if err != nil {
		return s, fault.New(fault.Signing, err)
	}
	defer again.Close()
	if s, err = Verify(e.Public, &ctxReader{ctx, again}, out.Bytes()); err != nil {
		return s, fault.Newf(fault.Signing, "what %s has written for %s does not verify with %s: %w", CommandEnv, path, CommandKeyEnv, err)
	}
	if err := atomicfile.Write(path+Extension, 0o644, out.Bytes()); err != nil {
		return s, fault.New(fault.Signing, err)
	}
	return s, nil
}

// limited keeps what a signature can have and ends a program that writes more.
type limited struct{ buf bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.buf.Len()+len(p) > maxSignature {
		return 0, errors.New("too much for a signature")
	}
	return l.buf.Write(p)
}

func (l *limited) Bytes() []byte { return l.buf.Bytes() }
