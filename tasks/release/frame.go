package release

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
)

// A frame is a mark, the payload's length and CRC-32 (IEEE) in hexadecimal, a
// line end, the payload and a line end:
//
//	\xFF cc-release 0000002a 1b2c3d4e\n
//	{"type":"hello",…}\n
//
// Length and checksum are text and payloads are JSON, so the byte 0xFF stands
// nowhere but at the beginning of a frame: whatever came before, a torn frame
// with a great length included, ends there. The checksum finds frames that lost
// bytes in their middle. It is no protection; signatures are.
const (
	frameMark   = 0xFF
	frameHead   = "\xffcc-release "
	headerSize  = len(frameHead) + 8 + 1 + 8 + 1
	MaxPayload  = 1 << 20 // longest payload, bytes
	frameFormat = frameHead + "%08x %08x\n"
)

var (
	errTorn = errors.New("a frame is torn or has a wrong checksum")
	errLong = fmt.Errorf("a frame is longer than %d bytes", MaxPayload)
)

// Frame wraps a payload, which must not hold the byte 0xFF: JSON never does.
func Frame(payload []byte) ([]byte, error) {
	switch {
	case len(payload) > MaxPayload:
		return nil, errLong
	case bytes.IndexByte(payload, frameMark) >= 0:
		return nil, errors.New("a payload is not UTF-8")
	}
	frame := fmt.Appendf(nil, frameFormat, len(payload), crc32.ChecksumIEEE(payload))
	return append(append(frame, payload...), '\n'), nil
}

// Deframer finds the payloads in a stream of bytes. Its memory is bounded by
// the longest frame. The zero value is ready.
type Deframer struct {
	buf   []byte // begins with the mark, or is empty
	clean int    // buf[1:clean] holds no mark
}

// Push adds bytes as they come.
func (d *Deframer) Push(b []byte) {
	if len(d.buf) == 0 {
		if i := bytes.IndexByte(b, frameMark); i >= 0 {
			d.buf = append(d.buf, b[i:]...)
		}
		return
	}
	d.buf = append(d.buf, b...)
}

// Next returns the next whole payload, or nil when more bytes are needed. The
// error tells of damage before it; there may be more behind, so the caller goes
// on until it has neither.
func (d *Deframer) Next() (payload []byte, err error) {
	if len(d.buf) == 0 {
		return nil, nil
	}
	need := headerSize
	if len(d.buf) >= headerSize {
		length, sum, herr := parseHeader(d.buf[:headerSize])
		if herr != nil {
			d.skip(1)
			return nil, herr
		}
		need = headerSize + length + 1
		if len(d.buf) >= need && !d.marked(need) {
			payload = bytes.Clone(d.buf[headerSize : need-1])
			if d.buf[need-1] != '\n' || crc32.ChecksumIEEE(payload) != sum {
				d.skip(1)
				return nil, errTorn
			}
			d.skip(need)
			return payload, nil
		}
	}
	if d.marked(need) {
		d.skip(1)
		return nil, errTorn
	}
	return nil, nil
}

// marked tells whether another frame begins before the end of this one.
func (d *Deframer) marked(need int) bool {
	from, to := max(d.clean, 1), min(need, len(d.buf))
	if from >= to {
		return false
	}
	if bytes.IndexByte(d.buf[from:to], frameMark) >= 0 {
		return true
	}
	d.clean = to
	return false
}

// skip drops n bytes, and what follows up to the next mark.
func (d *Deframer) skip(n int) {
	rest := d.buf[n:]
	d.clean = 0
	if i := bytes.IndexByte(rest, frameMark); i >= 0 {
		d.buf = append(d.buf[:0], rest[i:]...)
		return
	}
	d.buf = nil
}

func parseHeader(h []byte) (length int, sum uint32, err error) {
	numbers, ok := bytes.CutPrefix(h, []byte(frameHead))
	if !ok || numbers[8] != ' ' || numbers[17] != '\n' {
		return 0, 0, errTorn
	}
	n, err := hexNumber(numbers[:8])
	if err != nil {
		return 0, 0, err
	}
	if n > MaxPayload {
		return 0, 0, errLong
	}
	sum, err = hexNumber(numbers[9:17])
	return int(n), sum, err
}

func hexNumber(text []byte) (uint32, error) {
	n, err := strconv.ParseUint(string(text), 16, 32)
	if err != nil {
		return 0, errTorn
	}
	return uint32(n), nil
}
