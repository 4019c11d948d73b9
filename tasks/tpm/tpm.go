// Package tpm binds secrets to a TPM 2.0 and to what a machine has booted, in
// the form in which systemd does it, so that either opens what the other has
// made. Package token holds the LUKS2 token around it.
//
//	device, err := tpm.Open("/dev/tpm0")
//	srk, err := device.EnsureSRK()
//	policy, err := tpm.Policy{Literal: values, Key: maker, SignedPCRs: []int{11}}.Digest()
//	sealed, err := device.Seal(srk, secret, policy)
//	secret, err = device.Unseal(sealed, srk, []int{7}, maker, []int{11}, signatures)
//
// Every secret crosses the wire to the TPM encrypted, in a session whose key is
// agreed with the storage root key of a name that the caller knows: neither
// somebody on the wire nor another TPM in its place learns it (TPM 2.0 Library
// Part 1, "Session-Based Encryption"). Nothing in this package protects against
// whoever owns the TPM itself, as a host owns the one that it emulates.
//
// Numbers of commands, structures and attributes are those of the TPM 2.0
// Library Specification, Parts 2 and 3; formats on disk those of systemd 257,
// src/shared/tpm2-util.c.
package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// Errors that a caller tells apart with errors.Is.
var (
	// ErrNoSRK: there is no object at the storage root key's handle.
	ErrNoSRK = errors.New("the TPM has no storage root key")
	// ErrSRKTemplate: the key at that handle, or in a file, is not of the TCG's
	// template for ECC P-256. Some systems put an RSA key there.
	ErrSRKTemplate = errors.New("not a storage root key of the ECC P-256 template")
	// ErrOtherSRK: the TPM has another storage root key than the one asked for.
	ErrOtherSRK = errors.New("the TPM's storage root key is another one")
	// ErrBank: the SHA-256 bank is missing, or nothing was measured into it.
	ErrBank = errors.New("the TPM's SHA-256 bank cannot be relied on")
	// ErrPolicy: the machine's state is not what the object was sealed to.
	ErrPolicy = errors.New("the TPM's registers are not those of the policy")
	// ErrSignature: no signature fits the present values of the signed PCRs, or
	// none that fits verifies.
	ErrSignature = errors.New("no valid signature for the present PCR values")
	// ErrLockout: the TPM is in dictionary attack lockout and refuses for now.
	ErrLockout = errors.New("the TPM is locked out after failed authorisations")
)

// TPM is an open TPM 2.0. It is for one goroutine at a time.
type TPM struct{ dev transport.TPMCloser }

// Open opens a TPM's character device. A name /dev/tpmN stands for the kernel's
// resource manager /dev/tpmrmN where that exists: through it, what a killed
// program has loaded is flushed, and others can use the TPM, too.
//
// A missing device is fs.ErrNotExist.
func Open(device string) (*TPM, error) {
	device = managed(device, func(name string) bool {
		_, err := os.Stat(name)
		return err == nil
	})
	info, err := os.Stat(device)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeCharDevice == 0 {
		return nil, fmt.Errorf("%s: not a character device", device)
	}
	dev, err := linuxtpm.Open(device)
	if err != nil {
		return nil, err
	}
	t := &TPM{dev: dev}
	if err := t.family(); err != nil {
		return nil, fmt.Errorf("%s: %w", device, errors.Join(err, t.Close()))
	}
	return t, nil
}

// managed returns the resource manager's name for that of the plain device.
func managed(device string, exists func(string) bool) string {
	n, ok := strings.CutPrefix(device, "/dev/tpm")
	if !ok || n == "" || strings.Trim(n, "0123456789") != "" {
		return device
	}
	if manager := "/dev/tpmrm" + n; exists(manager) {
		return manager
	}
	return device
}

// DialUnix connects to the data socket of an emulated TPM (swtpm --server
// type=unixio) and starts the TPM up where nothing has done so yet. swtpm
// serves one client at a time: the call waits while there is another.
func DialUnix(path string) (*TPM, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	t := &TPM{dev: stream{conn}}
	_, err = tpm2.Startup{StartupType: tpm2.TPMSUClear}.Execute(t.dev)
	if err != nil && !errors.Is(err, tpm2.TPMRCInitialize) { // it is the answer of a TPM that is up
		return nil, errors.Join(failed("startup", err), t.Close())
	}
	if err := t.family(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Close ends the connection. It leaves the TPM as it is.
func (t *TPM) Close() error { return t.dev.Close() }

// family refuses what is not a TPM 2.0: TPM_PT_FAMILY_INDICATOR is "2.0\0".
func (t *TPM) family() error {
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTFamilyIndicator), PropertyCount: 1,
	}.Execute(t.dev)
	if err != nil {
		return failed("asking for its family", err)
	}
	properties, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return failed("asking for its family", err)
	}
	if len(properties.TPMProperty) != 1 || properties.TPMProperty[0].Value != 0x322e3000 {
		return errors.New("not a TPM 2.0")
	}
	return nil
}

// failed says what the TPM was asked to do when it failed. go-tpm's errors hold
// response codes and never parameters.
func failed(what string, err error) error {
	if errors.Is(err, tpm2.TPMRCLockout) {
		return fmt.Errorf("tpm: %s: %w: %w", what, ErrLockout, err)
	}
	return fmt.Errorf("tpm: %s: %w", what, err)
}

const (
	// headerSize is a response header: tag, size, response code.
	headerSize = 10
	// maxResponse is what a PC Client TPM may answer at most, in bytes.
	maxResponse = 4096
	// commandTime bounds one command. Making an RSA key, the longest of all,
	// takes a real TPM up to a minute.
	commandTime = 3 * time.Minute
)

// stream speaks to a TPM over a byte stream, in which a response may come in
// parts.
type stream struct{ net.Conn }

// Send implements transport.TPM.
func (s stream) Send(command []byte) ([]byte, error) {
	if err := s.SetDeadline(time.Now().Add(commandTime)); err != nil {
		return nil, err
	}
	if _, err := s.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, headerSize, maxResponse)
	if _, err := io.ReadFull(s, response); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(response[2:])
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("a response of %d bytes", size)
	}
	response = response[:size]
	_, err := io.ReadFull(s, response[headerSize:])
	return response, err
}
