package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/streams"
)

func fullFrame() *frame {
	quality, hits := 0.91, 0.25
	f := &frame{At: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), Seconds: 1, Accepted: 123456, Answered: 98765, HitRate: &hits, WorkedByNone: []string{"score"}}
	for _, name := range stages.Names {
		f.Stages = append(f.Stages, stageRow{Stage: name, Rate: 12345, Failed: 1.5, Interactive: 1234567, Batch: 98765, InWork: 4096, Oldest: 7200, WaitedP50: 12, WaitedP95: 123456, WorkedP50: 0.3, WorkedP95: 59999})
	}
	for i := range 12 {
		f.Models = append(f.Models, healthRow{modelState{"openai", fmt.Sprintf("a-model-with-quite-a-long-name-%d-überlang", i), 100, 42, 7, breakers[i%3]}, &quality, 812, 2400, 0.987, 0.0123})
		f.Budgets = append(f.Budgets, budget.Status{Tenant: fmt.Sprintf("tenant-%d", i), Window: budget.Scopes[0], Unit: budget.Tokens, Limit: budget.Quantity{Unit: budget.Tokens, N: 1000}, Settled: budget.Quantity{Unit: budget.Tokens, N: int64(100 * i)}, ResetsAt: f.At.Add(time.Hour)})
		f.Replicas = append(f.Replicas, replicaRow{fmt.Sprintf("a-host-with-a-name-%d-12345", i), "compress, cache, batch, generate, score", 123, 3e8, f.At.Add(-time.Hour)})
	}
	for _, name := range []string{"LLM_REQUESTS", "LLM_RESPONSES", "LLM_ARCHIVE"} {
		f.Streams = append(f.Streams, streams.Holding{Stream: name, Messages: 1e6, Bytes: 3e9, MaxBytes: 4e9})
	}
	return f
}

// No line is wider and no frame is higher than the terminal, whatever its size.
func TestFramesFit(t *testing.T) {
	t.Parallel()
	for _, f := range []*frame{fullFrame(), newFrame(&sample{}, &sample{at: time.Now()})} {
		for _, width := range []int{20, 40, 60, 79, 80, 81, 100, 120, 149, 150, 160, 200, 300} {
			for _, height := range []int{0, 1, 5, 10, 24, 25, 50, 100} {
				for _, colour := range []bool{false, true} {
					lines := f.lines(width, height, colour)
					if height > 0 {
						require.LessOrEqual(t, len(lines), height)
					}
					for _, line := range lines {
						require.LessOrEqual(t, visible(line), width, "%d x %d: %q", width, height, line)
						require.Equal(t, colour && strings.Contains(line, "\x1b"), strings.Contains(line, "\x1b"))
					}
				}
			}
		}
	}
}

func TestAFrameShowsEverything(t *testing.T) {
	t.Parallel()
	for _, width := range []int{80, 200} {
		text := strings.Join(fullFrame().lines(width, 0, false), "\n")
		for _, want := range []string{
			"replicas 12", "accepted 123k/s", "hits 25.0%", "no replica runs score", "1.23M", "98.8k", "STAGES", "MODELS", "half open", "42/100",
			"BUDGETS", "tenant-11", "110.0%", "REPLICAS", "STREAMS", "LLM_ARCHIVE", "75.0%",
		} {
			require.Contains(t, text, want, "at %d columns\n%s", width, text)
		}
		require.Less(t, strings.Index(text, "tenant-11"), strings.Index(text, "tenant-3"), "the fullest budget comes first")
	}
	narrow := strings.Join(fullFrame().lines(40, 0, false), "\n")
	for _, stage := range stages.Names {
		require.Contains(t, narrow, "\n"+stage+" ", "columns are left out before a stage loses its name")
	}
	short := strings.Join(fullFrame().lines(80, 30, false), "\n")
	require.Contains(t, short, "(2 of 12)", "what does not fit is counted")
}

// A request that a stage has done with may stay in the stream until it is archived.
func TestWhatWaitsForTheArchiveAloneIsNotOld(t *testing.T) {
	t.Parallel()
	now := time.Now()
	is := &sample{at: now, holdings: []streams.Holding{{Stream: "LLM_REQUESTS", Messages: 1, Oldest: now.Add(-time.Hour)}}}
	require.Zero(t, newFrame(&sample{}, is).Stages[0].Oldest)
	is.lags = []streams.Lag{{Stage: stages.Compress, InWork: 1}}
	require.InDelta(t, 3600, newFrame(&sample{}, is).Stages[0].Oldest, 1)
}

