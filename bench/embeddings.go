package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// embeddingsTurns is how often each kind of upstream is measured, with a call
// each and with shared calls after one another: ratios within a turn bear a
// machine that does other things too.
const embeddingsTurns = 3

// embeddingsShared measures embeddings requests of two tenants with a call each
// and with shared calls, in turns.
func embeddingsShared(ctx context.Context, out io.Writer, requests int) error {
	b := pipelineBench{out: out, requests: requests}
	remove, err := b.build(ctx, "batch")
	if err != nil {
		return err
	}
	defer remove()
	fmt.Fprintf(out, "Embeddings, %d requests of one text each, two tenants, five groups, 64 workers; processor time is that of all processes for a request:\n\n", requests)
	fmt.Fprint(out, "| upstream | max_connections | a call each: requests/s | calls | processor time | shared: requests/s | calls | processor time | rate |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, s := range []struct {
		latency     time.Duration
		connections int
	}{{0, 100}, {50 * time.Millisecond, 100}, {200 * time.Millisecond, 100}, {50 * time.Millisecond, 8}} {
		var ratios []float64
		for range embeddingsTurns {
			alone, err := b.embeddings(ctx, s.latency, s.connections, 1)
			if err != nil {
				return err
			}
			shared, err := b.embeddings(ctx, s.latency, s.connections, 2048)
			if err != nil {
				return err
			}
			ratios = append(ratios, shared.rate/alone.rate)
			fmt.Fprintf(out, "| %v | %d | %.0f | %d | %s | %.0f | %d | %s | x%.2f |\n", s.latency, s.connections,
				alone.rate, alone.calls, each(alone.cpu, requests), shared.rate, shared.calls, each(shared.cpu, requests), shared.rate/alone.rate)
		}
		fmt.Fprintf(out, "| | | | | | | | median | x%.2f |\n", median(ratios))
	}
	return nil
}

// embedded is what a run of embeddings requests took.
type embedded struct {
	rate  float64 // requests a second
	calls int
	cpu   time.Duration // of processor, server and upstream
}

// embeddings has requests answered with at most so many inputs a call.
func (b *pipelineBench) embeddings(ctx context.Context, latency time.Duration, connections, inputs int) (e embedded, err error) {
	more := fmt.Sprintf("providers: [{name: fake, kind: openai, base_url: \"{upstream}/v1\", api_key: none, max_connections: %d, embedding_inputs: %d}]\n", connections, inputs)
	s, err := b.start(ctx, scenario{"embeddings", false, fiveGroups, true, more}, latency, nil)
	if err != nil {
		return e, err
	}
	defer s.close()
	begin := time.Now()
	for i := range b.requests {
		m := nats.NewMsg("llm.requests.tenant" + string(rune('a'+i%2)))
		m.Data = fmt.Appendf(nil, `{"model":"text-embedding-3-small","input":"Passage %d: the quick brown fox jumps over the lazy dog near the river bank."}`, i)
		if _, err := s.js.PublishMsgAsync(m, jetstream.WithStallWait(10*time.Second)); err != nil {
			return e, err
		}
	}
	<-s.js.PublishAsyncComplete()
	if err := s.awaitResponses(ctx, b.requests); err != nil {
		return e, fmt.Errorf("%w\n%s", err, s.log.String())
	}
	e.rate = float64(b.requests) / time.Since(begin).Seconds()
	for _, used := range s.cpu() {
		e.cpu += used
	}
	e.calls, _, _, _, err = s.upstream.UpstreamStats()
	return e, err
}
