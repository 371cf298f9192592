package combine

import (
	"math"
	"sync"
	"time"
)

const (
	// shortCall is how many times as long as the wait for company a call takes at
	// most that the wait is worth. 64 requests at a time in calls of 20 ms are
	// 3,200 a second: there a process is busy, and shared calls are less work. With
	// calls of 50 ms each millisecond of waiting is two in a hundred of the rate.
	shortCall = 10
	// paceWindow is how many calls the quickest is looked for in.
	paceWindow = 32
)

// pace knows how long the provider takes for a call at least: what calls take in
// the mean tells more of this machine's load, which shared calls lower. It is
// safe for concurrent use.
type pace struct {
	mu            sync.Mutex
	calls         int // of the window
	quick, before time.Duration
}

func newPace() pace { return pace{quick: math.MaxInt64, before: math.MaxInt64} }

func (p *pace) learn(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls == paceWindow {
		p.before, p.quick, p.calls = p.quick, math.MaxInt64, 0
	}
	p.calls++
	p.quick = min(p.quick, took)
}

// short tells whether waiting for company pays. Nobody waits for a provider of
// which nothing is known.
func (p *pace) short(linger time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(p.quick, p.before) < shortCall*linger
}
