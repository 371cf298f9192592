package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/streams"
)

// testPipeline is a pipeline on a server and an upstream of its own.
type testPipeline struct {
	t        *testing.T
	cfg      config.Config
	nc       *nats.Conn
	js       jetstream.JetStream
	upstream *fakellm.Server
	registry *prometheus.Registry
	running  atomic.Pointer[pipeline] // the last that was started
}

func newTestPipeline(t *testing.T, upstream fakellm.Config, change func(*config.Config)) *testPipeline {
	t.Helper()
	p := &testPipeline{t: t, cfg: config.Default(), registry: prometheus.NewRegistry(), upstream: fakellm.New(upstream)}
	t.Cleanup(p.upstream.Close)
	p.nc, p.js = natstest.Connect(t, natstest.Start(t))
	p.cfg.NATS.URL = p.nc.ConnectedUrl()
	p.cfg.Streams.Archive.Enabled = false
	p.cfg.Providers = []providers.Config{providers.Config{
		Name: "fake", Kind: providers.KindOpenAI, BaseURL: p.upstream.URL + "/v1", APIKey: "key-that-must-not-leak", Timeout: time.Minute,
	}.WithDefaults()}
	if change != nil {
		change(&p.cfg)
	}
	require.NoError(t, p.cfg.Validate())
	return p
}

// start runs the stages (none means all) until the test ends or stop is called.
func (p *testPipeline) start(stages ...string) (stop func()) {
	p.t.Helper()
	running, err := newPipeline(p.t.Context(), p.cfg, p.nc, stages, p.registry)
	require.NoError(p.t, err)
	return p.run(running)
}

// run has a pipeline work until the test ends or stop is called.
func (p *testPipeline) run(running *pipeline) (stop func()) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p.running.Store(running)
	done := make(chan error, 1)
	go func() { done <- running.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(p.t, <-done)
		}
	}
	p.t.Cleanup(stop)
	return stop
}

func (p *testPipeline) publish(id, body string) {
	p.t.Helper()
	m := nats.NewMsg("llm.requests.acme")
	m.Header.Set(streams.HeaderID, id)
	m.Data = []byte(body)
	_, err := p.js.PublishMsg(p.t.Context(), m)
	require.NoError(p.t, err)
}

func chat(text string) string {
	return fmt.Sprintf(`{"model":"gpt-4o","messages":[{"role":"user","content":%q}]}`, text)
}

// answer is what a response may hold.
type answer struct {
	Choices []struct {
		Message struct{ Content string }
	}
	Usage schemas.Usage
	Error struct{ Type, Code, Message string }
	About struct {
		Attempts int
		Cache    string
		Stage    string
		CostUSD  float64 `json:"cost_usd"`
		Quality  json.RawMessage
		Details  map[string]any
	} `json:"processor"`
	raw string
}

func (p *testPipeline) await(id string) answer {
	p.t.Helper()
	stream, err := p.js.Stream(p.t.Context(), "LLM_RESPONSES")
	require.NoError(p.t, err)
	var a answer
	require.Eventually(p.t, func() bool {
		m, err := stream.GetLastMsgForSubject(p.t.Context(), "llm.responses.acme."+id)
		if err != nil {
			return false
		}
		a.raw = string(m.Data)
		require.NoError(p.t, json.Unmarshal(m.Data, &a))
		return true
	}, time.Minute, 5*time.Millisecond, "no response to %s", id)
	return a
}

// hold has an upstream keep its answer back until ready, so that a test need not
// guess how long requests take to come together.
func (p *testPipeline) hold(ready func() bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(time.Minute); !ready() && time.Now().Before(until); {
		<-tick.C
	}
}

// parked is how many requests wait in memory for the call of an equal one.
func (p *testPipeline) parked() int { return p.running.Load().deps.generate.Parking().Parked() }

// awaitEmpty waits until nothing is left in some streams.
func (p *testPipeline) awaitEmpty(streams ...string) {
	p.t.Helper()
	for _, name := range streams {
		require.Eventually(p.t, func() bool {
			stream, err := p.js.Stream(p.t.Context(), name)
			return err == nil && stream.CachedInfo().State.Msgs == 0
		}, time.Minute, 5*time.Millisecond, name)
	}
}

