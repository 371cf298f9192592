package streams

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// Every consumer gives its messages first in, first out. So that the flood of
// one tenant holds back nobody, what it sends beyond its share goes another way:
// to generate in a lane beside the tenant's shard, and out of a crowded stream
// of requests into the later stream, in large batches, which is much faster
// than working it.
const (
	// shareBurst and sharePerSecond are a tenant's share of its shard, in each
	// process: a burst, and what comes on top of it while the shard has no backlog.
	shareBurst     = 32
	sharePerSecond = 100
	// laneBusy is how many messages may wait in a shard before nobody gets more
	// than the burst.
	laneBusy = 16
	// maxShares bounds the tenants whose use is known; those that were seen
	// longest ago have their whole burst again.
	maxShares = 10_000

	// crowd is how many requests wait before floods are put aside, and
	// crowdEvery how often it is looked whether there is more than one tenant.
	crowd      = 1024
	crowdEvery = 100 * time.Millisecond
	// asideMost bounds a batch of requests that are put aside.
	asideMost = 256
)

// shares knows what tenants have used of their shards lately. It is safe for concurrent use.
type shares struct {
	busy func(class schemas.Class, shard int) bool // whether much waits in a shard

	mu  sync.Mutex
	use *lru.Cache[shareKey, *share]
}

type shareKey struct {
	tenant string
	class  schemas.Class
}

type share struct {
	left float64
	at   time.Time
}

func newShares(waiting func(class schemas.Class, lane int) int64) *shares {
	use, err := lru.New[shareKey, *share](maxShares)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &shares{use: use, busy: func(class schemas.Class, shard int) bool {
		return waiting != nil && waiting(class, shard) >= laneBusy
	}}
}

// beyond takes one request out of its tenant's share and reports whether
// nothing was left.
func (s *shares) beyond(tenant string, class schemas.Class, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := shareKey{tenant, class}
	u, known := s.use.Get(key)
	if !known {
		u = &share{left: shareBurst, at: now}
		s.use.Add(key, u)
	}
	if u.left < shareBurst && !s.busy(class, schemas.Shard(tenant)) {
		u.left = min(shareBurst, u.left+sharePerSecond*now.Sub(u.at).Seconds())
	}
	u.at = now
	if u.left < 1 {
		return true
	}
	u.left--
	return false
}

// crowding knows whether many requests wait, of more than one tenant.
type crowding struct {
	waiting atomic.Int64 // behind the request that came last
	tenants atomic.Int64
	looked  atomic.Int64 // Unix milliseconds
}

// crowded reports whether floods are to be put aside.
func (r *Runner) crowded(ctx context.Context, now time.Time) bool {
	c := &r.crowding
	if c.waiting.Load() < crowd {
		return false
	}
	if last := c.looked.Load(); now.UnixMilli()-last >= crowdEvery.Milliseconds() && c.looked.CompareAndSwap(last, now.UnixMilli()) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if stream, err := r.js.Stream(ctx, r.names.Requests()); err == nil {
			c.tenants.Store(int64(stream.CachedInfo().State.NumSubjects))
		}
	}
	return c.tenants.Load() > 1 && (r.cfg.LaterFull == nil || !r.cfg.LaterFull())
}

// aside gathers requests that are put aside into batches.
type aside struct {
	room    int // bytes a batch may have
	batches map[shareKey]*asideBatch
}

type asideBatch struct {
	requests []*stages.Request
	bytes    int
}

// add puts a request into its tenant's batch, and sends that one when it is full.
func (a *aside) add(request *stages.Request, decide stages.Decide) {
	if a.batches == nil {
		a.batches = map[shareKey]*asideBatch{}
	}
	key := shareKey{request.Tenant, request.Class}
	b := a.batches[key]
	if b == nil {
		b = new(asideBatch)
		a.batches[key] = b
	}
	size := requestSize(request)
	if len(b.requests) == asideMost || len(b.requests) > 0 && b.bytes+size > a.room {
		b.send(decide)
	}
	b.requests, b.bytes = append(b.requests, request), b.bytes+size
}

func (a *aside) send(decide stages.Decide) {
	for _, b := range a.batches {
		b.send(decide)
	}
}

func (b *asideBatch) send(decide stages.Decide) {
	first, others := b.requests[0], b.requests[1:]
	*b = asideBatch{}
	decide(first, stages.Verdict{Action: stages.ActionWait, With: others})
}
