package batch

import (
	"context"
	"hash/fnv"
	"strconv"
	"sync"
	"time"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// Limits are what a message may hold.
type Limits struct {
	Bytes int // of the requests in a batch, together
}

// Stage groups requests of one tenant, class, model and parameters. It adds no
// wait while a worker of generate is idle.
type Stage struct {
	cfg    Config
	limits Limits
	busy   func() bool // whether more waits for generate than its workers take

	mu      sync.Mutex
	waiting map[string]*batch
}

type batch struct {
	requests []*stages.Request
	bytes    int
	decide   stages.Decide
	timer    *time.Timer
}

// New makes the batch stage. busy tells whether all workers of generate have
// work; it is called once a slice and must be quick.
func New(cfg Config, limits Limits, busy func() bool) *Stage {
	return &Stage{cfg: cfg, limits: limits, busy: busy, waiting: map[string]*batch{}}
}

// Run implements stages.Stage.
func (s *Stage) Run(_ context.Context, requests []*stages.Request, decide stages.Decide) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range requests {
		key := key(r)
		b := s.waiting[key]
		if b != nil && b.bytes+size(r) > s.limits.Bytes {
			s.send(key, b)
			b = nil
		}
		if b == nil {
			b = &batch{decide: decide}
			s.waiting[key] = b
		}
		b.requests = append(b.requests, r)
		b.bytes += size(r)
		if len(b.requests) >= s.cfg.MaxBatchSize {
			s.send(key, b)
		}
	}
	s.sendOrWait()
}

// sendOrWait sends the batches that are not full, or has them wait for more
// where that costs nothing because generate has enough to do.
func (s *Stage) sendOrWait() {
	if len(s.waiting) == 0 {
		return
	}
	wait := s.cfg.Timeout.Std() > 0 && s.busy()
	for key, b := range s.waiting {
		switch {
		case !wait:
			s.send(key, b)
		case b.timer == nil:
			b.timer = time.AfterFunc(s.cfg.Timeout.Std(), func() { s.expire(key, b) })
		}
	}
}

func (s *Stage) expire(key string, b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[key] == b {
		s.send(key, b)
	}
}

func (s *Stage) send(key string, b *batch) {
	delete(s.waiting, key)
	if b.timer != nil {
		b.timer.Stop()
	}
	b.decide(b.requests[0], stages.Together(b.requests[1:]))
}

func size(r *stages.Request) int { return len(r.Body) + len(r.Original) + 1024 }

// key is the same for requests that may share a batch: those of one tenant,
// class and model whose bodies differ in nothing but what is asked.
func key(r *stages.Request) string {
	h := fnv.New64a()
	schemas.Members(r.Body, func(name []byte, member, _ schemas.Span) bool {
		switch string(name) {
		case "messages", "input", "processor", "metadata", "user":
		default:
			_, _ = h.Write(member.Of(r.Body))
		}
		return true
	})
	return r.Tenant + "/" + string(r.Class) + "/" + string(r.Kind) + "/" + r.Model + "/" + strconv.FormatUint(h.Sum64(), 36)
}
