package batch

import "time"

const (
	// minWindow and maxWindow bound how long a group waits for more requests.
	minWindow = 2 * time.Millisecond
	maxWindow = 50 * time.Millisecond
	// smoothing is the weight of what was seen last.
	smoothing = 0.2
	// unpaid is the share of waits that brought something, below which a group
	// waits no longer than minWindow; every probe-th wait looks whether that has changed.
	unpaid = 0.25
	probe  = 16
)

// window learns how long a group should wait for more requests: as long as it
// takes to fill at the rate of the arrivals, where waiting has paid. Who asks,
// awaits the answer and asks again never finds company, whatever the rate.
type window struct {
	last  time.Time     // of the last arrival
	gap   time.Duration // between arrivals, which may bring many requests at once
	size  float64       // requests that an arrival brings
	paid  float64       // share of the waits that brought something
	waits int
}

// arrive notes that n requests have arrived.
func (w *window) arrive(now time.Time, n int) {
	if w.last.IsZero() {
		w.gap, w.size, w.paid = maxWindow, float64(n), 1
	} else {
		gap := min(now.Sub(w.last), time.Second) // a night's rest says nothing of the morning's rate
		w.gap += time.Duration(smoothing * float64(gap-w.gap))
		w.size += smoothing * (float64(n) - w.size)
	}
	w.last = now
}

// open gives how long to wait for so many more requests.
func (w *window) open(missing int) time.Duration {
	w.waits++
	if w.gap >= maxWindow || w.paid < unpaid && w.waits%probe != 0 {
		return minWindow
	}
	fill := time.Duration(float64(w.gap) * float64(missing) / max(w.size, 1))
	return min(max(fill, minWindow), maxWindow)
}

// quiet gives how long nothing may arrive before no more is expected.
func (w *window) quiet() time.Duration { return min(max(4*w.gap, minWindow), maxWindow) }

// closed notes whether a wait has brought something.
func (w *window) closed(brought bool) {
	w.paid -= smoothing * w.paid
	if brought {
		w.paid += smoothing
	}
}
