// Package combine sends the embeddings requests of many applications to a
// provider in few calls: what is alike but for its input shares an array, and
// each request gets its own part of the answer and of the bill.
package combine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adpa/processor/schemas"
)

// Caller calls a model. Its errors are *schemas.CallError.
type Caller interface {
	Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error)
}

// Limits bound a call.
type Limits struct {
	Inputs int // texts of a call at most; below 2 nothing is combined
	Tokens int // of all texts of a call at most
	Answer int // bytes of one request's answer at most
	// Linger is how long a request waits for others where calls are short. It is
	// short itself: requests that come one after another are rather sent than kept.
	Linger time.Duration
}

// Hooks are what a Combiner asks and tells.
type Hooks struct {
	// Count counts the tokens of an embeddings request. It is asked once for each.
	Count func(model string, body []byte) int
	// Sent is told of each call how many requests it is for. May be nil.
	Sent func(requests int)
	// Enter waits until a call may be made, whose end leave is told. It fails only
	// with the error of ctx. Try is nil where it would have to wait. Without them
	// (nil) calls may be made at any time.
	Enter func(ctx context.Context, model string) (leave Leave, err error)
	Try   func(model string) Leave
}

// Leave is told how a call ended, nil if none was made.
type Leave func(*Ended)

// Ended is a call that has ended.
type Ended struct {
	Ctx    context.Context // of the call
	Took   time.Duration
	Answer schemas.Answer
	Err    error
}

const (
	// maxRequests and maxBytes bound a call by what its answer and its body take.
	maxRequests = 64
	maxBytes    = 4 << 20
	// maxGroups bounds the groups that gather at a time; what comes on top is sent alone.
	maxGroups = 1024
)

// Combiner is a Caller in front of another. Chats pass through it untouched, and
// so does an embeddings request that finds no company.
//
// Where calls are short, as a server's next door, requests wait for others for a
// moment, since most of what a call takes is the work around it. Where they are
// long nobody waits while there is a place for one more call: who waited would
// only be answered later. While all places are taken requests gather until one is free.
//
// Requests share a call if they are for the same model and all their members but
// input and user are equal, byte for byte. Nothing of one is seen by another: a
// refused call is repeated in halves, so that the one at fault fails alone, and
// who cancels or runs out of time leaves the others' call running. Usage is
// shared out by counted tokens and adds up to what was billed.
//
// It is safe for concurrent use. It holds no more than its callers wait for.
type Combiner struct {
	next   Caller
	limits Limits
	hooks  Hooks

	alone atomic.Bool // the provider has shown that it knows no arrays
	pace  pace

	mu     sync.Mutex
	most   int // groups at a time
	groups map[string]*group
}

// group is requests that share a call, before it is made and while it runs.
type group struct {
	key     string
	parts   []*part
	inputs  int
	tokens  int
	bytes   int
	full    chan struct{}   // closed when nobody can join any more
	ctx     context.Context // ends when nobody waits for the group any more
	cancel  context.CancelFunc
	waiting int
}

// part is one request of a group.
type part struct {
	call   schemas.Call
	input  input
	tokens int
	group  *group
	result chan result // holds one

	// The combiner's mutex guards these.
	sent, left bool

	billed schemas.Usage // by calls that brought nothing
}

type result struct {
	answer schemas.Answer
	err    error
}

// New makes a Combiner in front of next.
func New(next Caller, limits Limits, hooks Hooks) *Combiner {
	if hooks.Sent == nil {
		hooks.Sent = func(int) {}
	}
	if hooks.Enter == nil {
		hooks.Try = func(string) Leave { return func(*Ended) {} }
		hooks.Enter = func(context.Context, string) (Leave, error) { return hooks.Try(""), nil }
	}
	return &Combiner{next: next, limits: limits, hooks: hooks, pace: newPace(), groups: map[string]*group{}, most: maxGroups}
}

