package report

import (
	"fmt"
	"strings"

	"cc-base/tasks/monitor"
)

// The plots' places, in units of their drawing; the time axis is the timeline's.
const (
	plotHeight = 64.0 // of one plot
	plotGap    = 26.0 // above it, for its title
)

// plot is one quantity over time.
type plot struct {
	Y      float64
	Title  string
	Most   string // what the top of the plot stands for
	Lines  []line
	Bottom float64
}

type line struct {
	Name   string
	Class  string
	Points string // of a polyline
}

// plots is the drawing of what was seen of the machine.
type plots struct {
	Height float64
	Plots  []plot
}

// drawPlots draws the samples under the timeline of the stages.
func drawPlots(samples []monitor.Sample, processors int, stages []Stage) *plots {
	if len(samples) == 0 {
		return nil
	}
	end := endOf(stages)
	type series struct {
		name string
		of   func(monitor.Sample) float64
	}
	out := &plots{}
	for _, p := range []struct {
		title, unit string
		least       float64 // that the top stands for
		series      []series
	}{
		{"processors", fmt.Sprintf("of %d", processors), float64(processors), []series{{"busy", func(s monitor.Sample) float64 { return s.CPU }}}},
		{"memory of the build's programs", "MB", 100, []series{{"held", func(s monitor.Sample) float64 { return s.MemoryMB }}}},
		{"disk", "MB/s", 1, []series{{"read", func(s monitor.Sample) float64 { return s.Read }}, {"written", func(s monitor.Sample) float64 { return s.Written }}}},
		{"network", "MB/s", 1, []series{{"received", func(s monitor.Sample) float64 { return s.Received }}, {"sent", func(s monitor.Sample) float64 { return s.Sent }}}},
	} {
		top := p.least
		for _, one := range p.series {
			for _, s := range samples {
				top = max(top, one.of(s))
			}
		}
		y := float64(len(out.Plots)) * (plotHeight + plotGap)
		drawn := plot{Y: y, Title: p.title, Most: fmt.Sprintf("%.4g %s", top, p.unit), Bottom: plotGap + plotHeight}
		for i, one := range p.series {
			var points strings.Builder
			for _, s := range samples {
				fmt.Fprintf(&points, "%g,%g ", axisPlace(s.At, end), round(plotGap+plotHeight*(1-one.of(s)/top)))
			}
			drawn.Lines = append(drawn.Lines, line{one.name, fmt.Sprintf("line%d", i), strings.TrimSpace(points.String())})
		}
		out.Plots = append(out.Plots, drawn)
	}
	out.Height = float64(len(out.Plots)) * (plotHeight + plotGap)
	return out
}
