package firmware

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/bundle"
	"cc-base/tasks/digest"
	"cc-base/tasks/fetch"
	"cc-base/tasks/rootfs"
)

// Limits, several times what Debian has (2026: 190 KB and 60 MB).
const (
	maxRelease = 4 << 20
	maxIndex   = 512 << 20
)

// indexes are where the packages of all architectures stand; the second is for
// archives that list them with an architecture's own alone. gzip, because
// every archive has it and Go reads it.
func indexes() []string {
	return []string{"main/binary-all/Packages.gz", "main/binary-amd64/Packages.gz"}
}

// suite is one suite of the archive, verified.
type suite struct {
	name     string
	date     time.Time
	until    time.Time // zero: for ever
	byHash   bool
	files    map[string]file
	packages []bundle.Package // of our images
}

// file is a file of the suite as InRelease names it.
type file struct {
	sha256 string
	size   int64
}

func (s *suite) expired(now time.Time) bool { return !s.until.IsZero() && now.After(s.until) }

// find looks for the image's package in each suite. One that lacks it, or that
// the mirror lacks, leaves the matter to the next.
func (s *session) find(ctx context.Context, image Image) (choice, error) {
	why := NoSuite
	for _, name := range Suites() {
		r, asked := s.suites[name]
		if !asked {
			r.suite, r.err = s.read(ctx, name)
			s.suites[name] = r
		}
		var u *unavailable
		if errors.As(r.err, &u) && u.reason == NoSuite {
			continue
		}
		if r.err != nil {
			return choice{}, r.err
		}
		// A suite has one version of a package.
		i := slices.IndexFunc(r.packages, func(p bundle.Package) bool { return p.Name == image.Package })
		if i >= 0 {
			state := &Suite{Name: name, Date: r.date.UTC().Format(time.RFC3339), Expired: r.expired(s.Now())}
			return choice{r.packages[i], name, state, false}, nil
		}
		why = NoPackage
	}
	return choice{}, no(why, fmt.Errorf("%s in %s", image.Package, strings.Join(Suites(), " or ")))
}

// read reads a suite.
func (s *session) read(ctx context.Context, name string) (*suite, error) {
	keys, err := readKeyring(s.Keyring)
	if err != nil {
		return nil, err
	}
	data, err := s.scratch.Signed(ctx, s.address("dists/"+name+"/InRelease"), maxRelease)
	if fetch.Gone(err) {
		return nil, no(NoSuite, err)
	}
	if err != nil {
		return nil, unlessLocal(Unreachable, err)
	}
	text, err := verified(data, keys, s.Now)
	if err != nil {
		return nil, no(NotSigned, fmt.Errorf("%s: %w", name, err))
	}
	read, err := parseRelease(name, text)
	if err != nil {
		return nil, no(NotSigned, fmt.Errorf("%s: %w", name, err))
	}
	if read.expired(s.Now()) {
		s.Say("%s is of %s and was valid until %s: taken all the same, so newer firmware may be missed",
			name, read.date.UTC().Format(time.DateOnly), read.until.UTC().Format(time.DateOnly))
	}
	read.packages, err = s.index(ctx, read)
	return read, err
}

// index returns our packages of the suite.
func (s *session) index(ctx context.Context, of *suite) ([]bundle.Package, error) {
	for _, name := range indexes() {
		f, ok := of.files[name]
		if !ok {
			continue
		}
		path := "dists/" + of.name + "/" + name
		if of.byHash {
			// Under its digest it is there even while the mirror is being
			// updated (Debian wiki, DebianRepository/Format, Acquire-By-Hash).
			path = "dists/" + of.name + "/" + filepath.Dir(name) + "/by-hash/SHA256/" + f.sha256
		}
		packed, err := s.scratch.Fetch(ctx, fetch.Request{URL: s.address(path), Size: f.size, SHA256: f.sha256})
		if err != nil {
			return nil, unlessLocal(remote(err), err)
		}
		defer os.Remove(packed)
		return readIndex(packed)
	}
	return nil, no(NoPackage, fmt.Errorf("%s lists none of %s", of.name, strings.Join(indexes(), ", ")))
}

