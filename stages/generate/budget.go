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
	// maxDowngrades bounds the models that a budget may name one after the other.
	maxDowngrades = 8
	// unpark is how long what found no place waits in the stream.
	unpark = 2 * time.Second
)

func (s *Stage) limited(r *stages.Request) bool {
	return s.deps.Budget != nil && s.deps.Budget.Limited(r.Tenant)
}

// reserve asks the tenant's budget for the call that is about to be made. Where
// that is not granted, over comes with what becomes of the request; else it is
// to take a place again, perhaps with another model.
func (a *attempt) reserve(ctx context.Context) (verdict stages.Verdict, granted, over bool) {
	if !a.limited(a.r) {
		return stages.Verdict{}, true, false
	}
	changed := a.deps.Budget.Changed(a.r.Tenant)
	grant, err := a.deps.Budget.Reserve(ctx, a.r, a.route, a.call.ID)
	if err != nil {
		slog.Warn("reserving budget failed, trying again", "error", err)
		return stages.Wait(unpark), false, true
	}
	switch grant.State {
	case Granted:
		if grant.Body != nil {
			a.call.Body, a.r.Parameters = grant.Body, grant.Parameters
		}
		return stages.Verdict{}, true, false
	case Refused:
		return a.end(stages.Fail(grant.Denied)), false, true
	case Later:
		if a.r.Deadline != 0 && grant.Defer.After(a.r.Deadline.Time()) {
			return a.end(stages.Fail(grant.Denied)), false, true
		}
		return stages.Wait(time.Until(grant.Defer)), false, true
	case Cheaper:
		if a.downgrades++; a.downgrades > maxDowngrades {
			return a.end(stages.Fail(grant.Denied)), false, true
		}
		a.left = append([]Route{grant.Instead}, a.left...)
		return stages.Verdict{}, false, false
	}
	a.leave()
	verdict, over = a.awaitBudget(ctx, changed)
	a.left = append([]Route{a.route}, a.left...)
	return verdict, false, over
}

// awaitBudget waits until it may pay to ask the budget again, without a place or
// a worker.
func (a *attempt) awaitBudget(ctx context.Context, changed <-chan struct{}) (verdict stages.Verdict, over bool) {
	if a.parked.Add(1) > maxParked {
		a.parked.Add(-1)
		return stages.Wait(unpark), true
	}
	defer a.parked.Add(-1)
	a.dismiss()
	timeout := time.NewTimer(time.Until(a.patience))
	defer timeout.Stop()
	for waits := true; waits; waits = a.deps.Budget.Waits(a.r, a.route) {
		select {
		case <-changed:
			changed = a.deps.Budget.Changed(a.r.Tenant)
		case <-timeout.C:
			return stages.Wait(unpark), true
		case <-ctx.Done():
			return a.ended(ctx, ctx.Err()), true
		}
	}
	return stages.Verdict{}, false
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
		var usage schemas.Usage // if the provider did not say: the estimate
		if failure != nil {
			usage = failure.Usage
		}
		err = s.deps.Budget.Forfeit(ctx, r, route, call.ID, usage)
	}
	if err != nil {
		slog.Warn("settling a failed call failed; it will be charged at its estimate", "error", err)
	}
}
