package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv"
)

// cacheCmd works on the shared cache of answers.
type cacheCmd struct {
	Stats    cacheStatsCmd    `cmd:"" help:"What the cache holds, and what it has saved."`
	Get      cacheGetCmd      `cmd:"" help:"Print one entry."`
	Purge    cachePurgeCmd    `cmd:"" help:"Remove entries, in all replicas."`
	Optimize cacheOptimizeCmd `cmd:"" help:"Compare the strategies and sizes on what the responses of the tenant show."`
}

// openCache connects to the bucket. close ends the connection.
func openCache(a *app) (store *kv.CacheStore, js jetstream.JetStream, cfg config.Config, closeServer func(), err error) {
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

// cacheFilter chooses entries.
type cacheFilter struct {
	tenantFlag
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
	tenantFlag
	jsonFlag
	Top int `default:"5" help:"So many of the entries that cost most."`
}

// cacheStats is what cache stats prints.
type cacheStats struct {
	Tenant    string        `json:"tenant"`
	Entries   int           `json:"entries"`
	Bytes     int64         `json:"bytes"`
	MaxBytes  int64         `json:"max_bytes"` // of all tenants
	UsedBytes int64         `json:"used_bytes"`
	OldestS   float64       `json:"oldest_seconds"`
	Answers   cacheSavings  `json:"answers"` // among the responses that are kept
	Top       []cacheTopRow `json:"top"`
}

// cacheSavings is how the responses came by their answers, and what the cache saved.
type cacheSavings struct {
	Requests int            `json:"requests"`
	By       map[string]int `json:"by"`
	HitRate  float64        `json:"hit_rate"` // of those that were not switched off
	Tokens   int            `json:"saved_tokens"`
	CostUSD  float64        `json:"saved_usd"`
	Seconds  float64        `json:"saved_seconds"` // of calls
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
	store, js, cfg, closeServer, err := openCache(a)
	if err != nil {
		return err
	}
	defer closeServer()
	s := cacheStats{Tenant: c.Tenant, Top: []cacheTopRow{}}
	if s.UsedBytes, s.MaxBytes, err = store.Size(a.ctx); err != nil {
		return err
	}
	err = store.Each(a.ctx, c.Tenant, func(e kv.StoredEntry) error {
		s.Entries++
		s.Bytes += int64(e.Bytes)
		age := time.Since(e.Stored).Seconds()
		s.OldestS = max(s.OldestS, age)
		s.Top = keepTop(s.Top, cacheTopRow{e.Key, e.Model, e.Usage.TotalTokens, e.CostUSD, e.Bytes, math.Round(age)}, c.Top)
		return nil
	})
	if err != nil {
		return err
	}
	if s.Answers, err = savings(a.ctx, js, cfg.NATS.Prefix, c.Tenant); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, []cacheStats{s})
	}
	return s.print(a)
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
	fmt.Fprintf(a.stdout, "tenant %s: %d entries, %d bytes, the oldest %.0f s old; the bucket holds %d of %d bytes\n",
		s.Tenant, s.Entries, s.Bytes, s.OldestS, s.UsedBytes, s.MaxBytes)
	fmt.Fprintf(a.stdout, "of %d responses that are kept: %d hits, %d shared, %d normalized, %d misses, %d off; hit rate %.1f %%\n",
		s.Answers.Requests, s.Answers.By["hit"], s.Answers.By["shared"], s.Answers.By["normalized"], s.Answers.By["miss"], s.Answers.By["off"], 100*s.Answers.HitRate)
	fmt.Fprintf(a.stdout, "saved: %d tokens, $%.4f, %.1f s of calls\n", s.Answers.Tokens, s.Answers.CostUSD, s.Answers.Seconds)
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

// savings reads how a tenant's kept responses came by their answers. What a hit
// saved is what the calls for its model cost and took on average.
func savings(ctx context.Context, js jetstream.JetStream, prefix, tenant string) (cacheSavings, error) {
	s := cacheSavings{By: map[string]int{}}
	type spent struct {
		n, tokens int
		cost, ms  float64
	}
	paid, saved := map[string]*spent{}, map[string]*spent{}
	err := kv.EachMessage(ctx, js, strings.ToUpper(prefix)+"_RESPONSES", prefix+".responses."+tenant+".*", func(m jetstream.Msg) error {
		var body struct {
			Model string `json:"model"`
			Usage struct {
				Total int `json:"total_tokens"`
			} `json:"usage"`
			Processor struct {
				Cache    string  `json:"cache"`
				CostUSD  float64 `json:"cost_usd"`
				Selected struct {
					Model string `json:"model"`
				} `json:"selected"`
				Stages map[string]struct {
					RanMS float64 `json:"ran_ms"`
				} `json:"stages"`
			} `json:"processor"`
		}
		if json.Unmarshal(m.Data(), &body) != nil || body.Processor.Cache == "" {
			return nil //nolint:nilerr // what tells nothing of the cache is not counted
		}
		s.Requests++
		s.By[body.Processor.Cache]++
		into := saved
		switch body.Processor.Cache {
		case "miss":
			into = paid
		case "hit", "shared", "normalized":
		default:
			return nil
		}
		t := into[body.Processor.Selected.Model]
		if t == nil {
			t = &spent{}
			into[body.Processor.Selected.Model] = t
		}
		t.n++
		t.tokens += body.Usage.Total
		t.cost += body.Processor.CostUSD
		t.ms += body.Processor.Stages["generate"].RanMS
		return nil
	})
	if err != nil {
		return s, err
	}
	hits := s.By["hit"] + s.By["shared"] + s.By["normalized"]
	if asked := hits + s.By["miss"]; asked > 0 {
		s.HitRate = float64(hits) / float64(asked)
	}
	for model, t := range saved {
		s.Tokens += t.tokens
		if p := paid[model]; p != nil && p.tokens > 0 {
			s.CostUSD += p.cost / float64(p.tokens) * float64(t.tokens)
			s.Seconds += p.ms / float64(p.n) * float64(t.n) / 1000
		}
	}
	return s, nil
}

type cacheGetCmd struct {
	Key string `arg:"" help:"The entry's key, as in cache stats: TENANT.FINGERPRINT, or the fingerprint alone."`
	tenantFlag
	jsonFlag
}

// Run prints an entry.
func (c *cacheGetCmd) Run(a *app) error {
	store, _, _, closeServer, err := openCache(a)
	if err != nil {
		return err
	}
	defer closeServer()
	e, err := store.Get(a.ctx, fullKey(c.Tenant, c.Key))
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

func fullKey(tenant, key string) string {
	if strings.Contains(key, ".") {
		return key
	}
	return tenant + "." + key
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
		return wrongUse(errors.New("name keys, or --all, and not both"), "processor cache purge KEY, or processor cache purge --all --older 24h")
	}
	match, err := c.match()
	if err != nil {
		return err
	}
	store, _, _, closeServer, err := openCache(a)
	if err != nil {
		return err
	}
	defer closeServer()
	var keys []string
	for _, key := range c.Key {
		keys = append(keys, fullKey(c.Tenant, key))
	}
	if c.All {
		if err := store.Each(a.ctx, c.Tenant, func(e kv.StoredEntry) error {
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
	fmt.Fprintf(a.stdout, "purged %d entries\n", len(keys))
	return nil
}
