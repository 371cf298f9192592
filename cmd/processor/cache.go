package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/stages/cache"
)

// cacheCmd works on the shared cache of answers.
type cacheCmd struct {
	Stats    cacheStatsCmd    `cmd:"" help:"What the cache holds, and what it has saved."`
	Get      cacheGetCmd      `cmd:"" help:"Print one entry."`
	Purge    cachePurgeCmd    `cmd:"" help:"Remove entries, in all replicas."`
	Optimize cacheOptimizeCmd `cmd:"" help:"Compare the strategies and sizes on the archived requests of a tenant, and choose."`
}

// openCache connects to the bucket, for work on the entries of a tenant. close
// ends the connection.
func openCache(a *app, tenant string) (store *kv.CacheStore, js jetstream.JetStream, cfg config.Config, closeServer func(), err error) {
	if err = validTenant(tenant); err != nil {
		return nil, nil, cfg, nil, err
	}
	if cfg, err = a.load(); err != nil {
		return nil, nil, cfg, nil, err
	}
	nc, err := a.connect(cfg)
	if err != nil {
		return nil, nil, cfg, nil, err
	}
	if js, err = jetstream.New(nc); err == nil {
		if store, err = kv.OpenCacheStore(a.ctx, js, bucketLayout(cfg)); err == nil {
			return store, js, cfg, nc.Close, nil
		}
	}
	nc.Close()
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = hint(err, "processor provision")
	}
	return nil, nil, cfg, nil, err
}

// scopeFlag says whose entries are meant.
type scopeFlag struct {
	tenantFlag
	Shared bool `help:"The entries that all tenants share (cache.scope: shared) in the place of a tenant's."`
}

// key gives the full key of an entry: as it is named in full, or by its fingerprint.
func (f scopeFlag) key(key string) string {
	if strings.Contains(key, ".") {
		return key
	}
	return cache.ScopeKey(f.Tenant, key, f.Shared)
}

// scope is what the keys of the entries begin with.
func (f scopeFlag) scope() string {
	return strings.TrimSuffix(cache.ScopeKey(f.Tenant, "", f.Shared), ".")
}

// cacheFilter chooses entries.
type cacheFilter struct {
	scopeFlag
	Model string `placeholder:"MODEL" help:"Only answers of this model."`
	Older string `placeholder:"DURATION" help:"Only entries older than this, as in 24h."`
}

func (f *cacheFilter) match() (func(kv.StoredEntry) bool, error) {
	before, err := olderThan(f.Older)
	if err != nil {
		return nil, err
	}
	return func(e kv.StoredEntry) bool {
		return (f.Model == "" || e.Model == f.Model) && (before.IsZero() || e.Stored.Before(before))
	}, nil
}

type cacheStatsCmd struct {
	scopeFlag
	jsonFlag
	Top int `default:"5" help:"So many of the entries that cost most."`
}

// cacheStats is what cache stats prints.
type cacheStats struct {
	Tenant    string        `json:"tenant"`
	Entries   int           `json:"entries"`
	Links     int           `json:"links"` // normalized keys, that stand for entries
	Bytes     int64         `json:"bytes"`
	MaxBytes  int64         `json:"max_bytes"` // of all tenants
	UsedBytes int64         `json:"used_bytes"`
	OldestS   float64       `json:"oldest_seconds"`
	MedianS   float64       `json:"median_age_seconds"`
	PaidUSD   float64       `json:"paid_usd"` // for the entries
	Strategy  string        `json:"strategy"` // that replicas follow
	LocalSize int64         `json:"local_size"`
	Chosen    bool          `json:"chosen"`            // by cache optimize --apply
	Answers   *cacheSavings `json:"answers,omitempty"` // among the responses that are kept; not of the shared scope
	Top       []cacheTopRow `json:"top"`
}

// cacheSavings is how the responses came by their answers, and what the cache saved.
type cacheSavings struct {
	Requests int                `json:"requests"`
	By       map[string]int     `json:"by"`
	HitRate  float64            `json:"hit_rate"`               // of those that were not switched off
	Rates    map[string]float64 `json:"hit_rates"`              // the same, by kind
	Tokens   int                `json:"saved_tokens"`           // billed for the calls that were saved
	CostUSD  float64            `json:"saved_usd"`              // at the models' prices
	Seconds  float64            `json:"saved_seconds_estimate"` // as long as calls of the same model took on average
}

type cacheTopRow struct {
	Key     string  `json:"key"`
	Model   string  `json:"model"`
	Tokens  int     `json:"tokens"`
	CostUSD float64 `json:"cost_usd"`
	Bytes   int     `json:"bytes"`
	AgeS    float64 `json:"age_seconds"`
}