// Generate implements Caller.
func (c *Combiner) Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	if !call.Embeddings || c.limits.Inputs < 2 {
		return c.next.Generate(ctx, call)
	}
	if !c.pace.short(c.limits.Linger) {
		if leave := c.hooks.Try(call.Model); leave != nil {
			c.hooks.Sent(1)
			return c.call(ctx, call, leave)
		}
	}
	in, ok := readInput(call.Body)
	if !ok || c.alone.Load() || len(in.elements) > c.limits.Inputs || len(call.Body) > maxBytes {
		return c.single(ctx, call)
	}
	p := &part{call: call, input: in, tokens: c.hooks.Count(call.Model, call.Body), result: make(chan result, 1)}
	if p.tokens > c.limits.Tokens || !c.join(p) {
		return c.single(ctx, call)
	}
	select {
	case r := <-p.result:
		return r.answer, r.err
	case <-ctx.Done():
		r := c.leave(p, ctx.Err())
		return r.answer, r.err
	}
}

// single makes a call for one request that cannot share one.
func (c *Combiner) single(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	leave, err := c.hooks.Enter(ctx, call.Model)
	if err != nil {
		return schemas.Answer{}, ended(err, false)
	}
	return c.call(ctx, call, leave)
}

// call makes a call that has a place.
func (c *Combiner) call(ctx context.Context, call schemas.Call, leave Leave) (schemas.Answer, error) {
	begun := time.Now()
	answer, err := c.next.Generate(ctx, call)
	took := time.Since(begun)
	if err == nil {
		c.pace.learn(took)
	}
	leave(&Ended{Ctx: ctx, Took: took, Answer: answer, Err: err})
	return answer, err
}

// join adds a request to the group of its like; false means that there are too
// many groups.
func (c *Combiner) join(p *part) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := p.call.Model + "\x00" + p.input.alike
	g := c.groups[key]
	if g != nil && !c.fits(g, p) {
		c.fill(g)
		g = nil
	}
	if g == nil {
		if len(c.groups) >= c.most {
			return false
		}
		g = &group{key: key, full: make(chan struct{})}
		g.ctx, g.cancel = context.WithCancel(context.Background())
		c.groups[key] = g
		go c.run(g, p.call.Model)
	}
	p.group = g
	g.parts = append(g.parts, p)
	g.waiting++
	g.inputs, g.tokens, g.bytes = g.inputs+len(p.input.elements), g.tokens+p.tokens, g.bytes+len(p.call.Body)
	if g.inputs == c.limits.Inputs || len(g.parts) == maxRequests {
		c.fill(g)
	}
	return true
}

func (c *Combiner) fits(g *group, p *part) bool {
	return g.inputs+len(p.input.elements) <= c.limits.Inputs && g.tokens+p.tokens <= c.limits.Tokens && g.bytes+len(p.call.Body) <= maxBytes
}

// fill ends the gathering of a group. The caller holds the lock.
func (c *Combiner) fill(g *group) {
	if c.groups[g.key] == g {
		delete(c.groups, g.key)
		close(g.full)
	}
}

// run has a group gather, waits for a place and makes its call.
func (c *Combiner) run(g *group, model string) {
	if c.pace.short(c.limits.Linger) {
		g.linger(c.limits.Linger)
	}
	leave, err := c.hooks.Enter(g.ctx, model)
	if err != nil { // nobody waits for it any more
		return
	}
	c.mu.Lock()
	c.fill(g)
	for _, p := range g.parts {
		p.sent = true
	}
	c.mu.Unlock()
	c.send(g, g.parts, leave)
}

// linger waits for company, until the group is full or nobody waits for it.
func (g *group) linger(most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.full:
	case <-g.ctx.Done():
	}
}

// leave ends the wait of a request. The call goes on while anybody waits for it.
func (c *Combiner) leave(p *part, cause error) result {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case r := <-p.result: // delivered just now
		return r
	default:
	}
	p.left = true
	c.done(p.group)
	return result{err: ended(cause, p.sent)}
}

// ended is the error of a request that waits no more.
func ended(cause error, sent bool) error {
	err := &schemas.CallError{Code: schemas.CodeCancelled, Message: "the call was cancelled", Unbilled: !sent, Err: cause}
	if errors.Is(cause, context.DeadlineExceeded) {
		err.Code, err.Message = schemas.CodeDeadlineExceeded, "the request's deadline passed during the call"
	}
	return err
}

