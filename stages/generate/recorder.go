package generate

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/adpa/processor/stages"
)

// recordTogether is how long answers wait at most for the records before theirs.
const recordTogether = 20 * time.Millisecond

// recorder makes answers safe before anything else is done with them. Those that
// come while others are being recorded are recorded together, with one round trip:
// the more there is to do, the less each costs. It is safe for concurrent use.
type recorder struct {
	ledger Ledger
	crew   *crew
	done   func(a *answered, first Record, err error)

	mu      sync.Mutex
	waiting []*answered
	burst   int  // the number of the last that left
	busy    bool // it is on its way
}

// answered is an answer that is to be recorded.
type answered struct {
	ctx    context.Context
	flight *flight
	r      *stages.Request
	record Record
}

func (c *recorder) add(a *answered) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, a)
	if !c.busy {
		c.leave()
	}
}

// leave has what waits recorded. The caller holds the lock.
func (c *recorder) leave() {
	list := c.waiting
	c.waiting, c.busy = nil, len(list) > 0
	if !c.busy {
		return
	}
	c.burst++
	burst := c.burst
	latest := time.AfterFunc(recordTogether, func() { c.next(burst) })
	c.crew.do(func() {
		recorded := c.record(list)
		latest.Stop()
		c.next(burst)
		for i, a := range list {
			c.done(a, recorded[i].Record, recorded[i].Err)
		}
	})
}

// next lets the next leave when one is recorded, or takes its time.
func (c *recorder) next(burst int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if burst == c.burst {
		c.leave()
	}
}

func (c *recorder) record(list []*answered) []Recorded {
	requests, records := make([]*stages.Request, len(list)), make([]Record, len(list))
	for i, a := range list {
		requests[i], records[i] = a.r, a.record
	}
	return c.ledger.Record(list[0].ctx, requests, records)
}

// recorded goes on with an answer once it is known whether it is recorded. What
// may take time is done apart from the others that were recorded with it.
func (s *Stage) recorded(a *answered, first Record, err error) {
	switch {
	case err != nil && !errors.Is(err, ErrRecorded):
		slog.Warn("recording an answer failed, trying again", "error", err)
		s.workers.crew.do(func() { s.recordAgain(a) })
	case s.limited(a.r):
		s.workers.crew.do(func() {
			s.settle(a.ctx, a.r, a.record)
			s.use(a, first, err)
		})
	default:
		s.use(a, first, err)
	}
}

// recordAgain records an answer whose first attempt failed.
func (s *Stage) recordAgain(a *answered) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		time.Sleep(wait) //nolint:forbidigo // the answer is paid for: nothing ends the attempts to keep it
		recorded := s.deps.Ledger.Record(a.ctx, []*stages.Request{a.r}, []Record{a.record})[0]
		if recorded.Err == nil || errors.Is(recorded.Err, ErrRecorded) {
			s.settle(a.ctx, a.r, a.record)
			s.use(a, recorded.Record, recorded.Err)
			return
		}
		slog.Warn("recording an answer failed, trying again", "error", recorded.Err)
	}
}

// use lands a flight with the answer that is on record: this one, or with
// ErrRecorded that which was there first.
func (s *Stage) use(a *answered, first Record, err error) {
	key := flightKey(a.r)
	switch {
	case err != nil:
		s.lapse(key)
		use(a.r, first)
	case s.deps.Answered != nil:
		s.deps.Answered(a.r, a.record, func() { s.lapse(key) })
		use(a.r, a.record)
	default:
		s.lapse(key)
		use(a.r, a.record)
	}
	s.end(a.ctx, a.flight, stages.Continue())
}
