package report

import (
	"fmt"
	"math"
)

// The timeline's places, in units of its drawing.
const (
	lineWidth  = 1000.0
	lineLeft   = 92.0  // where the time axis begins; names stand left of it
	lineRight  = 850.0 // where it ends; figures stand right of it
	lineHeight = 30.0  // of one stage
	lineTop    = 26.0
)

// timeline is the drawing of when each stage ran.
type timeline struct {
	Height float64
	Bottom float64 // of the lines of the axis
	Bars   []bar
	Ticks  []tick
}

type bar struct {
	Stage
	Y, X, W  float64
	Expected float64 // where it was expected to end, as a place; 0 when unknown
	Text     string  // figures, right of the axis
	Summary  string  // in one line
}

type tick struct {
	X    float64
	Text string
}

func drawTimeline(stages []Stage) timeline {
	end := endOf(stages)
	axis := func(seconds float64) float64 { return axisPlace(seconds, end) }
	t := timeline{Height: lineTop + lineHeight*float64(len(stages)) + 4}
	t.Bottom = t.Height - 4
	for i, s := range stages {
		b := bar{Stage: s, Y: lineTop + lineHeight*float64(i), X: axis(s.Start)}
		b.W = round(max(axis(s.Start+s.Seconds)-b.X, 2))
		switch s.Action {
		case "run":
			b.Text = fmt.Sprintf("%s, %s", duration(s.Seconds), size(s.Bytes))
			b.Summary = fmt.Sprintf("%s: %s, %s written", s.Name, duration(s.Seconds), size(s.Bytes))
			if s.Expected > 0 {
				b.Expected = axis(s.expectedEnd())
				b.Summary += fmt.Sprintf("; expected %s", duration(s.Expected))
			}
		case "cache":
			b.Text, b.Summary = "from the cache", s.Name+": taken from the cache"
		default:
			b.W, b.Text, b.Summary = 0, "unchanged", s.Name+": nothing has changed"
		}
		t.Bars = append(t.Bars, b)
	}
	step := niceStep(end / 8)
	for at := 0.0; at <= end; at += step {
		t.Ticks = append(t.Ticks, tick{X: axis(at), Text: fmt.Sprintf("%g s", at)})
	}
	return t
}

// endOf is where the time axis ends, in seconds since the build began.
func endOf(stages []Stage) float64 {
	end := 1.0
	for _, s := range stages {
		end = max(end, s.Start+s.Seconds, s.expectedEnd())
	}
	return end
}

// axisPlace is where a moment lies on a time axis of this length.
func axisPlace(seconds, end float64) float64 {
	return round(lineLeft + min(seconds/end, 1)*(lineRight-lineLeft))
}

// expectedEnd is when the stage was expected to end; 0 when nothing was.
func (s Stage) expectedEnd() float64 {
	if s.Action != "run" || s.Expected == 0 {
		return 0
	}
	return s.Start + s.Expected
}

// niceStep is the next of 1, 2, 5, 10, … that is not less.
func niceStep(least float64) float64 {
	for power := math.Pow(10, math.Floor(math.Log10(least))); ; power *= 10 {
		for _, digit := range []float64{1, 2, 5} {
			if digit*power >= least && digit*power >= 1 {
				return digit * power
			}
		}
	}
}
