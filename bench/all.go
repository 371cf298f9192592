package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind is what a figure is, and so how it is set against the machine's speed.
type kind string

const (
	// ratio is one within its run, and stays as it is.
	ratio kind = "ratio"
	// rate is of requests a second: it is divided by that of the bare loops
	// beside it.
	rate kind = "rate"
	// span is a time: it is told in requests of the bare loop.
	span kind = "time"
)

// wanted is a figure of a scenario: the first group of the pattern in what the
// scenario prints.
type wanted struct {
	name    string
	kind    kind
	less    bool // is better
	pattern string
}

// short is a scenario in a short form, which gives figures to compare, and in
// the shortest, which shows that it runs and gives figures at all.
type short struct {
	scenario string
	args     []string
	quick    []string
	data     bool   // needs the data sets
	without  string // why it is left out
	figures  []wanted
}

// shorts are all scenarios. A test holds that none is missing.
var shorts = []short{
	{"pipeline", []string{"-requests", "3000", "-turns", "1", "-idle", "100", "-waiting", "0"}, []string{"-requests", "500", "-turns", "1", "-idle", "20", "-waiting", "0"}, false, "", []wanted{
		{"five groups, simulated provider", ratio, false, `\| five groups, simulated provider \| \d+ \| ([\d.]+)`},
		{"five groups, HTTP upstream", ratio, false, `\| five groups, HTTP upstream \| \d+ \| ([\d.]+)`},
		{"one group, HTTP upstream", ratio, false, `\| one group, HTTP upstream \| \d+ \| ([\d.]+)`},
		{"idle latency, p50", span, true, `Idle latency.* p50 ([\d.]+ ms)`},
	}},
	{"budgets", []string{"-requests", "3000", "-turns", "1"}, []string{"-requests", "500", "-turns", "1"}, false, "", []wanted{
		{"three budgets, of the rate without", ratio, false, `Median ratio ([\d.]+)`},
	}},
	{"cached", []string{"-requests", "3000", "-turns", "1"}, []string{"-requests", "500", "-turns", "1"}, false, "", []wanted{
		{"five groups, all new", rate, false, `\| five groups, HTTP upstream \| (\d+)`},
		{"five groups, all cached", rate, false, `\| five groups, HTTP upstream \| \d+ \| (\d+)`},
		{"one group, all cached", rate, false, `\| one group, HTTP upstream \| \d+ \| (\d+)`},
	}},
	{"fairness", []string{"-flood", "2000", "-probes", "20"}, []string{"-flood", "600", "-probes", "5", "-every", "20ms", "-only", "interactive"}, false, "", []wanted{
		// Most of it is the upstream's 200 ms, whatever the machine's speed.
		{"quiet tenant in the loud one's shard, p50, ms", ratio, true, `(?s)in the loud one's shard \|.*?\| (\d+) ms, \d+ ms \(\d+ requests\) \|\n`},
	}},
	{"stream", []string{"-answers", "16", "-chunks", "10"}, []string{"-answers", "4", "-chunks", "5"}, false, "", []wanted{
		{"added to a chunk, p50", span, true, `added at the median: (\S+)`},
	}},
	{"batch", []string{"-requests", "500"}, []string{"-requests", "100"}, false, "", []wanted{
		{"embeddings that share calls, of a call each", ratio, false, `x([\d.]+) \|`},
	}},
	{"generate", []string{"-only", "permitted", "-seconds", "1"}, []string{"-only", "permitted", "-seconds", "0.3"}, false, "", []wanted{
		{"8 calls in flight, of what is permitted", ratio, false, `\| 8 \| \d+ \| [\d.]+ \| ([\d.]+)`},
	}},
	{"replay", []string{"-requests", "1000", "-turns", "1"}, []string{"-requests", "300", "-turns", "1"}, false, "", []wanted{
		{"at max with a full cassette, of the live rate", ratio, false, `replay of the live rate \| ([\d.]+)`},
		{"live beside a replay, of the rate alone", ratio, false, `of the rate alone \| ([\d.]+)`},
	}},
	{"scale", []string{"-replicas", "2", "-seconds", "6", "-backlog", "4000", "-kept", "5000", "-joins", "1", "-kills", "0"}, []string{"-replicas", "1,2", "-seconds", "3", "-backlog", "1000", "-kept", "1000", "-joins", "1", "-kills", "0"}, false, "", []wanted{
		{"two replicas, of linear", ratio, false, `\n\| 2 \| \d+ \| \d+ \| ([\d.]+)`},
		{"a backlog", rate, false, `\n\| [14]000 \| (\d+)`},
		{"start to first answer", span, true, `first answer after (\d+ ms)`},
	}},
	{"sync", []string{"-time", "200ms"}, []string{"-time", "50ms"}, false, "", nil},
	{"tune", []string{"-requests", "500", "-seeds", "3"}, []string{"-requests", "200", "-seeds", "1"}, false, "", nil},
	{"tokens", nil, nil, true, "", []wanted{
		{"English, o200k_base, of the reference", ratio, false, `\| English \| o200k_base \| [\d.]+ \| [\d.]+ \| [\d.]+ \| ([\d.]+)`},
	}},
	{"compress", nil, nil, true, "", nil},
	{"cache", []string{"-half", "first"}, []string{"-half", "first"}, true, "", nil},
	{"score", nil, nil, true, "", nil},
	{"select", nil, nil, true, "", nil},
	{"normalized", nil, nil, false, "it needs the file of pairs (-pairs)", nil},
}

