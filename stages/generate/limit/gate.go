package limit

import (
	"math"
	"math/rand/v2"
	"time"
)

const (
	// firstCut is what a first refusal leaves of the limit, laterCut what one
	// leaves that follows before the cut has proved itself: then the provider's
	// limit is much lower. 0.7 is that of CUBIC (RFC 9438, 4.6).
	firstCut, laterCut = 0.95, 0.7
	// proved is how many calls must have gone well after a cut.
	proved = 16
	// earn is how many calls must go well at a level that was refused before one
	// more is tried: no more than about one call in so many is refused. Where the
	// step was permitted, half as many are enough for the next, but no fewer than
	// fewest, and than a round trip of them.
	earn, fewest = 64, 4
	// Few calls take long to be so many: a round trip of them is enough once
	// nothing was refused for firstRest, twice as long after each step that was
	// refused, up to maxProbe.
	firstRest = 10 * time.Second
	// pauseShare bounds what waiting as a provider asks may cost: the next level
	// is tried no sooner than this many times the wait.
	pauseShare = 20
	maxProbe   = 5 * time.Minute
	// tolerance is how much longer calls may take than usual before there are
	// fewer of them at once; Netflix' concurrency-limits (Gradient2) has 1.5, and
	// answers of models vary more.
	tolerance = 2.0
	// maxInVain is how many cuts that make calls no faster show that it is not
	// their number.
	maxInVain = 2
	// maxPause bounds the wait that grows with each refusal where the provider names none.
	maxPause   = 30 * time.Second
	firstPause = 250 * time.Millisecond
)

// gate bounds the calls of one model that are in flight. The bound adapts: it
// falls when the provider refuses, stalls or slows down, at most once a round
// trip, and rises again by half of the way to the level that was refused in each
// round trip (BIC: Xu, Harfoush, Rhee, INFOCOM 2004), from there in small steps
// that must be earned. Once calls go well again where even one at a time was
// refused, it rises to half of what had proved itself before.
type gate struct {
	most, limit float64
	running     int

	refusedAt float64 // the level that was refused last; 0 is none
	known     float64 // the level that had proved itself before it was refused
	step      float64 // by which the limit rises past refusedAt
	steps     int     // by which it rose since the last cut
	good      int     // calls that went well since the limit last changed there
	sinceCut  int     // and since the last cut
	rest      time.Duration
	cutAt     time.Time
	probeAt   time.Time // not before that a level is tried that was refused
	until     time.Time // nothing is called before
	streak    int       // refusals since a call went well

	pace     pace
	unslowed float64 // the limit before it fell for slow calls
}

func newGate(most int) gate {
	m := float64(most)
	return gate{most: m, limit: m, known: m, step: 1, rest: firstRest}
}

func (g *gate) room() bool { return float64(g.running) < math.Floor(g.limit) }

// bound is how many calls may be in flight now.
func (g *gate) bound() int { return int(g.limit) }

// went notes a call that brought an answer. running still counts it.
func (g *gate) went(took time.Duration, tokens int, now time.Time) {
	refusals := g.streak
	g.streak = 0
	g.good++
	g.sinceCut++
	if now.Add(-took).After(g.cutAt) { // what began before the last cut tells nothing of it
		if g.pace.slower(took, tokens, g.bound()) {
			g.slowed(now)
			return
		}
		if refusals > 1 && g.limit < 2 { // even one call at a time was refused, and now it is not
			g.refusedAt = max(g.refusedAt, g.known/2)
		}
	}
	if g.pace.atCut > 0 || g.limit >= g.most || float64(g.running) < 0.8*math.Floor(g.limit) {
		return // what is not used up tells nothing
	}
	switch {
	case g.limit < g.refusedAt-1:
		g.limit += min(1, max(1, (g.refusedAt-g.limit)/2)/g.limit) // no more than doubled
		g.limit = min(g.limit, g.refusedAt-0.5)
		g.good = 0
	case g.earned(now):
		g.refusedAt = g.limit
		g.limit += g.step
		g.step = min(2*g.step, max(1, g.limit/8))
		g.steps++
		g.good = 0
	}
	g.limit = min(g.limit, g.most)
}

// earned tells whether a level may be tried that was refused.
func (g *gate) earned(now time.Time) bool {
	if now.Before(g.probeAt) {
		return false
	}
	least := min(earn, max(fewest, g.bound()))
	return g.good >= max(least, earn>>g.steps) || g.good >= least && now.Sub(g.cutAt) >= g.rest
}

