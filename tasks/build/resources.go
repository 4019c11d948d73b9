package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"cc-base/installer/doctor"
	"cc-base/tasks/fault"
)

// What a build needs, measured on 2026-11-25 on two processors, profile minimal,
// no stage cached: the largest process took 333 MiB, and up to three of that kind
// run at once; output and cache took 1.1 GiB each and are given twice that.
const (
	buildMemory = 1 << 30 // bytes
	buildPlace  = 2 << 30 // bytes, of output and of cache
)

// CheckResources prints two tables: what a build needs of this machine, and what
// a VM needs of its host, this machine or the one whose facts are in the file.
func CheckResources(ctx context.Context, o Options, file string, w io.Writer) error {
	report, _, err := o.examine(ctx, file)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "a build, on this machine")
	short, err := o.buildNeeds(w)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\na VM, on its host")
	failed, err := showFindings(report, about("cpu", "memory", "disk", "numa"), true, w)
	if err == nil && len(short) > 0 {
		err = fault.Newf(fault.HostUnfit, "too little for a build: %s", strings.Join(short, ", "))
	}
	hostErr := unfit(failed, nil)
	if len(failed) == 1 && failed[0] == "memory.size" {
		hostErr = fault.Newf(fault.HostUnfit, "the host has less than %d GiB", doctor.LeastMemory>>30).Hint("%s=yes accepts it", smallHost)
	}
	return errors.Join(err, hostErr)
}

// buildNeeds prints the table and returns what there is too little of.
func (o Options) buildNeeds(w io.Writer) (short []string, err error) {
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return nil, err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NEED\tVERDICT\tLEAST\tFOUND")
	row := func(need string, least, found int64) {
		verdict := string(doctor.OK)
		if found < least {
			verdict = string(doctor.Fail)
			short = append(short, need)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", need, verdict, gib(least), gib(found))
	}
	row("memory", buildMemory, int64(machine.Totalram)*int64(machine.Unit))
	for _, place := range []struct{ name, dir string }{{"room for the output", o.OutDir}, {"room for the cache", o.CacheDir}} {
		free, err := freeBytes(place.dir)
		if err != nil {
			return nil, err
		}
		row(place.name, buildPlace, free)
	}
	return short, table.Flush()
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

func gib(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

// freeBytes is the room in a folder that may not be there yet.
func freeBytes(dir string) (int64, error) {
	for {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		if err == nil {
			return int64(s.Bavail) * s.Bsize, nil
		}
		if !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir) {
			return 0, fmt.Errorf("%s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// Estimate prints what a build of the configuration would cost: what each stage
// takes, downloads and writes by its former runs here or with this cache, and the
// sizes of the last results. What nobody knows is said to be unknown.
func Estimate(o Options, w io.Writer) error {
	steps, err := Plan(o)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "STAGE\tWOULD\tSECONDS\tDOWNLOAD\tWRITES")
	for _, s := range steps {
		took, fetch, writes := "0", "0", "0"
		switch {
		case !s.costs():
		case s.Runs == 0:
			took, writes = "unknown", "unknown"
		default:
			took, writes = fmt.Sprintf("%.0f", s.Seconds), mib(s.Bytes)
		}
		switch {
		case !s.costs():
		case s.Fetch < 0:
			fetch = "unknown"
		case s.Fetch > 0:
			fetch = mib(s.Fetch)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", s.Stage, s.Action, took, fetch, writes)
	}
	all, least := pricesOf(steps), ""
	if len(all.unknown) > 0 {
		least = "at least "
	}
	fmt.Fprintf(table, "all\t\t%s%.0f\t%s%s\t%s%s\n", least, all.seconds, least, mib(all.fetch), least, mib(all.bytes))
	if err := table.Flush(); err != nil {
		return err
	}
	c, err := o.config()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\nmemory: %s for the build, %s for the guest\n", gib(buildMemory), gib(c.TEE.MemorySize))
	fmt.Fprintf(w, "disk:   up to %s for cache and output", gib(2*buildPlace))
	for _, name := range []string{diskImage, "nvidia-cc-installer.tar.gz"} {
		if info, err := os.Stat(filepath.Join(o.OutDir, name)); err == nil {
			fmt.Fprintf(w, "; the last %s has %s", name, mib(info.Size()))
		}
	}
	_, err = fmt.Fprintln(w)
	return err
}
