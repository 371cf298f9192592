package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"

	"github.com/adpa/processor/internal/cachepolicy"
)

// cacheTrace is a sequence of lookups: of which entry, and what it takes and is worth.
type cacheTrace struct {
	name     string
	keys     []int
	items    []cachepolicy.Item // by key
	distinct int64              // bytes of all entries that occur
}

const (
	cacheLookups = 400_000 // of a made trace
	cacheKeys    = 100_000 // of a made trace
	answerToken  = 4       // bytes of answer a token
	answerFrame  = 600     // bytes of an answer besides its text
)

// runCache measures the cache policies: the share of lookups that hit, and of
// the money that hits save, over capacities relative to the bytes of all entries.
func runCache(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("cache", flag.ContinueOnError)
	dir := flags.String("data", os.Getenv("PROCESSOR_DATA"), "directory of the data sets")
	half := flags.String("half", "second", "half of the traces to use: first (to develop on) or second (to report)")
	svg := flags.String("svg", "", "draw the plots of the guide into this directory too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *dir == "" {
		return fmt.Errorf("--data or PROCESSOR_DATA: name the directory with mooncake/ and azure/")
	}
	traces, err := cacheTraces(*dir, *half == "second")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Half of the data: %s.\n\n| trace | capacity | lru | arc | gdsf by hits | gdsf by cost | adaptive by hits | adaptive by cost | gdsf, told what comes once | no limit |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n", *half)
	for _, t := range traces {
		for _, share := range []float64{0.01, 0.05, 0.1, 0.25} {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			t.print(out, share)
		}
	}
	if *svg != "" {
		return plotCache(ctx, *svg, traces)
	}
	return nil
}

// print gives a line of the table: hit rate / saved cost, in percent.
func (t cacheTrace) print(out io.Writer, share float64) {
	capacity := int64(share * float64(t.distinct))
	byHits, byCost := func(cachepolicy.Item) float64 { return 1 }, func(i cachepolicy.Item) float64 { return i.CostUSD }
	fmt.Fprintf(out, "| %s | %.0f %% |", t.name, 100*share)
	for _, p := range []cachepolicy.Policy[int]{
		cachepolicy.NewLRU[int](capacity), cachepolicy.NewARC[int](capacity),
		cachepolicy.NewGDSF[int](capacity, byHits), cachepolicy.NewGDSF[int](capacity, byCost),
		cachepolicy.NewAdaptive[int](capacity, cachepolicy.Metrics{Hits: true}),
		cachepolicy.NewAdaptive[int](capacity, cachepolicy.Metrics{Cost: true}),
	} {
		hits, saved := t.replay(p)
		fmt.Fprintf(out, " %.1f / %.1f", 100*hits, 100*saved)
		if a, ok := p.(*cachepolicy.Adaptive[int]); ok {
			fmt.Fprintf(out, " (%s)", a.Name())
		}
		fmt.Fprint(out, " |")
	}
	hits, saved := t.withoutOnce().replay(cachepolicy.NewGDSF[int](capacity, byCost))
	fmt.Fprintf(out, " %.1f / %.1f |", 100*hits, 100*saved)
	hits, saved = t.replay(cachepolicy.NewLRU[int](math.MaxInt64))
	fmt.Fprintf(out, " %.1f / %.1f |\n", 100*hits, 100*saved)
}

// withoutOnce gives the trace in which what occurs but once is too large to be
// kept: what a cache could do that knew so much of the future.
func (t cacheTrace) withoutOnce() cacheTrace {
	times := make([]int, len(t.items))
	for _, key := range t.keys {
		times[key]++
	}
	t.items = slices.Clone(t.items)
	for key, n := range times {
		if n == 1 {
			t.items[key].Bytes = math.MaxInt64
		}
	}
	return t
}

func (t cacheTrace) replay(p cachepolicy.Policy[int]) (hits, saved float64) {
	var n, cost float64
	adaptive, _ := p.(*cachepolicy.Adaptive[int])
	for _, key := range t.keys {
		item := t.items[key]
		n++
		cost += item.CostUSD
		if adaptive != nil {
			adaptive.Lookup(cacheHash(key))
		}
		if _, ok := p.Item(key); ok {
			hits++
			saved += item.CostUSD
			p.Hit(key)
			continue
		}
		if adaptive != nil {
			adaptive.Stored(cacheHash(key), item)
		}
		p.Add(key, item)
	}
	return hits / n, saved / cost
}

