package limit

import "time"

const (
	// RetryShare is the share of calls that may be retries; Finagle's default
	// (RetryBudget) is the same.
	RetryShare = 0.2
	// retriesASecond may be made however few calls there are.
	retriesASecond = 1.0
	// retriesAhead bounds what is saved up.
	retriesAhead = 50
)

// retries is the retry budget of a model: each call adds a share of one.
type retries struct {
	saved float64
	at    time.Time
}

func newRetries(now time.Time) retries { return retries{saved: 10, at: now} }

func (r *retries) fill(now time.Time) {
	r.saved = min(retriesAhead, r.saved+now.Sub(r.at).Seconds()*retriesASecond)
	r.at = now
}

func (r *retries) called() { r.saved = min(retriesAhead, r.saved+RetryShare) }

// may tells whether there is enough for a retry; if not, when there will be.
func (r *retries) may(now time.Time) (ok bool, at time.Time) {
	r.fill(now)
	if r.saved >= 1 {
		return true, now
	}
	return false, now.Add(time.Duration((1-r.saved)/retriesASecond*float64(time.Second)) + time.Millisecond)
}

func (r *retries) take() { r.saved-- }
