package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/adpa/processor/internal/calibration"
	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/internal/resources"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/compress"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/generate/limit"
	"github.com/adpa/processor/stages/score"
	"github.com/adpa/processor/stages/structure"
	"github.com/adpa/processor/stages/template"
	"github.com/adpa/processor/stages/tune"
	"github.com/adpa/processor/streams"
)

// deps is what the stages of one process share.
type deps struct {
	cfg        config.Config
	nc         *nats.Conn
	js         jetstream.JetStream
	metrics    *metrics
	layout     streams.Layout
	compressor *compress.Compressor
	cache      answerCache
	leases     *kv.Leases
	answers    *kv.Answers
	ledger     *ledger
	cancelled  *kv.Cancelled
	counter    *tokens.Counter
	models     *models
	templates  *template.Renderer
	forms      *structure.Forms
	tuner      *tune.Tuner
	generate   *generate.Stage
	budgets    *budgets
	limits     *limit.Limiter
	allowances map[string]*kv.Allowance // of providers, by name
	tenants    *streams.Tenants
	deltas     *streams.Deltas
	backlog    *streams.Backlog
	memory     *resources.Memory
	held       *streams.Memory
	replay     *replaying // what a replay puts in the place of providers and cache; else nil
	closers    []func()

	now      atomic.Pointer[config.Config] // cfg with what was reloaded since
	earnings *score.Earnings
}

// newDeps opens everything, in the order in which it is needed; what was
// opened is closed again where a later part fails.
func newDeps(ctx context.Context, cfg config.Config, nc *nats.Conn, registry prometheus.Registerer) (*deps, error) {
	return newDepsFor(ctx, cfg, nc, registry, nil)
}

// newDepsFor is newDeps for a replay, where there is one.
func newDepsFor(ctx context.Context, cfg config.Config, nc *nats.Conn, registry prometheus.Registerer, replay *replaying) (d *deps, err error) {
	d = &deps{cfg: cfg, nc: nc, metrics: newMetrics(registry), layout: streams.NewLayout(cfg.NATS, cfg.Streams), replay: replay}
	d.now.Store(&cfg)
	opened := d // an error is returned without it
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	if d.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096)); err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	if d.counter, err = tokens.NewCounter(countingRules(cfg)); err != nil {
		return nil, err
	}
	if d.models, err = newModels(cfg, d.metrics, d.counter); err != nil {
		return nil, err
	}
	d.closers = append(d.closers, d.models.close)
	if registry != nil {
		registry.MustRegister(newConnections(d.models.providers))
	}
	if err := d.openCompressor(); err != nil {
		return nil, err
	}
	d.openResources()
	if err := d.openBuckets(ctx); err != nil {
		return nil, err
	}
	if err := d.openPrompts(ctx); err != nil {
		return nil, err
	}
	d.backlog = streams.WatchBacklog(d.js, d.layout, d.metrics.streams)
	d.closers = append(d.closers, d.backlog.Close)
	if err := d.openBudgets(ctx); err != nil {
		return nil, err
	}
	if err := d.openSelection(ctx); err != nil {
		return nil, err
	}
	if err := d.openTuning(ctx); err != nil {
		return nil, err
	}
	if err := d.openDeltas(); err != nil {
		return nil, err
	}
	if err := d.openLimits(ctx, registry); err != nil {
		return nil, err
	}
	if err := d.openTenants(ctx); err != nil {
		return nil, err
	}
	d.models.selector.open = d.limits.Open
	d.generate = generate.New(cfg.Pipeline.Workers[stages.Generate], generate.Deps{
		Ledger: past{d}, Router: d.route, Cost: d.models.cost,
		Budget: d.budgeted(), Answered: d.remember, Shared: func() { d.metrics.cacheResult(cache.Shared) }, Flights: shared{flights{d.leases, d.cache}, d}, Deltas: d.deltas.Begin, Prefixes: d.prefixes(),
		Limits: d.limits, Tokens: d.callTokens, Says: d.models.said, Timeout: timeouts(cfg),
		Called: d.called, Prepare: d.prepareTuned,
	})
	d.cancelled, err = kv.NewCancelled(ctx, d.js, bucketLayout(cfg), d.generate.Cancel)
	if err != nil {
		return nil, err
	}
	d.closers = append(d.closers, d.cancelled.Close)
	if err := d.listenForCancels(ctx); err != nil {
		return nil, err
	}
	if err := d.listenForFeedback(ctx, registry); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *deps) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
	d.closers = nil
}

// openCompressor counts with the encoding of current models: what compression
// saves differs little between encodings.
func (d *deps) openCompressor() error {
	encoding, err := tokens.Load("o200k_base")
	if err != nil {
		return err
	}
	d.compressor, err = compress.New(d.settings().Compress, encoding.Count)
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	return nil
}

