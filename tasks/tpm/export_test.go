package tpm

import (
	"io"

	"github.com/google/go-tpm/tpm2/transport"
)

// Managed is Open's choice of the device.
var Managed = managed

// Raw gives a test the transport, for commands that the package does not have.
func (t *TPM) Raw() transport.TPM { return t.dev }

// Between returns the same TPM with somebody on the wire, who sees each command
// and passes it on with next, or does not.
func (t *TPM) Between(wire func(command []byte, next func([]byte) ([]byte, error)) ([]byte, error)) *TPM {
	return &TPM{dev: tapped{t.dev, t.dev, wire}}
}

type tapped struct {
	io.Closer
	dev  transport.TPM
	wire func([]byte, func([]byte) ([]byte, error)) ([]byte, error)
}

func (t tapped) Send(command []byte) ([]byte, error) { return t.wire(command, t.dev.Send) }
