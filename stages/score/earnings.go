package score

import (
	"fmt"
	"math"
	"sync"
)

// When attempts at a better answer are worth their cost. The figures are set:
// with gains that spread by 0.3, thirty of them tell 0 from 0.1.
const (
	earnAfter   = 30     // second answers of a route before it is judged
	earnMemory  = 200    // of them that count; older ones fade
	earnExplore = 0.05   // of the requests that are tried all the same while attempts are off
	earnRoutes  = 10_000 // that are kept; the others are always tried
	earnZ       = 1.96
)

// Earnings measures what attempts at better answers bring, route by route, and
// switches them off where that is too little. What is measured is the scorer's
// own figure: how much better the next answer scored than the best before it (a
// worse one counts as nothing, since the better of the two goes out), and what
// it cost. A few requests are tried all the same, so that a route comes back
// when attempts help again. It is safe for concurrent use.
type Earnings struct {
	// MinGain is what an attempt must add to the score on average.
	MinGain float64
	// MinPerUSD is what it must add for each dollar that it costs; 0 asks for nothing.
	MinPerUSD float64

	mu     sync.Mutex
	routes map[string]*earned
}

// earned is what a route's attempts brought: faded sums.
type earned struct {
	n, gain, squares, cost, better float64
	off                            bool
}

// Switch says that attempts were switched off or on for a route, and why.
type Switch struct {
	Route   string
	On      bool
	Because string
}

// NewEarnings makes Earnings.
func NewEarnings(minGain, minPerUSD float64) *Earnings {
	return &Earnings{MinGain: minGain, MinPerUSD: minPerUSD, routes: map[string]*earned{}}
}

// Allowed reports whether a request of a route may be tried again; if not,
// because says why. The name is the request's own: a share of all names is
// tried although attempts are off.
func (e *Earnings) Allowed(route, name string) (on bool, because string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.routes[route]
	if r == nil || !r.off || share(name) < earnExplore {
		return true, ""
	}
	return false, r.because()
}

// Observe takes in what another answer to a request of a route brought: the
// difference to the best score before it, and its cost in US dollars. switched
// says that attempts are off or on from now.
func (e *Earnings) Observe(route string, gain, costUSD float64) (change Switch, switched bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.routes[route]
	if r == nil {
		if len(e.routes) >= earnRoutes {
			return Switch{}, false
		}
		r = &earned{}
		e.routes[route] = r
	}
	r.add(gain, costUSD)
	off := r.off
	switch low, high := r.bounds(); {
	case r.n < earnAfter:
	case !r.off:
		r.off = high < e.MinGain || e.MinPerUSD > 0 && high < e.MinPerUSD*r.cost/r.n
	default:
		mean := (low + high) / 2
		r.off = mean < e.MinGain || e.MinPerUSD > 0 && mean < e.MinPerUSD*r.cost/r.n
	}
	return Switch{Route: route, On: !r.off, Because: r.because()}, off != r.off
}

func (r *earned) add(gain, cost float64) {
	const fade = 1 - 1.0/earnMemory
	better := 0.0
	if gain > 0 {
		better = 1
	}
	gain = max(gain, 0)
	r.n, r.gain, r.squares = r.n*fade+1, r.gain*fade+gain, r.squares*fade+gain*gain
	r.cost, r.better = r.cost*fade+cost, r.better*fade+better
}

// bounds gives the 95% interval of the mean gain.
func (r *earned) bounds() (low, high float64) {
	mean := r.gain / r.n
	spread := math.Sqrt(max(r.squares/r.n-mean*mean, 0) / r.n)
	return mean - earnZ*spread, mean + earnZ*spread
}

func (r *earned) because() string {
	per := "at no known cost"
	if r.cost > 0 {
		per = fmt.Sprintf("%.3g for a dollar", r.gain/r.cost)
	}
	return fmt.Sprintf("of about %.0f further answers on this route %.0f%% scored higher, by %.3f on average over all, %s", r.n, 100*r.better/r.n, r.gain/r.n, per)
}