func (d *deps) openBuckets(ctx context.Context) (err error) {
	layout := bucketLayout(d.cfg)
	if d.answers, err = kv.NewAnswers(d.nc, layout); err != nil {
		return err
	}
	d.closers = append(d.closers, d.answers.Close)
	if err := d.openCache(ctx, layout); err != nil {
		return err
	}
	if d.leases, err = kv.NewLeases(d.nc, layout, rand.Text(), d.layout.Names.Alive); err != nil {
		return err
	}
	d.closers = append(d.closers, d.leases.Close)
	responses, err := streams.NewResponses(d.nc, d.layout.Names)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, responses.Close)
	d.ledger = &ledger{answers: d.answers, responses: responses}
	return nil
}

func (d *deps) openCache(ctx context.Context, layout kv.Layout) error {
	if d.replay != nil {
		d.cache = d.replay.cache
		return nil
	}
	shared, err := kv.NewCache(ctx, d.nc, layout, d.cfg.Cache, d.metrics.cacheResult)
	if err != nil {
		return err
	}
	d.cache = shared
	d.closers = append(d.closers, shared.Close)
	return nil
}

// openBudgets opens the ledger of the budgets and what estimates are made of.
func (d *deps) openBudgets(ctx context.Context) (err error) {
	b := &budgets{counter: d.counter, models: d.models, metrics: d.metrics, deferred: d.backlog.Deferred}
	if b.calibration, err = calibration.Open(ctx, d.js, bucketLayout(d.cfg).Bucket(kv.BucketModels)); err != nil {
		return err
	}
	d.closers = append(d.closers, b.calibration.Close)
	b.ledger, err = budget.Open(ctx, d.js, budget.Options{
		Prefix: d.cfg.NATS.Prefix, Replicas: d.cfg.NATS.Replicas, Budgets: budgetsWithJudge(d.cfg),
		CallTimeout: longestCall(d.cfg) + callMargin,
	})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, b.ledger.Close)
	d.budgets = b
	return nil
}

// callMargin is what a reservation is kept beyond the longest call: for
// recording the answer, and the difference of clocks.
const callMargin = 2 * time.Minute

func longestCall(cfg config.Config) time.Duration {
	longest := providers.DefaultTimeout
	for _, p := range cfg.ProviderList() {
		longest = max(longest, p.Timeout)
	}
	return longest
}

// openDeltas opens what publishes streamed answers, and serves them to those who come late.
func (d *deps) openDeltas() error {
	d.deltas = streams.NewDeltas(d.nc, d.layout.Names)
	sub, err := streams.ServeMissed(d.nc, d.layout.Names)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, func() { _ = sub.Unsubscribe() })
	return nil
}

// listenForCancels records what applications cancel, once over all processes.
func (d *deps) listenForCancels(ctx context.Context) error {
	sub, err := streams.OnCancel(d.nc, d.layout.Names, func(key string) {
		_ = d.cancelled.Add(context.WithoutCancel(ctx), key) // the application may cancel again
	})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, func() { _ = sub.Unsubscribe() })
	return nil
}

func (d *deps) runnerConfig(group []string) streams.RunnerConfig {
	cfg := streams.RunnerConfig{
		Layout: d.layout, MaxDeliver: d.cfg.Pipeline.MaxDeliver, MaxPayload: int(d.nc.MaxPayload()),
		Metrics: d.metrics.streams, Recorded: d.recorded, Cancelled: d.cancelled.Has, LaterFull: d.backlog.LaterFull,
		Waiting: d.backlog.InLane, Tenants: d.tenants,
		OnTheWay: func() int64 { return d.backlog.Waiting(stages.Cache) + d.backlog.Waiting(stages.Batch) },
	}
	if d.replay != nil {
		cfg.Local = d.replay.local
	}
	for _, stage := range group {
		if workers := d.cfg.Pipeline.Workers[stages.Generate]; stage == stages.Generate {
			cfg.Capacity = workers + workers/2 + 16 // so that a worker that is done finds the next
			cfg.Parking, cfg.Wanted = d.generate.Parking(), d.limits.Room
		}
	}
	return d.bounded(cfg)
}

// messageRoom is what the requests of a batch may have together.
func (d *deps) messageRoom() int { return int(d.nc.MaxPayload()) / 2 }

// recorded finds an answer that did not travel with its request.
func (d *deps) recorded(ctx context.Context, key string) ([]byte, error) {
	record, found, err := d.answers.FindNow(ctx, key)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("request %s has no recorded answer", key)
	}
	return record.Answer, nil
}