// figure is one that was measured.
type figure struct {
	Name  string  `json:"name"` // scenario: what
	Kind  kind    `json:"kind"`
	Less  bool    `json:"less_is_better,omitempty"`
	Value float64 `json:"value"` // of the bare loop, but for ratios: the median of the turns
	Raw   float64 `json:"raw"`   // requests a second, or seconds: the median of the turns

	// Turns are the values of all turns.
	Turns []float64 `json:"turns,omitempty"`
	raws  []float64
}

// worst and best are the ends of what the turns found.
func (f *figure) worst() float64 { return f.end(f.Less) }
func (f *figure) best() float64  { return f.end(!f.Less) }

func (f *figure) end(high bool) float64 {
	switch {
	case len(f.Turns) == 0: // a file from before there were turns
		return f.Value
	case high:
		return slices.Max(f.Turns)
	}
	return slices.Min(f.Turns)
}

// results are the figures of a run of all, as -json writes them.
type results struct {
	At      time.Time `json:"at"`
	Go      string    `json:"go"`
	System  string    `json:"system"`
	CPUs    int       `json:"cpus"`
	Bare    float64   `json:"bare_per_second"` // median of the bare loops of the run
	Figures []figure  `json:"figures"`
}

// everything runs scenarios in their short form.
type everything struct {
	pipelineBench
	data    string
	quick   bool
	turns   int
	bares   []float64
	results results
}

// How many requests a bare loop beside a scenario moves.
const (
	bareRequests      = 4000
	quickBareRequests = 1000
)

func runAll(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("all", flag.ContinueOnError)
	e := everything{pipelineBench: pipelineBench{out: out, requests: bareRequests}}
	flags.StringVar(&e.only, "only", "", "run these scenarios, with commas between them")
	flags.StringVar(&e.data, "data", os.Getenv("PROCESSOR_DATA"), "the directory of the data sets, else that of PROCESSOR_DATA; without it, scenarios that need one are left out")
	flags.BoolVar(&e.quick, "quick", false, "each scenario once in its smallest form: shows that all run; its figures are no measure")
	flags.IntVar(&e.turns, "turns", 3, "of the scenarios that give figures, which are medians then")
	file := flags.String("json", "", "write the figures to this file, for compare")
	if err := parse(flags, args); err != nil {
		return err
	}
	if e.quick {
		e.turns, e.requests = 1, quickBareRequests
	}
	var err error
	if e.dir, err = os.MkdirTemp("", "bench-all-"); err != nil {
		return err
	}
	defer os.RemoveAll(e.dir)
	shared = e.dir
	defer func() { shared, built = "", "" }()
	e.results = results{At: time.Now().UTC(), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU()}
	failures := e.all(ctx)
	if len(e.bares) > 0 {
		e.results.Bare = median(e.bares)
	}
	e.print()
	if *file != "" {
		failures = errors.Join(failures, e.results.write(*file))
	}
	return failures
}

// all runs the scenarios, one after the other and then again; one that fails
// does not keep the others from running. Those without figures run once.
func (e *everything) all(ctx context.Context) (failures error) {
	for turn := range max(e.turns, 1) {
		for _, s := range shorts {
			if e.only != "" && !slices.Contains(strings.Split(e.only, ","), s.scenario) || turn > 0 && len(s.figures) == 0 {
				continue
			}
			if s.data && e.data == "" {
				s.without = "it needs the data sets (-data or PROCESSOR_DATA)"
			}
			if s.without != "" {
				fmt.Fprintf(e.out, "\n== %s: left out, %s\n", s.scenario, s.without)
				continue
			}
			if e.quick && s.quick != nil {
				s.args = s.quick
			}
			fmt.Fprintf(e.out, "\n== %s %s\n", s.scenario, strings.Join(s.args, " "))
			begun := time.Now()
			if err := e.one(ctx, s); err != nil {
				fmt.Fprintf(e.out, "-- %s: FAILED: %v\n", s.scenario, err)
				failures = errors.Join(failures, fmt.Errorf("%s: %w", s.scenario, err))
				continue
			}
			fmt.Fprintf(e.out, "-- %s: %.0f s\n", s.scenario, time.Since(begun).Seconds())
		}
	}
	return failures
}

