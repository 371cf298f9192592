package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/schemas"
)

// ErrChunksGone is a streamed answer whose beginning is no longer kept. The
// whole answer is stored at its end: see Await.
var ErrChunksGone = errors.New("the first chunks of the answer are no longer kept")

// Delta is a chunk of a streamed answer.
type Delta struct {
	// Number counts from 1 without gaps. Where 1 comes again, the attempt so far
	// has failed: what came of it is void, and the answer begins anew.
	Number int
	Chunk  []byte // a chat.completion.chunk object
}

// Stream publishes a request as Ask does, and calls each with the chunks of its
// answer as they come. It adds "stream": true to no body: without that an
// answer has no chunks.
func (c *Client) Stream(ctx context.Context, m Message, each func(Delta)) (Answer, error) {
	if m.ID == "" {
		m.ID = NewID()
	}
	f, err := c.follow(m.ID, each)
	if err != nil {
		return Answer{}, err
	}
	defer f.stop()
	if _, err := c.Publish(ctx, m); err != nil {
		return Answer{}, err
	}
	return f.run(ctx)
}

// Follow calls each with the chunks of the answer to a request that was
// published before: first those that have come already, then each as it comes.
// It returns with the whole answer. No chunk is left out or given twice, also
// where the connection was lost meanwhile. Chunks are kept for a minute: who
// comes later than that gets ErrChunksGone, beside the answer, with none or the
// first of them. Follow returns early when ctx ends.
func (c *Client) Follow(ctx context.Context, id string, each func(Delta)) (Answer, error) {
	if !schemas.ValidName(id) {
		return Answer{}, fmt.Errorf("id %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", id)
	}
	f, err := c.follow(id, each)
	if err != nil {
		return Answer{}, err
	}
	defer f.stop()
	return f.run(ctx)
}

// follower puts the chunks of one answer into order.
type follower struct {
	client *Client
	id     string
	each   func(Delta)
	live   chan *nats.Msg // chunks as they come
	answer chan *nats.Msg
	again  chan nats.Status
	stop   func()

	stored  uint64   // sequence of the last chunk that was read from the stream
	attempt string   // whose chunks are given now
	older   []string // attempts that it has replaced
	next    int      // number of the chunk that comes next
	gone    bool
}

// liveChunks is how many chunks may wait for a slow reader. What comes past it
// is read from the stream.
const liveChunks = 1024

// maxAttempts bounds the attempts that a follower tells apart.
const maxAttempts = 64

func (c *Client) follow(id string, each func(Delta)) (*follower, error) {
	f := &follower{client: c, id: id, each: each, live: make(chan *nats.Msg, liveChunks), answer: make(chan *nats.Msg, 8)}
	chunks, err := c.nc.ChanSubscribe(c.names.Delta(c.tenant, id), f.live)
	if err != nil {
		return nil, fmt.Errorf("subscribing to the chunks of %s: %w", id, err)
	}
	answers, err := c.nc.ChanSubscribe(c.names.Response(c.tenant, id), f.answer)
	if err != nil {
		_ = chunks.Unsubscribe()
		return nil, fmt.Errorf("subscribing to the answer to %s: %w", id, err)
	}
	f.again = c.nc.StatusChanged(nats.CONNECTED)
	f.stop = func() {
		c.nc.RemoveStatusListener(f.again)
		_ = chunks.Unsubscribe()
		_ = answers.Unsubscribe()
	}
	return f, nil
}

// run gives chunks until the answer is there. What the subscriptions missed is
// looked for when they begin, after a gap, after the connection was lost, and
// in growing intervals.
func (f *follower) run(ctx context.Context) (Answer, error) {
	wait := pollFirst
	for {
		answer, found, err := f.look(ctx)
		if found {
			return answer, f.end(ctx)
		}
		if err != nil {
			return Answer{}, err
		}
		timer := time.NewTimer(wait)
		answer, found, err = f.hear(ctx, timer.C)
		timer.Stop()
		switch {
		case found:
			return answer, f.end(ctx)
		case err != nil:
			return Answer{}, err
		}
		wait = min(2*wait, pollMost)
	}
}

