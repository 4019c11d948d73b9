package report

import (
	"fmt"
	"time"
)

// size renders bytes in units of 1000, with three digits where it has them.
func size(n int64) string {
	switch {
	case n >= 1e10:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e8:
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.0f kB", float64(n)/1e3)
	default:
		return fmt.Sprintf("%d B", n)
	}
}

// delta renders a difference of bytes with its sign.
func delta(n int64) string {
	switch {
	case n > 0:
		return "+" + size(n)
	case n < 0:
		return "−" + size(-n)
	default:
		return "±0"
	}
}

func duration(seconds float64) string {
	if seconds >= 120 {
		return fmt.Sprintf("%d min %02d s", int(seconds)/60, int(seconds)%60)
	}
	return fmt.Sprintf("%.1f s", seconds)
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// short cuts a digest for the eye; the whole one stands beside it as a title.
func short(digest string) string {
	if len(digest) > 16 {
		return digest[:16] + "…"
	}
	return digest
}

func percent(part, whole int64) string {
	if whole == 0 {
		return "0 %"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}