// readIndex unpacks the index beside itself and returns our packages in it.
func readIndex(packed string) ([]bundle.Package, error) {
	in, err := os.Open(packed)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	unpacked := packed + ".text"
	defer os.Remove(unpacked)
	var broken error // what is wrong with it, as opposed to the disk
	err = atomicfile.Fill(unpacked, 0o644, func(w io.Writer) error {
		text, err := gzip.NewReader(in)
		if err != nil {
			broken = err
			return err
		}
		n, err := io.Copy(w, io.LimitReader(text, maxIndex+1))
		if n > maxIndex {
			broken = fmt.Errorf("the index has more than %d bytes", maxIndex)
		}
		if errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
			broken = err
		}
		return errors.Join(err, broken)
	})
	if broken != nil {
		return nil, no(WrongContent, broken)
	}
	if err != nil {
		return nil, err
	}
	all, err := rootfs.ReadPackages(unpacked)
	if err != nil {
		return nil, no(WrongContent, err)
	}
	return ours(all), nil
}

// ours returns the packages of our images.
func ours(all []bundle.Package) []bundle.Package {
	wanted := []string{SNP().Package, TDX().Package}
	return slices.DeleteFunc(all, func(p bundle.Package) bool { return !slices.Contains(wanted, p.Name) })
}

func readKeyring(path string) (openpgp.EntityList, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, no(NoKeyring, err)
	}
	defer f.Close()
	keys, err := openpgp.ReadKeyRing(f)
	if err != nil {
		return nil, no(NoKeyring, fmt.Errorf("%s: %w", path, err))
	}
	return keys, nil
}

// verified returns the signed text of an InRelease. What stands before or
// behind it is not signed and not looked at.
//
// An archive signs with the keys of several releases, and one good signature is
// enough: the library alone would settle for the first whose key it knows, even
// one that has expired.
func verified(data []byte, keys openpgp.EntityList, now func() time.Time) ([]byte, error) {
	block, _ := clearsign.Decode(data)
	if block == nil {
		return nil, errors.New("InRelease is not a signed message")
	}
	var failed []string
	packets := packet.NewReader(block.ArmoredSignature.Body)
	for {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("InRelease has no good signature: %s", strings.Join(failed, ", "))
		}
		if err != nil {
			return nil, fmt.Errorf("InRelease: %w", err)
		}
		signature, ok := p.(*packet.Signature)
		if !ok {
			return nil, fmt.Errorf("InRelease: a packet of type %T is no signature", p)
		}
		var one bytes.Buffer
		if err := signature.Serialize(&one); err != nil {
			return nil, fmt.Errorf("InRelease: %w", err)
		}
		_, err = openpgp.CheckDetachedSignature(keys, bytes.NewReader(block.Bytes), &one, &packet.Config{Time: now})
		if err == nil {
			return block.Plaintext, nil
		}
		failed = append(failed, err.Error())
	}
}

// parseRelease reads the text of an InRelease. It must be that of the suite
// that was asked for: another one is as well signed.
func parseRelease(name string, text []byte) (*suite, error) {
	s := &suite{name: name, files: map[string]file{}}
	section, right := "", false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, " ") {
			if section == "SHA256" {
				if err := s.add(line); err != nil {
					return nil, err
				}
			}
			continue
		}
		key, value, _ := strings.Cut(line, ":")
		section, value = key, strings.TrimSpace(value)
		var err error
		switch key {
		case "Suite", "Codename":
			right = right || value == name
		case "Date":
			s.date, err = parseDate(value)
		case "Valid-Until":
			s.until, err = parseDate(value)
		case "Acquire-By-Hash":
			s.byHash = value == "yes"
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	if !right {
		return nil, errors.New("the mirror gave another suite's InRelease")
	}
	if s.date.IsZero() {
		return nil, errors.New("InRelease has no date")
	}
	return s, nil
}

// add reads a line of the section SHA256: digest, size, name.
func (s *suite) add(line string) error {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return fmt.Errorf("the line %q is not one of a digest", line)
	}
	size, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil || len(fields[0]) != len(digest.Bytes(nil)) {
		return fmt.Errorf("the line %q is not one of a digest", line)
	}
	s.files[fields[2]] = file{fields[0], size}
	return nil
}

// parseDate reads a time as Release files have it, "Fri, 30 Oct 2026 08:08:01 UTC".
func parseDate(text string) (time.Time, error) {
	return time.Parse("Mon, _2 Jan 2006 15:04:05 MST", text)
}
