package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/cachepolicy"
	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/cache"
)

// maxReplayed bounds the requests that optimize replays: the first so many of the archive.
const maxReplayed = 200_000

// clearGain is how much more another strategy must save to be recommended.
const clearGain = 1.02

// curveSizes are the sizes of the miss-ratio curve, as shares of the present one.
var curveSizes = []float64{1. / 32, 1. / 16, 1. / 8, 1. / 4, 1. / 2, 1, 2, 4, 8}

// smallLoss is how much less a memory of half the size may save for it to be
// enough, where memory is one of the metrics: one point.
const smallLoss = 0.01

// enoughToShrink is how many requests must have been replayed before less memory
// is chosen: a few fit into anything.
const enoughToShrink = 10_000

type cacheOptimizeCmd struct {
	tenantFlag
	jsonFlag
	Apply bool `help:"Have all replicas follow the choice, in the place of their configuration."`
	Reset bool `help:"Have all replicas follow their configuration again."`
}

// cacheUse is one request as the cache sees it.
type cacheUse struct {
	key  string
	item cachepolicy.Item
}

// cacheTrial is what a strategy would have done with a size.
type cacheTrial struct {
	Strategy     string  `json:"strategy"`
	LocalSize    int64   `json:"local_size"`
	HitRate      float64 `json:"hit_rate"`
	SavedCost    float64 `json:"saved_cost"`    // share of what the calls would cost
	SavedSeconds float64 `json:"saved_seconds"` // share of what the calls would take
	Chosen       bool    `json:"chosen,omitempty"`
	Present      bool    `json:"present,omitempty"`

	worth float64 // by the metrics
}

// Run replays the archived requests of a tenant through the strategies, at sizes
// from a thirty-second of the present one to eight times as much.
func (c *cacheOptimizeCmd) Run(a *app) error {
	if c.Apply && c.Reset {
		return wrongUse(errors.New("--apply and --reset say the opposite"), "processor cache optimize --apply")
	}
	store, js, cfg, closeServer, err := openCache(a, c.Tenant)
	if err != nil {
		return err
	}
	defer closeServer()
	if c.Reset {
		if err := store.Choose(a.ctx, nil); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, "all replicas follow their configuration again, within a second or two")
		return nil
	}
	present, chosen, err := store.Choice(a.ctx)
	if err != nil {
		return err
	}
	if !chosen {
		present = kv.CacheChoice{Strategy: cfg.Cache.Strategy, LocalSize: int64(cfg.Cache.LocalSize)}
	}
	uses, err := c.uses(a, js, cfg)
	if err != nil {
		return err
	}
	if len(uses) == 0 {
		return hint(fmt.Errorf("no archived requests of tenant %s", c.Tenant), "streams: {archive: {enabled: true}}, and some traffic")
	}
	trials := tryStrategies(uses, present, cfg.Cache.Metrics)
	choice := chosenOf(trials)
	if c.Apply {
		if err := store.Choose(a.ctx, &kv.CacheChoice{Strategy: choice.Strategy, LocalSize: choice.LocalSize}); err != nil {
			return err
		}
	}
	if c.JSON {
		return printJSON(a.stdout, trials)
	}
	if err := printTrials(a.stdout, trials, len(uses)); err != nil {
		return err
	}
	if c.Apply {
		fmt.Fprintln(a.stdout, "applied: all replicas follow within a second or two; back with processor cache optimize --reset")
	} else {
		fmt.Fprintln(a.stdout, "to have all replicas follow: processor cache optimize --tenant "+c.Tenant+" --apply")
	}
	return nil
}

