package limit

import "slices"

// waiter waits for a place.
type waiter struct {
	ask     Ask
	got     chan *Place
	granted bool
}

// line is those who wait, in the order in which they came.
type line struct{ list []*waiter }

func (l *line) first() *waiter {
	if len(l.list) == 0 {
		return nil
	}
	return l.list[0]
}

// batchShare is how many places there are for each that class batch has while
// both classes wait.
const batchShare = 8

// queue is those who wait for a model. Retries wait apart, since they wait for
// their budget too, and shared calls, which nobody who may share one waits behind.
type queue struct {
	interactive, batch, again, gathered line
	size, tokens                        int
	turn                                int
}

func (q *queue) of(ask *Ask) *line {
	switch {
	case ask.Gathered:
		return &q.gathered
	case ask.Retry:
		return &q.again
	case ask.Batch:
		return &q.batch
	}
	return &q.interactive
}

// behind tells whether others go before an ask that comes now.
func (q *queue) behind(ask *Ask, trying bool) bool {
	return q.of(ask).first() != nil || trying && ask.Retry && q.requests() > 0
}

// requests gives how many wait that were not let in yet.
func (q *queue) requests() int { return q.size - len(q.gathered.list) }

func (q *queue) push(w *waiter) {
	l := q.of(&w.ask)
	l.list = append(l.list, w)
	q.size++
	q.tokens += w.ask.Tokens
}

// inOrder gives the lines in the order in which they are served now. Where the
// next call is to tell whether the provider is back, those that failed before go
// last: one that the provider fails at alone would keep the breaker open for all.
func (q *queue) inOrder(trying bool) [4]*line {
	if trying {
		return [4]*line{&q.gathered, &q.interactive, &q.batch, &q.again}
	}
	if q.turn%batchShare == batchShare-1 {
		return [4]*line{&q.gathered, &q.batch, &q.again, &q.interactive}
	}
	return [4]*line{&q.gathered, &q.again, &q.interactive, &q.batch}
}

func (q *queue) pop(l *line) {
	w := l.list[0]
	l.list[0] = nil
	l.list = l.list[1:]
	q.turn++
	q.size--
	q.tokens -= w.ask.Tokens
}

// drop takes out one that waits no more.
func (q *queue) drop(w *waiter) {
	l := q.of(&w.ask)
	if i := slices.Index(l.list, w); i >= 0 {
		l.list = slices.Delete(l.list, i, i+1)
		q.size--
		q.tokens -= w.ask.Tokens
	}
}
