package budget

import (
	"fmt"
	"time"

	"github.com/adpa/processor/schemas"
)

// Denial says which limit refused a request, in the units of the limit.
type Denial struct {
	Tenant, Model string
	Window        Scope // the limit's window; request for a limit of one request
	Unit          Unit
	Limit         int64 // of Dollars in nano-dollars, as are Used, Kept and Estimate
	Used          int64 // settled in the window
	Kept          int64 // of what is left, what other models' shares keep
	Estimate      int64
	ResetsAt      time.Time // the end of the window; zero if it has none
	// Action is what the budget wants done. It is never Defer where waiting
	// cannot help.
	Action Action
}

// PerRequest reports that the request is too large by itself.
func (d *Denial) PerRequest() bool { return d.Window == perRequest }

// after reports that d resets later than other; what never resets is last.
func (d *Denial) after(other *Denial) bool {
	if d.ResetsAt.IsZero() || other.ResetsAt.IsZero() {
		return d.ResetsAt.IsZero() && !other.ResetsAt.IsZero()
	}
	return d.ResetsAt.After(other.ResetsAt)
}

// Err gives the error for the application: insufficient_quota with limit, used,
// resets_at and window in its details, or, for a request that is too large by
// itself, a token_optimization_error with per_request_limit and both numbers.
// now is for how long until the reset.
func (d *Denial) Err(now time.Time) error {
	if d.PerRequest() {
		return schemas.Typed(&schemas.Error{
			Type: schemas.TokenOptimizationType, Code: schemas.CodePerRequestLimit,
			Message: fmt.Sprintf("the request may use %s, and tenant %s allows %s a request; shorten the prompt or lower max_completion_tokens",
				d.quantity(d.Estimate), d.Tenant, d.quantity(d.Limit)),
			Details: map[string]any{"limit": d.Unit.show(d.Limit), "estimate": d.Unit.show(d.Estimate), "unit": string(d.Unit)},
		})
	}
	e := &schemas.Error{
		Type: schemas.InsufficientQuotaError, Code: schemas.CodeInsufficientQuota,
		Message: d.message(),
		Details: map[string]any{
			"limit": d.Unit.show(d.Limit), "used": d.Unit.show(d.Used), "estimate": d.Unit.show(d.Estimate),
			"unit": string(d.Unit), "window": string(d.Window), "resets_at": nil,
		},
	}
	if d.Kept > 0 {
		e.Details["kept_for_other_models"] = d.Unit.show(d.Kept)
	}
	if !d.ResetsAt.IsZero() {
		e.Details["resets_at"] = d.ResetsAt.Format(time.RFC3339)
		e.RetryAfter = max(0, d.ResetsAt.Sub(now))
	}
	return schemas.Typed(e)
}

func (d *Denial) message() string {
	kept, reset := "", "it does not reset"
	if d.Kept > 0 {
		kept = fmt.Sprintf(" and %s are kept for other models", d.quantity(d.Kept))
	}
	if !d.ResetsAt.IsZero() {
		reset = "it resets at " + d.ResetsAt.Format(time.RFC3339)
	}
	return fmt.Sprintf("the request may use %s, and of tenant %s's %s limit of %s, %s are used%s; %s",
		d.quantity(d.Estimate), d.Tenant, d.Window, d.quantity(d.Limit), d.quantity(d.Used), kept, reset)
}

func (d *Denial) quantity(n int64) Quantity { return Quantity{d.Unit, n} }
