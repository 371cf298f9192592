package limit

import (
	"math/rand/v2"
	"time"
)

// State is that of a circuit breaker.
type State int

// What a breaker may be.
const (
	Closed   State = iota // calls go through
	HalfOpen              // one call tries whether the provider is back
	Open                  // no calls
)

func (s State) String() string { return [...]string{"closed", "half_open", "open"}[s] }

const (
	// A breaker opens when so many calls failed in a row, or at least half of
	// those within its window, if they were enough to tell: an upstream that
	// fails one call in five must not open it. Failures may be quick and answers
	// slow, so the calls that still run count as good ones: there must be as many
	// failures in a row, and as many more in the window.
	failuresInARow = 8
	enoughCalls    = 40
	breakerWindow  = 10 * time.Second
	// It stays open for openFirst, twice as long after each try that failed.
	openFirst = 2 * time.Second
	openMost  = time.Minute
)

// breaker keeps calls from a model that fails (Nygard, "Release It!").
type breaker struct {
	state    State
	until    time.Time // of Open
	opened   int       // times in a row
	row      int       // failures in a row
	cells    [10]cell  // of the window, a tenth of it each
	lastCell int64
}

type cell struct{ calls, failures int }

// may tells whether a call may begin, and whether it is the one that tries.
func (b *breaker) may(now time.Time) (ok, try bool) {
	switch {
	case b.state == Closed:
		return true, false
	case b.state == Open && !now.Before(b.until):
		return true, true
	}
	return false, false
}

// begun notes that a call begins which may allowed as a try.
func (b *breaker) begun(try bool) {
	if try {
		b.state = HalfOpen
	}
}

// went notes a call that the provider took care of, well or not.
func (b *breaker) went(try bool, now time.Time) (closed bool) {
	b.row = 0
	b.cell(now).calls++
	if b.state == Closed || !try {
		return false
	}
	*b = breaker{}
	return true
}

// failed notes a call that failed for the provider's sake, while others run.
func (b *breaker) failed(try bool, running int, now time.Time) {
	b.row++
	c := b.cell(now)
	c.calls++
	c.failures++
	calls, failures := running, 0
	for _, c := range b.cells {
		calls, failures = calls+c.calls, failures+c.failures
	}
	if try || b.state == Closed && (b.row >= max(failuresInARow, running) || calls >= enoughCalls && 2*failures >= calls) {
		b.open(now)
	}
}

// undecided notes that the call that tries ended without telling anything.
func (b *breaker) undecided(try bool, now time.Time) {
	if try && b.state == HalfOpen {
		b.state, b.until = Open, now
	}
}

func (b *breaker) open(now time.Time) {
	wait := min(openMost, openFirst<<min(b.opened, 10))
	wait = wait*3/4 + time.Duration(rand.Int64N(int64(wait)/2)) // replicas do not try together
	b.state, b.until = Open, now.Add(wait)
	b.opened++
	b.cells = [10]cell{}
}

func (b *breaker) cell(now time.Time) *cell {
	at := now.UnixNano() / int64(breakerWindow/10)
	if passed := at - b.lastCell; passed > 0 {
		for i := range min(passed, 10) {
			b.cells[(at-i)%10] = cell{}
		}
		b.lastCell = at
	}
	return &b.cells[at%10]
}