func TestProvidersThatMisbehaveAreRetriedOrAnswered(t *testing.T) {
	t.Parallel()
	steps := map[string][]*fakellm.Step{ // the answers to the first calls; then the usual one
		"fine":          nil,
		"once 500":      {{Status: 500}},
		"always 500":    {{Status: 500}, {Status: 500}, {Status: 500}, {Status: 500}, {Status: 500}},
		"slow":          {{Delay: 40 * time.Second}},
		"cut off":       {{CutBytes: 20}},
		"dropped":       {{Drop: true}},
		"html":          {{ContentType: "text/html", Body: "<html>busy</html>"}},
		"limited":       {{Status: 429, Header: map[string]string{"Retry-After": "1"}}},
		"refused":       {{Status: 400}},
		"key":           {{Status: 401}},
		"huge":          {{Huge: 100 << 20}},
		"empty":         {{Body: " "}},
		"dripping slow": {{Drip: 100 * time.Millisecond}},
	}
	next := make(chan map[string]int, 1)
	next <- map[string]int{}
	p := newTestPipeline(t, fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step {
		name := fakellm.LastText(c)
		counts := <-next
		n := counts[name]
		counts[name]++
		next <- counts
		if n < len(steps[name]) {
			return steps[name][n]
		}
		return nil
	}}, func(c *config.Config) { c.Pipeline.MaxDeliver, c.Providers[0].AttemptTimeout = 3, 3*time.Second })
	p.start()
	for name := range steps {
		p.publish(strings.ReplaceAll(name, " ", "-"), chat(name))
	}
	for name, want := range map[string]struct {
		code     string // empty is an answer
		attempts int
	}{
		"fine":          {"", 1},
		"once 500":      {"", 2},
		"always 500":    {"provider_error", 3},
		"slow":          {"", 2},
		"cut off":       {"", 2},
		"dropped":       {"", 2},
		"html":          {"", 2},
		"limited":       {"", 2},
		"refused":       {"provider_error", 1},
		"key":           {"provider_error", 1},
		"huge":          {"provider_error", 1},
		"empty":         {"", 2},
		"dripping slow": {"", 2},
	} {
		a := p.await(strings.ReplaceAll(name, " ", "-"))
		require.Equal(t, want.code == "", len(a.Choices) == 1, "%s: %s", name, a.raw)
		if want.code != "" {
			require.NotEmpty(t, a.Error.Message, name)
			require.NotEmpty(t, a.Error.Code, name)
		}
		require.NotContains(t, a.raw, "key-that-must-not-leak")
		counts := <-next
		calls := counts[name]
		next <- counts
		require.Equal(t, want.attempts, calls, "calls for %s: %s", name, a.raw)
		require.Equal(t, want.attempts, a.About.Attempts, "%s: %s", name, a.raw)
	}
}

func TestAProviderThatIsDownIsAnError(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{}, func(c *config.Config) {
		c.Pipeline.MaxDeliver = 2
		c.Providers[0].BaseURL = "http://127.0.0.1:1/v1"
	})
	p.start()
	p.publish("down", chat("hello"))
	a := p.await("down")
	require.NotEmpty(t, a.Error.Code, a.raw)
	require.Equal(t, "generate", a.About.Stage)
}

func TestFedByHandTwiceLateAndOutOfOrderPaysOnce(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Latency: 20 * time.Millisecond, Count: true}, nil)
	stop := p.start()
	feed := func(times int, ids ...string) {
		for range times {
			for _, id := range ids {
				data, err := schemas.AppendHandoff(nil, &schemas.Handoff{
					State: schemas.State{ID: id, Tenant: "acme", Class: schemas.Interactive, Kind: schemas.Chat, Model: "m", Cache: "miss"},
					Body:  []byte(chat(id)),
				})
				require.NoError(t, err)
				m := nats.NewMsg(streams.Names{Prefix: "llm"}.Handoff("generate", schemas.Interactive, "acme"))
				m.Header.Set(streams.HeaderVersion, "1") // and no message id: the server drops nothing
				m.Data = data
				_, err = p.js.PublishMsg(t.Context(), m)
				require.NoError(t, err)
			}
		}
	}
	feed(3, "a", "b", "c")
	feed(2, "c", "a", "b")
	for _, id := range []string{"a", "b", "c"} {
		require.Len(t, p.await(id).Choices, 1)
	}
	feed(2, "b", "a") // late: answered already
	stop()
	p.registry = prometheus.NewRegistry()
	feed(1, "c")
	p.start() // another process, which remembers nothing
	feed(1, "a")
	p.publish("last", chat("last"))
	p.await("last")
	p.awaitEmpty("LLM_GENERATE")
	require.EqualValues(t, 4, p.upstream.Stats().Calls)
	require.Zero(t, p.upstream.Stats().Repeats)
	responses, err := p.js.Stream(t.Context(), "LLM_RESPONSES")
	require.NoError(t, err)
	require.EqualValues(t, 4, responses.CachedInfo().State.LastSeq, "one stored response each")
}