// uses reads the archived requests, with what their answers cost and took.
func (c *cacheOptimizeCmd) uses(a *app, js jetstream.JetStream, cfg config.Config) ([]cacheUse, error) {
	upper := strings.ToUpper(cfg.NATS.Prefix)
	items := map[string]cachepolicy.Item{}
	err := kv.EachMessage(a.ctx, js, upper+"_RESPONSES", cfg.NATS.Prefix+".responses."+c.Tenant+".*", func(m jetstream.Msg) error {
		var body struct {
			Processor struct {
				CostUSD float64 `json:"cost_usd"`
				Stages  map[string]struct {
					RanMS float64 `json:"ran_ms"`
				} `json:"stages"`
			} `json:"processor"`
		}
		if json.Unmarshal(m.Data(), &body) == nil && len(items) < maxReplayed {
			id := m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]
			items[id] = cachepolicy.Item{Bytes: int64(len(m.Data())), CostUSD: body.Processor.CostUSD, Seconds: body.Processor.Stages["generate"].RanMS / 1000}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var uses []cacheUse
	paid := map[string]cachepolicy.Item{} // of the call that was made for a key
	full := errors.New("enough")
	err = kv.EachMessage(a.ctx, js, upper+"_ARCHIVE", cfg.NATS.Prefix+".requests."+c.Tenant, func(m jetstream.Msg) error {
		if len(uses) == maxReplayed {
			return full
		}
		item, answered := items[archivedID(m)]
		if !answered || !json.Valid(m.Data()) {
			return nil
		}
		span, _ := schemas.Member(m.Data(), "processor")
		key := cache.Fingerprint(m.Data(), span.Of(m.Data()))
		if known := paid[key]; known.CostUSD < item.CostUSD || known.Bytes == 0 {
			paid[key] = item
		}
		uses = append(uses, cacheUse{key: key})
		return nil
	})
	if err != nil && !errors.Is(err, full) && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, err
	}
	for i := range uses {
		uses[i].item = paid[uses[i].key]
	}
	return uses, nil
}

// archivedID is the id of an archived request: its own, or its first sequence.
func archivedID(m jetstream.Msg) string {
	if id := m.Headers().Get("Llm-Id"); id != "" {
		return id
	}
	if source := strings.Fields(m.Headers().Get("Nats-Stream-Source")); len(source) > 1 {
		return source[1]
	}
	return ""
}

// tryStrategies replays the uses at all sizes and marks what it would choose: at
// the present size the best strategy by the metrics, unless the present one is
// nearly as good; and with the metric memory and enough requests, the smallest
// size that loses little.
func tryStrategies(uses []cacheUse, present kv.CacheChoice, metrics []string) []cacheTrial {
	parsed := cachepolicy.ParseMetrics(metrics)
	var trials []cacheTrial
	at := func(strategy, size int) *cacheTrial { return &trials[strategy*len(curveSizes)+size] }
	names := append([]string{kv.Adaptive}, cachepolicy.Names...)
	for _, strategy := range names {
		for _, share := range curveSizes {
			size := int64(share * float64(present.LocalSize))
			t := try(uses, strategy, size, parsed)
			t.Present = strategy == present.Strategy && share == 1
			trials = append(trials, t)
		}
	}
	now, size := max(slices.Index(names, present.Strategy), 0), slices.Index(curveSizes, 1)
	best := now
	for i := range names {
		if at(i, size).worth > at(best, size).worth {
			best = i
		}
	}
	if at(best, size).worth <= clearGain*at(now, size).worth {
		best = now
	}
	if slices.Contains(metrics, "memory") && len(uses) >= enoughToShrink {
		for size > 0 && at(best, size-1).worth > at(best, size).worth-smallLoss {
			size--
		}
	}
	at(best, size).Chosen = true
	return trials
}

func chosenOf(trials []cacheTrial) cacheTrial {
	return trials[slices.IndexFunc(trials, func(t cacheTrial) bool { return t.Chosen })]
}

// printTrials prints the miss-ratio curve of all strategies, the chosen one's as
// bars, and the choice with what it changes.
func printTrials(out io.Writer, trials []cacheTrial, requests int) error {
	choice := chosenOf(trials)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STRATEGY\tLOCAL_SIZE\tHITS\tSAVED COST\tSAVED TIME\t")
	present := choice
	for _, t := range trials {
		if t.Present {
			present = t
		}
		if t.LocalSize != trials[slices.Index(curveSizes, 1)].LocalSize && !t.Chosen {
			continue
		}
		note := ""
		switch {
		case t.Chosen:
			note = "<- would choose"
		case t.Present:
			note = "<- present"
		}
		fmt.Fprintf(w, "%s\t%v\t%.1f %%\t%.1f %%\t%.1f %%\t%s\n", t.Strategy, units.Bytes(t.LocalSize), 100*t.HitRate, 100*t.SavedCost, 100*t.SavedSeconds, note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nmisses of %s by size of the memory, of %d requests:\n", choice.Strategy, requests)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, t := range trials {
		if t.Strategy == choice.Strategy {
			fmt.Fprintf(w, "%v\t%.1f %%\t %s\n", units.Bytes(t.LocalSize), 100*(1-t.HitRate), strings.Repeat("#", int(math.Round(50*(1-t.HitRate)))))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nchoice: cache: {strategy: %s, local_size: %v}; expected change: %+.1f points of hits, %+.1f of saved cost, %+.1f of saved time, %+d bytes of memory\n",
		choice.Strategy, units.Bytes(choice.LocalSize), 100*(choice.HitRate-present.HitRate), 100*(choice.SavedCost-present.SavedCost),
		100*(choice.SavedSeconds-present.SavedSeconds), choice.LocalSize-present.LocalSize)
	return nil
}

func try(uses []cacheUse, strategy string, size int64, metrics cachepolicy.Metrics) cacheTrial {
	var cost, saved, hits, total, seconds, savedSeconds float64
	seed := maphash.MakeSeed()
	worth := func(i cachepolicy.Item) float64 { return i.CostUSD + 1e-9 }
	policy := cachepolicy.New[string](strategy, size, worth)
	var adaptive *cachepolicy.Adaptive[string]
	if strategy == kv.Adaptive {
		adaptive = cachepolicy.NewAdaptive[string](size, metrics)
		policy = adaptive
	}
	for _, u := range uses {
		total++
		cost += u.item.CostUSD
		seconds += u.item.Seconds
		hash := maphash.String(seed, u.key)
		if adaptive != nil {
			adaptive.Lookup(hash)
		}
		if _, ok := policy.Item(u.key); ok {
			hits++
			saved += u.item.CostUSD
			savedSeconds += u.item.Seconds
			policy.Hit(u.key)
			continue
		}
		if adaptive != nil {
			adaptive.Stored(hash, u.item)
		}
		policy.Add(u.key, u.item)
	}
	t := cacheTrial{Strategy: strategy, LocalSize: size, HitRate: hits / total}
	if cost > 0 {
		t.SavedCost = saved / cost
	}
	if seconds > 0 {
		t.SavedSeconds = savedSeconds / seconds
	}
	if metrics.Hits || !metrics.Cost && !metrics.Latency {
		t.worth += t.HitRate
	}
	if metrics.Cost {
		t.worth += t.SavedCost
	}
	if metrics.Latency {
		t.worth += t.SavedSeconds
	}
	return t
}
