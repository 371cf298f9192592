package limit

import (
	"sync"
	"time"
)

// maxModels bounds the models of a provider that are remembered.
const maxModels = 512

// upstream is a provider: its models share its connections and its rate.
type upstream struct {
	name    string
	most    int
	rate    Rate
	gathers bool

	mu      sync.Mutex
	running int
	models  map[string]*model
	order   []*model // the same, for serving them in turn
	turn    int
	timer   *time.Timer
	closed  bool
}

// model is what is known of one model of a provider.
type model struct {
	name    string
	gate    gate
	breaker breaker
	retries retries
	queue   queue
	calls   allowance // as the provider says
	tokens  allowance
	seen    time.Time

	answered        int // of which took and spread are the means, for late decisions
	took, deviation float64
	figures         Figures
}

// model gives a model's state. The caller holds the lock.
func (u *upstream) model(name string) *model {
	if m := u.models[name]; m != nil {
		return m
	}
	now := time.Now()
	if len(u.order) >= maxModels {
		u.forget()
	}
	m := &model{name: name, gate: newGate(u.most), retries: newRetries(now)}
	u.models[name] = m
	u.order = append(u.order, m)
	return m
}

// forget drops the model that was not asked for the longest and has no calls.
// Those that have some are bounded by the calls.
func (u *upstream) forget() {
	at := -1
	for i, m := range u.order {
		if m.gate.running == 0 && m.queue.size == 0 && (at < 0 || m.seen.Before(u.order[at].seen)) {
			at = i
		}
	}
	if at < 0 {
		return
	}
	delete(u.models, u.order[at].name)
	u.order[at] = u.order[len(u.order)-1]
	u.order = u.order[:len(u.order)-1]
}

// part tells whether an ask is for a request that shares a call.
func (u *upstream) part(ask *Ask) bool { return u.gathers && ask.Embeddings && !ask.Gathered }

// open tells whether a call may begin but for what is allowed in a minute. The
// caller holds the lock.
func (u *upstream) open(m *model, ask *Ask, now time.Time) (bool, Busy) {
	if now.Before(m.gate.until) {
		return false, Busy{Long: m.gate.until.Sub(now) >= long, Until: m.gate.until}
	}
	if !ask.Gathered {
		if ok, busy := m.letIn(ask, now); !ok {
			return false, busy
		}
	}
	if !u.part(ask) && (u.running >= u.most || !m.gate.room()) {
		return false, Busy{}
	}
	return true, Busy{}
}

// letIn tells whether a request may go on to a call, wherever that has a place.
func (m *model) letIn(ask *Ask, now time.Time) (bool, Busy) {
	if ok, _ := m.breaker.may(now); !ok {
		return false, Busy{Long: true, Until: m.breaker.until}
	}
	if ok, at := m.calls.may(1, now); !ok {
		return false, Busy{Long: at.Sub(now) >= long, Until: at}
	}
	if ok, at := m.tokens.may(float64(ask.Tokens), now); !ok {
		return false, Busy{Long: at.Sub(now) >= long, Until: at}
	}
	if ask.Retry {
		if ok, at := m.retries.may(now); !ok {
			return false, Busy{Until: at}
		}
	}
	return true, Busy{}
}

// allowed takes a call out of what is allowed in a minute, once nothing else is
// in its way.
func (u *upstream) allowed(ask *Ask) bool {
	return u.rate == nil || ask.Gathered || u.rate.Take(ask.Tokens)
}

// take begins a call that is open and allowed. The caller holds the lock.
func (u *upstream) take(m *model, ask *Ask, now time.Time) *Place {
	p := &Place{upstream: u, model: m, begun: now, tokens: ask.Tokens, part: u.part(ask), gathered: ask.Gathered}
	if !p.part {
		m.gate.running++
		m.figures.Calls++
		u.running++
	}
	if p.gathered {
		return p
	}
	_, p.Try = m.breaker.may(now)
	m.breaker.begun(p.Try)
	m.retries.fill(now)
	m.retries.called()
	if ask.Retry {
		m.retries.take()
		m.figures.Retries++
	}
	m.calls.take(1)
	m.tokens.take(float64(ask.Tokens))
	return p
}

// pump gives places to those who wait, model by model in turn, as far as there
// are any. The caller holds the lock.
func (u *upstream) pump() {
	now := time.Now()
	var next time.Time
	for blocked := 0; blocked < len(u.order); {
		m := u.order[u.turn%len(u.order)]
		u.turn++
		if u.grant(m, now, &next) {
			blocked = 0
		} else {
			blocked++
		}
	}
	u.want()
	if !next.IsZero() && !u.closed {
		u.timer.Reset(max(time.Until(next), time.Millisecond))
	}
}

// grant gives a place to the first waiter of a model that may have one.
func (u *upstream) grant(m *model, now time.Time, next *time.Time) bool {
	for _, line := range m.queue.inOrder(m.breaker.state != Closed) {
		w := line.first()
		if w == nil {
			continue
		}
		ok, busy := u.open(m, &w.ask, now)
		if !ok || !u.allowed(&w.ask) {
			if !busy.Until.IsZero() && (next.IsZero() || busy.Until.Before(*next)) {
				*next = busy.Until
			}
			continue
		}
		m.queue.pop(line)
		w.granted = true
		w.got <- u.take(m, &w.ask, now)
		return true
	}
	return false
}

