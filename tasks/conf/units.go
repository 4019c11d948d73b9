package conf

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40
)

var quantity = regexp.MustCompile(`^([0-9]{1,15})([A-Za-z]*)$`)

// parseSize reads 512M, 2G and the like: a whole number and one binary unit.
func parseSize(s string) (int64, error) {
	m := quantity.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	var unit int64
	switch m[2] {
	case "K":
		unit = kib
	case "M":
		unit = mib
	case "G":
		unit = gib
	case "T":
		unit = tib
	case "":
		return 0, fmt.Errorf("the size %s has no unit", s)
	default:
		return 0, fmt.Errorf("the size %s has the unknown unit %q", s, m[2])
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n > (int64(1)<<62)/unit {
		return 0, fmt.Errorf("the size %s is too large", s)
	}
	return n * unit, nil
}

// formatSize writes n bytes, a multiple of 1 KiB, in the largest unit that
// keeps it whole, so that equal sizes are written equally.
func formatSize(n int64) string {
	switch {
	case n == 0:
		return "0K"
	case n%tib == 0:
		return strconv.FormatInt(n/tib, 10) + "T"
	case n%gib == 0:
		return strconv.FormatInt(n/gib, 10) + "G"
	case n%mib == 0:
		return strconv.FormatInt(n/mib, 10) + "M"
	}
	return strconv.FormatInt(n/kib, 10) + "K"
}

const day = 24 * time.Hour

// parseInterval reads 30d, 12h or 90m: a whole number and one unit.
func parseInterval(s string) (time.Duration, error) {
	m := quantity.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not an interval", s)
	}
	var unit time.Duration
	switch m[2] {
	case "d":
		unit = day
	case "h":
		unit = time.Hour
	case "m":
		unit = time.Minute
	case "":
		return 0, fmt.Errorf("the interval %s has no unit", s)
	default:
		return 0, fmt.Errorf("the interval %s has the unknown unit %q", s, m[2])
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n > int64(100*365*day/unit) {
		return 0, fmt.Errorf("the interval %s is too long", s)
	}
	return time.Duration(n) * unit, nil
}

func formatInterval(d time.Duration) string {
	switch {
	case d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	case d%time.Hour == 0:
		return strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	}
	return strconv.FormatInt(int64(d/time.Minute), 10) + "m"
}

// parseWord reads a policy word: hexadecimal with 0x, up to 64 bits.
func parseWord(s string) (uint64, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	if !ok {
		return 0, fmt.Errorf("%q is not a hexadecimal word", s)
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || strings.ContainsAny(digits, "_+-") {
		return 0, fmt.Errorf("%q is not a hexadecimal word of at most 64 bits", s)
	}
	return n, nil
}

// formatWord writes at least two digits: policy words are read bit by bit.
func formatWord(n uint64) string { return fmt.Sprintf("0x%02x", n) }
