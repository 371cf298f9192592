package budget

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"

	"github.com/adpa/processor/internal/jsx"
)

const (
	// maxTurn bounds the operations of one write.
	maxTurn = 4096
	// pollWaiters is how often waiters are woken at the latest, for what changes
	// by time alone: windows that end, reservations that may be reaped.
	pollWaiters = time.Second
)

// batch is operations that are applied together: those of one slice and tenant.
type batch struct {
	ctx   context.Context // of the caller, who leaves when it ends
	size  int             // operations
	first bool            // settlements go before reservations
	apply func(*turn)     // may run several times; the last one counts
	err   error
	done  chan struct{}
}

// tenantState is one tenant's ledger in this process: what is known of its record,
// and the writer that changes it.
type tenantState struct {
	ledger *Ledger
	name   string
	room   *semaphore.Weighted // operations that may wait
	view   atomic.Pointer[view]

	trouble atomic.Pointer[error] // that the writer met last, until it succeeds

	mu      sync.Mutex
	queue   []*batch
	writing bool      // a writer runs
	known   *record   // the newest record that was seen
	heard   jsx.Entry // what the watch brought while the writer was at work
	fixed   []Config  // of the configuration
	set     []Config  // at run time, if any
	rules   *rules
	changed chan struct{} // that waiters hold; nil if none does
	poll    *time.Timer
}

func newTenant(l *Ledger, name string) *tenantState {
	t := &tenantState{ledger: l, name: name, room: semaphore.NewWeighted(int64(l.options.MaxQueued)),
		known: &record{}, rules: compile(nil)}
	t.show()
	return t
}

// do has operations applied and waits for it. It returns before that when ctx
// ends: then they may have been applied, may still be, or not.
func (t *tenantState) do(ctx context.Context, size int, first bool, apply func(*turn)) error {
	weight := int64(min(size, t.ledger.options.MaxQueued))
	if err := t.room.Acquire(ctx, weight); err != nil {
		return err
	}
	defer t.room.Release(weight)
	b := &batch{ctx: ctx, size: size, first: first, apply: apply, done: make(chan struct{})}
	if err := t.enqueue(b); err != nil {
		return err
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return t.why(ctx.Err())
	case <-t.ledger.ctx.Done():
		return ErrClosed
	}
}

// why adds to the end of a caller's patience what the writer met last.
func (t *tenantState) why(err error) error {
	if trouble := t.trouble.Load(); trouble != nil {
		return fmt.Errorf("%w; the last attempt: %w", err, *trouble)
	}
	return err
}

// enqueue hands a batch to the writer, starting one if none runs.
func (t *tenantState) enqueue(b *batch) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writing {
		t.queue = append(t.queue, b)
		return nil
	}
	if !t.ledger.begin() {
		return ErrClosed
	}
	t.queue = append(t.queue, b)
	t.writing = true
	go t.write()
	return nil
}

// write commits what waits, all of it together, until nothing does.
func (t *tenantState) write() {
	defer t.ledger.running.Done()
	for {
		batches, base := t.take()
		if len(batches) == 0 {
			return
		}
		t.commit(batches, base)
	}
}

// take gives what waits and the newest record that is known. Without anything
// waiting the writer ends.
func (t *tenantState) take() ([]*batch, *record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.catchUp()
	if len(t.queue) == 0 {
		t.writing = false
		return nil, nil
	}
	n, size := 0, 0
	for n < len(t.queue) && (n == 0 || size+t.queue[n].size <= maxTurn) {
		size += t.queue[n].size
		n++
	}
	batches := t.queue[:n:n]
	t.queue = t.queue[n:]
	return batches, t.known
}

// commit applies batches to the record and writes it. Whatever goes wrong with
// a write, the leader's record says what is true, and the same operations are
// applied to that: they find done what was done.
//
// A refusal may only be decided on a record that was current after the request
// came in. A write that succeeds proves that of the record it was based on;
// without one the record is read from the leader.
func (t *tenantState) commit(batches []*batch, base *record) {
	fresh := false
	for attempt := 0; ; attempt++ {
		if batches = present(batches); len(batches) == 0 || t.ledger.ctx.Err() != nil {
			return
		}
		turn := t.apply(base, batches)
		if !turn.changed && (fresh || !turn.unsure) {
			t.finish(batches, nil)
			return
		}
		if turn.changed {
			err := t.put(turn)
			if err == nil {
				t.finish(batches, nil)
				t.after(turn)
				return
			}
			t.trouble.Store(&err)
			t.ledger.pause(attempt, errors.Is(err, errConflict))
		}
		batches = t.join(batches)
		read, err := t.read()
		if errors.Is(err, errDamaged) {
			t.finish(batches, err)
			return
		}
		if fresh = err == nil; fresh {
			base = read
		} else {
			t.trouble.Store(&err)
			t.ledger.pause(attempt, false)
		}
	}
}

