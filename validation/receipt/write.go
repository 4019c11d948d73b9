package receipt

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/tee/evidence"
	"cc-base/validation/check"
)

// Source is a run to write receipts of.
type Source struct {
	Where    check.Where
	Most     check.Tier // what the machine that it ran on can prove at most
	Manifest []byte     // content of manifest.json
	Log      []byte     // what the run printed
	Time     time.Time
	Tool     string
	Results  []check.Result

	// Reporter vouches for records of tier silicon, in a guest that has a TEE;
	// without it there are none, and they are kept as tier kvm.
	Reporter evidence.Reporter
}

// Write writes the receipts of a run into a new folder below dir and returns the
// folder. It gets its name when all of it is written.
func Write(ctx context.Context, dir string, key ed25519.PrivateKey, s Source) (string, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(s.Results) == 0 {
		return "", errors.New("there is nothing to write receipts of")
	}
	at := s.Time.UTC().Truncate(time.Second)
	run := Run{
		Version: Version, Run: fmt.Sprintf("%s-%s-%s", at.Format("20060102T150405Z"), s.Where, strings.ToLower(rand.Text()[:8])), Where: s.Where,
		Manifest: digestOf(s.Manifest), Log: digestOf(s.Log), Time: at, Tool: valid(s.Tool), Key: Fingerprint(public),
	}
	files := map[string][]byte{LogFile: s.Log}
	index := Index{Run: run, Records: []Entry{}}
	for _, r := range s.Results {
		name := r.ID + ".json"
		if _, twice := files[name]; twice {
			return "", fmt.Errorf("%s was run twice", r.ID)
		}
		data, err := s.record(ctx, key, run, r)
		if err != nil {
			return "", fmt.Errorf("%s: %w", r.ID, err)
		}
		files[name] = data
		index.Records = append(index.Records, Entry{ID: r.ID, SHA256: digestOf(data)})
	}
	slices.SortFunc(index.Records, func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })
	sealedIndex, err := seal(indexPurpose, key, index)
	if err == nil {
		err = index.check()
	}
	if err == nil {
		files[IndexFile], err = encode(sealedIndex, indent)
	}
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, run.Run), writeFolder(dir, run.Run, files)
}

func (s Source) record(ctx context.Context, key ed25519.PrivateKey, run Run, r check.Result) ([]byte, error) {
	most := weaker(s.Most, reach(s.Where))
	if s.Reporter == nil {
		most = weaker(most, check.TierKVM)
	}
	record := Record{Run: run, ID: r.ID, Title: valid(r.Title), Tier: weaker(r.Tier, most), Status: r.Status, Detail: valid(r.Detail)}
	if err := record.check(); err != nil {
		return nil, err
	}
	file, err := seal(recordPurpose, key, record)
	if err != nil {
		return nil, err
	}
	if record.Tier == check.TierSilicon {
		data, err := ReportData(record)
		if err != nil {
			return nil, err
		}
		e, err := s.Reporter.Report(ctx, data)
		if err != nil {
			return nil, err
		}
		file.Evidence = &e
	}
	return encode(file, indent)
}

// valid is text as JSON can hold it. What is signed must read the same again.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// writeFolder writes the files into a folder that appears whole or not at all.
func writeFolder(dir, name string, files map[string][]byte) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	part := filepath.Join(dir, "."+name+atomicfile.Extension)
	if err := os.Mkdir(part, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(part))
		}
	}()
	for name, data := range files {
		if err := atomicfile.Write(filepath.Join(part, name), 0o644, data); err != nil {
			return err
		}
	}
	if err := atomicfile.SyncDir(part); err != nil {
		return err
	}
	if err := os.Rename(part, filepath.Join(dir, name)); err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}
