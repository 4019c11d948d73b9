package build

import (
	"fmt"
	"io"
	"os"
	"time"
)

// log prints events: one line each on stderr, the same with a time in the log
// file.
type log struct {
	to    io.Writer
	file  *os.File
	began time.Time
}

func (l *log) event(stage, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	fmt.Fprintf(l.to, "%s: %s\n", stage, text)
	fmt.Fprintf(l.file, "# %s %s: %s\n", time.Now().UTC().Format(time.RFC3339), stage, text)
}

// size renders bytes as people say them: 345 MB.
func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%d MB", n/1e6)
	default:
		return fmt.Sprintf("%d kB", (n+999)/1000)
	}
}

func fileSize(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "?"
	}
	return size(info.Size())
}

// seconds renders a duration for an event line.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
