package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/release"
	"cc-base/tasks/release/operator"
	"cc-base/tasks/release/policy"
	"cc-base/tasks/tee/evidence/verify"
)

// releaseUsage is the part of the usage for release.
const releaseUsage = `  cc-install release --new-key FILE            make the operator's key; prints its OPERATOR_KEY
  cc-install release --policy FILE --key FILE --store DIR [--audit FILE]
                     (--connect ADDRESS | --listen ADDRESS) [--once] [--timeout D]
                                               release keys to machines that prove themselves;
                                               ADDRESS: unix:PATH or tcp:HOST:PORT
`

const (
	redialPause = time.Second      // between two attempts to connect
	guestIdle   = 2 * time.Minute  // guests that connect to us repeat their hello every few seconds
	maxGuests   = 64               // served at a time on --listen
	dialTimeout = 10 * time.Second // of one attempt
	onceGrace   = 2 * time.Second  // for a machine to read its answer before we hang up
)

// releaseFlags are the flags of release.
type releaseFlags struct {
	newKey, policy, key, store, audit, connect, listen string
	once                                               bool
	timeout                                            time.Duration
}

// release runs the operator's service, or makes its key.
func (a *app) release(ctx context.Context, args []string) error {
	var f releaseFlags
	set := flag.NewFlagSet("release", flag.ContinueOnError)
	for name, into := range map[string]*string{
		"new-key": &f.newKey, "policy": &f.policy, "key": &f.key, "store": &f.store, "audit": &f.audit,
		"connect": &f.connect, "listen": &f.listen,
	} {
		set.StringVar(into, name, "", "")
	}
	set.BoolVar(&f.once, "once", false, "")
	set.DurationVar(&f.timeout, "timeout", 0, "")
	rest, err := parseFlags(set, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(a.out, releaseUsage)
		return nil
	}
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%q is no flag", rest[0])
	}
	if err == nil {
		err = f.check()
	}
	if err != nil {
		return fault.Newf(fault.Usage, "release: %w", err).Hint("cc-install help shows the usage")
	}
	if f.newKey != "" {
		return a.newOperatorKey(f.newKey)
	}
	if f.timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, f.timeout)
		defer stop()
	}
	return a.serveReleases(ctx, f)
}

func (f releaseFlags) check() error {
	if f.newKey != "" {
		if f != (releaseFlags{newKey: f.newKey}) {
			return errors.New("--new-key stands alone")
		}
		return nil
	}
	var errs []error
	for _, needed := range [][2]string{{"--policy", f.policy}, {"--key", f.key}, {"--store", f.store}} {
		if needed[1] == "" {
			errs = append(errs, fmt.Errorf("%s is needed", needed[0]))
		}
	}
	if (f.connect == "") == (f.listen == "") {
		errs = append(errs, errors.New("one of --connect and --listen is needed"))
	} else if _, _, err := releaseAddress(f.connect + f.listen); err != nil {
		errs = append(errs, err)
	}
	if f.timeout < 0 {
		errs = append(errs, errors.New("--timeout is negative"))
	}
	return errors.Join(errs...)
}

// releaseAddress splits unix:PATH or tcp:HOST:PORT.
func releaseAddress(text string) (network, address string, err error) {
	network, address, _ = strings.Cut(text, ":")
	switch {
	case address == "", network != "unix" && network != "tcp":
		return "", "", fmt.Errorf("the address %q is neither unix:PATH nor tcp:HOST:PORT", text)
	case network == "tcp":
		if _, _, err := net.SplitHostPort(address); err != nil {
			return "", "", fmt.Errorf("the address %q has no port: tcp:HOST:PORT", text)
		}
	}
	return network, address, nil
}

func (a *app) newOperatorKey(path string) error {
	public, err := operator.GenerateKey(path)
	if errors.Is(err, fs.ErrExist) {
		return fault.Newf(fault.Usage, "%s exists, and a key is never overwritten", path)
	}
	if err != nil {
		return err
	}
	a.say("release: the private key is in %s; keep it where the machines' hosts cannot reach it", path)
	_, err = fmt.Fprintln(a.out, release.FormatOperatorKey(public))
	return err
}

