package main

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
)

const cutOffAnswer = `{"id":"x","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"finish_reason":"length","message":{"role":"assistant","content":"It is the first half of"}}],"usage":{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11}}`

func TestAnswersThatWereCutOffAreSharedAndNotKept(t *testing.T) {
	t.Parallel()
	var p *testPipeline
	var first sync.Once
	p = newTestPipeline(t, fakellm.Config{Count: true, Respond: func(fakellm.Call) *fakellm.Step {
		first.Do(func() { p.hold(func() bool { return p.parked() == 19 }) })
		return &fakellm.Step{Body: cutOffAnswer}
	}}, func(c *config.Config) { c.Models = append(c.Models, configModel("gpt-4o")) })
	p.start()
	by := map[string]int{}
	for i := range 20 {
		p.publish(fmt.Sprintf("r%d", i), chat("hello"))
	}
	for i := range 20 {
		by[p.await(fmt.Sprintf("r%d", i)).About.Cache]++
	}
	require.Equal(t, map[string]int{"miss": 1, "shared": 19}, by)
	require.EqualValues(t, 1, p.upstream.Stats().Calls)
	p.publish("later", chat("hello"))
	require.Equal(t, "miss", p.await("later").About.Cache)
	require.EqualValues(t, 2, p.upstream.Stats().Calls)
	counted := p.cacheCounts()
	require.EqualValues(t, 2, counted["miss"])
	require.EqualValues(t, 19, counted["shared"])
}

// cacheCounts is what the metric of the cache says, by result.
func (p *testPipeline) cacheCounts() map[string]float64 {
	counts := map[string]float64{}
	metrics, err := p.registry.Gather()
	require.NoError(p.t, err)
	for _, m := range metrics {
		if m.GetName() == "processor_cache_requests_total" {
			for _, of := range m.GetMetric() {
				counts[of.GetLabel()[0].GetValue()] = of.GetCounter().GetValue()
			}
		}
	}
	return counts
}

func TestTenantsDoNotShare(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Count: true, Latency: 200 * time.Millisecond}, nil)
	p.start()
	for round := range 2 { // at the same time; and when the first has been answered
		prompt := chat("the same question")
		if round == 0 {
			p.publish("mine", prompt)
		}
		m := nats.NewMsg(fmt.Sprintf("llm.requests.other%d", round))
		m.Data = []byte(prompt)
		_, err := p.js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return p.upstream.Stats().Calls == int64(2+round) }, time.Minute, 5*time.Millisecond)
		p.await("mine")
	}
}
