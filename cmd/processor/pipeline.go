package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/batch"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/compress"
	"github.com/adpa/processor/streams"
)

// steps is the pipeline: a request is compressed, looked up in the cache,
// batched with its like, generated and scored.
func steps(d *deps) []streams.Step {
	c, scoring := d.settings(), d.scoring()
	return []streams.Step{
		{Name: stages.Compress, Stage: stages.Before(plainNames, stages.Before(scoring.Ask, stages.Before(d.tuner.Ask, stages.Before(d.templates.Render, stages.Before(d.forms.Ask, compress.Stage(d.compressor))))))},
		{Name: stages.Cache, Stage: cache.New(d.cacheConfig(), d.replay.over(d.cached()), d.metrics.looked)},
		{Name: stages.Batch, Stage: batch.New(c.Batch, batch.Limits{Bytes: d.messageRoom()})},
		{Name: stages.Generate, Stage: d.generate, Slice: 64, Workers: 2},
		{Name: stages.Score, Stage: streamed(stages.Before(d.forms.Check, scoring), d.deltas.Begin)},
	}
}

// plainNames has a request's members be named as a provider reads them: every
// stage, and a budget above all, looks for them by their plain names.
func plainNames(_ context.Context, r *stages.Request) (verdict stages.Verdict, decided bool) {
	plain := schemas.PlainNames(r.Body)
	if len(plain) == len(r.Body) { // the very same, as each name gets shorter
		return stages.Verdict{}, false
	}
	r.Original, r.Body = r.Published(), plain
	if span, ok := schemas.Member(plain, "processor"); ok {
		r.Options = span.Of(plain)
	}
	return stages.Verdict{}, false
}

// pipeline is the part of the processor that works on requests in this process.
type pipeline struct {
	deps    *deps
	runners []*streams.Runner
	stages  map[string]*liveStage
}

// newPipeline sets up streams, buckets and providers and makes a runner for
// each group that the configuration and the wanted stages (empty: all) name.
// The registry gets the pipeline's figures.
func newPipeline(ctx context.Context, cfg config.Config, nc *nats.Conn, wanted []string, registry prometheus.Registerer) (*pipeline, error) {
	groups, err := chooseGroups(cfg.Pipeline.Groups, wanted)
	if err != nil {
		return nil, err
	}
	if err := cfg.Resources.Apply(serverMemory(cfg)); err != nil {
		return nil, err
	}
	if err := provision(ctx, cfg, nc); err != nil {
		return nil, err
	}
	d, err := newDeps(ctx, cfg, nc, registry)
	if err != nil {
		return nil, err
	}
	p := &pipeline{deps: d}
	all := p.live(steps(d))
	for _, group := range groups {
		r, err := streams.NewRunner(nc, d.runnerConfig(group), inGroup(all, group))
		if err != nil {
			d.close()
			return nil, err
		}
		p.runners = append(p.runners, r)
	}
	return p, nil
}

// Run works until ctx ends, finishes what has begun, gives back the rest and returns.
func (p *pipeline) Run(ctx context.Context) error {
	defer p.deps.close()
	defer context.AfterFunc(ctx, p.deps.generate.Drain)()
	var running errgroup.Group
	for _, r := range p.runners {
		running.Go(func() error { return r.Run(ctx) })
	}
	return running.Wait()
}

func inGroup(all []streams.Step, group []string) []streams.Step {
	var list []streams.Step
	for _, s := range all {
		if slices.Contains(group, s.Name) {
			list = append(list, s)
		}
	}
	return list
}

// chooseGroups gives the configured groups that hold the wanted stages; a
// group is wanted whole or not at all.
func chooseGroups(groups [][]string, wanted []string) ([][]string, error) {
	if len(wanted) == 0 {
		return groups, nil
	}
	for _, name := range wanted {
		if !slices.Contains(stages.Names, name) {
			return nil, fmt.Errorf("--stages: %q is no stage; stages are %s", name, strings.Join(stages.Names, ", "))
		}
	}
	var chosen [][]string
	for _, group := range groups {
		n := 0
		for _, name := range group {
			if slices.Contains(wanted, name) {
				n++
			}
		}
		if n == 0 {
			continue
		}
		if n < len(group) {
			return nil, fmt.Errorf("--stages: %s run as one group (pipeline.groups); name all of them or none", strings.Join(group, ", "))
		}
		chosen = append(chosen, group)
	}
	return chosen, nil
}

// provision sets up all streams, buckets and consumers. The buckets come first:
// once there are consumers, requests may be worked. It is idempotent, and tried
// again where the servers do not answer in time: replicas that set up a fresh
// cluster at the same moment were seen to get no answer.
func provision(ctx context.Context, cfg config.Config, nc *nats.Conn) error {
	for tries := 1; ; tries++ {
		err := provisionOnce(ctx, cfg, nc)
		if err == nil || tries == provisionTries || ctx.Err() != nil || !unanswered(err) {
			return err
		}
		select {
		case <-time.After(time.Second + rand.N(time.Duration(tries)*time.Second)):
		case <-ctx.Done():
			return err
		}
	}
}

// What the servers of a cluster say while some of them are still starting.
const (
	noPeers     jetstream.ErrorCode = 10005
	unavailable jetstream.ErrorCode = 10008
)

// provisionTries bounds the tries; each waits at least five seconds for an answer.
const provisionTries = 5

// unanswered reports that the servers did not answer a request, or not for now.
func unanswered(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.As(err, &api) && (api.ErrorCode == noPeers || api.ErrorCode == unavailable)
}

func provisionOnce(ctx context.Context, cfg config.Config, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	if err := provisionBuckets(ctx, cfg, js); err != nil {
		return err
	}
	return streams.Provision(ctx, js, streams.NewLayout(cfg.NATS, cfg.Streams))
}

func provisionBuckets(ctx context.Context, cfg config.Config, js jetstream.JetStream) error {
	if err := kv.Provision(ctx, js, bucketLayout(cfg)); err != nil {
		return err
	}
	return budget.Provision(ctx, js, cfg.NATS.Prefix, cfg.NATS.Replicas)
}

func bucketLayout(cfg config.Config) kv.Layout {
	return kv.Layout{
		Prefix: cfg.NATS.Prefix, Replicas: cfg.NATS.Replicas,
		AnswersBytes: int64(cfg.Streams.Responses.MaxBytes), AnswersAge: cfg.Streams.Responses.MaxAge.Std(),
		CacheBytes: int64(cfg.Cache.MaxSize),
	}
}
