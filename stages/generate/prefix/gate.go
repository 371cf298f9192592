// Package prefix lets requests that share a long beginning follow the first of
// them, so that the provider has it in its cache when they arrive.
package prefix

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// TTL is how long a provider keeps a beginning that is not used: five minutes
	// at OpenAI and Anthropic.
	TTL = 5 * time.Minute
	// maxKept bounds the beginnings that are remembered, at about 150 bytes each;
	// those that were used last stay.
	maxKept = 1 << 16
	// usualFirst is how long the first token of a model takes of which nothing is known.
	usualFirst = time.Second
	// maxModels bounds the models whose first tokens are remembered.
	maxModels = 1000
)

// Gate decides who goes first. A request goes at once unless one that shares at
// least 1,024 tokens more with it than the provider has in its cache is on its
// way: then it waits for the first token of that one, by which the provider has
// read the prompt. Only requests of one tenant and model wait for each other.
//
// The first token of an answer that is not streamed is not seen. It is taken to
// come when those of streamed answers of the model usually do, or after a second
// where there are none; or with the answer, where that is sooner.
//
// A gate is safe for concurrent use.
type Gate struct {
	seed maphash.Seed
	most time.Duration

	mu     sync.Mutex
	blocks *simplelru.LRU[uint64, block]
	first  *simplelru.LRU[string, time.Duration] // the usual time to the first token, by model
}

// block is a beginning of prompts.
type block struct {
	used   time.Time // last; the zero time: it is not in the provider's cache
	leader *Turn     // who brings it there
}

// Turn is a request on its way. Its methods may be called more than once, from
// any goroutine; those of a nil Turn do nothing.
type Turn struct {
	gate   *Gate
	prompt Prompt
	begun  time.Time
	landed chan struct{} // closed once the provider has read the prompt, or never will
	over   bool
}

// Waiting is what a request waits for.
type Waiting struct {
	Landed <-chan struct{} // ask again when it is closed
	Until  time.Time       // or now at the latest; the zero time is never
}

// NewGate makes a gate at which a request waits no longer than most.
func NewGate(most time.Duration) *Gate {
	g := &Gate{seed: maphash.MakeSeed(), most: most}
	// The errors are for sizes below 1 alone.
	g.blocks, _ = simplelru.NewLRU[uint64, block](maxKept, nil)
	g.first, _ = simplelru.NewLRU[string, time.Duration](maxModels, nil)
	return g
}

