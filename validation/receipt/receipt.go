// Package receipt keeps what a run of checks has said, so that somebody else
// can tell later what was proven, about which image, on what kind of machine,
// and what was not.
//
//	receipts/20261125T225400Z-host-1f0c…/INDEX.json          the run and its list
//	receipts/20261125T225400Z-host-1f0c…/log.txt             what the run printed
//	receipts/20261125T225400Z-host-1f0c…/keys.headers.json   one check
//
// Each check has a file of its own, signed by itself: it can be handed on and
// verified alone. What a single file cannot show is that another one is gone,
// so the index, signed too, lists all of a run by their digests.
//
// The rules:
//
//   - A file has one encoding. What is read is encoded again and must come out
//     the same, so that no field is there twice, unknown or overlooked.
//   - The key of a host signs at most tier kvm, whatever the record says: a host
//     cannot vouch for the silicon that protects a guest against it. A record of
//     tier silicon is of a guest and has evidence, whose report data is the
//     record's own hash, by a processor that a policy accepts.
//   - A skip proves nothing. It is kept, and shown as not proven.
//   - [Verify] reports all problems at once, and gives no record when there is one.
package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"cc-base/tasks/tee/evidence"
	"cc-base/validation/check"
)

// Version of the format. A reader refuses any other.
const Version = 1

// The files of a run beside those of its checks. No ID of a check has capitals
// or is without a dot before its extension.
const (
	IndexFile = "INDEX.json"
	LogFile   = "log.txt"
)

// MaxSize bounds a file of a run, bytes: three parts of evidence in base64, and
// a record.
const MaxSize = 3*evidence.MaxSize*4/3 + 64<<10

// Run is what all records of a run share.
type Run struct {
	Version  int         `json:"version"`
	Run      string      `json:"run"`      // name of its folder
	Where    check.Where `json:"where"`    // where it ran
	Manifest string      `json:"manifest"` // SHA-256 of the manifest.json that the run was about, hexadecimal
	Log      string      `json:"log"`      // SHA-256 of LogFile, hexadecimal
	Time     time.Time   `json:"time"`     // UTC, whole seconds
	Tool     string      `json:"tool"`     // program and version that ran the checks
	Key      string      `json:"key"`      // Fingerprint of the key that signs
}

// Record is what one check has said.
type Record struct {
	Run
	ID     string       `json:"id"`
	Title  string       `json:"title"` // the claim
	Tier   check.Tier   `json:"tier"`  // what the verdict proves at most
	Status check.Status `json:"status"`
	Detail string       `json:"detail"`
}

// Index lists the records of a run.
type Index struct {
	Run
	Records []Entry `json:"records"` // by ID
}

// Entry is one record of a run.
type Entry struct {
	ID     string `json:"id"`
	SHA256 string `json:"sha256"` // of its file, hexadecimal
}

// sealed is a body with its signature; the purpose keeps a signature of one
// kind of body from passing for another's.
type sealed[T any] struct {
	Body      T                  `json:"body"`
	Signature []byte             `json:"signature,omitempty"`
	Evidence  *evidence.Evidence `json:"evidence,omitempty"` // of records of tier silicon alone
}

const (
	recordPurpose   = "cc-base receipt record 1\n"
	indexPurpose    = "cc-base receipt index 1\n"
	evidencePurpose = "cc-base receipt evidence 1\n"
)

// Fingerprint names a public key: its SHA-256, hexadecimal.
func Fingerprint(key ed25519.PublicKey) string { return digestOf(key) }

