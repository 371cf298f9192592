package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// The plot fits 80 columns.
const (
	plotWidth  = 66
	plotHeight = 14
	mostPoints = 26 // one letter each
)

// plotModels draws quality against cost: capital letters are models on the
// frontier, which dots join.
func plotModels(out io.Writer, rows []modelRow) {
	points := slices.DeleteFunc(slices.Clone(rows), func(r modelRow) bool { return r.Quality == nil || r.CostUSD <= 0 })
	if len(points) < 2 {
		fmt.Fprintln(out, "\nno plot: it needs the quality and the cost of two models at least")
		return
	}
	slices.SortFunc(points, func(x, y modelRow) int {
		return cmp.Or(cmp.Compare(x.CostUSD, y.CostUSD), cmp.Compare(*y.Quality, *x.Quality))
	})
	points = points[:min(len(points), mostPoints)]
	p := newPlot(points)
	fmt.Fprintf(out, "\nquality by the cost of a call%s\n", map[bool]string{true: " (logarithmic)"}[p.log])
	for row, line := range p.canvas() {
		label := ""
		switch row {
		case 0:
			label = fmt.Sprintf("%.2f", p.high)
		case plotHeight - 1:
			label = fmt.Sprintf("%.2f", p.low)
		}
		fmt.Fprintf(out, "%5s |%s\n", label, strings.TrimRight(string(line), " "))
	}
	right := usdText(p.dear)
	fmt.Fprintf(out, "      +%s\n       %-*s%s\n", strings.Repeat("-", plotWidth), plotWidth-len(right), usdText(p.cheap), right)
	for i, r := range points {
		fmt.Fprintf(out, "  %c  %s: %.2f at %s\n", p.letter(i), r.Model, *r.Quality, usdText(r.CostUSD))
	}
}

type plot struct {
	points      []modelRow
	cheap, dear float64
	low, high   float64
	log         bool
}

func newPlot(points []modelRow) *plot {
	p := &plot{points: points, cheap: points[0].CostUSD, dear: points[len(points)-1].CostUSD, low: 1}
	for _, r := range points {
		p.low, p.high = min(p.low, *r.Quality), max(p.high, *r.Quality)
	}
	if p.high-p.low < 0.02 {
		p.low, p.high = p.low-0.01, p.high+0.01
	}
	p.log = p.dear > 8*p.cheap
	return p
}

func (p *plot) letter(i int) byte {
	if p.points[i].Frontier {
		return 'A' + byte(i)
	}
	return 'a' + byte(i)
}

// at gives where a point stands.
func (p *plot) at(r *modelRow) (x, y int) {
	part := 0.5
	switch {
	case p.log:
		part = math.Log(r.CostUSD/p.cheap) / math.Log(p.dear/p.cheap)
	case p.dear > p.cheap:
		part = (r.CostUSD - p.cheap) / (p.dear - p.cheap)
	}
	x = int(math.Round(part * (plotWidth - 1)))
	y = int(math.Round((p.high - *r.Quality) / (p.high - p.low) * (plotHeight - 1)))
	return x, y
}

func (p *plot) canvas() [][]byte {
	lines := make([][]byte, plotHeight)
	for i := range lines {
		lines[i] = slices.Repeat([]byte{' '}, plotWidth)
	}
	fromX, fromY := -1, 0
	for i := range p.points {
		if !p.points[i].Frontier {
			continue
		}
		x, y := p.at(&p.points[i])
		for step := fromX + 1; fromX >= 0 && step < x; step++ {
			lines[fromY+(y-fromY)*(step-fromX)/(x-fromX)][step] = '.'
		}
		fromX, fromY = x, y
	}
	for i := range p.points {
		x, y := p.at(&p.points[i])
		for x < plotWidth-1 && lines[y][x] != ' ' && lines[y][x] != '.' {
			x++ // another one stands there
		}
		lines[y][x] = p.letter(i)
	}
	return lines
}