func TestQuantilesOfSpreads(t *testing.T) {
	t.Parallel()
	s := spread{Bounds: []float64{1, 2, 4}, Counts: []float64{0, 10, 20}, Count: 20}
	require.InDelta(t, 1.5, s.quantile(0.25), 1e-9)
	require.InDelta(t, 2, s.quantile(0.5), 1e-9)
	require.InDelta(t, 4, s.quantile(1), 1e-9)
	require.Zero(t, spread{}.quantile(0.5))
	require.InDelta(t, 4, spread{Bounds: s.Bounds, Counts: []float64{0, 0, 0}, Count: 3}.quantile(0.5), 1e-9, "above the last bound")
	require.Zero(t, s.plus(s, -1).Count)
	require.Equal(t, s, s.plus(spread{Bounds: []float64{7}, Counts: []float64{1}, Count: 1}, 1), "other bounds are of another version")
}

func TestTopShowsWhatReplicasDid(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{}, func(c *config.Config) {
		c.Models = []generate.Model{{Name: "gpt-4o", Provider: "fake", Price: generate.Price{Input: 1, Output: 1}}}
		limit := budget.Defaults()
		limit.Tenant, limit.DailyLimit = "acme", 100_000
		c.Budgets = []budget.Config{limit}
		c.Cache.TTL = units.Duration(time.Hour)
	})
	running, err := newPipeline(t.Context(), p.cfg, p.nc, nil, p.registry)
	require.NoError(t, err)
	stop, err := running.deps.serveFigures("compress, cache, batch, generate, score", p.registry)
	require.NoError(t, err)
	defer stop()
	p.run(running)

	watch := &app{ctx: t.Context(), flags: &cli{}}
	w, err := watch.openWatcher(p.cfg)
	require.NoError(t, err)
	defer w.close()
	before, err := w.sample(t.Context())
	require.NoError(t, err)
	require.Len(t, before.replicas, 1)
	for i := range 4 { // the last three are equal to the first
		p.publish(fmt.Sprint("r", i), chat("hello"))
		p.await(fmt.Sprint("r", i))
	}
	time.Sleep(figuresAge) //nolint:forbidigo // figures are that old at most
	after, err := w.sample(t.Context())
	require.NoError(t, err)
	f := newFrame(before, after)
	require.InDelta(t, 4, f.Accepted*f.Seconds, 1e-6)
	require.InDelta(t, 4, f.Answered*f.Seconds, 1e-6)
	require.InDelta(t, 1, f.Calls*f.Seconds, 1e-6)
	require.NotNil(t, f.HitRate)
	require.InDelta(t, 0.75, *f.HitRate, 1e-6)
	require.Positive(t, f.CostUSD)
	require.InDelta(t, 4, f.Stages[0].Rate*f.Seconds, 1e-6)
	require.InDelta(t, 1, f.Stages[3].Rate*f.Seconds, 1e-6, "hits do not go through generate")
	require.Positive(t, f.Stages[3].WorkedP95)
	require.Empty(t, f.WorkedByNone)
	require.Equal(t, "gpt-4o", f.Models[0].Model)
	require.Equal(t, "closed", f.Models[0].Breaker)
	require.Equal(t, "acme", f.Budgets[0].Tenant)
	require.Positive(t, f.Budgets[0].Settled.N)

	var stdout, stderr bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"--nats", p.cfg.NATS.URL, "top", "--once", "--json", "--interval", "100ms"}, nil, &stdout, &stderr), stderr.String())
	var shown frame
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &shown))
	require.Len(t, shown.Stages, len(stages.Names))
	require.Len(t, shown.Replicas, 1)
	require.NotContains(t, stdout.String(), "hello")
	stdout.Reset()
	require.Zero(t, run(t.Context(), []string{"--nats", p.cfg.NATS.URL, "top", "--once", "--interval", "100ms"}, nil, &stdout, &stderr), stderr.String())
	require.Contains(t, stdout.String(), "STAGES")
	require.NotContains(t, stdout.String(), "\x1b", "there is no terminal")
	require.Equal(t, 2, run(t.Context(), []string{"top", "--interval", "1ms"}, nil, &stdout, &stderr))
}

func TestTopWithoutReplicasOrStreams(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{}, nil)
	var stdout, stderr bytes.Buffer
	require.Equal(t, 1, run(t.Context(), []string{"--nats", p.cfg.NATS.URL, "top", "--once"}, nil, &stdout, &stderr))
	require.Contains(t, stderr.String(), "processor provision")
	require.NoError(t, provision(t.Context(), p.cfg, p.nc))
	require.Zero(t, run(t.Context(), []string{"--nats", p.cfg.NATS.URL, "top", "--once", "--interval", "100ms"}, nil, &stdout, &stderr), stderr.String())
	require.Contains(t, stdout.String(), "none answers")
}
