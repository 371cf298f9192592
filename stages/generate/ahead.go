package generate

import (
	"context"
	"time"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate/prefix"
)

// prompt is what a request's prompt begins with, where that may be shared.
func (s *Stage) prompt(r *stages.Request) prefix.Prompt {
	if s.deps.Prefixes == nil || r.Kind != schemas.Chat {
		return prefix.Prompt{}
	}
	return s.deps.Prefixes.Read(r.Tenant, r.Model, r.Stream && s.deps.Deltas != nil, r.Body)
}

// followPrefix waits without a worker until the provider has the beginning of a
// request's prompt, or until it may wait no longer. Without room to wait it goes at once.
func (s *Stage) followPrefix(ctx context.Context, r *stages.Request, prompt prefix.Prompt) *prefix.Turn {
	if !s.parking.Enter(r) {
		return s.deps.Prefixes.Go(time.Now(), prompt)
	}
	defer s.parking.Leave(r)
	return s.deps.Prefixes.Wait(ctx, prompt, r.Deadline.Time())
}
