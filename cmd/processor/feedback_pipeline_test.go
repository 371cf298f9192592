package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/stages/selection"
)

func (p *testPipeline) feedback(tenant, text string) {
	p.t.Helper()
	_, err := p.js.Publish(p.t.Context(), "llm.feedback."+tenant, []byte(text))
	require.NoError(p.t, err)
}

// handled waits until all feedback is, and gives how often each result came, over the registries.
func (p *testPipeline) handled(registries ...*prometheus.Registry) map[string]float64 {
	p.t.Helper()
	stream, err := p.js.Stream(p.t.Context(), "LLM_FEEDBACK")
	require.NoError(p.t, err)
	last := stream.CachedInfo().State.LastSeq // a consumer counts what is pending a moment after it was stored
	require.Eventually(p.t, func() bool {
		consumer, err := p.js.Consumer(p.t.Context(), "LLM_FEEDBACK", "feedback")
		return err == nil && consumer.CachedInfo().AckFloor.Stream >= last
	}, time.Minute, 5*time.Millisecond, "feedback is left")
	counts := map[string]float64{}
	for _, registry := range registries {
		families, err := registry.Gather()
		require.NoError(p.t, err)
		for _, family := range families {
			if family.GetName() == "processor_feedback_total" {
				for _, m := range family.GetMetric() {
					counts[m.GetLabel()[0].GetValue()] += m.GetCounter().GetValue()
				}
			}
		}
	}
	return counts
}

func TestAWrongCachedAnswerDies(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Count: true}, func(c *config.Config) { c.Models = append(c.Models, configModel("gpt-4o")) })
	first := p.registry
	p.start()
	p.registry = prometheus.NewRegistry()
	p.start() // another replica, which holds the answer in memory too
	ask := func(id string) answer {
		p.publish(id, chat("which harbour is it?"))
		return p.await(id)
	}
	require.Equal(t, "miss", ask("one").About.Cache)
	hits := 0
	require.Eventually(t, func() bool {
		hits++
		return ask(fmt.Sprintf("hit-%d", hits)).About.Cache == "hit"
	}, time.Minute, time.Millisecond)
	require.EqualValues(t, 1, p.upstream.Stats().Calls)

	p.feedback("other", fmt.Sprintf(`{"id":"hit-%d","label":"bad"}`, hits)) // of a tenant that has no such request
	p.feedback("acme", fmt.Sprintf(`{"id":"hit-%d","label":"good"}`, hits))
	require.Equal(t, map[string]float64{"good": 1, "unknown": 1}, p.handled(first, p.registry))
	require.Equal(t, "hit", ask("still").About.Cache)

	p.feedback("acme", fmt.Sprintf(`{"id":"hit-%d","label":"bad"}`, hits))
	require.Equal(t, map[string]float64{"good": 1, "unknown": 1, "bad": 1}, p.handled(first, p.registry), "each once over both replicas")
	anew := ask("anew")
	require.Equal(t, "miss", anew.About.Cache, anew.raw)
	require.EqualValues(t, 2, p.upstream.Stats().Calls)
	p.feedback("acme", `{"id":"one","score":0.1}`) // the same text as the new answer: it is wrong as well
	p.handled()
	require.Equal(t, "miss", ask("again").About.Cache)
}

func TestHostileFeedbackIsCountedAndDoneWith(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{}, nil)
	p.start()
	hostile := []string{``, `null`, `{"id":`, `{"id":"a","score":"x"}`, `{"id":{},"score":1}`, `{"id":"a.>","label":"bad"}`, "\x00\xff", `{"id":"a","score":1,"x":"` + strings.Repeat("x", 500_000) + `"}`, strings.Repeat("[", 100_000)}
	for _, text := range hostile {
		p.feedback("acme", text)
	}
	p.feedback("acme", `{"id":"nobody","label":"bad"}`)
	require.Equal(t, map[string]float64{"malformed": float64(len(hostile)), "unknown": 1}, p.handled(p.registry))
	stream, err := p.js.Stream(t.Context(), "LLM_FEEDBACK")
	require.NoError(t, err)
	consumer, err := stream.Consumer(t.Context(), "feedback")
	require.NoError(t, err)
	require.Zero(t, consumer.CachedInfo().NumRedelivered)
	require.Equal(t, jetstream.AckExplicitPolicy, consumer.CachedInfo().Config.AckPolicy)
}

func TestFeedbackReachesTheStatisticsOfAllReplicas(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{}, func(c *config.Config) { c.Models = append(c.Models, configModel("gpt-4o")) })
	p.start()
	p.publish("routed", `{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}],"processor":{"route":"harbours"}}`)
	require.Contains(t, p.await("routed").raw, `"route":"harbours"`)
	learnt, err := openLearnt(t.Context(), p.js, "llm_models") // as another replica sees it
	require.NoError(t, err)
	t.Cleanup(learnt.close)
	answers := func() float64 {
		f, _ := learnt.Figures("harbours", "gpt-4o")
		return f.Answers
	}
	require.Eventually(t, func() bool { return answers() == 1 }, time.Minute, 5*time.Millisecond, "the product's own score")
	p.feedback("acme", `{"id":"routed","label":"bad"}`)
	require.Eventually(t, func() bool { return answers() > 5 }, time.Minute, 5*time.Millisecond)
	_, known := learnt.Figures(selection.Everywhere, "gpt-4o")
	require.True(t, known)
}