// apply applies batches to a copy of a record: settlements first, since they
// make room and may come late but in time, then what has to be reaped.
func (t *tenantState) apply(base *record, batches []*batch) *turn {
	t.mu.Lock()
	rules := t.rules
	t.mu.Unlock()
	turn := newTurn(base, rules, t.ledger.now(), t.ledger.bounds)
	turn.run(batches, true)
	turn.reap()
	turn.run(batches, false)
	turn.warn(t.name)
	return turn
}

func (t *turn) run(batches []*batch, first bool) {
	for _, b := range batches {
		if b.first == first {
			b.apply(t)
		}
	}
}

// put writes the record of a turn.
func (t *tenantState) put(turn *turn) error {
	value := turn.appendTo(make([]byte, 0, turn.bytes()))
	revision, err := t.ledger.budgets.put(t.ledger.ctx, t.name, value, turn.revision)
	if err != nil {
		return err
	}
	turn.record.revision = revision
	t.adopt(turn.record)
	return nil
}

// join adds what has come to wait since, as long as it fits: a round trip later
// the group may be larger, and the read that follows is after all of them.
func (t *tenantState) join(batches []*batch) []*batch {
	size := 0
	for _, b := range batches {
		size += b.size
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.queue) > 0 && size+t.queue[0].size <= maxTurn {
		size += t.queue[0].size
		batches = append(batches, t.queue[0])
		t.queue = t.queue[1:]
	}
	return batches
}

// read reads the record from the leader.
func (t *tenantState) read() (*record, error) {
	t.mu.Lock()
	before := t.known.revision
	t.mu.Unlock()
	r, err := readRecord(t.ledger.ctx, t.ledger.budgets, t.name)
	if err != nil {
		return nil, err
	}
	if r.revision < before {
		t.forget() // the bucket was made anew
	}
	t.adopt(r)
	return r, nil
}

// after does what a written record entails.
func (t *tenantState) after(turn *turn) {
	for i := range turn.events {
		t.ledger.publish(&turn.events[i])
	}
	if len(turn.past) > 0 {
		t.putAside(turn.past)
	}
}

// putAside stores days that are over under keys of their own and takes them out
// of the record. A day that is over never changes, so storing it twice is harmless.
func (t *tenantState) putAside(past []*day) {
	stored := map[string]bool{}
	for _, d := range past {
		_, err := t.ledger.budgets.put(t.ledger.ctx, dayKey(t.name, d.date), d.appendTo(nil), 0, jetstream.WithMsgTTL(dayTTL))
		if err == nil || errors.Is(err, errConflict) {
			stored[d.date] = true
		}
	}
	if len(stored) == 0 {
		return // the next write tries again
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append(t.queue, &batch{ctx: t.ledger.ctx, size: 1, done: make(chan struct{}), apply: func(turn *turn) {
		before := len(turn.past)
		turn.past = slices.DeleteFunc(turn.past, func(d *day) bool { return stored[d.date] })
		turn.changed = turn.changed || len(turn.past) < before
	}})
}

// adopt takes a record for the newest known, if it is.
func (t *tenantState) adopt(r *record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.revision > t.known.revision {
		t.known = r
		t.show()
	}
}

// hear takes a change of the record from the watch. While the writer is at work
// it is put by: it is likely the writer's own, and only the newest counts.
func (t *tenantState) hear(e jsx.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard = e
	if !t.writing {
		t.catchUp()
	}
}

// catchUp reads the newest change that was heard of, if it is news. The caller
// holds mu.
func (t *tenantState) catchUp() {
	e := t.heard
	t.heard = jsx.Entry{}
	if e.Revision <= t.known.revision {
		return
	}
	if e.Deleted {
		e.Value = nil
	}
	r, err := recordOf(e.Value, e.Revision)
	if err != nil {
		t.ledger.options.Log.Error("a budget record cannot be read; its tenant is granted nothing", "tenant", t.name, "error", err)
		return
	}
	t.known = r
	t.show()
}

// forget makes any record newer than what is known.
func (t *tenantState) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known = &record{}
	t.show()
}

// show publishes what is known for local answers, and wakes the waiters.
// The caller holds mu.
func (t *tenantState) show() {
	t.view.Store(newView(t.known, t.rules, t.ledger.bounds, t.ledger.now()))
	t.wake()
}

func (t *tenantState) wake() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
		t.poll.Stop()
	}
}

// wait gives the channel that the next change closes.
func (t *tenantState) wait() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		changed := make(chan struct{})
		t.changed = changed
		t.poll = time.AfterFunc(pollWaiters, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.changed == changed {
				t.wake()
			}
		})
	}
	return t.changed
}

// limit sets the budgets: those of the configuration, or those set at run time.
func (t *tenantState) limit(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	t.rules = compile(t.configs())
	t.show()
}

// configs gives the budgets that hold. The caller holds mu.
func (t *tenantState) configs() []Config {
	if t.set != nil {
		return t.set
	}
	return t.fixed
}

// present drops the batches whose callers have left.
func present(batches []*batch) []*batch {
	return slices.DeleteFunc(batches, func(b *batch) bool { return b.ctx.Err() != nil })
}

func (t *tenantState) finish(batches []*batch, err error) {
	t.trouble.Store(nil)
	for _, b := range batches {
		b.err = err
		close(b.done)
	}
}
