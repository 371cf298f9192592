package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"text/tabwriter"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/cachepolicy"
	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
)

// maxReplayed bounds the requests that optimize replays: the first so many of the archive.
const maxReplayed = 200_000

// clearGain is how much more another strategy must save to be recommended.
const clearGain = 1.02

type cacheOptimizeCmd struct {
	tenantFlag
	jsonFlag
}

// cacheUse is one request as the cache sees it.
type cacheUse struct {
	key  string
	item cachepolicy.Item
}

// cacheTrial is what a strategy would have done with a size.
type cacheTrial struct {
	Strategy  string  `json:"strategy"`
	LocalSize int64   `json:"local_size"`
	HitRate   float64 `json:"hit_rate"`
	SavedCost float64 `json:"saved_cost"` // share of what the calls would cost
	Chosen    bool    `json:"chosen,omitempty"`
	Present   bool    `json:"present,omitempty"`

	worth float64 // by the metrics
}

// Run replays the archived requests of a tenant through the strategies, at half,
// the present and twice the size of the memory.
func (c *cacheOptimizeCmd) Run(a *app) error {
	_, js, cfg, closeServer, err := openCache(a)
	if err != nil {
		return err
	}
	defer closeServer()
	uses, err := c.uses(a, js, cfg)
	if err != nil {
		return err
	}
	if len(uses) == 0 {
		return hint(fmt.Errorf("no archived requests of tenant %s", c.Tenant), "streams: {archive: {enabled: true}}, and some traffic")
	}
	trials := tryStrategies(uses, cfg.Cache)
	if c.JSON {
		return printJSON(a.stdout, trials)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STRATEGY\tLOCAL_SIZE\tHITS\tSAVED COST\t")
	var chosen cacheTrial
	for _, t := range trials {
		note := ""
		if t.Chosen {
			chosen, note = t, "<- would choose"
		}
		fmt.Fprintf(w, "%s\t%d\t%.1f %%\t%.1f %%\t%s\n", t.Strategy, t.LocalSize, 100*t.HitRate, 100*t.SavedCost, note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "over %d requests; to fix the choice: cache: {strategy: %s}\n", len(uses), chosen.Strategy)
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
		key := schemas.CacheKey(m.Data(), span.Of(m.Data()))
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

// tryStrategies replays the uses and marks the best strategy at the present size
// by the metrics; the present one stays unless another is clearly better.
func tryStrategies(uses []cacheUse, cfg kv.CacheConfig) []cacheTrial {
	metrics := cachepolicy.ParseMetrics(cfg.Metrics)
	present := int64(cfg.LocalSize)
	var trials []cacheTrial
	best, stays := -1, -1
	for _, strategy := range append([]string{kv.Adaptive}, cachepolicy.Names...) {
		for _, size := range []int64{present / 2, present, 2 * present} {
			t := try(uses, strategy, size, metrics)
			trials = append(trials, t)
			if size != present {
				continue
			}
			i := len(trials) - 1
			trials[i].Present = strategy == cfg.Strategy
			if trials[i].Present {
				stays = i
			}
			if best < 0 || t.worth > trials[best].worth {
				best = i
			}
		}
	}
	if stays >= 0 && trials[best].worth <= clearGain*trials[stays].worth {
		best = stays
	}
	trials[best].Chosen = true
	return trials
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
	if metrics.Hits || !metrics.Cost && !metrics.Latency {
		t.worth += t.HitRate
	}
	if metrics.Cost {
		t.worth += t.SavedCost
	}
	if metrics.Latency && seconds > 0 {
		t.worth += savedSeconds / seconds
	}
	return t
}
