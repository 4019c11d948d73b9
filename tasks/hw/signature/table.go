package signature

import (
	"encoding/binary"
	"unicode/utf16"
)

// The limits of what is followed: 128 entries are the rule, more than these
// are damage.
const (
	maxEntries = 1024
	maxEntry   = 4096 // bytes
	maxLogical = 128
)

// table returns the partition table and its partitions, or nil. The backup at
// the end of the disk counts where the one at the start is gone. A disk may
// have been partitioned behind an enclosure that shows other sectors, so both
// sizes are tried, whatever it has now.
func (r *reader) table(size int64) (*Found, []extent) {
	for _, sector := range []int64{512, 4096} {
		for _, header := range []int64{sector, size - sector} {
			if header < sector || header+sector > size {
				continue
			}
			if labels, parts, ok := r.gpt(header, sector, size); ok {
				return &Found{Kind: Table, Name: "a GPT partition table", Offset: header, Labels: labels}, parts
			}
		}
	}
	if parts, ok := r.mbr(size); ok {
		return &Found{Kind: Table, Name: "an MBR partition table", Offset: 510}, parts
	}
	return nil, nil
}

// gpt reads the entries of a header (UEFI 2.10, 5.3).
func (r *reader) gpt(header, sector, size int64) ([]string, []extent, bool) {
	le := binary.LittleEndian
	h := r.bytes(header, 92)
	if string(h[:8]) != "EFI PART" {
		return nil, nil, false
	}
	count, length := int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:]))
	first := le.Uint64(h[72:])
	if count > maxEntries || length < 128 || length > maxEntry || first > uint64(size/sector) || int64(first)*sector+count*length > size {
		return nil, nil, true // a table all the same
	}
	var labels []string
	var parts []extent
	entries := r.bytes(int64(first)*sector, int(count*length))
	for i := range count {
		e := entries[i*length : (i+1)*length]
		if zero(e[:16]) {
			continue
		}
		var name []uint16
		for at := 56; at < 128 && le.Uint16(e[at:]) != 0; at += 2 {
			name = append(name, le.Uint16(e[at:]))
		}
		labels = append(labels, string(utf16.Decode(name)))
		from, to := le.Uint64(e[32:]), le.Uint64(e[40:])
		if last := uint64(size / sector); from <= to && to < last {
			parts = append(parts, extent{int64(from) * sector, int64(to-from+1) * sector, int(i) + 1})
		}
	}
	return labels, parts, true
}

// record is one of the four entries of a master or extended boot record.
type record struct {
	kind         byte
	start, count int64 // sectors of 512 bytes
}

// records returns nil for what is no boot record with partitions: the boot
// sector of a FAT file system ends with the same two bytes.
func (r *reader) records(off int64) []record {
	b := r.bytes(off, 512)
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil
	}
	var all []record
	any := false
	for at := 446; at < 510; at += 16 {
		if b[at]&0x7f != 0 {
			return nil
		}
		e := record{b[at+4], int64(binary.LittleEndian.Uint32(b[at+8:])), int64(binary.LittleEndian.Uint32(b[at+12:]))}
		any = any || e.kind != 0 && e.count > 0
		all = append(all, e)
	}
	if !any {
		return nil
	}
	return all
}

// mbr reads the four entries and the chain of logical partitions.
func (r *reader) mbr(size int64) ([]extent, bool) {
	if size < 512 {
		return nil, false
	}
	records := r.records(0)
	var parts []extent
	for i, e := range records {
		switch {
		case e.kind == 0 || e.kind == protective || e.start == 0:
		case extended(e.kind):
			parts = append(parts, r.logical(e.start, size)...)
		default:
			parts = append(parts, extent{e.start * 512, e.count * 512, i + 1})
		}
	}
	return parts, records != nil
}

// logical follows the extended boot records: each names one partition, counted
// from itself, and the next record, counted from the first.
func (r *reader) logical(base, size int64) []extent {
	var parts []extent
	for at := base; len(parts) < maxLogical && at*512+512 <= size; {
		chain := r.records(at * 512)
		if chain == nil || chain[0].start == 0 {
			break
		}
		parts = append(parts, extent{(at + chain[0].start) * 512, chain[0].count * 512, 5 + len(parts)})
		if !extended(chain[1].kind) || chain[1].start == 0 {
			break
		}
		at = base + chain[1].start
	}
	return parts
}

// protective is what stands in for a GPT before the tools that know none.
const protective = 0xee

func extended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }
