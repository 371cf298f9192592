// Package limit keeps the calls to models within what their providers take: how
// many at once, how many in a minute, none to one that fails, few that repeat
// failed ones. It calls nobody; times are those of the machine's clock.
package limit

import (
	"context"
	"sync"
	"time"
)

// Config names a provider and what is allowed of it.
type Config struct {
	Name           string
	MaxConnections int  // calls at once, over all its models
	Rate           Rate // what is allowed in a minute; nil is no limit
	// Gathers is that embeddings requests share calls. They are let in without a
	// place among the calls at once; whoever calls for them takes it, with Gathered.
	Gathers bool
}

// Rate is what may be called in a minute, shared with others. Its methods are
// called with a lock held and must not block.
type Rate interface {
	// Take takes a call of so many tokens out of what is allowed now.
	Take(tokens int) bool
	// Want says how many calls, of how many tokens together, wait for Take.
	Want(calls, tokens int)
	// Used says that a call for which estimated tokens were taken used others.
	Used(estimated, used int)
	// OnChange sets what is to be called when Take may succeed again. It is
	// called without a lock.
	OnChange(func())
}

// Ask is a call that is to begin.
type Ask struct {
	Provider, Model string
	Tokens          int  // that it may use, for the allowance of a minute
	Batch           bool // of class batch: one place in eight is theirs while both wait
	Retry           bool // the request failed before
	Embeddings      bool
	Gathered        bool // a call for embeddings requests, each of which was let in
}

// Busy says why a call cannot begin now.
type Busy struct {
	// Long is that it will not for some time: the breaker is open, or the
	// provider has asked to wait.
	Long  bool
	Until time.Time // when to look again; zero is when another call has ended
}

// long is a wait from which on another model is taken where there is one.
const long = 2 * time.Second

// Limiter keeps the limits of all providers. It is safe for concurrent use.
type Limiter struct {
	upstreams map[string]*upstream // by name; read-only
	trickle   struct {
		sync.Mutex
		last time.Time
	}
}

// New makes the limiter of some providers.
func New(list []Config) *Limiter {
	l := &Limiter{upstreams: map[string]*upstream{}}
	for _, c := range list {
		u := &upstream{name: c.Name, most: max(c.MaxConnections, 1), rate: c.Rate, gathers: c.Gathers, models: map[string]*model{}}
		u.timer = time.AfterFunc(time.Hour, u.wake)
		u.timer.Stop()
		if c.Rate != nil {
			c.Rate.OnChange(u.wake)
		}
		l.upstreams[c.Name] = u
	}
	return l
}

// Close stops the timers. Nothing may wait any more.
func (l *Limiter) Close() {
	for _, u := range l.upstreams {
		u.mu.Lock()
		u.closed = true
		u.timer.Stop()
		u.mu.Unlock()
	}
}

// TryEnter takes a place for a call, which must be ended with Leave. Without
// one it says why.
func (l *Limiter) TryEnter(ask Ask) (*Place, Busy) {
	u := l.upstreams[ask.Provider]
	if u == nil {
		return &Place{}, Busy{} // of a provider that has no limits
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	m := u.model(ask.Model)
	now := time.Now()
	m.seen = now
	ok, busy := u.open(m, &ask, now)
	if !ok || m.queue.behind(&ask, m.breaker.state != Closed) || !u.allowed(&ask) {
		return nil, busy
	}
	return u.take(m, &ask, now), Busy{}
}

// Enter waits for a place until ctx ends, whose error it gives then.
func (l *Limiter) Enter(ctx context.Context, ask Ask) (*Place, error) {
	u := l.upstreams[ask.Provider]
	if u == nil {
		return &Place{}, nil
	}
	w := &waiter{ask: ask, got: make(chan *Place, 1)}
	u.mu.Lock()
	m := u.model(ask.Model)
	m.seen = time.Now()
	m.queue.push(w)
	u.pump()
	u.mu.Unlock()
	select {
	case place := <-w.got:
		return place, nil
	case <-ctx.Done():
	}
	u.mu.Lock()
	if !w.granted {
		m.queue.drop(w)
		u.want()
	}
	u.mu.Unlock()
	select {
	case place := <-w.got: // granted at the last moment
		place.Leave(Outcome{Kind: NotCalled})
	default:
	}
	return nil, ctx.Err()
}

// Typical is how long calls of a model take that are rather short; 0 is unknown.
func (l *Limiter) Typical(provider, name string) time.Duration {
	u := l.upstreams[provider]
	if u == nil {
		return 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if m := u.models[name]; m != nil {
		return m.typical()
	}
	return 0
}

// Open tells whether a model is not called for the time being. One that may be
// tried again is.
func (l *Limiter) Open(provider, name string) bool {
	u := l.upstreams[provider]
	if u == nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	m := u.models[name]
	if m == nil {
		return false
	}
	may, _ := m.breaker.may(time.Now())
	return !may
}

const (
	// recent is for how long a model counts as one that is asked for.
	recent = 30 * time.Second
	// trickleEvery is how often one request may come while all models are busy:
	// it may be for one that was not asked for lately.
	trickleEvery = time.Second
)

// Room is how many more requests should be taken: none while as many wait for
// every model that is asked for as its next places are for, but for a trickle.
func (l *Limiter) Room() int {
	now := time.Now()
	asked := false
	for _, u := range l.upstreams {
		busy, idle := u.busy(now)
		if idle {
			return 1 << 20
		}
		asked = asked || busy
	}
	if !asked {
		return 1 << 20
	}
	l.trickle.Lock()
	defer l.trickle.Unlock()
	if now.Sub(l.trickle.last) < trickleEvery {
		return 0
	}
	l.trickle.last = now
	return 1
}

// Figures are the state of one model's limits.
type Figures struct {
	Provider, Model         string
	Limit, Running, Waiting int
	Breaker                 State
	Calls, Retries, Refused uint64 // since the start
	Opened                  uint64
}

// Figures gives the state of all models that were called.
func (l *Limiter) Figures() []Figures {
	var list []Figures
	for _, u := range l.upstreams {
		u.mu.Lock()
		for _, m := range u.order {
			f := m.figures
			f.Provider, f.Model = u.name, m.name
			f.Limit, f.Running, f.Waiting, f.Breaker = m.gate.bound(), m.gate.running, m.queue.size, m.breaker.state
			list = append(list, f)
		}
		u.mu.Unlock()
	}
	return list
}