// ReportData is what a processor's report must carry to vouch for the record:
// the SHA-512 of it and of the purpose.
func ReportData(r Record) ([evidence.DataSize]byte, error) {
	message, err := message(evidencePurpose, r)
	return sha512.Sum512(message), err
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// message is what is signed for a body.
func message(purpose string, body any) ([]byte, error) {
	text, err := encode(body, "")
	return append([]byte(purpose), text...), err
}

// encode has one result for one value: the order of the fields is the type's,
// and nothing is escaped that need not be.
func encode(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(v)
	return b.Bytes(), err
}

const indent = "  "

func seal[T any](purpose string, key ed25519.PrivateKey, body T) (sealed[T], error) {
	m, err := message(purpose, body)
	if err != nil {
		return sealed[T]{}, err
	}
	return sealed[T]{Body: body, Signature: ed25519.Sign(key, m)}, nil
}

// signed tells whether key has signed it.
func (s sealed[T]) signed(purpose string, key ed25519.PublicKey) bool {
	m, err := message(purpose, s.Body)
	return err == nil && ed25519.Verify(key, m, s.Signature)
}

// decode reads a file that encode could have written, and no other.
func decode[T interface{ check() error }](data []byte) (s sealed[T], err error) {
	if len(data) > MaxSize {
		return s, fmt.Errorf("longer than %d bytes", MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return s, errors.New("something follows the JSON object")
	}
	again, err := encode(s, indent)
	if err != nil {
		return s, err
	}
	if !bytes.Equal(again, data) {
		return s, errors.New("it is not in the one encoding that receipts have")
	}
	return s, s.Body.check()
}

var (
	idForm     = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*$`)
	runForm    = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]{0,99}$`)
	digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func (r Run) check() error {
	if r.Version != Version {
		return fmt.Errorf("version %d, not %d", r.Version, Version)
	}
	if !runForm.MatchString(r.Run) {
		return fmt.Errorf("no run is called %q", r.Run)
	}
	if !slices.Contains([]check.Where{check.Host, check.Artefact, check.Guest, check.VM}, r.Where) {
		return fmt.Errorf("no place is called %q", r.Where)
	}
	for name, digest := range map[string]string{"manifest": r.Manifest, "log": r.Log, "key": r.Key} {
		if !digestForm.MatchString(digest) {
			return fmt.Errorf("%s: not a SHA-256", name)
		}
	}
	if _, offset := r.Time.Zone(); offset != 0 || r.Time.Nanosecond() != 0 {
		return fmt.Errorf("time %s: not whole seconds of UTC", r.Time.Format(time.RFC3339Nano))
	}
	return nil
}

func (r Record) check() error {
	if err := r.Run.check(); err != nil {
		return err
	}
	if len(r.ID) > 100 || !idForm.MatchString(r.ID) {
		return fmt.Errorf("no check is called %q", r.ID)
	}
	if rank(r.Tier) == 0 {
		return fmt.Errorf("no tier is called %q", r.Tier)
	}
	if !slices.Contains([]check.Status{check.Pass, check.Fail, check.Skip, check.Error}, r.Status) {
		return fmt.Errorf("no verdict is called %q", r.Status)
	}
	return nil
}

func (i Index) check() error {
	if err := i.Run.check(); err != nil {
		return err
	}
	last := ""
	for _, e := range i.Records {
		if len(e.ID) > 100 || !idForm.MatchString(e.ID) || !digestForm.MatchString(e.SHA256) || e.ID <= last {
			return fmt.Errorf("the list of records is wrong at %q", e.ID)
		}
		last = e.ID
	}
	return nil
}

// rank orders the tiers, weakest first, from 1; 0 is no tier.
func rank(t check.Tier) int {
	return 1 + slices.Index([]check.Tier{check.TierArtefact, check.TierTCG, check.TierKVM, check.TierSilicon}, t)
}

// weaker returns the weaker of two tiers.
func weaker(a, b check.Tier) check.Tier {
	if rank(a) < rank(b) {
		return a
	}
	return b
}

// reach is the strongest tier that a place can prove: files are files, and a
// host cannot vouch for what protects a guest against it.
func reach(w check.Where) check.Tier {
	switch w {
	case check.Artefact:
		return check.TierArtefact
	case check.Guest:
		return check.TierSilicon
	default:
		return check.TierKVM
	}
}
