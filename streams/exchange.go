package streams

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// sweepEvery is how often an exchange looks for answers that its
	// subscription missed.
	sweepEvery = 5 * time.Second
	// publishSlice bounds what an exchange publishes before it looks at the
	// acknowledgements.
	publishSlice = 512
	// sweepSlice is how many stored responses it holds at a time while it does.
	sweepSlice = 256
)

// Exchange publishes many requests and hands out their answers as they come,
// with a bound on those that are under way. Send and Finish are for one
// goroutine, Answers for another.
type Exchange struct {
	client  *Client
	slots   chan struct{} // one for each request under way
	out     chan *nats.Msg
	answers chan Answer
	sub     *nats.Subscription
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
	missed  chan struct{} // something may have been missed: sweep now

	mu       sync.Mutex
	open     map[string]time.Time // the requests without an answer, and since when
	left     int                  // requests whose answer was not handed out
	finished bool
}

// Exchange begins an exchange with at most window requests under way: published
// or about to be, and not answered yet. It runs until Close, or until ctx ends.
func (c *Client) Exchange(ctx context.Context, window int) (*Exchange, error) {
	if _, _, err := c.stored(ctx, "none"); errors.Is(err, ErrNoStreams) {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	x := &Exchange{
		client: c, ctx: ctx, stop: stop,
		slots: make(chan struct{}, window), out: make(chan *nats.Msg, publishSlice),
		answers: make(chan Answer, 64), missed: make(chan struct{}, 1), open: make(map[string]time.Time),
	}
	// All of the tenant's answers come by: ids have no common prefix that a
	// subject could name.
	sub, err := c.nc.Subscribe(c.names.Response(c.tenant, "*"), func(m *nats.Msg) {
		x.answer(Answer{ID: subjectID(m.Subject), Body: m.Data})
	})
	if err == nil {
		err = sub.SetPendingLimits(-1, pendingBytes)
	}
	if err == nil {
		err = c.nc.FlushTimeout(lookupTimeout) // subscribed before anything is published
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("subscribing to responses: %w", err)
	}
	x.sub = sub
	x.running.Go(x.publish)
	x.running.Go(x.sweep)
	x.running.Go(x.watch)
	return x, nil
}

// Answers gives the answers, in the order in which they come. It is closed once
// everything that was sent is answered after Finish.
func (x *Exchange) Answers() <-chan Answer { return x.answers }

// Send publishes a request, which must have an id that is not under way. It
// waits while the window is full, and while the server refuses requests because
// too many wait. A request that cannot be published is answered with an Err.
func (x *Exchange) Send(ctx context.Context, m Message) error {
	msg, err := x.client.message(m)
	if err != nil {
		return err
	}
	select {
	case x.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-x.ctx.Done():
		return x.ctx.Err()
	}
	x.mu.Lock()
	x.open[m.ID] = time.Now()
	x.left++
	x.mu.Unlock()
	select {
	case x.out <- msg:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-x.ctx.Done():
		return x.ctx.Err()
	}
}

// Finish says, once, that nothing more is sent.
func (x *Exchange) Finish() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.finished = true
	if x.left == 0 {
		close(x.answers)
	}
}

// Done is closed when the exchange cannot go on: its ctx ended, it was closed,
// or the connection was closed for good.
func (x *Exchange) Done() <-chan struct{} { return x.ctx.Done() }

// Close ends the exchange, whether or not everything is answered.
func (x *Exchange) Close() {
	x.stop()
	_ = x.sub.Unsubscribe()
	x.running.Wait()
}

// answer hands out the first answer to a request under way; others are ignored.
func (x *Exchange) answer(a Answer) {
	x.mu.Lock()
	_, ours := x.open[a.ID]
	delete(x.open, a.ID)
	x.mu.Unlock()
	if !ours {
		return
	}
	select {
	case x.answers <- a:
	case <-x.ctx.Done():
		return
	}
	<-x.slots
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.left--; x.finished && x.left == 0 {
		close(x.answers)
	}
}

// publish publishes what is sent, a slice at a time. What the server refuses is
// published again before anything else, in growing intervals.
func (x *Exchange) publish() {
	var slice []*nats.Msg
	for failures := 0; ; {
		if len(slice) == 0 {
			select {
			case m := <-x.out:
				slice = x.gather(m)
			case <-x.ctx.Done():
				return
			}
		}
		before := len(slice)
		slice = x.publishSlice(slice)
		switch {
		case x.ctx.Err() != nil:
			return
		case len(slice) == 0:
			failures = 0
			continue
		case len(slice) < before:
			failures = 0
		}
		failures++
		sleep(x.ctx, backoff(failures, publishFirst, publishMost))
	}
}

func (x *Exchange) gather(first *nats.Msg) []*nats.Msg {
	slice := append(make([]*nats.Msg, 0, 64), first)
	for len(slice) < publishSlice {
		select {
		case m := <-x.out:
			slice = append(slice, m)
		default:
			return slice
		}
	}
	return slice
}

// publishSlice publishes messages and gives those that are to be published
// again. To do so twice is safe: they have ids.
func (x *Exchange) publishSlice(slice []*nats.Msg) (again []*nats.Msg) {
	futures := make([]jetstream.PubAckFuture, len(slice))
	for i, m := range slice {
		future, err := x.client.js.PublishMsgAsync(&nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
		if err != nil {
			again = x.failed(again, m, err)
			continue
		}
		futures[i] = future
	}
	for i, future := range futures {
		if future == nil {
			continue
		}
		select {
		case ack := <-future.Ok():
			if ack.Duplicate {
				again = append(again, slice[i])
			}
		case err := <-future.Err():
			again = x.failed(again, slice[i], err)
		case <-x.ctx.Done():
			return nil
		}
	}
	return again
}

// failed puts a message to those that are tried again, or answers it.
func (x *Exchange) failed(again []*nats.Msg, m *nats.Msg, err error) []*nats.Msg {
	if refused(err) || unknown(err) || errors.Is(err, jetstream.ErrNoStreamResponse) { // also while a leader is elected
		return append(again, m)
	}
	x.answer(Answer{ID: m.Header.Get(HeaderID), Err: fmt.Errorf("publishing the request: %w", err)})
	return again
}

// sweep looks, from time to time and after trouble, for answers that were
// stored and did not come by.
func (x *Exchange) sweep() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		older := sweepEvery
		select {
		case <-ticker.C:
		case <-x.missed:
			older = 0
		case <-x.ctx.Done():
			return
		}
		ids := x.waitingFor(older)
		for len(ids) > 0 {
			n := min(len(ids), sweepSlice)
			// What cannot be read now is looked for at the next sweep.
			found, _ := x.client.Lookup(x.ctx, ids[:n])
			for id, body := range found {
				x.answer(Answer{ID: id, Body: body})
			}
			ids = ids[n:]
		}
	}
}

func (x *Exchange) waitingFor(older time.Duration) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id, since := range x.open {
		if time.Since(since) >= older {
			ids = append(ids, id)
		}
	}
	return ids
}

// watch has the sweep run at once when the connection came back, and ends the
// exchange when it never will.
func (x *Exchange) watch() {
	status := x.client.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer x.client.nc.RemoveStatusListener(status)
	for {
		select {
		case now := <-status:
			if now == nats.CLOSED {
				x.stop()
				return
			}
			select {
			case x.missed <- struct{}{}:
			default:
			}
		case <-x.ctx.Done():
			return
		}
	}
}

// Waiting gives the number of requests under way.
func (x *Exchange) Waiting() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.open)
}