// end gives the chunks that came before the answer, and says whether that was
// all of them.
func (f *follower) end(ctx context.Context) error {
	for len(f.live) > 0 {
		f.take(<-f.live, false)
	}
	f.catchUp(ctx)
	if f.gone {
		return ErrChunksGone
	}
	return nil
}

// look reads the stored answer, or the chunks that are stored so far.
func (f *follower) look(ctx context.Context) (Answer, bool, error) {
	body, found, err := f.client.stored(ctx, f.id)
	if ctx.Err() != nil {
		return Answer{}, false, f.interrupted(ctx)
	}
	if errors.Is(err, ErrNoStreams) {
		return Answer{}, false, err
	}
	if !found {
		f.catchUp(ctx)
	}
	return Answer{ID: f.id, Body: body}, found, nil
}

// hear gives the chunks that come until there is an answer, or a reason to look
// for what was missed.
func (f *follower) hear(ctx context.Context, timer <-chan time.Time) (Answer, bool, error) {
	for {
		select {
		case m := <-f.live:
			if !f.take(m, false) {
				return Answer{}, false, nil
			}
		case m := <-f.answer:
			return Answer{ID: f.id, Body: m.Data}, true, nil
		case <-f.again:
			return Answer{}, false, nil
		case <-timer:
			return Answer{}, false, nil
		case <-ctx.Done():
			return Answer{}, false, f.interrupted(ctx)
		}
	}
}

func (f *follower) interrupted(ctx context.Context) error {
	return fmt.Errorf("following the answer to %s: %w", f.id, ctx.Err())
}

// take gives a chunk if it is the next one. It is false if others are missing
// before it.
func (f *follower) take(m *nats.Msg, stored bool) bool {
	number, err := strconv.Atoi(m.Header.Get(HeaderDelta))
	attempt := m.Header.Get(HeaderAttempt)
	switch {
	case err != nil || number < 1 || slices.Contains(f.older, attempt):
		return true
	case number == 1 && (f.next == 0 || attempt != f.attempt):
		f.begin(attempt)
	case f.gone, attempt == f.attempt && number < f.next:
		return true
	case attempt != f.attempt || number > f.next:
		f.gone = stored // the stream has no more than it gave
		return stored
	}
	f.next++
	f.each(Delta{number, m.Data})
	return true
}

func (f *follower) begin(attempt string) {
	if f.next > 0 {
		f.older = append(f.older, f.attempt)
		f.older = f.older[max(0, len(f.older)-maxAttempts):]
	}
	f.attempt, f.next, f.gone = attempt, 1, false
}

// catchUp reads the chunks that are stored and were not read yet. What cannot
// be read now is read at the next look.
func (f *follower) catchUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	for more := true; more; {
		more = f.readMissed(ctx)
	}
}

// readMissed reads one slice of stored chunks. It is true if there are more.
func (f *follower) readMissed(ctx context.Context) (more bool) {
	inbox := f.client.nc.NewInbox()
	replies := make(chan *nats.Msg, missedSlice+1)
	sub, err := f.client.nc.ChanSubscribe(inbox, replies)
	if err != nil {
		return false
	}
	defer func() { _ = sub.Unsubscribe() }()
	from := strconv.AppendUint(nil, f.stored+1, 10)
	if f.client.nc.PublishRequest(f.client.names.Missed(f.client.tenant, f.id), inbox, from) != nil {
		return false
	}
	for {
		select {
		case m := <-replies:
			if m.Header.Get("Status") != "" { // the end, or nobody there to answer
				return more
			}
			sequence, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
			if err != nil {
				return false
			}
			f.stored = max(f.stored, sequence)
			f.take(m, true)
			more = m.Header.Get("Nats-Num-Pending") != "0"
		case <-ctx.Done():
			return false
		}
	}
}
