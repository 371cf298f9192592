package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/streams"
)

// Two tenants' requests share calls; each is answered, billed and refused by itself.
func TestEmbeddingsShareCalls(t *testing.T) {
	t.Parallel()
	const requests = 60
	p := newTestPipeline(t, fakellm.Config{
		Prompt: 100, Dimensions: 2, Latency: 5 * time.Millisecond,
		Respond: func(c fakellm.Call) *fakellm.Step {
			if bytes.Contains(c.Body, []byte("poison")) {
				return &fakellm.Step{Status: http.StatusBadRequest}
			}
			return nil
		},
	}, func(cfg *config.Config) {
		cfg.Providers[0].MaxConnections = 2 // they gather for the next
		cfg.Providers[0].MaxResponse = 1000 // of each request; the answers to thirty are larger
	})
	tenants := []string{"acme", "umbrella"}
	text := func(i int) string {
		if i == 7 {
			return "poison"
		}
		return fmt.Sprintf("text number %d", i)
	}
	provisionTest(t, p)
	for i := range requests {
		m := nats.NewMsg("llm.requests." + tenants[i%2])
		m.Header.Set(streams.HeaderID, fmt.Sprint("e", i))
		m.Data = fmt.Appendf(nil, `{"model":"embed","input":%q,"user":"u%d"}`, text(i), i)
		_, err := p.js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	p.start()

	billed := 0
	for i := range requests {
		a := embeddingOf(t, p, tenants[i%2], fmt.Sprint("e", i))
		if i == 7 {
			require.Equal(t, "invalid_request_error", a.Error.Type)
			continue
		}
		require.Empty(t, a.Error.Type, "%d: %s", i, a.Error.Message)
		require.Len(t, a.Data, 1)
		require.Zero(t, a.Data[0].Index)
		sum := 0
		for _, b := range fmt.Appendf(nil, "%q", text(i)) {
			sum += int(b)
		}
		require.Equal(t, []int{sum, sum + 1}, a.Data[0].Embedding, "the vector of its own text")
		billed += a.Usage.PromptTokens
	}
	stats := p.upstream.Stats()
	counted := providerRequests(t, p)
	require.LessOrEqual(t, stats.Calls, int64(requests/3), "far fewer calls than requests")
	require.InDelta(t, float64(stats.Calls), sumOf(counted), 0, "each call counts once")
	require.Equal(t, int(counted["200"])*100, billed, "the shares add up to the bills")
}

type embeddingAnswer struct {
	Data []struct {
		Index     int
		Embedding []int
	}
	Usage struct {
		PromptTokens int `json:"prompt_tokens"`
	}
	Error struct{ Type, Message string }
}

func embeddingOf(t *testing.T, p *testPipeline, tenant, id string) (a embeddingAnswer) {
	t.Helper()
	stream, err := p.js.Stream(t.Context(), "LLM_RESPONSES")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		m, err := stream.GetLastMsgForSubject(t.Context(), "llm.responses."+tenant+"."+id)
		return err == nil && json.Unmarshal(m.Data, &a) == nil
	}, time.Minute, 5*time.Millisecond, "no response to %s", id)
	return a
}

func provisionTest(t *testing.T, p *testPipeline) {
	t.Helper()
	require.NoError(t, provision(t.Context(), p.cfg, p.nc))
}

// providerRequests gives the calls that were counted, by status.
func providerRequests(t *testing.T, p *testPipeline) map[string]float64 {
	t.Helper()
	families, err := p.registry.Gather()
	require.NoError(t, err)
	counted := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "processor_provider_requests_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "code" {
					counted[label.GetValue()] += metric.GetCounter().GetValue()
				}
			}
		}
	}
	return counted
}

func sumOf(counted map[string]float64) (sum float64) {
	for _, n := range counted {
		sum += n
	}
	return sum
}