// Run prints what the cache holds for a tenant.
func (c *cacheStatsCmd) Run(a *app) error {
	store, js, cfg, closeServer, err := openCache(a, c.Tenant)
	if err != nil {
		return err
	}
	defer closeServer()
	s := cacheStats{Tenant: c.scope(), Strategy: cfg.Cache.Strategy, LocalSize: int64(cfg.Cache.LocalSize), Top: []cacheTopRow{}}
	if s.UsedBytes, s.MaxBytes, err = store.Size(a.ctx); err != nil {
		return err
	}
	choice, chosen, err := store.Choice(a.ctx)
	if err != nil {
		return err
	}
	if chosen {
		s.Strategy, s.LocalSize, s.Chosen = choice.Strategy, choice.LocalSize, true
	}
	if err := s.readEntries(a.ctx, store, c.scope(), c.Top); err != nil {
		return err
	}
	if !c.Shared {
		savings, err := readSavings(a.ctx, js, cfg, c.Tenant)
		if err != nil {
			return err
		}
		s.Answers = &savings
	}
	if c.JSON {
		return printJSON(a.stdout, []cacheStats{s})
	}
	return s.print(a)
}

func (s *cacheStats) readEntries(ctx context.Context, store *kv.CacheStore, scope string, top int) error {
	var ages []float64
	err := store.Each(ctx, scope, func(e kv.StoredEntry) error {
		s.Bytes += int64(e.Bytes)
		if e.Of != "" {
			s.Links++
			return nil
		}
		s.Entries++
		s.PaidUSD += e.CostUSD
		age := time.Since(e.Stored).Seconds()
		ages = append(ages, age)
		s.Top = keepTop(s.Top, cacheTopRow{e.Key, e.Model, e.Usage.TotalTokens, e.CostUSD, e.Bytes, math.Round(age)}, top)
		return nil
	})
	if len(ages) > 0 {
		slices.Sort(ages)
		s.OldestS, s.MedianS = ages[len(ages)-1], ages[len(ages)/2]
	}
	return err
}

func keepTop(top []cacheTopRow, row cacheTopRow, most int) []cacheTopRow {
	i := len(top)
	for i > 0 && (top[i-1].CostUSD < row.CostUSD || top[i-1].CostUSD == row.CostUSD && top[i-1].Tokens < row.Tokens) {
		i--
	}
	if i >= most {
		return top
	}
	top = append(top[:i:i], append([]cacheTopRow{row}, top[i:]...)...)
	return top[:min(len(top), most)]
}

func (s *cacheStats) print(a *app) error {
	fmt.Fprintf(a.stdout, "tenant %s: %s, %d bytes, that cost $%.4f; age: median %.0f s, oldest %.0f s; %d normalized keys\n",
		s.Tenant, plural(s.Entries, "entry"), s.Bytes, s.PaidUSD, s.MedianS, s.OldestS, s.Links)
	by := "as configured"
	if s.Chosen {
		by = "by cache optimize --apply"
	}
	fmt.Fprintf(a.stdout, "the bucket holds %s of %s; memory: %s, %v, %s\n", units.Bytes(s.UsedBytes).Short(), units.Bytes(s.MaxBytes).Short(), s.Strategy, units.Bytes(s.LocalSize), by)
	if r := s.Answers; r != nil {
		fmt.Fprintf(a.stdout, "of %d responses that are kept: %d hits (%.1f %%), %d shared (%.1f %%), %d normalized (%.1f %%), %d misses, %d off; hit rate %.1f %%\n",
			r.Requests, r.By["hit"], 100*r.Rates["hit"], r.By["shared"], 100*r.Rates["shared"], r.By["normalized"], 100*r.Rates["normalized"],
			r.By["miss"], r.By["off"], 100*r.HitRate)
		fmt.Fprintf(a.stdout, "saved: %d tokens, $%.4f, about %.1f s of calls (an estimate, by the mean of each model's calls)\n", r.Tokens, r.CostUSD, r.Seconds)
	}
	if len(s.Top) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tMODEL\tTOKENS\tCOST\tBYTES\tAGE")
	for _, r := range s.Top {
		fmt.Fprintf(w, "%s\t%s\t%d\t$%.6f\t%d\t%.0fs\n", r.Key, r.Model, r.Tokens, r.CostUSD, r.Bytes, r.AgeS)
	}
	return w.Flush()
}

// cacheResponse is what of a response tells of the cache.
type cacheResponse struct {
	Usage struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Total      int `json:"total_tokens"`
		Details    struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
	Processor struct {
		Cache    string `json:"cache"`
		Selected struct {
			Model string `json:"model"`
		} `json:"selected"`
		Stages map[string]struct {
			RanMS float64 `json:"ran_ms"`
		} `json:"stages"`
	} `json:"processor"`
}

