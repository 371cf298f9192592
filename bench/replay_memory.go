package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/proc"
	"github.com/adpa/processor/streams"
)

// replayMemory measures the most memory that replays of ever more requests have
// in RAM. What is replayed is no traffic that was worked: requests and their
// responses are published as they would stand in the streams, as fast as the
// server takes them.
func (b *pipelineBench) replayMemory(ctx context.Context) error {
	s, begin := new(setting), time.Now()
	defer s.close()
	if err := b.surround(ctx, s, 0); err != nil {
		return err
	}
	configuration := filepath.Join(b.dir, "processor.yaml")
	sc := scenario{"memory", false, fiveGroups, true, ""}
	if err := os.WriteFile(configuration, []byte(b.config(sc, s)), 0o600); err != nil {
		return err
	}
	if out, err := proc.Run(ctx, b.program, "provision", "--config", configuration); err != nil {
		return fmt.Errorf("provisioning: %w\n%s", err, out)
	}
	if err := s.past(ctx, b.requests); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "published %d requests and responses in %.0f s\n\n", b.requests, time.Since(begin).Seconds())
	fmt.Fprintf(b.out, "| requests | memory at most, MB | requests/s | processor time of a request, us |\n| --- | --- | --- | --- |\n")
	for _, n := range []int{b.requests / 100, b.requests / 10, b.requests} {
		before, begin := s.used(), time.Now()
		cmd := b.replayOnce(ctx, "memory", "--limit", strconv.Itoa(n))
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("replaying %d requests: %w", n, err)
		}
		usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		if !ok {
			return errors.New("the system does not say how much memory a process had")
		}
		fmt.Fprintf(b.out, "| %d | %d | %.0f | %.0f |\n", n, usage.Maxrss>>10, float64(n)/time.Since(begin).Seconds(),
			float64((s.used()-before+usedBy(cmd)).Microseconds())/float64(n))
	}
	return nil
}

// past publishes requests with their responses and waits until all are archived.
func (s *setting) past(ctx context.Context, requests int) error {
	for i := range requests {
		id := "r-" + strconv.Itoa(i)
		request := &nats.Msg{Subject: "llm.requests.bench", Data: prompt(i), Header: nats.Header{streams.HeaderID: {id}}}
		response := &nats.Msg{Subject: "llm.responses.bench." + id, Data: pastResponse(id)}
		for _, m := range []*nats.Msg{request, response} {
			if _, err := s.js.PublishMsgAsync(m, jetstream.WithStallWait(30*time.Second)); err != nil {
				return err
			}
		}
	}
	<-s.js.PublishAsyncComplete()
	for {
		archive, err := s.js.Stream(ctx, "LLM_ARCHIVE")
		if err != nil {
			return err
		}
		if archived := archive.CachedInfo().State.Msgs; archived >= uint64(requests) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	waiting, err := s.js.Stream(ctx, "LLM_REQUESTS")
	if err != nil {
		return err
	}
	return waiting.Purge(ctx)
}

// pastResponse is a response as the pipeline stores it.
func pastResponse(id string) []byte {
	return fmt.Appendf(nil, `{"id":"chatcmpl-fake","object":"chat.completion","created":1700000000,"model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"A fox jumps over a dog near a river.","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":230,"completion_tokens":10,"total_tokens":240},"processor":{"id":%q,"tenant":"bench","model_requested":"gpt-4o","attempts":1,"selected":{"model":"gpt-4o","provider":"simulated","because":"requested"},"cache":"miss","tokens":{"prompt_original":230,"prompt_sent":230,"saved":0},"cost_usd":0.0006,"quality":{"score":0.9},"stages":{"compress":{"queued_ms":0.2,"ran_ms":0.3},"cache":{"queued_ms":0.2,"ran_ms":0.1},"batch":{"queued_ms":0.1,"ran_ms":0.1},"generate":{"queued_ms":0.5,"ran_ms":2.1},"score":{"queued_ms":0.2,"ran_ms":0.2}}}}`, id)
}
