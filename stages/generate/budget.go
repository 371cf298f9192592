package generate

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// Budget keeps tenants within what they may use up: nothing is called that was
// not reserved, and every call is charged once. It is safe for concurrent use.
type Budget interface {
	// Limited reports whether a tenant has a budget. It is asked for every
	// request and must be quick.
	Limited(tenant string) bool
	// Reserve asks for what the call may be billed at most. It does not wait for budget.
	Reserve(ctx context.Context, r *stages.Request, route Route, call string) (Grant, error)
	// Waits says from what this process knows, without asking anybody, whether
	// open reservations would still be in the way.
	Waits(r *stages.Request, route Route) bool
	// Changed gives a channel that is closed when it is worth asking again.
	Changed(tenant string) <-chan struct{}
	// Settle charges what a call was billed; Release says that it surely was
	// not billed; Forfeit charges the estimate, for a call whose outcome is
	// unknown. For a call that is not open they do nothing.
	Settle(ctx context.Context, r *stages.Request, record Record) error
	Release(ctx context.Context, r *stages.Request, call string) error
	Forfeit(ctx context.Context, r *stages.Request, route Route, call string, usage schemas.Usage) error
}

// Grant is the answer to a reservation.
type Grant struct {
	State GrantState
	// Body, if granted, is the body to send: with a bound on the answer where
	// the request has none. Parameters names what was set in it.
	Body       []byte
	Parameters []byte
	Denied     error     // the error for the application
	Defer      time.Time // of Later: when to try again
	Instead    Route     // of Cheaper: the model to take instead
}

// GrantState is what became of a reservation.
type GrantState int

// What may become of a reservation.
const (
	Granted  GrantState = iota
	InTheWay            // open reservations are in the way: wait until Changed
	Refused             // no, with Denied
	Later               // the budget allows it at Defer
	Cheaper             // not this model: take Instead
)

const (
	// maxParked bounds the requests that wait in memory for budget; what comes
	// on top goes back to the stream for a moment.
	maxParked = 1024
	// maxPark bounds such a wait.
	maxPark = 20 * time.Second
	// unpark is how long what found no place waits in the stream.
	unpark = 2 * time.Second
)

func (s *Stage) limited(r *stages.Request) bool {
	return s.deps.Budget != nil && s.deps.Budget.Limited(r.Tenant)
}

// reserve asks the budget until it says yes or no. A request that waits has no
// worker. Granted false comes with what becomes of the request.
func (s *Stage) reserve(ctx context.Context, f *flight, r *stages.Request, route *Route, call *schemas.Call) (verdict stages.Verdict, granted bool) {
	if s.parked.Add(1) > maxParked {
		s.parked.Add(-1)
		return stages.Wait(unpark), false
	}
	defer s.parked.Add(-1)
	timeout := time.NewTimer(maxPark)
	defer timeout.Stop()
	for downgrades := 0; ; {
		changed := s.deps.Budget.Changed(r.Tenant)
		grant, err := s.deps.Budget.Reserve(ctx, r, *route, call.ID)
		if err != nil {
			slog.Warn("reserving budget failed, trying again", "error", err)
			return stages.Wait(unpark), false
		}
		switch grant.State {
		case Granted:
			if grant.Body != nil {
				call.Body, r.Parameters = grant.Body, grant.Parameters
			}
			return stages.Verdict{}, true
		case Refused:
			return stages.Fail(grant.Denied), false
		case Later:
			if r.Deadline != 0 && grant.Defer.After(r.Deadline.Time()) {
				return stages.Fail(grant.Denied), false
			}
			return stages.Wait(time.Until(grant.Defer)), false
		case Cheaper:
			if downgrades++; downgrades > 8 {
				return stages.Fail(grant.Denied), false
			}
			*route = grant.Instead
			continue
		}
		for waits := true; waits; waits = s.deps.Budget.Waits(r, *route) {
			select {
			case <-changed:
				changed = s.deps.Budget.Changed(r.Tenant)
			case <-timeout.C:
				return stages.Wait(unpark), false
			case <-ctx.Done():
				return s.failed(ctx, f, r, *route, ctx.Err()), false
			}
		}
	}
}

// settle charges what a recorded answer was billed, until that is certain: the
// reservation would else be charged at its estimate.
func (s *Stage) settle(ctx context.Context, r *stages.Request, record Record) {
	if !s.limited(r) {
		return
	}
	if err := s.deps.Budget.Settle(ctx, r, record); err != nil {
		slog.Warn("settling a reservation failed; it will be charged at its estimate", "error", err)
	}
}

// settleFailed charges a call that brought no answer: nothing if it was surely
// not billed, what the provider said if it said so, else the estimate.
func (s *Stage) settleFailed(ctx context.Context, r *stages.Request, call schemas.Call, route Route, err error) {
	if !s.limited(r) {
		return
	}
	var failure *schemas.CallError
	if errors.As(err, &failure) && failure.Unbilled {
		err = s.deps.Budget.Release(ctx, r, call.ID)
	} else {
		// What the provider says of a call that is made again is in no response,
		// so that call is charged at its estimate, as any whose outcome is unknown.
		var usage schemas.Usage
		if failure != nil && !failure.Retryable {
			usage = failure.Usage
		}
		err = s.deps.Budget.Forfeit(ctx, r, route, call.ID, usage)
	}
	if err != nil {
		slog.Warn("settling a failed call failed; it will be charged at its estimate", "error", err)
	}
}
