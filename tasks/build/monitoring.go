package build

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/monitor"
)

// monitorFile keeps the samples of the last build that was monitored.
func (b *Build) monitorFile() string { return b.out("log", "monitor.json") }

// watched is that file: samples, and when each stage ran, in seconds since the
// first stage began.
type watched struct {
	Processors int              `json:"processors"`
	Stages     []watchedStage   `json:"stages"`
	Samples    []monitor.Sample `json:"samples"`
}

type watchedStage struct {
	Stage   string  `json:"stage"`
	Action  string  `json:"action"` // none, cache or run
	Start   float64 `json:"start"`
	Seconds float64 `json:"seconds"`
}

// monitored looks at the machine until stop is called with what the stages came to,
// if that is wanted. stop keeps the samples and says what there was of each stage.
// That a build could not be looked at is said and no reason to end it.
func (b *Build) monitored(ctx context.Context) (stop func(all []outcome) []monitor.Sample) {
	if !b.Monitor {
		return func([]outcome) []monitor.Sample { return nil }
	}
	m := monitor.Start(ctx, 0)
	b.log.watch(m)
	return func(all []outcome) []monitor.Sample {
		b.log.watch(nil)
		samples, err := m.Stop()
		if err == nil {
			err = b.keepSamples(all, samples)
		}
		if err != nil {
			b.log.event("monitor", "not all was seen or kept: %v", err)
		}
		return samples
	}
}

func (b *Build) keepSamples(all []outcome, samples []monitor.Sample) error {
	w := watched{Processors: runtime.NumCPU(), Stages: []watchedStage{}, Samples: samples}
	for _, o := range all {
		if o.stage == "" {
			continue // the build ended before
		}
		s := watchedStage{o.stage, o.action, o.start.Seconds(), o.took.Seconds()}
		w.Stages = append(w.Stages, s)
		if o.action != "run" {
			continue
		}
		if text := spent(s, monitor.Between(samples, s.Start, s.Start+s.Seconds), w.Processors); text != "" {
			b.log.event("monitor", "%s", text)
		}
	}
	data, err := json.MarshalIndent(w, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(b.monitorFile(), 0o644, append(data, '\n'))
}

// spent says what was seen while a stage ran, what ran beside it included.
func spent(s watchedStage, span monitor.Span, processors int) string {
	if span.Samples == 0 {
		return ""
	}
	return fmt.Sprintf("while %s ran, %.1f s: %.1f of %d processors, %.0f MB of memory, disk %.0f MB read and %.0f MB written, network %.1f MB in and %.1f MB out",
		s.Stage, s.Seconds, span.CPU, processors, span.PeakMB, span.ReadMB, span.WrittenMB, span.ReceivedMB, span.SentMB)
}
