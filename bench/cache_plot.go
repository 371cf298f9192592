package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/adpa/processor/internal/cachepolicy"
)

// plotShares are the capacities of the curves, as shares of the bytes of all entries.
var plotShares = []float64{0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1}

// barShares are those of the bars.
var barShares = []float64{0.01, 0.05, 0.1, 0.25}

// plotLine is a policy in the plots. The colours differ for the colour-blind too.
type plotLine struct {
	name, colour string
	make         func(capacity int64, metrics cachepolicy.Metrics) cachepolicy.Policy[int]
}

var plotLines = []plotLine{
	{"lru", "#777777", func(c int64, _ cachepolicy.Metrics) cachepolicy.Policy[int] { return cachepolicy.NewLRU[int](c) }},
	{"arc", "#e69f00", func(c int64, _ cachepolicy.Metrics) cachepolicy.Policy[int] { return cachepolicy.NewARC[int](c) }},
	{"gdsf", "#0072b2", func(c int64, m cachepolicy.Metrics) cachepolicy.Policy[int] {
		return cachepolicy.NewGDSF[int](c, func(i cachepolicy.Item) float64 {
			if m.Cost {
				return i.CostUSD
			}
			return 1
		})
	}},
	{"adaptive", "#d55e00", func(c int64, m cachepolicy.Metrics) cachepolicy.Policy[int] {
		return cachepolicy.NewAdaptive[int](c, m)
	}},
}

// plotCache draws the miss-ratio curves and the saved cost of all policies into
// two SVG files in dir.
func plotCache(ctx context.Context, dir string, traces []cacheTrace) error {
	curves, err := missCurves(ctx, traces)
	if err != nil {
		return err
	}
	bars, err := savedBars(ctx, traces)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"cache-miss-ratio.svg": curves, "cache-saved-cost.svg": bars} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

const (
	panelWidth, panelHeight = 300, 180
	panelLeft, panelTop     = 56, 64
	panelStepX, panelStepY  = 380, 270
)

// drawing collects SVG elements.
type drawing struct{ strings.Builder }

func (d *drawing) text(x, y float64, anchor, class, text string) {
	fmt.Fprintf(d, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">%s</text>\n", x, y, anchor, class, text)
}

func (d *drawing) line(x1, y1, x2, y2 float64, colour string) {
	fmt.Fprintf(d, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, colour)
}

// panel draws the frame of a small plot, from 0 to most percent, and gives its corner.
func (d *drawing) panel(i int, title string, most float64) (left, bottom float64) {
	left, top := float64(panelLeft+i%2*panelStepX), float64(panelTop+i/2*panelStepY)
	bottom = top + panelHeight
	d.text(left, top-10, "start", "title", title)
	for tick := 0.0; tick <= most; tick += most / 4 {
		y := bottom - tick/most*panelHeight
		d.line(left, y, left+panelWidth, y, "#dddddd")
		d.text(left-6, y+4, "end", "label", fmt.Sprintf("%.0f %%", tick))
	}
	return left, bottom
}

func frame(title string, panels int, d *drawing) string {
	width, height := panelLeft+2*panelStepX-20, panelTop+(panels+1)/2*panelStepY-40
	var out drawing
	fmt.Fprintf(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\">\n", width, height)
	out.WriteString("<style>.head{font-size:15px;font-weight:bold}.title{font-size:12px;font-weight:bold}.label{font-size:11px;fill:#444}</style>\n")
	fmt.Fprintf(&out, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", width, height)
	out.text(12, 22, "start", "head", title)
	for i, l := range plotLines {
		x := float64(width - 330 + i*80)
		fmt.Fprintf(&out, "<rect x=\"%.0f\" y=\"12\" width=\"12\" height=\"12\" fill=\"%s\"/>\n", x, l.colour)
		out.text(x+17, 22, "start", "label", l.name)
	}
	out.WriteString(d.String())
	out.WriteString("</svg>\n")
	return out.String()
}

// missCurves draws for each trace the share of lookups that miss over the capacity.
func missCurves(ctx context.Context, traces []cacheTrace) (string, error) {
	var d drawing
	across := func(share float64) float64 {
		first, last := math.Log(plotShares[0]), math.Log(plotShares[len(plotShares)-1])
		return (math.Log(share) - first) / (last - first) * panelWidth
	}
	for i, t := range traces {
		left, bottom := d.panel(i, t.name, 100)
		for _, share := range []float64{0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1} {
			d.text(left+across(share), bottom+16, "middle", "label", fmt.Sprintf("%g", 100*share))
		}
		d.text(left+panelWidth/2, bottom+33, "middle", "label", "capacity, % of the bytes of all entries")
		for _, l := range plotLines {
			var points []string
			for _, share := range plotShares {
				if ctx.Err() != nil {
					return "", ctx.Err()
				}
				hits, _ := t.replay(l.make(int64(share*float64(t.distinct)), cachepolicy.Metrics{Hits: true}))
				points = append(points, fmt.Sprintf("%.1f,%.1f", left+across(share), bottom-(1-hits)*panelHeight))
			}
			fmt.Fprintf(&d, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", strings.Join(points, " "), l.colour)
		}
	}
	return frame("Misses, in percent of lookups", len(traces), &d), nil
}

// savedBars draws for each trace the share of the cost that hits save, where
// policies go by cost.
func savedBars(ctx context.Context, traces []cacheTrace) (string, error) {
	var d drawing
	const group, bar = panelWidth / 4.0, 15.0
	for i, t := range traces {
		left, bottom := d.panel(i, t.name, 80)
		for g, share := range barShares {
			x := left + float64(g)*group
			d.text(x+group/2, bottom+16, "middle", "label", fmt.Sprintf("%g %%", 100*share))
			for n, l := range plotLines {
				if ctx.Err() != nil {
					return "", ctx.Err()
				}
				_, saved := t.replay(l.make(int64(share*float64(t.distinct)), cachepolicy.Metrics{Cost: true}))
				tall := saved * 100 / 80 * panelHeight
				at := x + (group-bar*float64(len(plotLines)))/2 + float64(n)*bar
				fmt.Fprintf(&d, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.0f\" height=\"%.1f\" fill=\"%s\"/>\n", at, bottom-tall, bar-2, tall, l.colour)
			}
		}
		d.text(left+panelWidth/2, bottom+33, "middle", "label", "capacity, of the bytes of all entries")
	}
	return frame("Saved cost, in percent", len(traces), &d), nil
}
