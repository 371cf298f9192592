package main

import (
	"context"

	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
)

// streamed gives a last stage that streams the answers that no call has
// streamed: those from the cache or from the call of an equal request, and those
// that take the place of what was streamed, as an earlier answer that is better.
// begin starts an answer's chunks.
func streamed(last stages.Stage, begin func(r *stages.Request) (send func(chunk []byte))) stages.Stage {
	return streamedStage{last, begin}
}

type streamedStage struct {
	stages.Stage
	begin func(r *stages.Request) (send func(chunk []byte))
}

// Run implements stages.Stage.
func (s streamedStage) Run(ctx context.Context, requests []*stages.Request, decide stages.Decide) {
	var shown map[*stages.Request][]byte // what readers have seen of those that stream
	for _, r := range requests {
		if !r.Stream || r.Kind != schemas.Chat {
			continue
		}
		if shown == nil {
			shown = make(map[*stages.Request][]byte)
		}
		shown[r] = nil
		if r.Cache == cache.Miss || r.Cache == cache.Off {
			shown[r] = r.Answer
		}
	}
	if shown == nil {
		s.Stage.Run(ctx, requests, decide)
		return
	}
	s.Stage.Run(ctx, requests, func(r *stages.Request, verdict stages.Verdict) {
		if before, streams := shown[r]; streams && verdict.Action == stages.ActionAnswer && !same(before, r.Answer) {
			s.show(r)
		}
		decide(r, verdict)
	})
}

// same reports whether two answers are one and the same, not only equal.
func same(a, b []byte) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// show streams a whole answer in one chunk, and its usage in another where the
// request asks for it, as a provider does.
func (s streamedStage) show(r *stages.Request) {
	send := s.begin(r)
	chunk := providers.WholeChunk(r.Answer)
	usage, ok := schemas.Member(chunk, "usage")
	if !ok {
		send(chunk)
		return
	}
	send(schemas.DeleteMember(chunk, "usage"))
	if providers.UsageAsked(r.Body) {
		send(schemas.SetMember(schemas.SetMember(chunk, "choices", []byte("[]")), "usage", usage.Of(chunk)))
	}
}