func TestEqualRequestsAreAnsweredFromTheCache(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Count: true}, func(c *config.Config) {
		c.Models = append(c.Models, configModel("gpt-4o"))
	})
	p.start()
	p.publish("first", chat("hello"))
	first := p.await("first")
	require.Equal(t, "miss", first.About.Cache)
	require.Positive(t, first.About.CostUSD)
	require.Eventually(t, func() bool { // the cache is written beside the answer's way
		id := fmt.Sprintf("again-%d", time.Now().UnixNano())
		p.publish(id, `{ "messages":[{"content":"hello","role":"user"}], "model":"gpt-4o", "user":"somebody" }`)
		again := p.await(id)
		return again.About.Cache == "hit" && again.About.CostUSD == 0 && again.Usage == first.Usage
	}, time.Minute, time.Millisecond)
	calls := p.upstream.Stats().Calls
	p.publish("fresh", `{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}],"processor":{"cache":{"mode":"refresh"}}}`)
	require.Equal(t, "miss", p.await("fresh").About.Cache)
	p.publish("off", `{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}],"processor":{"cache":{"mode":"off"}}}`)
	require.Equal(t, "off", p.await("off").About.Cache)
	require.Equal(t, calls+2, p.upstream.Stats().Calls)
}

func TestUnknownMembersReachTheProviderByteForByte(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	p := newTestPipeline(t, fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step {
		got <- string(c.Body)
		return nil
	}}, nil)
	p.start()
	p.publish("odd", `{ "vendor_thing" : {"b":1.50,"a":[1e2,  "\u00e9"]}, "model":"gpt-4o", "messages":[{"role":"user","content":"hi","made_up":null}],"processor":{"route":"r"} , "seed":12345678901234567890}`)
	p.await("odd")
	body := <-got
	require.Contains(t, body, `"vendor_thing" : {"b":1.50,"a":[1e2,  "\u00e9"]}`)
	require.Contains(t, body, `"made_up":null`)
	require.Contains(t, body, `"seed":12345678901234567890`)
	require.NotContains(t, body, "processor")
}

func TestCancelEndsARunningRequest(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step { return &fakellm.Step{Hang: true} }},
		func(c *config.Config) { c.Providers[0].Timeout = time.Minute })
	p.start()
	p.publish("endless", chat("hello"))
	require.Eventually(t, func() bool { return p.upstream.Stats().InFlight == 1 }, time.Minute, time.Millisecond)
	_, err := p.nc.Request("llm.cancel.acme.endless", nil, 5*time.Second)
	require.NoError(t, err)
	require.Equal(t, "cancelled", p.await("endless").Error.Code)
	require.Eventually(t, func() bool { return p.upstream.Stats().InFlight == 0 }, time.Minute, time.Millisecond, "the provider's call is stopped")
}

func TestOneProcessAStage(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{}, func(c *config.Config) {
		c.Pipeline.Groups = [][]string{{"compress", "cache"}, {"batch"}, {"generate", "score"}}
		c.Batch.Timeout = units.Duration(10 * time.Millisecond)
	})
	for _, group := range p.cfg.Pipeline.Groups {
		p.registry = prometheus.NewRegistry()
		p.start(group...)
	}
	p.publish("spread", chat("hello"))
	require.Len(t, p.await("spread").Choices, 1)
	_, err := newPipeline(t.Context(), p.cfg, p.nc, []string{"compress"}, nil)
	require.ErrorContains(t, err, "one group")
	_, err = newPipeline(t.Context(), p.cfg, p.nc, []string{"compres"}, nil)
	require.ErrorContains(t, err, "no stage")
}

func configModel(name string) generate.Model {
	return generate.Model{Name: name, Provider: "fake", Price: generate.Price{Input: 2.5, CachedInput: 1.25, Output: 10}}
}

func TestConfiguredModelsCountTheirOwnWay(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.Models = []generate.Model{{Name: "house-model", Encoding: "cl100k_base", TokenFactor: 2}}
	require.NoError(t, cfg.Validate())
	counter, err := tokens.NewCounter(countingRules(cfg))
	require.NoError(t, err)
	const text = "The house counts twice what the encoding does."
	own, err := counter.Text("house-model", text)
	require.NoError(t, err)
	base, err := counter.Text("gpt-4", text)
	require.NoError(t, err)
	require.Equal(t, 2*base, own)
}

func TestRequestsWaitForBudgetThatIsOnlyReserved(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Latency: 30 * time.Millisecond}, func(c *config.Config) {
		b := budget.Defaults()
		b.Tenant, b.DailyLimit = "acme", 1400 // forty bills of 30, but not half of their estimates
		c.Budgets = []budget.Config{b}
	})
	p.start()
	const n = 40
	for i := range n {
		p.publish(fmt.Sprintf("w-%d", i), fmt.Sprintf(`{"model":"gpt-4o","max_completion_tokens":60,"messages":[{"role":"user","content":"number %d"}]}`, i))
	}
	for i := range n {
		a := p.await(fmt.Sprintf("w-%d", i))
		require.Len(t, a.Choices, 1, a.raw)
	}
	require.EqualValues(t, n, p.upstream.Stats().Calls)
}
