package lab_test

// What green does not prove: the processor is a test's own, which signs reports
// in AMD's format for a policy that names its root certificates; everything
// from the guest's port to the operator's verdict is what is shipped.

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sevtest "github.com/google/go-sev-guest/testing"

	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/lab"
	"cc-base/tasks/program"
	"cc-base/tasks/release"
	"cc-base/tasks/release/operator"
	"cc-base/tasks/sh"
	"cc-base/tasks/vm"
)

// attested is a machine whose keys an operator releases.
type attested struct {
	installed
	operator string // folder: key.pem, policy.json, store
	key      ed25519.PrivateKey
}

// measurement is what the test's processor says of the guest.
func measurement() []byte { return bytes.Repeat([]byte{0x3e}, 48) }

func installAttested(t *testing.T) attested {
	t.Helper()
	a := attested{installed: install(t), operator: t.TempDir()}
	a.guest.Ports = append(a.guest.Ports, vm.Port{Name: release.PortName})
	public, err := operator.GenerateKey(a.path("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if a.key, err = operator.ReadKey(a.path("key.pem")); err != nil {
		t.Fatal(err)
	}
	born := time.Now().Add(-time.Hour)
	signer, err := (&sevtest.AmdSignerBuilder{
		ProductName: "Milan-B1", ArkCreationTime: born, AskCreationTime: born, AsvkCreationTime: born, VcekCreationTime: born, VlekCreationTime: born,
		VcekCustom: sevtest.CertOverride{SerialNumber: big.NewInt(7)},
	}).TestOnlyCertChain()
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(signer.Keys.Vcek)
	if err != nil {
		t.Fatal(err)
	}
	table, err := signer.CertTableBytes()
	if err != nil {
		t.Fatal(err)
	}
	var roots []byte
	for _, c := range []*x509.Certificate{signer.Ask, signer.Ark} {
		roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := os.WriteFile(a.path("roots.pem"), roots, 0o600); err != nil {
		t.Fatal(err)
	}
	a.expect(t, measurement())
	a.withTestBuild(t, "attested", func(s *settings.Settings) {
		s.Keys.OperatorKey = release.FormatOperatorKey(public)
		s.Keys.DynamicIntegrity = "off" // what makes it slow is qualified by a test of its own
	}, map[string][]byte{"usr/lib/cc/test-chip.json": asJSON(t, map[string][]byte{"key": key, "certs": table, "measurement": measurement()})})
	return a
}

func (a attested) path(name string) string { return filepath.Join(a.operator, name) }

// expect writes a policy that serves machines of one measurement.
func (a attested) expect(t *testing.T, digest []byte) {
	t.Helper()
	policy := `{"version": 1, "measurements": [{"kind": "snp", "digest": "` + hex.EncodeToString(digest) +
		`"}], "products": ["Milan"], "debug": "never", "amdRoots": "roots.pem", "enrol": true}`
	if err := os.WriteFile(a.path("policy.json"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
}

// service starts `cc-install release` for one decision at the machine's port;
// result waits for its end.
func (a attested) service(t *testing.T, g lab.Guest) (result func() (string, error)) {
	t.Helper()
	install := filepath.Join(a.tmp, "cc-install")
	if _, err := os.Stat(install); err != nil {
		if err := program.Build(context.Background(), sh.Host{}, "../..", "./installer", install); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(install, "release", "--policy", a.path("policy.json"), "--key", a.path("key.pem"), "--store", a.path("store"),
		"--connect", "unix:"+filepath.Join(g.Dir, release.PortName+".sock"), "--once", "--timeout", "5m")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return func() (string, error) {
		err := cmd.Wait()
		return out.String(), err
	}
}

// peer starts the machine with do at the other end of its port.
func (a attested) peer(t *testing.T, g lab.Guest, until string, do func(ctx context.Context, conn net.Conn) error) (lines []string) {
	t.Helper()
	boots.Run(t, a.tools, g, func(ctx context.Context, m *vm.Machine) {
		t.Helper()
		conn, err := m.Dial(ctx, release.PortName)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		done := make(chan error, 1)
		go func() { done <- do(ctx, conn) }()
		if until != "" {
			_, err = m.Expect(ctx, until)
		} else {
			err = m.Wait(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = m.Lines()
		conn.Close()
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil && until != "" {
			t.Error(err)
		}
	})
	return lines
}

func TestAnOperatorReleasesTheKeyOverTheMachinesPort(t *testing.T) {
	a := installAttested(t)
	first := a.first()
	result := a.service(t, first)
	lines := boots.Boot(t, a.tools, first, ready)
	out, err := result()
	if err != nil || !strings.Contains(out, `"verdict":"released"`) || !strings.Contains(out, `"enrolled":true`) {
		t.Fatalf("cc-install release: %v\n%s", err, out)
	}
	for _, part := range []string{"profile attested: cc-root enrolment, cc-app enrolment, cc-config none, cc-dynamic made", "the operator released the key"} {
		if !contains(lines, part) {
			t.Errorf("the first boot's console has no %q", part)
		}
	}
	// The host plays the first boot's answer back to a later one: recorded here.
	result = a.service(t, a.guest)
	lines = boots.Boot(t, a.tools, a.guest, ready)
	if out, err := result(); err != nil || strings.Contains(out, `"enrolled":true`) {
		t.Errorf("cc-install release: %v\n%s", err, out)
	}
	if !contains(lines, "cc-root machine, cc-app machine, cc-config none, cc-dynamic machine") {
		t.Error("the second boot did not unlock with what was released")
	}
}

func TestAMachineOfAnotherMeasurementGetsNoKey(t *testing.T) {
	a := installAttested(t)
	a.expect(t, bytes.Repeat([]byte{0x77}, 48))
	first := a.first()
	result := a.service(t, first)
	a.refused(t, first, "cc-base: refused: CC0825", "measurement")
	if out, err := result(); err == nil || !strings.Contains(out, `"verdict":"denied"`) {
		t.Errorf("cc-install release: %v\n%s", err, out)
	}
}

func TestWithoutAnOperatorTheMachineEnds(t *testing.T) {
	boots.LongOnly(t)
	a := installAttested(t)
	a.refused(t, a.first(), "cc-base: refused: CC0821")
}

// server is an operator of the test's own, which says what it wants.
func (a attested) server(t *testing.T, key ed25519.PrivateKey, conn net.Conn, answer func(h release.Hello, r release.Request, transcript release.Digest) any) func(context.Context) error {
	t.Helper()
	return func(ctx context.Context) error {
		link := release.NewLink(conn, false)
		defer link.Close()
		var hello release.Hello
		challenge := release.Challenge{Nonce: make([]byte, release.NonceSize)}
		if _, err := rand.Read(challenge.Nonce); err != nil {
			return err
		}
		for payload := range link.In {
			message, err := release.Decode(payload)
			if err != nil {
				continue
			}
			var reply any
			switch m := message.(type) {
			case release.Hello:
				hello, challenge.Session = m, m.Session
				challenge.Sign(key, m)
				reply = challenge
			case release.Request:
				reply = answer(hello, m, release.Transcript(key.Public().(ed25519.PublicKey), hello, m))
			}
			if err := link.Send(ctx, reply); err != nil {
				return err
			}
		}
		return link.Err()
	}
}

// sealed is a good answer to a request.
func sealed(t *testing.T, h release.Hello, r release.Request, transcript release.Digest) release.Release {
	t.Helper()
	enc, box, err := release.Seal(r.PublicKey, bytes.Repeat([]byte("k"), release.KeySize), transcript)
	if err != nil {
		t.Error(err)
	}
	return release.Release{Session: h.Session, Nonce: r.Nonce, Transcript: transcript[:], Enc: enc, Sealed: box}
}

func TestAnswersThatFitNoQuestionOfThisBoot(t *testing.T) {
	boots.LongOnly(t)
	a := installAttested(t)
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var recorded release.Release
	for _, tc := range []struct {
		name, code string
		key        ed25519.PrivateKey
		answer     func(h release.Hello, r release.Request, transcript release.Digest) any
	}{
		{"a nonce that was not asked", "CC0822", a.key, func(h release.Hello, r release.Request, transcript release.Digest) any {
			recorded = sealed(t, h, r, transcript)
			recorded.Sign(a.key)
			wrong := recorded
			wrong.Nonce = bytes.Repeat([]byte{1}, release.NonceSize)
			wrong.Sign(a.key)
			return wrong
		}},
		{"the answer to another boot", "CC0823", a.key, func(release.Hello, release.Request, release.Digest) any { return recorded }},
		{"another operator", "CC0824", foreign, func(h release.Hello, r release.Request, transcript release.Digest) any {
			good := sealed(t, h, r, transcript)
			good.Sign(foreign)
			return good
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := a.first()
			g.Dir = lab.ShortDir(t)
			lines := a.peer(t, g, "", func(ctx context.Context, conn net.Conn) error {
				return a.server(t, tc.key, conn, tc.answer)(ctx)
			})
			refused(t, lines, "cc-base: refused: "+tc.code)
		})
	}
}