// done notes that one request waits no more. The caller holds the lock.
func (c *Combiner) done(g *group) {
	if g.waiting--; g.waiting > 0 {
		return
	}
	g.cancel()
	c.fill(g)
}

// deliver gives a request its result, unless it has left.
func (c *Combiner) deliver(p *part, r result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.left {
		p.result <- r
		c.done(p.group)
	}
}

// present gives the requests that still wait.
func (c *Combiner) present(parts []*part) []*part {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*part, 0, len(parts))
	for _, p := range parts {
		if !p.left {
			list = append(list, p)
		}
	}
	return list
}

// send makes one call for some requests of a group and delivers what comes of it.
func (c *Combiner) send(g *group, parts []*part, leave Leave) {
	parts = c.present(parts)
	if len(parts) == 0 {
		leave(nil)
		return
	}
	c.hooks.Sent(len(parts))
	if len(parts) == 1 {
		c.sendAlone(g, parts[0], leave)
		return
	}
	answer, err := c.call(g.ctx, schemas.Call{
		ID: rand.Text(), Model: parts[0].call.Model, Body: combined(parts), Embeddings: true, Requests: len(parts),
	}, leave)
	switch {
	case err != nil && refused(err):
		half := len(parts) / 2
		go c.again(g, parts[:half])
		c.again(g, parts[half:])
	case err != nil:
		c.fail(parts, err)
	default:
		c.share(g, parts, answer)
	}
}

// again makes another call for some requests of a group.
func (c *Combiner) again(g *group, parts []*part) {
	if leave, err := c.hooks.Enter(g.ctx, parts[0].call.Model); err == nil {
		c.send(g, parts, leave)
	}
}

func (c *Combiner) sendAlone(g *group, p *part, leave Leave) {
	answer, err := c.call(g.ctx, p.call, leave)
	answer.Usage = answer.Usage.Add(p.billed)
	if err != nil {
		err = withUsage(err, p.billed)
	}
	c.deliver(p, result{answer, err})
}

// refused tells whether a provider refused what it was asked: any of the requests
// may be at fault. Other errors are nobody's, and hold for all.
func refused(err error) bool {
	e, ok := errors.AsType[*schemas.CallError](err)
	if !ok || e.Retryable {
		return false
	}
	switch e.Status {
	case 400, 413, 422: // bad request, too large, unprocessable
		return true
	}
	return false
}

// fail gives all requests an error, each with its own part of what was billed.
func (c *Combiner) fail(parts []*part, err error) {
	e, ok := errors.AsType[*schemas.CallError](err)
	if !ok {
		e = &schemas.CallError{Retryable: true, Message: "the call failed", Err: err}
	}
	for i, share := range shares(e.Usage, parts) {
		own := *e
		own.Usage = share
		c.deliver(parts[i], result{err: withUsage(&own, parts[i].billed)})
	}
}

// withUsage adds what earlier calls were billed to an error.
func withUsage(err error, billed schemas.Usage) error {
	e, ok := errors.AsType[*schemas.CallError](err)
	if !ok || billed == (schemas.Usage{}) {
		return err
	}
	own := *e
	own.Usage, own.Unbilled = own.Usage.Add(billed), false
	return &own
}

// share gives each request its own part of an answer.
func (c *Combiner) share(g *group, parts []*part, answer schemas.Answer) {
	bill := shares(answer.Usage, parts)
	answers, err := split(answer, parts, bill)
	if err != nil {
		if !c.alone.Swap(true) {
			slog.Warn("a provider did not answer an array of texts as such; embeddings are sent singly from now on", "error", err)
		}
		for i, p := range parts {
			p.billed = p.billed.Add(bill[i])
			go c.again(g, []*part{p})
		}
		return
	}
	for i, p := range parts {
		if c.limits.Answer > 0 && len(answers[i].Body) > c.limits.Answer {
			c.deliver(p, result{err: &schemas.CallError{
				Status: 200, Code: schemas.CodeProviderError, Usage: answers[i].Usage,
				Message: fmt.Sprintf("the provider's answer is larger than %d bytes (max_response)", c.limits.Answer),
			}})
			continue
		}
		c.deliver(p, result{answer: answers[i]})
	}
}
