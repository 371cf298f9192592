package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// embeddingsShared measures embeddings requests of two tenants with a call each
// and with shared calls, in turns.
func embeddingsShared(ctx context.Context, out io.Writer, requests int) error {
	b := pipelineBench{out: out, requests: requests}
	remove, err := b.build(ctx, "batch")
	if err != nil {
		return err
	}
	defer remove()
	fmt.Fprintf(out, "Embeddings, %d requests of one text each, two tenants, five groups, 64 workers:\n\n", requests)
	fmt.Fprint(out, "| upstream | max_connections | a call each: requests/s | calls | shared: requests/s | calls | requests a call | rate |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, s := range []struct {
		latency     time.Duration
		connections int
	}{{0, 100}, {50 * time.Millisecond, 100}, {50 * time.Millisecond, 8}} {
		alone, aloneCalls, err := b.embeddings(ctx, s.latency, s.connections, 1)
		if err != nil {
			return err
		}
		shared, sharedCalls, err := b.embeddings(ctx, s.latency, s.connections, 2048)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "| %v | %d | %.0f | %d | %.0f | %d | %.1f | x%.2f |\n", s.latency, s.connections,
			alone, aloneCalls, shared, sharedCalls, float64(requests)/float64(sharedCalls), shared/alone)
	}
	return nil
}

// embeddings gives requests a second and the calls that were made for them.
func (b *pipelineBench) embeddings(ctx context.Context, latency time.Duration, connections, inputs int) (rate float64, calls int, err error) {
	more := fmt.Sprintf("providers: [{name: fake, kind: openai, base_url: \"{upstream}/v1\", api_key: none, max_connections: %d, embedding_inputs: %d}]\n", connections, inputs)
	s, err := b.start(ctx, scenario{"embeddings", false, fiveGroups, true, more}, latency, nil)
	if err != nil {
		return 0, 0, err
	}
	defer s.close()
	begin := time.Now()
	for i := range b.requests {
		m := nats.NewMsg("llm.requests.tenant" + string(rune('a'+i%2)))
		m.Data = fmt.Appendf(nil, `{"model":"text-embedding-3-small","input":"Passage %d: the quick brown fox jumps over the lazy dog near the river bank."}`, i)
		if _, err := s.js.PublishMsgAsync(m, jetstream.WithStallWait(10*time.Second)); err != nil {
			return 0, 0, err
		}
	}
	<-s.js.PublishAsyncComplete()
	if err := s.awaitResponses(ctx, b.requests); err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, s.log.String())
	}
	rate = float64(b.requests) / time.Since(begin).Seconds()
	calls, _, _, _, err = s.upstream.UpstreamStats()
	return rate, calls, err
}
