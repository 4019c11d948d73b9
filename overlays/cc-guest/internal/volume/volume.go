// Package volume finds the partitions of cc-base by their GPT labels.
//
// The labels come from the kernel's own GPT parser through sysfs (PARTNAME in
// a block device's uevent file), not from links under /dev/disk, where the
// last of two equal labels silently wins.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// poll is the pause between two looks; a disk takes some 100 ms to appear.
const poll = 100 * time.Millisecond

// ErrDuplicate is in the chain when two partitions have the same label.
var ErrDuplicate = errors.New("two partitions have the same label")

// Finder looks for partitions.
type Finder struct {
	Sys     fs.FS       // the root of sysfs
	Settled func() bool // true when udev has nothing left to do
}

// Find waits until every label has exactly one partition and udev is idle, and
// returns the device node's name (such as vda2) for each label. A label that
// is there twice ends the search at once; a label that is not there ends it
// with ctx.
//
// Waiting for udev makes a second disk that was there at power-on count. One
// that is plugged in later can at most be opened in the place of ours, and
// then the root hash decides.
func (f Finder) Find(ctx context.Context, labels []string) (map[string]string, error) {
	for {
		found, err := f.Scan(labels)
		if err != nil {
			return nil, err
		}
		missing := missing(labels, found)
		if len(missing) == 0 && f.Settled() {
			// Once more: what udev did last may have come after the scan.
			return f.Scan(labels)
		}
		select {
		case <-ctx.Done():
			if len(missing) == 0 {
				return nil, fmt.Errorf("udev does not settle: %w", ctx.Err())
			}
			return nil, fmt.Errorf("no partition is labelled %s", strings.Join(missing, ", "))
		case <-time.After(poll):
		}
	}
}

// Scan looks once and returns what is there.
func (f Finder) Scan(labels []string) (map[string]string, error) {
	entries, err := fs.ReadDir(f.Sys, "class/block")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing block devices: %w", err)
	}
	found := make(map[string]string)
	for _, entry := range entries {
		text, err := fs.ReadFile(f.Sys, path.Join("class/block", entry.Name(), "uevent"))
		if err != nil {
			continue // it went away between the two reads
		}
		label, node := partition(string(text))
		if node == "" || !slices.Contains(labels, label) {
			continue
		}
		if other, ok := found[label]; ok {
			return nil, fmt.Errorf("%w: %s on %s and %s", ErrDuplicate, label, min(other, node), max(other, node))
		}
		found[label] = node
	}
	return found, nil
}

// partition reads label and node from a uevent file, or nothing when the
// device is not a partition with a label.
func partition(uevent string) (label, node string) {
	values := make(map[string]string)
	for _, line := range strings.Split(uevent, "\n") {
		if key, value, ok := strings.Cut(line, "="); ok {
			values[key] = value
		}
	}
	node = values["DEVNAME"]
	// The node's name becomes part of a path.
	if values["DEVTYPE"] != "partition" || values["PARTNAME"] == "" || strings.ContainsAny(node, "/ ") {
		return "", ""
	}
	return values["PARTNAME"], node
}

func missing(labels []string, found map[string]string) []string {
	var absent []string
	for _, label := range labels {
		if _, ok := found[label]; !ok {
			absent = append(absent, label)
		}
	}
	return absent
}
