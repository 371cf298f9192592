package streams

import (
	"context"
	"math"
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
	// process: a burst, and what comes on top of it while the shard has no backlog
	// or the tenant is a quiet one.
	shareBurst     = 32
	sharePerSecond = 100
	// laneBusy is how many messages may wait in a shard before loud tenants get no
	// more than the burst.
	laneBusy = 16
	// quietPart is the part of its shard's requests that a quiet tenant stays
	// below, counted over about demandMemory.
	quietPart    = 0.25
	demandMemory = 10 * time.Second
	// floodPart is the part of all requests from which on those of a tenant make
	// a crowd. Who sends less is not put aside, though it may be beyond its share:
	// on a machine that is busy with a flood even a few requests are a backlog.
	floodPart = 1.0 / 256
	// maxShares bounds the tenants whose use is known; those that were seen
	// longest ago have their whole burst again.
	maxShares = 10_000

	// crowd is how many requests wait before floods are put aside, until no more
	// than crowdOver do, if there was more than one tenant within crowdMemory or,
	// looked at every crowdEvery, in the stream.
	crowd       = 1024
	crowdOver   = 64
	crowdMemory = 10 * time.Second
	crowdEvery  = 100 * time.Millisecond
	// queued is how many messages may wait on the way to generate before floods
	// are put aside, and while what was put aside comes back.
	queued     = 512
	asidePause = 20 * time.Millisecond
	// asideMost bounds a batch of requests that are put aside.
	asideMost = 256
)

// shares knows what tenants have used of their shards lately. It is safe for concurrent use.
type shares struct {
	busy func(class schemas.Class, shard int) bool // whether much waits in a shard

	mu     sync.Mutex
	use    *lru.Cache[shareKey, *share]
	demand map[schemas.Class]*[schemas.Shards]demand // on each shard
	all    demand
}

type shareKey struct {
	tenant string
	class  schemas.Class
}

type share struct {
	left   float64
	at     time.Time
	demand demand
}

// demand is how many requests came lately; older ones count less and less.
type demand struct {
	requests float64
	at       time.Time
}

// add counts a request and gives the demand with it.
func (d *demand) add(now time.Time) float64 {
	d.requests = d.requests*math.Exp(-now.Sub(d.at).Seconds()/demandMemory.Seconds()) + 1
	d.at = now
	return d.requests
}

func newShares(waiting func(class schemas.Class, lane int) int64) *shares {
	use, err := lru.New[shareKey, *share](maxShares)
	if err != nil {
		panic(err) // the size is a constant
	}
	onShards := map[schemas.Class]*[schemas.Shards]demand{}
	for _, class := range schemas.Classes {
		onShards[class] = new([schemas.Shards]demand)
	}
	return &shares{use: use, demand: onShards, busy: func(class schemas.Class, shard int) bool {
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
	s.all.add(now)
	shard := schemas.Shard(tenant)
	quiet := u.demand.add(now) < quietPart*s.demand[class][shard].add(now)
	if u.left < shareBurst && (quiet || !s.busy(class, shard)) {
		u.left = min(shareBurst, u.left+sharePerSecond*now.Sub(u.at).Seconds())
	}
	u.at = now
	if u.left < 1 {
		return true
	}
	u.left--
	return false
}

// floods reports whether a tenant's requests are a part of all that makes a crowd.
func (s *shares) floods(tenant string, class schemas.Class) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, known := s.use.Get(shareKey{tenant, class})
	return known && u.demand.requests >= floodPart*s.all.requests
}

// crowding knows whether many requests wait, of more than one tenant.
type crowding struct {
	behind atomic.Int64 // requests that wait behind the one that came last
	now    atomic.Bool  // as the door found last

	// What the door has seen; it has one worker.
	last   string    // tenant
	mixed  time.Time // when another tenant came than before
	looked time.Time // at the stream
}

// seen notes a tenant at the door.
func (c *crowding) seen(tenant string, now time.Time) {
	if c.last != "" && tenant != c.last {
		c.mixed = now
	}
	c.last = tenant
}

// crowded reports whether floods are to be put aside.
func (r *Runner) crowded(ctx context.Context, now time.Time) bool {
	crowded := r.findCrowd(ctx, now)
	r.crowding.now.Store(crowded)
	return crowded
}

func (r *Runner) findCrowd(ctx context.Context, now time.Time) bool {
	c := &r.crowding
	many := int64(crowd)
	if c.now.Load() {
		many = crowdOver
	}
	if c.behind.Load() < many && (r.cfg.OnTheWay == nil || r.cfg.OnTheWay() < queued) {
		return false
	}
	if now.Sub(c.mixed) > crowdMemory && now.Sub(c.looked) >= crowdEvery {
		c.looked = now
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if stream, err := r.js.Stream(ctx, r.names.Requests()); err == nil && stream.CachedInfo().State.NumSubjects > 1 {
			c.mixed = now
		}
	}
	return now.Sub(c.mixed) <= crowdMemory && (r.cfg.LaterFull == nil || !r.cfg.LaterFull())
}

// room gives how many requests more than others a source may take. While a
// flood is put aside, nobody who waits behind it must wait for workers.
func (s *source) room() int {
	if s.durable.stream == s.runner.names.Requests() && s.runner.crowding.now.Load() {
		return 2 * asideMost
	}
	return 0
}

// aside reports whether a source brings what was put aside.
func (s *source) aside() bool {
	return s.durable.stage == stages.Compress && s.durable.stream == s.runner.names.Later()
}

// clear reports whether little waits on the way to generate, so that what was
// put aside may follow without holding back others.
func (r *Runner) clear(ctx context.Context) bool {
	waiting := uint64(0)
	for _, d := range r.cfg.Layout.consumers() {
		if d.stage != stages.Cache && d.stage != stages.Batch || d.stream == r.names.Later() {
			continue
		}
		consumer, err := r.js.Consumer(ctx, d.stream, d.config.Durable)
		if err != nil {
			return false
		}
		waiting += consumer.CachedInfo().NumPending
	}
	return waiting < queued
}

// aside gathers requests that are put aside into batches.
type aside struct {
	room    int                      // bytes a batch may have
	singly  func(tenant string) bool // whose requests are counted, each as a message
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
	if len(b.requests) == asideMost || len(b.requests) > 0 && a.singly(request.Tenant) || len(b.requests) > 0 && b.bytes+size > a.room {
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