// add takes a figure of a turn.
func (r *results) add(f figure) {
	at := slices.IndexFunc(r.Figures, func(of figure) bool { return of.Name == f.Name })
	if at < 0 {
		r.Figures = append(r.Figures, figure{Name: f.Name, Kind: f.Kind, Less: f.Less})
		at = len(r.Figures) - 1
	}
	all := &r.Figures[at]
	all.Turns, all.raws = append(all.Turns, f.Value), append(all.raws, f.Raw)
	all.Value, all.Raw = median(all.Turns), median(all.raws)
}

// one runs a scenario between two bare loops, if it has figures that they are
// the measure of.
func (e *everything) one(ctx context.Context, s short) error {
	measured := slices.ContainsFunc(s.figures, func(w wanted) bool { return w.kind != ratio })
	var beside float64
	if measured {
		before, err := e.bareLoop(ctx)
		if err != nil {
			return err
		}
		beside = before
	}
	var said bytes.Buffer
	args := s.args
	if s.data {
		args = append([]string{"-data", e.data}, args...)
	}
	if err := scenarios[s.scenario](ctx, io.MultiWriter(e.out, &said), args); err != nil {
		return err
	}
	if measured {
		after, err := e.bareLoop(ctx)
		if err != nil {
			return err
		}
		beside = (beside + after) / 2
	}
	for _, w := range s.figures {
		f, err := w.find(said.String(), beside)
		if err != nil {
			return err
		}
		f.Name = s.scenario + ": " + w.name
		e.results.add(f)
	}
	return nil
}

func (e *everything) bareLoop(ctx context.Context) (float64, error) {
	server, err := e.server(ctx)
	if err != nil {
		return 0, err
	}
	defer server.Kill()
	perSecond, err := bare(ctx, server.URL, prompt(0), e.requests)
	e.bares = append(e.bares, perSecond)
	return perSecond, err
}

// find reads a figure from what a scenario printed.
func (w wanted) find(text string, beside float64) (figure, error) {
	match := regexp.MustCompile(w.pattern).FindStringSubmatch(text)
	if match == nil {
		return figure{}, fmt.Errorf("the output has no %q: has its form changed?", w.name)
	}
	raw, err := strconv.ParseFloat(match[1], 64)
	if w.kind == span {
		var took time.Duration
		took, err = time.ParseDuration(strings.ReplaceAll(match[1], " ", ""))
		raw = took.Seconds()
	}
	if err != nil {
		return figure{}, fmt.Errorf("reading %q: %w", w.name, err)
	}
	if !(raw > 0) { // written so that NaN is none either
		return figure{}, fmt.Errorf("%q is %v: that is no figure", w.name, raw)
	}
	f := figure{Kind: w.kind, Less: w.less, Value: raw, Raw: raw}
	switch w.kind {
	case rate:
		f.Value = raw / beside
	case span:
		f.Value = raw * beside
	}
	return f, nil
}

func (e *everything) print() {
	if len(e.results.Figures) == 0 {
		return
	}
	fmt.Fprintf(e.out, "\n| figure | measured | by the bare loop beside it | each turn | better is |\n| --- | --- | --- | --- | --- |\n")
	if e.results.Bare > 0 {
		fmt.Fprintf(e.out, "| bare JetStream loop, 5 hops | %.0f/s | 1 | | |\n", e.results.Bare)
	}
	for _, f := range e.results.Figures {
		better := "more"
		if f.Less {
			better = "less"
		}
		fmt.Fprintf(e.out, "| %s | %s | %.3g | %.3g | %s |\n", f.Name, f.measured(), f.Value, f.Turns, better)
	}
}

func (f figure) measured() string {
	switch f.Kind {
	case rate:
		return fmt.Sprintf("%.0f/s", f.Raw)
	case span:
		return fmt.Sprintf("%.2f ms", 1000*f.Raw)
	}
	return fmt.Sprintf("%.2f", f.Raw)
}

func (r *results) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o600)
}