// want tells the rate who waits for it. The caller holds the lock.
func (u *upstream) want() {
	if u.rate == nil {
		return
	}
	calls, tokens := 0, 0
	for _, m := range u.order {
		calls, tokens = calls+m.queue.requests(), tokens+m.queue.tokens
	}
	u.rate.Want(calls, tokens)
}

// wake looks again whether somebody may begin.
func (u *upstream) wake() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pump()
}

// busy tells whether models that are asked for have enough that waits, and
// whether one has not.
func (u *upstream) busy(now time.Time) (busy, idle bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, m := range u.order {
		if now.Sub(m.seen) > recent && m.queue.requests() == 0 {
			continue
		}
		enough := 1 + m.gate.bound()/2
		if m.breaker.state != Closed || now.Before(m.gate.until) {
			enough = 1 // for the try, or the moment when it goes on
		}
		if m.queue.requests() < enough {
			return busy, true
		}
		busy = true
	}
	return busy, false
}

// Kind is how a call ended, for the limits.
type Kind int

// How a call may end.
const (
	Went      Kind = iota // answered
	Declined              // for the request's own sake
	Refused               // for the provider's limits
	Stalled               // not answered in time
	Failed                // for the provider's sake
	Ended                 // by the caller: it tells nothing
	NotCalled             // it was not even begun
)

// Outcome is what a call told.
type Outcome struct {
	Kind       Kind
	Took       time.Duration
	Tokens     int           // that the answer has
	Used       int           // that count for the allowance of a minute; 0 is unknown
	RetryAfter time.Duration // that the provider asks for
	// Calls and AllTokens are what the provider says of its limits, if Says.
	Says             bool
	Calls, AllTokens Said
}

// Place is a call that may run.
type Place struct {
	Try bool // whether the provider is back

	upstream *upstream
	model    *model
	begun    time.Time
	tokens   int
	part     bool // of a call that has a place of its own, which is gathered
	gathered bool
}

// Begin says that the call begins now.
func (p *Place) Begin() { p.begun = time.Now() }

// Leave ends the call, once.
func (p *Place) Leave(o Outcome) {
	u := p.upstream
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if !p.part {
		p.tellGate(&o, now)
	}
	if !p.gathered {
		p.settle(&o)
	}
	// A shared call that fails is one failure, however many requests it was for.
	if !p.part || p.Try {
		p.tellBreaker(o.Kind, now)
	}
	u.pump()
}

// tellGate frees the place and has the model's gate learn from the call.
func (p *Place) tellGate(o *Outcome, now time.Time) {
	m := p.model
	if o.Kind == Went {
		m.gate.went(o.Took, o.Tokens, now)
	}
	m.gate.running--
	p.upstream.running--
	switch o.Kind {
	case Refused:
		m.figures.Refused++
		m.gate.refused(p.begun, o.RetryAfter, now)
	case Stalled:
		m.gate.refused(p.begun, o.RetryAfter, now)
	case Failed:
		m.gate.pause(o.RetryAfter, now)
	}
}

// settle notes what a request has used, and what the provider says is left.
func (p *Place) settle(o *Outcome) {
	u, m := p.upstream, p.model
	if o.Kind == Went {
		m.learn(o.Took)
	}
	if o.Says {
		m.calls.say(o.Calls)
		m.tokens.say(o.AllTokens)
	}
	switch {
	case u.rate == nil:
	case o.Kind == NotCalled:
		u.rate.Used(p.tokens, 0)
	case o.Used > 0:
		u.rate.Used(p.tokens, o.Used)
	}
}

func (p *Place) tellBreaker(kind Kind, now time.Time) {
	m := p.model
	switch kind {
	case Went, Declined: // the provider takes care of calls
		if m.breaker.went(p.Try, now) {
			m.gate.restart(now)
		}
	case Stalled, Failed:
		before := m.breaker.state
		m.breaker.failed(p.Try, m.gate.running, now)
		if before != Open && m.breaker.state == Open {
			m.figures.Opened++
		}
	default:
		m.breaker.undecided(p.Try, now)
	}
}

// enoughAnswers is how many must be known before a deadline is judged by them.
const enoughAnswers = 10

// learn takes in how long an answer took, with the weights of TCP's round trip
// times (Jacobson and Karels, RFC 6298).
func (m *model) learn(took time.Duration) {
	seconds := took.Seconds()
	if m.answered++; m.answered == 1 {
		m.took, m.deviation = seconds, 0
		return
	}
	off := seconds - m.took
	m.took += off / 8
	m.deviation += (max(off, -off) - m.deviation) / 4
}

func (m *model) typical() time.Duration {
	if m.answered < enoughAnswers {
		return 0
	}
	return time.Duration(max(m.took-m.deviation, m.took/2) * float64(time.Second))
}
