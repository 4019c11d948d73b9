package lab_test

// How much of the system our units can reach, in systemd's own measure.
//
// What green does not prove: that a unit needs all that it may do. The number
// counts permissions, 0 to 10; what a program does with them it cannot tell.

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
)

// mostExposure is what a unit of ours may have at most.
const mostExposure = 2.0

// exposed are the units that may have more, how much, and why.
func exposed() map[string]float64 {
	return map[string]float64{
		// They open volumes and rewrite their headers: device-mapper, TPM, disks.
		"cc-control.service": 2.3, "cc-rotate.service": 2.3,
		// It loads the packet filter of the machine, so it is in its network, and
		// before most of the file systems that a sandbox is made of.
		"cc-site.service": 2.3,
		// It looks at packet filter, audit and processes of the machine.
		"cc-check.service": 2.3,
		// It loads modules and writes to the kernel's switches.
		"cc-driver.service": 2.1,
		// It runs NVIDIA's tools as the driver's administrator, and a verifier that
		// may ask a service of the network.
		"cc-gpu.service": 2.5,
	}
}

func TestOurUnitsReachAsLittleAsTheyCan(t *testing.T) {
	tools, tmp := lab.Tools(t)
	units, err := filepath.Glob("../../overlays/base/tree/usr/lib/systemd/system/cc-*.service")
	if err != nil || len(units) == 0 {
		t.Fatal(units, err)
	}
	overall := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
	for _, unit := range units {
		name := filepath.Base(unit)
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(tmp, name)
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = tools.Run(context.Background(), sh.Cmd{Name: "systemd-analyze", Args: []string{"security", "--offline=true", "--no-pager", file}, Stdout: &out})
		if err != nil {
			t.Fatal(err)
		}
		m := overall.FindSubmatch(out.Bytes())
		if m == nil {
			t.Fatalf("%s: systemd-analyze gives no level:\n%s", name, out.String())
		}
		level, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		most := mostExposure
		if more, ok := exposed()[name]; ok {
			most = more
		}
		if level > most {
			t.Errorf("%s: exposure %.1f is above %.1f", name, level, most)
		}
		t.Logf("%-28s %.1f", name, level)
	}
}
