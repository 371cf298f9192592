package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/streams"
)

// with gives a chat with a processor object.
func with(text, options string) string {
	return fmt.Sprintf(`{"model":"gpt-4o","messages":[{"role":"user","content":%q}],"processor":%s}`, text, options)
}

func (p *testPipeline) publishAs(tenant, id, body string) {
	p.t.Helper()
	m := nats.NewMsg("llm.requests." + tenant)
	m.Header.Set(streams.HeaderID, id)
	m.Data = []byte(body)
	_, err := p.js.PublishMsg(p.t.Context(), m)
	require.NoError(p.t, err)
}

// awaitRaw gives the stored response of any tenant.
func (p *testPipeline) awaitRaw(tenant, id string) string {
	p.t.Helper()
	stream, err := p.js.Stream(p.t.Context(), "LLM_RESPONSES")
	require.NoError(p.t, err)
	raw := ""
	require.Eventually(p.t, func() bool {
		m, err := stream.GetLastMsgForSubject(p.t.Context(), "llm.responses."+tenant+"."+id)
		if err == nil {
			raw = string(m.Data)
		}
		return err == nil
	}, time.Minute, 5*time.Millisecond, "no response to %s", id)
	return raw
}

func TestNearDuplicatesHitWhereTheyAreAskedFor(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Count: true}, func(c *config.Config) { c.Cache.Match = kv.MatchNormalized })
	p.start()
	p.publish("first", chat("What are the highest mountains of Europe?"))
	require.Equal(t, "miss", p.await("first").About.Cache)
	for i, c := range []struct{ body, cache string }{
		{chat("what are highest mountains of europe, please"), "normalized"},
		{chat("What are the highest mountains of Europe?"), "hit"},
		{with("what are highest mountains of europe", `{"cache":{"match":"exact"}}`), "miss"},
		{chat("What are the lowest mountains of Europe?"), "miss"},
		{chat("What is 7 + 5?"), "miss"},
		{chat("what is 7 + 5"), "miss"},
	} {
		id := fmt.Sprintf("r%d", i)
		p.publish(id, c.body)
		a := p.await(id)
		require.Equal(t, c.cache, a.About.Cache, c.body)
		if c.cache != "miss" {
			require.Zero(t, a.About.CostUSD)
			require.NotZero(t, a.Usage.TotalTokens)
		}
	}
	require.EqualValues(t, 5, p.upstream.Stats().Calls)
	require.EqualValues(t, 1, p.cacheCounts()["normalized"])
}

func TestAPurgedAnswerIsNoNearDuplicate(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Count: true}, nil)
	p.start()
	ask := func(id, text string) string {
		p.publish(id, with(text, `{"cache":{"match":"normalized"}}`))
		return p.await(id).About.Cache
	}
	require.Equal(t, "miss", ask("a", "What are the highest mountains of Europe?"))
	require.Equal(t, "normalized", ask("b", "what are highest mountains of europe"))
	store, err := kv.OpenCacheStore(t.Context(), p.js, bucketLayout(p.cfg))
	require.NoError(t, err)
	require.NoError(t, store.Each(t.Context(), "acme", func(e kv.StoredEntry) error {
		if e.Of == "" {
			return store.Purge(t.Context(), e.Key)
		}
		return nil
	}))
	n := 0
	require.Eventually(t, func() bool {
		n++
		return ask(fmt.Sprintf("c%d", n), "what are the highest mountains of europe") == "miss"
	}, time.Minute, time.Millisecond)
}

func TestTenantsShareOnlyWhereBothSaySo(t *testing.T) {
	t.Parallel()
	const shared = `{"cache":{"scope":"shared"}}`
	for _, c := range []struct {
		scope, mine, theirs string
		calls               int64
	}{
		{kv.ScopeShared, shared, shared, 1},
		{kv.ScopeShared, shared, `{}`, 2},
		{kv.ScopeShared, `{}`, shared, 2},
		{kv.ScopeTenant, shared, shared, 2},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			t.Parallel()
			var p *testPipeline
			var calls atomic.Int64
			p = newTestPipeline(t, fakellm.Config{Count: true, Respond: func(fakellm.Call) *fakellm.Step {
				calls.Add(1)
				p.hold(func() bool { return calls.Load()+int64(p.parked()) >= 2 })
				return nil
			}}, func(cfg *config.Config) { cfg.Cache.Scope = c.scope })
			p.start()
			p.publishAs("payer-of-it", "paid-under-this", with("the same question", c.mine))
			p.publishAs("other", "flying", with("the same question", c.theirs))
			paid, flying := p.awaitRaw("payer-of-it", "paid-under-this"), p.awaitRaw("other", "flying")
			p.publishAs("other", "later", with("the same question", c.theirs))
			later := p.awaitRaw("other", "later")
			require.Contains(t, paid+flying, `"cache":"miss"`)
			require.Contains(t, later, `"cache":"hit"`)
			require.Equal(t, c.calls == 1, strings.Contains(paid+flying, `"cache":"shared"`))
			require.Equal(t, c.calls, p.upstream.Stats().Calls)
			require.NotContains(t, flying+later, "payer-of-it")
			require.NotContains(t, flying+later, "paid-under-this")
		})
	}
}

const formed = `{"structure":{"schema":{"type":"object","required":["n"],"properties":{"n":{"type":"integer"}}}},"quality":{"max_attempts":2}}`

func answering(content string) string {
	return fmt.Sprintf(`{"id":"x","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":%q}}],"usage":{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11}}`, content)
}

// Equal requests that got the same bad answer ask together again: one call for
// each round, however many they are.
func TestFollowersOfABadAnswerShareTheNextCall(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		second string
		good   bool
	}{"the second is good": {`{"n":1}`, true}, "the second is as bad": {"no number at all", false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 30
			var p *testPipeline
			p = newTestPipeline(t, fakellm.Config{Count: true, Respond: func(call fakellm.Call) *fakellm.Step {
				p.hold(func() bool { return p.parked() == n-1 })
				if strings.Contains(fakellm.LastText(call), "cannot be used") {
					return &fakellm.Step{Body: answering(c.second)}
				}
				return &fakellm.Step{Body: answering("no JSON")}
			}}, nil)
			p.start()
			for i := range n {
				p.publish(fmt.Sprintf("r%d", i), with("Give me a number.", formed))
			}
			by := map[string]int{}
			for i := range n {
				a := p.await(fmt.Sprintf("r%d", i))
				if c.good {
					require.Len(t, a.Choices, 1, a.raw)
					require.JSONEq(t, `{"n":1}`, a.Choices[0].Message.Content)
				} else {
					require.Equal(t, "schema_violation", a.Error.Code, a.raw)
				}
				by[a.About.Cache]++
			}
			require.EqualValues(t, 2, p.upstream.Stats().Calls, "%v", by)
		})
	}
}

func TestAWrongNearDuplicateDies(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Count: true}, func(c *config.Config) { c.Cache.Match = kv.MatchNormalized })
	p.start()
	ask := func(id, text string) string {
		p.publish(id, chat(text))
		return p.await(id).About.Cache
	}
	require.Equal(t, "miss", ask("paid", "What are the highest mountains of Europe?"))
	require.Equal(t, "normalized", ask("near", "what are highest mountains of europe"))
	p.feedback("acme", `{"id":"near","label":"bad"}`)
	require.Equal(t, map[string]float64{"bad": 1}, p.handled(p.registry))
	require.Equal(t, "miss", ask("again", "What are the highest mountains of Europe?"), "the answer that the near duplicate got is gone")
}
