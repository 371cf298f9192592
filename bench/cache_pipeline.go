package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// warmPrompts is how many prompts the cached workload asks over and over.
const warmPrompts = 200

// runCached measures the whole pipeline on requests that are all in the cache
// against requests that are all new, at an upstream without latency, in turns.
func runCached(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("cached", flag.ContinueOnError)
	b := pipelineBench{out: out}
	flags.IntVar(&b.requests, "requests", 20_000, "requests a turn")
	turns := flags.Int("turns", 3, "turns of the comparison; its figures are medians")
	if err := flags.Parse(args); err != nil {
		return err
	}
	remove, err := b.build(ctx, "cached")
	if err != nil {
		return err
	}
	defer remove()
	fmt.Fprintf(out, "| pipeline | all new, requests/s | all cached, requests/s | ratio, median | each turn |\n| --- | --- | --- | --- | --- |\n")
	for _, sc := range []scenario{
		{"five groups, HTTP upstream", true, fiveGroups, true, ""},
		{"one group, HTTP upstream", true, oneGroup, true, ""},
	} {
		var fresh, cached, ratios []float64
		for range *turns {
			before, err := b.fresh(ctx, sc)
			if err != nil {
				return fmt.Errorf("%s, all new: %w", sc.name, err)
			}
			rate, err := b.cached(ctx, sc)
			if err != nil {
				return fmt.Errorf("%s, all cached: %w", sc.name, err)
			}
			fresh, cached, ratios = append(fresh, before), append(cached, rate), append(ratios, rate/before)
		}
		fmt.Fprintf(out, "| %s | %.0f | %.0f | %.2f | %.2f |\n", sc.name, median(fresh), median(cached), median(ratios), ratios)
	}
	return nil
}

// fresh gives requests a second where each is new, and cached where each is in
// the cache. Both begin with a few requests, so that connections are open.
func (b *pipelineBench) fresh(ctx context.Context, sc scenario) (float64, error) {
	return b.rate(ctx, sc, func(i int) int { return warmPrompts + i }, warmPrompts+b.requests)
}

func (b *pipelineBench) cached(ctx context.Context, sc scenario) (float64, error) {
	return b.rate(ctx, sc, func(i int) int { return i % warmPrompts }, warmPrompts)
}

// rate gives requests a second, from the first publish to the last stored
// response, behind a first round of all the warm prompts; the upstream must have
// got as many calls as said.
func (b *pipelineBench) rate(ctx context.Context, sc scenario, which func(i int) int, wantCalls int) (float64, error) {
	s, err := b.start(ctx, sc, 0, nil)
	if err != nil {
		return 0, err
	}
	defer s.close()
	if err := s.publishSome(warmPrompts, func(i int) int { return i }); err != nil {
		return 0, err
	}
	if err := s.awaitResponses(ctx, warmPrompts); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := s.publishSome(b.requests, which); err != nil {
		return 0, err
	}
	if err := s.awaitResponses(ctx, warmPrompts+b.requests); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, s.log.String())
	}
	rate := float64(b.requests) / time.Since(begin).Seconds()
	calls, _, _, _, err := s.upstream.UpstreamStats()
	if err != nil {
		return 0, fmt.Errorf("asking the upstream for its figures: %w", err)
	}
	if calls != wantCalls {
		return 0, fmt.Errorf("the upstream got %d calls, not %d", calls, wantCalls)
	}
	return rate, nil
}

func (s *setting) publishSome(requests int, which func(i int) int) error {
	for i := range requests {
		m := nats.NewMsg("llm.requests.bench")
		m.Data = prompt(which(i))
		if _, err := s.js.PublishMsgAsync(m, jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
	}
	<-s.js.PublishAsyncComplete()
	return nil
}