// Begin asks whether a request may go. It gives its turn, which must be ended,
// or what to wait for before asking again. A short prompt has no turn and never waits.
func (g *Gate) Begin(now time.Time, p Prompt) (*Turn, *Waiting) {
	if p.Short() {
		return nil, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if leader := g.leader(now, p); leader != nil {
		w := &Waiting{Landed: leader.landed}
		if !leader.prompt.Stream {
			w.Until = leader.begun.Add(g.usual(p.Model))
		}
		return nil, w
	}
	return g.lead(now, p), nil
}

// Go gives a request its turn without asking, as when it cannot wait any longer.
func (g *Gate) Go(now time.Time, p Prompt) *Turn {
	if p.Short() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lead(now, p)
}

// Wait asks until the request may go, but no longer than the gate's bound, half
// of what is left until deadline (the zero time is none), or until ctx ends. It
// gives the request's turn in any case.
func (g *Gate) Wait(ctx context.Context, p Prompt, deadline time.Time) *Turn {
	most := g.most
	if !deadline.IsZero() {
		most = min(most, time.Until(deadline)/2)
	}
	end := time.Now().Add(most)
	timer := time.NewTimer(most)
	defer timer.Stop()
	for {
		now := time.Now()
		turn, waiting := g.Begin(now, p)
		if waiting == nil {
			return turn
		}
		if !now.Before(end) || ctx.Err() != nil {
			return g.Go(now, p)
		}
		until := end
		if !waiting.Until.IsZero() && waiting.Until.Before(end) {
			until = waiting.Until
		}
		timer.Reset(until.Sub(now))
		select {
		case <-waiting.Landed:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// leader gives the turn that a request should wait for; nil if none. The caller
// holds the lock.
func (g *Gate) leader(now time.Time, p Prompt) *Turn {
	cached, coming := 0, 0
	var leader *Turn
	for i, key := range p.chain {
		b, ok := g.blocks.Peek(key)
		switch {
		case ok && (b.cached(now) || b.leader != nil && g.presumed(now, b.leader)):
			cached, coming = i+1, i+1
		case ok && b.leader != nil:
			coming, leader = i+1, b.leader
		default:
			ok = false
		}
		if !ok {
			break
		}
	}
	if coming-cached < minBlocks {
		return nil
	}
	return leader
}

func (b block) cached(now time.Time) bool {
	return !b.used.IsZero() && now.Sub(b.used) < TTL
}

// presumed tells whether a first token that is not seen has probably come.
func (g *Gate) presumed(now time.Time, t *Turn) bool {
	return !t.prompt.Stream && now.Sub(t.begun) >= g.usual(t.prompt.Model)
}

func (g *Gate) usual(model string) time.Duration {
	if first, ok := g.first.Peek(model); ok {
		return first
	}
	return usualFirst
}

// lead gives a request its turn. From the longest beginning to the shortest, so
// that the shortest are forgotten last. The caller holds the lock.
func (g *Gate) lead(now time.Time, p Prompt) *Turn {
	t := &Turn{gate: g, prompt: p, begun: now, landed: make(chan struct{})}
	for i := len(p.chain) - 1; i >= 0; i-- {
		b, _ := g.blocks.Peek(p.chain[i])
		if b.cached(now) {
			b.used = now // a use keeps it in the provider's cache
		} else {
			b.used = time.Time{}
		}
		if b.used.IsZero() && b.leader == nil {
			b.leader = t
		}
		g.blocks.Add(p.chain[i], b)
	}
	return t
}

// Sent notes that the request is sent now: it may have waited for a worker since
// its turn began.
func (t *Turn) Sent(now time.Time) {
	if t == nil {
		return
	}
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.begun = now
}

// First notes the first token of an answer: the provider has read the prompt,
// and who waits for it may follow.
func (t *Turn) First(now time.Time) {
	if t == nil {
		return
	}
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	if t.over {
		return
	}
	if t.prompt.Stream {
		t.gate.learn(t.prompt.Model, now.Sub(t.begun))
	}
	t.land(now)
}

// End notes the end of the call. With an answer it stands for a first token that
// was not seen; without one the provider may have read nothing, and the next
// request goes first.
func (t *Turn) End(now time.Time, answered bool) {
	if t == nil {
		return
	}
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	if t.over {
		return
	}
	if answered {
		t.land(now)
	} else {
		t.land(time.Time{})
	}
}

// land lets the followers go on. used is when the provider has read the prompt,
// the zero time if it has not. The caller holds the lock.
func (t *Turn) land(used time.Time) {
	t.over = true
	g := t.gate
	for i := len(t.prompt.chain) - 1; i >= 0; i-- {
		key := t.prompt.chain[i]
		b, _ := g.blocks.Peek(key)
		if b.leader == t {
			b.leader = nil
		}
		if !used.IsZero() {
			b.used = used
		}
		if b == (block{}) {
			g.blocks.Remove(key)
		} else {
			g.blocks.Add(key, b)
		}
	}
	close(t.landed)
}

// learn keeps how long first tokens take: a moving average, and a quarter on top
// since some take longer. The caller holds the lock.
func (g *Gate) learn(model string, took time.Duration) {
	took += took / 4
	if old, ok := g.first.Get(model); ok {
		took = old + (took-old)/8
	}
	g.first.Add(model, took)
}

// Streams gives a function that passes chunks on, and notes the first of them.
func (t *Turn) Streams(send func(chunk []byte)) func(chunk []byte) {
	if t == nil {
		return send
	}
	begun := false
	return func(chunk []byte) {
		if !begun {
			begun = true
			t.First(time.Now())
		}
		send(chunk)
	}
}