// cacheHash spreads keys evenly (the finisher of SplitMix64).
func cacheHash(key int) uint64 {
	h := uint64(key) + 0x9E3779B97F4A7C15
	h = (h ^ h>>30) * 0xBF58476D1CE4E5B9
	h = (h ^ h>>27) * 0x94D049BB133111EB
	return h ^ h>>31
}

func cacheTraces(dir string, second bool) ([]cacheTrace, error) {
	blocks, err := mooncakeBlocks(filepath.Join(dir, "mooncake", "conversation_trace.jsonl"), second)
	if err != nil {
		return nil, err
	}
	lengths, err := azureLengths(filepath.Join(dir, "azure", "AzureLLMInferenceTrace_conv.csv"), second)
	if err != nil {
		return nil, err
	}
	traces := []cacheTrace{blocks}
	for _, mix := range []struct {
		name       string
		once, turn float64
	}{{"Azure lengths, Zipf 0.9", 0, 0}, {"the same, half occur once", 0.5, 0}, {"the same, and the popular change", 0.5, 1}} {
		traces = append(traces, azureMix(mix.name, lengths, mix.once, mix.turn))
	}
	return traces, nil
}

func (t *cacheTrace) sum() {
	seen := make([]bool, len(t.items))
	for _, key := range t.keys {
		if !seen[key] {
			seen[key] = true
			t.distinct += t.items[key].Bytes
		}
	}
}

// mooncakeBlocks gives the blocks of the prompts of one half of a trace, all of
// one size and cost.
func mooncakeBlocks(file string, second bool) (cacheTrace, error) {
	f, err := os.Open(file)
	if err != nil {
		return cacheTrace{}, err
	}
	defer f.Close()
	var requests [][]int
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Blocks []int `json:"hash_ids"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return cacheTrace{}, fmt.Errorf("reading %s: %w", file, err)
		}
		requests = append(requests, line.Blocks)
	}
	if second {
		requests = requests[len(requests)/2:]
	} else {
		requests = requests[:len(requests)/2]
	}
	t := cacheTrace{name: "Mooncake conversation blocks"}
	for _, blocks := range requests {
		for _, b := range blocks {
			t.keys = append(t.keys, b)
			for len(t.items) <= b {
				t.items = append(t.items, cachepolicy.Item{Bytes: 1000, CostUSD: 1})
			}
		}
	}
	t.sum()
	return t, lines.Err()
}

type lengths struct{ prompt, answer float64 }

func azureLengths(file string, second bool) ([]lengths, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	rows = rows[1:]
	half := rows[:len(rows)/2]
	if second {
		half = rows[len(rows)/2:]
	}
	var list []lengths
	for _, row := range half {
		prompt, err := strconv.ParseFloat(row[1], 64)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		answer, err := strconv.ParseFloat(row[2], 64)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		list = append(list, lengths{prompt, answer})
	}
	return list, nil
}

// azureMix draws requests of real lengths by Zipf's law with exponent 0.9; once
// is the share that occurs but once, and with turn the popular ones change
// steadily. One entry in ten is of a model that costs 15 times as much.
func azureMix(name string, drawn []lengths, once, turn float64) cacheTrace {
	random := rand.New(rand.NewPCG(9, 9))
	t := cacheTrace{name: name}
	item := func() cachepolicy.Item {
		l := drawn[random.IntN(len(drawn))]
		i := cachepolicy.Item{Bytes: int64(l.answer*answerToken) + answerFrame, CostUSD: (l.prompt*0.15 + l.answer*0.6) / 1e6}
		if random.IntN(10) == 0 {
			i.CostUSD *= 15
		}
		return i
	}
	cumulative := make([]float64, cacheKeys)
	total := 0.0
	for i := range cumulative {
		total += math.Pow(float64(i+1), -0.9)
		cumulative[i] = total
		t.items = append(t.items, item())
	}
	for i := range cacheLookups {
		if random.Float64() < once {
			t.keys = append(t.keys, len(t.items))
			t.items = append(t.items, item())
			continue
		}
		rank := sort.SearchFloat64s(cumulative, random.Float64()*total)
		shift := int(turn * float64(i) / cacheLookups * cacheKeys / 2)
		t.keys = append(t.keys, (rank+shift)%cacheKeys)
	}
	t.sum()
	return t
}