// refused notes a call that began at begun and was refused for the provider's
// limits, or was not answered in time. running does not count it any more.
func (g *gate) refused(begun time.Time, wait time.Duration, now time.Time) {
	level := float64(max(1, g.running)) // without those that were refused
	if !begun.After(g.cutAt) {          // the same congestion
		if level < g.limit {
			g.limit, g.refusedAt = level, level+1
		}
		g.pause(wait, now)
		return
	}
	g.streak++
	if g.sinceCut >= proved {
		g.known = g.limit
	}
	factor := firstCut
	if g.refusedAt > 0 && g.sinceCut < proved {
		factor = laterCut
	}
	g.cut(min(g.limit*factor, g.limit-1, level), now)
	g.refusedAt = max(min(g.refusedAt, level+1), g.limit+1)
	if wait <= 0 && g.limit < 2 && g.streak > 1 {
		// Full jitter: Brooker, "Exponential Backoff And Jitter", AWS 2015.
		wait = time.Duration(rand.Int64N(int64(min(maxPause, firstPause<<min(g.streak, 10)))))
	}
	g.pause(wait, now)
}

// pause has nothing begin for a while.
func (g *gate) pause(wait time.Duration, now time.Time) {
	if wait <= 0 {
		return
	}
	if until := now.Add(wait); until.After(g.until) {
		g.until = until
	}
	g.probeAt = now.Add(min(maxProbe, pauseShare*wait))
}

func (g *gate) cut(limit float64, now time.Time) {
	switch g.steps {
	case 0: // the same descent
	case 1:
		g.rest = min(maxProbe, 2*g.rest)
	default: // all but the last were permitted
		g.rest = max(firstRest, g.rest/2)
	}
	g.refusedAt = g.limit
	g.limit = max(1, min(limit, g.most))
	g.cutAt, g.good, g.sinceCut, g.step, g.steps = now, 0, 0, 1, 0
}

// slowed lowers the limit since calls have become slow. Where that did not make
// them faster, it is not their number, and what they take now is usual.
func (g *gate) slowed(now time.Time) {
	p := &g.pace
	if p.atCut > 0 && p.mean > 0.9*p.atCut {
		p.inVain++
	}
	if p.inVain >= maxInVain {
		p.usual, p.usualTok, p.atCut, p.inVain = p.mean, p.token, 0, 0
		g.refusedAt = g.unslowed
		return
	}
	if p.atCut == 0 {
		g.unslowed = g.limit
	}
	g.cut(g.limit*laterCut, now)
	g.refusedAt = g.limit
	p.atCut = p.mean
}

// restart lets calls begin few by few after an outage.
func (g *gate) restart(now time.Time) {
	before := max(g.limit, g.refusedAt)
	g.cut(1, now)
	g.refusedAt = before
}

// pace compares how long calls take with how long they took before.
type pace struct {
	calls           int
	took, perToken  float64 // sums of the window
	mean, token     float64 // of the last window
	usual, usualTok float64 // of windows before
	atCut           float64 // mean when the limit last fell for it; 0 once calls are not slow
	inVain          int     // cuts that made calls no faster
}

// usualShare is the weight of a new window in what is usual.
const usualShare = 0.05

// slower takes one call into the window and tells, once a window, whether calls
// have become slower than tolerance allows. Longer answers take longer, and many
// short ones more for each token: only where both have grown it is the provider.
func (p *pace) slower(took time.Duration, tokens, bound int) bool {
	seconds := took.Seconds()
	p.calls++
	p.took += seconds
	p.perToken += seconds / float64(tokens+20)
	if p.calls < max(10, bound) {
		return false
	}
	n := float64(p.calls)
	p.mean, p.token = p.took/n, p.perToken/n
	p.calls, p.took, p.perToken = 0, 0, 0
	if p.usual == 0 {
		p.usual, p.usualTok = p.mean, p.token
		return false
	}
	// Below some milliseconds it is this machine that is measured.
	slower := min(p.mean/p.usual, p.token/p.usualTok) > tolerance && p.mean > 0.05
	if !slower {
		p.atCut, p.inVain = 0, 0
	}
	p.usual = min(p.mean, p.usual*(1-usualShare)+p.mean*usualShare)
	p.usualTok = min(p.token, p.usualTok*(1-usualShare)+p.token*usualShare)
	return slower
}
