package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/tune"
)

// tuneFlags are what the scenario tune takes.
type tuneFlags struct {
	seeds, requests, routes int
	ahead, noise            float64
}

// runTune plays a simulated provider with a hidden optimum on each route: ten
// settings, of which one answers better, and scores with noise.
func runTune(_ context.Context, out io.Writer, args []string) error {
	var f tuneFlags
	flags := flag.NewFlagSet("tune", flag.ContinueOnError)
	flags.IntVar(&f.seeds, "seeds", 100, "how often it is played")
	flags.IntVar(&f.requests, "requests", 4000, "of each route")
	flags.IntVar(&f.routes, "routes", 1, "with an optimum each")
	flags.Float64Var(&f.ahead, "ahead", 0.05, "of the best setting over the others, in score")
	flags.Float64Var(&f.noise, "noise", 0.2, "standard deviation of a score")
	if err := flags.Parse(args); err != nil {
		return err
	}
	fmt.Fprintf(out, "Tuning: %d seeds, %d routes, %d requests each, 10 settings, the best ahead by %g, noise %g.\n", f.seeds, f.routes, f.requests, f.ahead, f.noise)
	fmt.Fprintln(out, "  share  found      wrong  not yet  requests until found (median, 90%)  regret of a request: tuning  best fixed  mean fixed")
	for _, share := range []float64{1, 0.5, 0.25} {
		var sum tuneResult
		for seed := range f.seeds {
			sum.add(f.play(uint64(seed), share))
		}
		sum.print(out, share, f)
	}
	return nil
}

// tuneResult is how searches ended.
type tuneResult struct {
	found, wrong, open int
	until              []int
	regret             float64
	requests           int
}

func (r *tuneResult) add(o tuneResult) {
	r.found, r.wrong, r.open = r.found+o.found, r.wrong+o.wrong, r.open+o.open
	r.until = append(r.until, o.until...)
	r.regret, r.requests = r.regret+o.regret, r.requests+o.requests
}

func (r *tuneResult) print(out io.Writer, share float64, f tuneFlags) {
	slices.Sort(r.until)
	median, most := 0, 0
	if n := len(r.until); n > 0 {
		median, most = r.until[n/2], r.until[n*9/10]
	}
	all := r.found + r.wrong + r.open
	fmt.Fprintf(out, "  %-6g %4d/%-4d  %5d  %7d  %17d %15d  %28.4f  %10d  %10.4f\n",
		share, r.found, all, r.wrong, r.open, median, most, r.regret/float64(r.requests), 0, f.ahead*0.9)
}

// tuneStore is a store of one process.
type tuneStore map[string]*tune.Learner

// View implements tune.Store.
func (s tuneStore) View(key string, f func(*tune.Learner)) bool {
	if l := s[key]; l != nil {
		f(l)
		return true
	}
	return false
}

// Observe implements tune.Store.
func (s tuneStore) Observe(key string, f func(use, own *tune.Learner)) bool {
	if s[key] == nil {
		s[key] = new(tune.Learner)
	}
	f(s[key], new(tune.Learner))
	return true
}

// hiddenOptimum is a provider whose answers to a route are better with one setting.
type hiddenOptimum struct {
	random     *rand.Rand
	parameters string // the best ones; empty is a request as it is
}

// quality is what the answer to a body scores, and would score with the best setting.
func (h *hiddenOptimum) quality(sent string, f tuneFlags) (score, expected float64) {
	expected = 0.7
	if h.parameters == "" && !strings.Contains(sent, `"temperature"`) && !strings.Contains(sent, `"top_p"`) ||
		h.parameters != "" && strings.Contains(sent, h.parameters) {
		expected += f.ahead
	}
	return expected + f.noise*h.random.NormFloat64(), expected
}

// tuneSettings are those that the provider may prefer, as they stand in a body.
var tuneSettings = []string{
	"", `"temperature":0}`, `"temperature":0.25}`, `"temperature":0.5}`, `"temperature":0.75}`, `"temperature":1}`,
	`"top_p":0.6}`, `"top_p":0.7}`, `"top_p":0.8}`, `"top_p":0.9}`,
}

// play has all routes' requests prepared, answered and observed, in turn.
func (f tuneFlags) play(seed uint64, share float64) (result tuneResult) {
	random := rand.New(rand.NewPCG(seed, 11)) //nolint:gosec // no secret
	store := tuneStore{}
	tuner := tune.New(tune.Config{
		Enabled: true, Parameters: []string{"temperature", "top_p"}, Objective: tune.Quality,
		Ranges: tune.DefaultRanges(), Share: share, Key: func(_, route, _, _ string) string { return route },
	}, store)
	optima := make([]hiddenOptimum, f.routes)
	until := make([]int, f.routes)
	for i := range optima {
		optima[i] = hiddenOptimum{random, tuneSettings[random.IntN(len(tuneSettings))]}
		until[i] = -1
	}
	for n := range f.requests {
		for i := range optima {
			r := &stages.Request{Handoff: schemas.Handoff{
				State: schemas.State{ID: fmt.Sprintf("%d-%d-%d", seed, n, i), Tenant: "bench", Kind: schemas.Chat, Options: fmt.Appendf(nil, `{"route":"%d"}`, i)},
				Body:  []byte(`{"messages":[{"role":"user","content":"hi"}]}`),
			}}
			r.Selected.Model = "simulated"
			sent, parameters := tuner.Prepare(r, "simulated", r.Body)
			if sent == nil {
				sent = r.Body
			}
			r.Parameters = parameters
			score, expected := optima[i].quality(string(sent), f)
			result.regret += 0.7 + f.ahead - expected
			result.requests++
			tuner.Observe(r, r.Body, score)
			if l := store[strconv.Itoa(i)]; l.Frozen && until[i] < 0 {
				until[i] = n + 1
			}
		}
	}
	for i := range optima {
		l := store[strconv.Itoa(i)]
		switch {
		case !l.Frozen:
			result.open++
		case tuneSettings[l.Best] == optima[i].parameters:
			result.found++
			result.until = append(result.until, until[i])
		default:
			result.wrong++
		}
	}
	return result
}
