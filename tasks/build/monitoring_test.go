package build_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
)

// What green does not prove: that the figures are right; tasks/monitor asks for that.

func TestAMonitoredBuildKeepsWhatItSaw(t *testing.T) {
	image := lab.Built(t)
	c := newCheckout(t, image)
	// The stages before sealing are those of the image under test.
	if err := os.Symlink(filepath.Join(os.Getenv("CC_CACHE_DIR"), "stages"), filepath.Join(c.cache, "stages")); err != nil {
		t.Fatal(err)
	}
	out, err := c.mage("build", "-monitor").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "monitor: while package ran, ") {
		t.Errorf("nothing is said of what was seen:\n%s", out)
	}
	var kept struct {
		Processors int
		Stages     []struct {
			Stage, Action string
			Seconds       float64
		}
		Samples []struct{ At, CPU, Memory float64 }
	}
	if err := json.Unmarshal(filetest.Read(t, filepath.Join(c.out, "log", "monitor.json")), &kept); err != nil {
		t.Fatal(err)
	}
	busy, memory := 0.0, 0.0
	for _, s := range kept.Samples {
		busy, memory = max(busy, s.CPU), max(memory, s.Memory)
	}
	if kept.Processors < 1 || len(kept.Stages) != 10 || len(kept.Samples) < 3 || busy < 0.1 || memory < 5 {
		t.Errorf("%d processors, %d stages, %d samples, at most %.1f busy and %.0f MB", kept.Processors, len(kept.Stages), len(kept.Samples), busy, memory)
	}
	page := string(filetest.Read(t, filepath.Join(c.out, "report.html")))
	if n := strings.Count(page, "<polyline"); n != 6 {
		t.Errorf("the report draws %d lines", n)
	}
	// Without it, nothing is looked at.
	if out, err = c.mage("build").CombinedOutput(); err != nil || strings.Contains(string(out), "monitor:") {
		t.Errorf("%v\n%s", err, out)
	}
}