func (a *app) serveReleases(ctx context.Context, f releaseFlags) (err error) {
	p, err := policy.Read(f.policy)
	if err != nil {
		return err
	}
	key, err := operator.ReadKey(f.key)
	if err != nil {
		return err
	}
	defer clear(key)
	store, err := operator.OpenFolder(f.store)
	if err != nil {
		return err
	}
	audit := operator.AuditTo(a.out)
	if f.audit != "" {
		log, err := os.OpenFile(f.audit, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return fault.Newf(fault.Usage, "--audit: %w", err)
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		audit = operator.AuditTo(log)
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &releaseService{
		app: a, flags: f, stop: stop,
		server: &operator.Server{Key: key, Policy: p, Store: store, Verify: verify.Evidence, Log: func(line string) { a.say("release: %s", line) }},
	}
	s.server.Audit = func(d operator.Decision) error {
		err := audit(d)
		if err == nil && d.Instance != "" {
			s.decided(d)
		}
		return err
	}
	return s.run(ctx)
}

// releaseService is the running service.
type releaseService struct {
	*app
	flags  releaseFlags
	server *operator.Server
	stop   context.CancelFunc

	lock sync.Mutex
	last *operator.Decision // with --once, the one
}

// decided notes a decision; the answer to it is still to be sent.
func (s *releaseService) decided(d operator.Decision) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.last = &d
}

func (s *releaseService) run(ctx context.Context) error {
	var err error
	if s.flags.connect != "" {
		err = s.connect(ctx)
	} else {
		err = s.listen(ctx)
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	switch {
	case s.flags.once && s.last != nil && s.last.Verdict == operator.Denied:
		return fault.Newf(fault.ReleaseDenied, "%s: %s", s.last.Instance, s.last.Reason)
	case s.flags.once && s.last != nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded) && s.flags.once:
		return fault.Newf(fault.ReleaseNoAnswer, "no machine asked for its key in %s", s.flags.timeout).
			Hint("is the machine started, and is its port %s connected to %s%s?", release.PortName, s.flags.connect, s.flags.listen)
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		return nil // the time that was given is over, or somebody stopped us
	}
	return err
}

// serve answers on one connection, and with --once ends the service after its
// first decision.
func (s *releaseService) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	var guest net.Conn = conn
	if s.flags.once {
		guest = &oneDecision{Conn: conn, service: s}
	}
	if err := s.server.Serve(ctx, guest); err != nil && ctx.Err() == nil {
		s.say("release: connection ended: %v", err)
	}
	if s.flags.once && s.done() {
		s.stop()
	}
}

func (s *releaseService) done() bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.last != nil
}

// oneDecision stops the service a moment after the answer to a decision was
// sent: QEMU may drop what it has not read yet from a socket that is closed.
type oneDecision struct {
	net.Conn
	service *releaseService
}

func (o *oneDecision) Write(b []byte) (int, error) {
	n, err := o.Conn.Write(b)
	if o.service.done() {
		time.AfterFunc(onceGrace, o.service.stop)
	}
	return n, err
}

// connect serves the machine whose port is a listening socket, as QEMU makes
// it. The socket comes and goes with the machine.
func (s *releaseService) connect(ctx context.Context) error {
	network, address, err := releaseAddress(s.flags.connect)
	if err != nil {
		return err
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	waiting := false
	for {
		conn, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			s.say("release: connected to %s", s.flags.connect)
			waiting = false
			s.serve(ctx, conn)
		} else if !waiting && ctx.Err() == nil {
			s.say("release: waiting for %s: %v", s.flags.connect, err)
			waiting = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(redialPause):
		}
	}
}

// listen serves machines that connect.
func (s *releaseService) listen(ctx context.Context) error {
	network, address, err := releaseAddress(s.flags.listen)
	if err != nil {
		return err
	}
	if network == "unix" {
		if err := removeDeadSocket(address); err != nil {
			return fault.New(fault.Usage, err)
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if err != nil {
		return fault.Newf(fault.Usage, "--listen: %w", err)
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	defer listener.Close()
	s.say("release: listening on %s:%s", network, listener.Addr())
	s.server.Idle = guestIdle
	var guests sync.WaitGroup
	defer guests.Wait()
	room := make(chan struct{}, maxGuests)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("release: %w", err)
		}
		guests.Go(func() {
			defer func() { <-room }()
			s.serve(ctx, conn)
		})
	}
}

// removeDeadSocket removes a socket that a killed service left. One that
// somebody listens on, and what is no socket, stay.
func removeDeadSocket(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("somebody listens on %s already", path)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	return err
}