// readSavings reads how a tenant's kept responses came by their answers. The
// tokens and dollars that hits saved are those of the calls that they repeat:
// their responses show that usage. The time is that of an average call.
func readSavings(ctx context.Context, js jetstream.JetStream, cfg config.Config, tenant string) (cacheSavings, error) {
	s := cacheSavings{By: map[string]int{}, Rates: map[string]float64{}}
	prices := billedPrices(cfg)
	type calls struct{ made, saved, ms float64 }
	models := map[string]*calls{}
	err := kv.EachMessage(ctx, js, strings.ToUpper(cfg.NATS.Prefix)+"_RESPONSES", cfg.NATS.Prefix+".responses."+tenant+".*", func(m jetstream.Msg) error {
		var r cacheResponse
		if json.Unmarshal(m.Data(), &r) != nil || r.Processor.Cache == "" {
			return nil //nolint:nilerr // what tells nothing of the cache is not counted
		}
		s.Requests++
		s.By[r.Processor.Cache]++
		model := r.Processor.Selected.Model
		if models[model] == nil {
			models[model] = &calls{}
		}
		switch r.Processor.Cache {
		case cache.Miss:
			models[model].made++
			models[model].ms += r.Processor.Stages["generate"].RanMS
		case cache.Hit, cache.Shared, cache.Normalized:
			models[model].saved++
			s.Tokens += r.Usage.Total
			if price, ok := prices.Lookup(model); ok {
				s.CostUSD += price.Cost(r.Usage.Prompt, r.Usage.Details.Cached, r.Usage.Completion)
			}
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	hits := s.By[cache.Hit] + s.By[cache.Shared] + s.By[cache.Normalized]
	if asked := float64(hits + s.By[cache.Miss]); asked > 0 {
		s.HitRate = float64(hits) / asked
		for _, kind := range []string{cache.Hit, cache.Shared, cache.Normalized} {
			s.Rates[kind] = float64(s.By[kind]) / asked
		}
	}
	for _, c := range models {
		if c.made > 0 {
			s.Seconds += c.ms / c.made * c.saved / 1000
		}
	}
	return s, nil
}

type cacheGetCmd struct {
	Key string `arg:"" help:"The entry's key, as in cache stats: TENANT.FINGERPRINT, or the fingerprint alone."`
	scopeFlag
	jsonFlag
}

// Run prints an entry.
func (c *cacheGetCmd) Run(a *app) error {
	store, _, _, closeServer, err := openCache(a, c.Tenant)
	if err != nil {
		return err
	}
	defer closeServer()
	e, err := store.Resolve(a.ctx, c.key(c.Key))
	if errors.Is(err, kv.ErrNoEntry) {
		return hint(err, "processor cache stats --tenant %s", c.Tenant)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, []kv.StoredEntry{e})
	}
	fmt.Fprintf(a.stdout, "key:     %s\nmodel:   %s\ncost:    $%.6f\ntokens:  %d\nstored:  %s\nexpires: %s\n\n%s\n",
		e.Key, e.Model, e.CostUSD, e.Usage.TotalTokens, e.Stored.Local().Format(time.RFC3339), e.Expires.Time().Local().Format(time.RFC3339), indent(e.Answer))
	return nil
}

type cachePurgeCmd struct {
	Key []string `arg:"" optional:"" help:"Keys of entries."`
	All bool     `help:"All that the flags choose."`
	cacheFilter
	jsonFlag
}

// Run removes entries and says how many.
func (c *cachePurgeCmd) Run(a *app) error {
	if (len(c.Key) == 0) != c.All {
		return wrongUse(errors.New("name keys or give --all, one of the two"), "processor cache purge KEY, or processor cache purge --all --older 24h")
	}
	if !c.All && (c.Model != "" || c.Older != "") {
		return wrongUse(errors.New("--model and --older choose among all entries, not among keys"), "processor cache purge --all --older 24h")
	}
	match, err := c.match()
	if err != nil {
		return err
	}
	store, _, _, closeServer, err := openCache(a, c.Tenant)
	if err != nil {
		return err
	}
	defer closeServer()
	keys, err := c.named(a.ctx, store)
	if err != nil {
		return err
	}
	if c.All {
		if err := store.Each(a.ctx, c.scope(), func(e kv.StoredEntry) error {
			if match(e) {
				keys = append(keys, e.Key)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for i, key := range keys {
		if err := store.Purge(a.ctx, key); err != nil {
			return fmt.Errorf("after %d of %d: %w", i, len(keys), err)
		}
	}
	if c.JSON {
		return printJSON(a.stdout, []map[string]int{{"purged": len(keys)}})
	}
	fmt.Fprintf(a.stdout, "purged %s\n", plural(len(keys), "entry"))
	return nil
}

// named gives the keys that were named and are there, each once, and with a
// normalized key the answer that it stands for.
func (c *cachePurgeCmd) named(ctx context.Context, store *kv.CacheStore) (keys []string, err error) {
	for _, key := range c.Key {
		named := []string{c.key(key)}
		if e, err := store.Get(ctx, named[0]); err == nil && e.Of != "" {
			named = append(named, e.Of)
		}
		for _, key := range named {
			has, err := store.Has(ctx, key)
			if err != nil {
				return nil, err
			}
			if has && !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys, nil
}
