package streams

import (
	"context"
	"strconv"
	"time"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// doorStep is the runner's own step before compress.
const doorStep = "door"

// door lets requests in, at their tenant's rate, those beyond its share marked
// or, while many wait, put aside.
type door struct{ *Runner }

// Run implements stages.Stage.
func (d door) Run(ctx context.Context, requests []*stages.Request, decide stages.Decide) {
	now := time.Now()
	crowded := d.crowded(ctx, now)
	floods := aside{room: d.cfg.MaxPayload / 2, singly: d.cfg.Tenants.limited}
	verdicts := d.admitted(ctx, requests)
	begin := d.cfg.Tenants.limit(ctx, requests, verdicts)
	for i, verdict := range verdicts {
		request := requests[i]
		d.crowding.seen(request.Tenant, now)
		if verdict.Action == stages.ActionContinue {
			request.Beyond = d.shares.beyond(request.Tenant, request.Class, now)
			if begin != nil && d.inTime(request, begin[i], decide) {
				continue
			}
			if crowded && request.Beyond && d.shares.floods(request.Tenant, request.Class) {
				floods.add(request, decide)
				continue
			}
		}
		decide(request, verdict)
	}
	floods.send(decide)
}

// admitted decides the requests that were answered before. An id is used once
// while its response is kept: a request under an id that has its answer gets
// that one again. Sequences are no ids of applications; they come twice only by
// redelivery.
func (r *Runner) admitted(ctx context.Context, requests []*stages.Request) []stages.Verdict {
	verdicts := make([]stages.Verdict, len(requests))
	if r.cfg.Local != nil && !r.cfg.Local.stored {
		return verdicts
	}
	var subjects []string
	for _, request := range requests {
		if request.Deliveries > 1 || request.ID != schemas.SequenceID(request.Sequence) {
			subjects = append(subjects, r.names.Response(request.Tenant, request.ID))
		}
	}
	if len(subjects) == 0 {
		return verdicts
	}
	stored, err := r.get.Last(ctx, r.names.Responses(), subjects)
	if err != nil {
		return verdicts // generate looks again before anything is paid
	}
	for i, request := range requests {
		if m, ok := stored[r.names.Response(request.Tenant, request.ID)]; ok {
			verdicts[i] = answerAgain(request, m)
		}
	}
	return verdicts
}

// answerAgain gives the stored response to another request under the same id,
// marked if it is that of another body. The stream refuses it, but who waits on
// the subject gets it. A redelivery of the request that was answered is done.
func answerAgain(request *stages.Request, stored jsx.Stored) stages.Verdict {
	if stored.Header.Get(HeaderSequence) == strconv.FormatUint(request.Sequence, 10) {
		return stages.Done()
	}
	if hash := stored.Header.Get(HeaderBody); hash != "" && hash != request.BodyHash {
		return stages.Reply(schemas.WithConflict(stored.Data))
	}
	return stages.Reply(stored.Data)
}
