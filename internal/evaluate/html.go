package evaluate

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"strings"
)

//go:embed report.html.tmpl
var page string

// everything that a replay brings is escaped: prompts are hostile
var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"short": short, "signed": signed, "thousands": thousands, "probability": probability, "percent": percent,
	"verdictText": Result.verdictText, "class": class, "title": title, "money": money, "deref": func(f *float64) float64 { return *f },
	"relative": func(f *float64) string { return strings.Trim(percentOf(f), " ()") },
}).Parse(page))

// view is what the page shows beside the report.
type view struct {
	*Report
	Rests     Result
	HasRests  bool
	Forest    []bar
	Dimension []dimension
	Steps     []column
	Ticks     []tick
	Latencies []latency
}

// bar is an interval on an axis from 0 to 100.
type bar struct {
	Result
	Label            string
	Low, High, Point float64
	Known            bool
}

type dimension struct {
	By   string
	Bars []bar
	Cost []Result
}

type column struct {
	X, Y, Width, Height float64
	Class, Title        string
}

type tick struct {
	X    float64
	Text string
}

type latency struct {
	Stage               string
	Baseline, Candidate *Times
	WideB, WideC        float64
}

// HTML writes the report as one page that needs nothing else: no script, no
// network, light or dark as the reader has it.
func (r *Report) HTML() ([]byte, error) {
	v := view{Report: r}
	v.Rests, v.HasRests = r.Metric(r.Verdict.RestsOn)
	for _, m := range r.Metrics {
		v.Forest = append(v.Forest, relativeBar(m))
	}
	v.Dimension = r.dimensions()
	v.Steps, v.Ticks = r.columns()
	v.Latencies = r.latencies()
	var out bytes.Buffer
	if err := pageTemplate.Execute(&out, &v); err != nil {
		return nil, fmt.Errorf("making the page: %w", err)
	}
	return out.Bytes(), nil
}

// widest is the relative change at the ends of the axis of relativeBar.
const widest = 0.5

// relativeBar places an interval relative to the baseline: 50 is no change, 0
// and 100 are half less and half more, and beyond. Shares are placed as they are.
func relativeBar(m Result) bar {
	scale := math.Abs(m.Baseline)
	if m.Unit == "share" || m.Unit == "0 to 1" || m.Unit == "preference" {
		scale = 1
	}
	b := bar{Result: m, Label: m.Name, Known: scale > 0}
	if !b.Known {
		return b
	}
	at := func(f float64) float64 { return 50 + 50*max(-1, min(1, f/scale/widest)) }
	b.Low, b.High, b.Point = at(m.Low), at(m.High), at(m.Difference)
	return b
}

// dimensions lays out the groups with the metric of quality on one axis each.
func (r *Report) dimensions() (list []dimension) {
	for _, g := range r.Groups {
		if len(list) == 0 || list[len(list)-1].By != g.By {
			list = append(list, dimension{By: g.By})
		}
		d := &list[len(list)-1]
		m := g.find(r.Verdict.RestsOn)
		d.Bars = append(d.Bars, bar{Result: m, Label: fmt.Sprintf("%s (%s)", g.Name, thousands(g.Pairs)), Known: m.Name != ""})
		d.Cost = append(d.Cost, g.find(Cost))
	}
	for i := range list {
		reach := 0.0
		for _, b := range list[i].Bars {
			reach = max(reach, math.Abs(b.Result.Low), math.Abs(b.Result.High))
		}
		for n := range list[i].Bars {
			b := &list[i].Bars[n]
			at := func(f float64) float64 {
				if reach == 0 {
					return 50
				}
				return 50 + 48*f/reach
			}
			b.Low, b.High, b.Point = at(b.Result.Low), at(b.Result.High), at(b.Difference)
		}
	}
	return list
}

// columns draws the histogram of differences on 640 by 160; the height is the
// root of the count, since most requests do not differ.
func (r *Report) columns() (steps []column, ticks []tick) {
	most := 0
	for _, b := range r.Histogram {
		most = max(most, b.Pairs)
	}
	if most == 0 {
		return nil, nil
	}
	const width, height = 640.0, 160.0
	each := width / float64(len(r.Histogram))
	for i, b := range r.Histogram {
		h := math.Sqrt(float64(b.Pairs)/float64(most)) * height
		c := column{X: round(float64(i)*each + 1), Y: round(height - h), Width: round(each - 2), Height: round(h), Class: "same"}
		c.Title = fmt.Sprintf("%+.2f to %+.2f: %s", b.From, b.To, thousands(b.Pairs))
		if i < len(r.Histogram)/2 {
			c.Class = "worse"
		} else if i > len(r.Histogram)/2 {
			c.Class = "better"
		}
		steps = append(steps, c)
	}
	for _, f := range []float64{-1, -0.5, 0, 0.5, 1} {
		ticks = append(ticks, tick{round((f + 1.05) / 2.1 * width), signed(f)})
	}
	return steps, ticks
}

func (r *Report) latencies() (list []latency) {
	longest := 0.0
	for _, s := range r.Stages {
		for _, t := range []*Times{s.Baseline, s.Candidate} {
			if t != nil {
				longest = max(longest, t.P95)
			}
		}
	}
	for _, s := range r.Stages {
		l := latency{Stage: s.Stage, Baseline: s.Baseline, Candidate: s.Candidate}
		if longest > 0 {
			if s.Baseline != nil {
				l.WideB = round(100 * s.Baseline.P95 / longest)
			}
			if s.Candidate != nil {
				l.WideC = round(100 * s.Candidate.P95 / longest)
			}
		}
		list = append(list, l)
	}
	return list
}

func class(verdict string) string {
	switch verdict {
	case IsBetter, IsWorse, IsEqual:
		return verdict
	case IsHigher, IsLower:
		return "changed"
	}
	return "unknown"
}

var titles = map[string]string{
	Correct: "correct answers", Judge: "preferred by the judge", Score: "score", Failed: "failures", Cost: "cost, USD a request",
	TokensIn: "prompt tokens", TokensOut: "answer tokens", CacheHit: "cache hits", Latency: "call, ms",
}

func title(metric string) string {
	if t, ok := titles[metric]; ok {
		return t
	}
	return metric
}
