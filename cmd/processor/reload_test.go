package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/streams"
)

// reloadTest is a pipeline at work whose configuration is changed.
type reloadTest struct {
	*testPipeline
	running *pipeline
	n       int
}

func newReloadTest(t *testing.T, change func(*config.Config)) *reloadTest {
	t.Helper()
	x := &reloadTest{testPipeline: newTestPipeline(t, fakellm.Config{}, func(c *config.Config) {
		c.Models = []generate.Model{{Name: "gpt-4o", Provider: "fake", Price: generate.Price{Input: 1e5, Output: 1e5}}}
		c.Cache.Enabled = false
		if change != nil {
			change(c)
		}
	})}
	var err error
	x.running, err = newPipeline(t.Context(), x.cfg, x.nc, nil, x.registry)
	require.NoError(t, err)
	x.run(x.running)
	return x
}

// ask publishes a request that differs from all before and gives its answer.
func (x *reloadTest) ask(model string) answer {
	x.t.Helper()
	x.n++
	id := fmt.Sprint("r", x.n)
	x.publish(id, fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"question %d"}]}`, model, x.n))
	return x.await(id)
}

// with gives a copy of the configuration with a change.
func (x *reloadTest) with(change func(*config.Config)) config.Config {
	next := x.cfg
	next.Models = append([]generate.Model{}, x.cfg.Models...)
	next.Providers = append([]providers.Config{}, x.cfg.Providers...)
	change(&next)
	return next
}

func (x *reloadTest) reload(change func(*config.Config)) []config.Change {
	x.t.Helper()
	changes, err := x.running.reload(x.with(change))
	require.NoError(x.t, err)
	return changes
}

func TestReloadedPricesHoldForTheNextRequest(t *testing.T) {
	t.Parallel()
	x := newReloadTest(t, nil)
	dear := x.ask("gpt-4o").About.CostUSD
	require.Positive(t, dear)
	x.reload(func(c *config.Config) { c.Models[0].Price = generate.Price{Input: 2e5, Output: 2e5} })
	require.InEpsilon(t, 2*dear, x.ask("gpt-4o").About.CostUSD, 0.2)
}

func TestReloadedModelsHoldForTheNextRequest(t *testing.T) {
	t.Parallel()
	x := newReloadTest(t, func(c *config.Config) { // with two providers a model needs an entry
		c.Providers = append(c.Providers, providers.Config{Name: "other", Kind: providers.KindSimulated}.WithDefaults())
	})
	require.Equal(t, "model_not_found", x.ask("new").Error.Code)
	require.Equal(t, []config.Change{{Key: "models", Applied: true}}, x.reload(func(c *config.Config) {
		c.Models = []generate.Model{{Name: "new", Provider: "other", Group: "g"}}
	}))
	require.NotEmpty(t, x.ask("new").Choices)
	require.NotEmpty(t, x.ask("auto").Choices)
	require.NotEmpty(t, x.ask("g").Choices)
	require.Equal(t, "model_not_found", x.ask("gpt-4o").Error.Code)
}

func TestReloadedBudgetsHoldForTheNextRequest(t *testing.T) {
	t.Parallel()
	x := newReloadTest(t, nil)
	require.NotEmpty(t, x.ask("gpt-4o").Choices)
	limit := budget.Defaults()
	limit.Tenant, limit.DailyLimit = "acme", 1
	x.reload(func(c *config.Config) { c.Budgets = []budget.Config{limit} })
	require.Equal(t, "insufficient_quota", x.ask("gpt-4o").Error.Code)
	limit.DailyLimit = 1_000_000
	x.reload(func(c *config.Config) { c.Budgets = []budget.Config{limit} })
	require.NotEmpty(t, x.ask("gpt-4o").Choices)
	limit.DailyLimit = 1
	x.reload(func(c *config.Config) { c.Budgets = []budget.Config{limit} })
	require.Equal(t, "insufficient_quota", x.ask("gpt-4o").Error.Code)
	x.reload(func(c *config.Config) { c.Budgets = nil })
	require.NotEmpty(t, x.ask("gpt-4o").Choices)
}

func TestReloadedLimitsHoldForTheNextRequest(t *testing.T) {
	t.Parallel()
	x := newReloadTest(t, nil)
	x.reload(func(c *config.Config) { c.Tenants = []streams.TenantConfig{{Name: "acme", MaxRequestBytes: units.KB}} })
	x.publish("large", chat(strings.Repeat("word ", 300)))
	require.Equal(t, "too_large", x.await("large").Error.Code)
	x.reload(func(c *config.Config) { c.Tenants = nil })
	x.publish("allowed", chat(strings.Repeat("word ", 300)))
	require.NotEmpty(t, x.await("allowed").Choices)

	x.reload(func(c *config.Config) { c.Providers[0].RequestsPerMinute = 1 })
	require.NotEmpty(t, x.ask("gpt-4o").Choices)
	x.publish("held", chat("one too many in this minute"))
	calls := x.upstream.Stats().Calls
	require.Never(t, func() bool { return x.upstream.Stats().Calls > calls }, 300*time.Millisecond, 10*time.Millisecond)
	x.reload(func(c *config.Config) { c.Providers[0].RequestsPerMinute = 0 })
	require.NotEmpty(t, x.await("held").Choices)
}

func TestReloadedThresholdsHoldForTheNextRequest(t *testing.T) {
	t.Parallel()
	x := newReloadTest(t, func(c *config.Config) { c.Score.MaxAttempts = 1 })
	require.NotContains(t, x.ask("gpt-4o").raw, "max_attempts is reached")
	require.Equal(t, []config.Change{{Key: "score.threshold", Applied: true}}, x.reload(func(c *config.Config) { c.Score.Threshold = 1 }))
	require.Contains(t, x.ask("gpt-4o").raw, "max_attempts is reached")
	x.reload(func(c *config.Config) { c.Cache.Enabled = true })
	x.publish("first", chat("the same"))
	x.await("first")
	x.publish("second", chat("the same"))
	require.Equal(t, "hit", x.await("second").About.Cache)
}

// A reload that fails leaves everything as it was, and every change that does
// not hold is told by its key.
func TestReloadsAreTold(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	x := newReloadTest(t, nil)
	x.running.logReload(func() (config.Config, error) {
		return config.Config{}, errors.New("processor.yaml:3:1: cache.ttl: is no duration")
	})
	require.Contains(t, log.String(), "nothing has changed")
	require.Contains(t, log.String(), "cache.ttl: is no duration")
	log.Reset()
	x.running.logReload(func() (config.Config, error) {
		return x.with(func(c *config.Config) { c.Models[0].Provider = "unknown" }), nil
	})
	require.Contains(t, log.String(), "models[0].provider")
	require.NotEmpty(t, x.ask("gpt-4o").Choices)
	log.Reset()
	x.running.logReload(func() (config.Config, error) {
		return x.with(func(c *config.Config) {
			c.NATS.Prefix, c.Providers[0].Timeout, c.Score.Threshold = "other", 2*time.Second, 0.1
		}), nil
	})
	for _, want := range []string{"key=score.threshold", "started again\" key=nats.prefix", "key=providers[fake].timeout", "1 taken over, 2 left as they were"} {
		require.Contains(t, log.String(), want)
	}
	require.NotContains(t, log.String(), "key-that-must-not-leak")
}

func TestHangupReloads(t *testing.T) {
	x := newReloadTest(t, nil)
	read := make(chan struct{}, 1)
	hangups := catchHangups()
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP), "one that comes while the process starts")
	stop := x.running.reloadOnHangup(hangups, func() (config.Config, error) {
		defer func() { read <- struct{}{} }()
		return x.with(func(c *config.Config) { c.Score.Threshold = 0.3 }), nil
	})
	<-read
	stop() // waits for what was begun
	require.InDelta(t, 0.3, x.running.deps.settings().Score.Threshold, 0)
}
