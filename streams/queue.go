package streams

import (
	"sync"
	"time"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// batchShare is how many of a slice's places are kept for class batch while
// both classes wait: one in batchShare.
const batchShare = 8

// item is one request in a runner: what the stage sees, the message that
// brought it and where it stands.
type item struct {
	request stages.Request
	from    *delivery
	step    int       // index of the runner's step that works on it
	entered time.Time // when it joined the step's queue, or was stored if it came by message
	started time.Time // when the stage was given it

	letIn    bool   // it is noted as let in by the limits of its tenant
	answerAs string // the tenant to answer where the request's own is no valid name
}

// queue holds what waits for one step. Each source has a lane, so that a flood
// in one cannot hold back the others; interactive lanes go first, and batch
// lanes keep a share. It has no bound of its own: the runner takes no more
// messages than its capacity.
type queue struct {
	mu     sync.Mutex
	wake   chan struct{} // holds a token while there may be something to take
	lanes  []*lane       // by number of the lane
	size   int
	next   map[schemas.Class]int // the lane that is served first
	turn   int                   // places given so far: every batchShare-th is batch's
	closed bool
}

type lane struct {
	interactive, batch []*item
}

func (l *lane) of(class schemas.Class) *[]*item {
	if class == schemas.Batch {
		return &l.batch
	}
	return &l.interactive
}

func newQueue(lanes int) *queue {
	q := &queue{wake: make(chan struct{}, 1), next: map[schemas.Class]int{}}
	for range lanes {
		q.lanes = append(q.lanes, &lane{})
	}
	return q
}

func (q *queue) push(items ...*item) {
	q.mu.Lock()
	for _, it := range items {
		list := q.lanes[it.from.lane].of(it.request.Class)
		*list = append(*list, it)
	}
	q.size += len(items)
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// close lets take return nothing once the queue is empty.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

// take waits until something is there and gives up to most of it, the
// interactive ones first. It gives nothing only when the queue is closed and empty.
func (q *queue) take(most int) []*item {
	for range q.wake {
		q.mu.Lock()
		taken := q.pick(most)
		more := q.size > 0 || q.closed
		q.mu.Unlock()
		if more {
			q.signal() // for the step's other workers
		}
		if len(taken) > 0 {
			return taken
		}
		if more { // closed and empty
			return nil
		}
	}
	return nil
}

func (q *queue) pick(most int) []*item {
	n := min(most, q.size)
	if n == 0 {
		return nil
	}
	taken := make([]*item, 0, n)
	kept := (q.turn+n)/batchShare - q.turn/batchShare
	q.turn += n
	taken = q.pickClass(taken, schemas.Interactive, n-kept)
	taken = q.pickClass(taken, schemas.Batch, kept)
	taken = q.pickClass(taken, schemas.Interactive, n-len(taken))
	taken = q.pickClass(taken, schemas.Batch, n-len(taken))
	q.size -= len(taken)
	return taken
}

// pickClass moves up to n items of a class, one from each lane in turn.
func (q *queue) pickClass(taken []*item, class schemas.Class, n int) []*item {
	for empty := 0; n > 0 && empty < len(q.lanes); {
		list := q.lanes[q.next[class]%len(q.lanes)].of(class)
		q.next[class]++
		if len(*list) == 0 {
			empty++
			continue
		}
		empty = 0
		taken = append(taken, (*list)[0])
		(*list)[0] = nil
		*list = (*list)[1:]
		n--
	}
	return taken
}
