package batch

import (
	"bytes"
	"context"
	"hash/fnv"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// Limits are what a message may hold.
type Limits struct {
	Bytes int // of the requests in a batch, together
}

const (
	// maxGroups bounds the groups that wait or whose rate is remembered; past it
	// the one that was idle longest is sent and forgotten.
	maxGroups = 1024
	// maxSorted and maxSortedBytes bound the chats of class batch that are put in
	// order together. On a trace of conversations sorting 128 at a time gained
	// nothing, 512 doubled what a provider finds in its cache.
	maxSorted      = 512
	maxSortedBytes = 32 << 20
	// compared is how many bytes of the messages decide about the order.
	compared = 64 << 10
)

// Stage groups requests of one tenant, class, model and parameters, at most
// max_batch_size in a message. Interactive chats wait for nobody: what has
// arrived together goes on together. Embeddings, and everything of class batch,
// wait a window of 2 to 50 ms, by the rate at which their like arrives and never
// longer than timeout. Chats of class batch go on sorted, so that those with
// equal beginnings follow each other and the provider finds them in its cache.
//
// It is safe for concurrent use. What it holds is bounded by what its runner
// holds, and the number of groups by maxGroups.
type Stage struct {
	cfg    Config
	limits Limits

	mu     sync.Mutex
	groups *simplelru.LRU[string, *group]
}

// group is what waits under a key, and how fast its like arrives.
type group struct {
	waits, sorts bool
	window       window
	arrived      int // requests of the slice that is being looked at

	requests []*stages.Request
	bytes    int
	decide   stages.Decide
	begun    int       // requests that the wait began with
	closes   time.Time // when the wait ends at the latest
	due      time.Time // when it ends if nothing more comes
	timer    *time.Timer
}

// New makes the batch stage.
func New(cfg Config, limits Limits) *Stage {
	s := &Stage{cfg: cfg, limits: limits}
	// The error is for a size below 1 alone.
	s.groups, _ = simplelru.NewLRU(maxGroups, func(_ string, g *group) { s.send(g) })
	return s
}

// Run implements stages.Stage.
func (s *Stage) Run(_ context.Context, requests []*stages.Request, decide stages.Decide) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]*group{}
	for _, r := range requests {
		key := key(r)
		g := s.group(key, r)
		seen[key] = g
		if len(g.requests) > 0 && g.bytes+size(r) > s.mostBytes(g) {
			s.send(g)
		}
		g.requests, g.bytes, g.decide = append(g.requests, r), g.bytes+size(r), decide
		g.arrived++
		if len(g.requests) >= s.most(g) {
			s.send(g)
		}
	}
	now := time.Now()
	for key, g := range seen {
		s.settle(key, g, now)
	}
}

// group gives the group of a request.
func (s *Stage) group(key string, r *stages.Request) *group {
	g, ok := s.groups.Get(key)
	if !ok {
		g = &group{
			waits: s.cfg.Timeout.Std() > 0 && (r.Kind == schemas.Embeddings || r.Class == schemas.Batch),
			sorts: r.Kind == schemas.Chat && r.Class == schemas.Batch,
		}
		s.groups.Add(key, g)
	}
	return g
}

// most is how many requests a group holds before it is sent.
func (s *Stage) most(g *group) int {
	if g.sorts && g.waits {
		return max(maxSorted, s.cfg.MaxBatchSize)
	}
	return s.cfg.MaxBatchSize
}

func (s *Stage) mostBytes(g *group) int {
	if g.sorts {
		return max(maxSortedBytes, s.limits.Bytes)
	}
	return s.limits.Bytes
}

// settle sends what has arrived, or has it wait for more.
func (s *Stage) settle(key string, g *group, now time.Time) {
	if !g.waits {
		s.groups.Remove(key) // and sends it
		return
	}
	g.window.arrive(now, g.arrived)
	g.arrived = 0
	if len(g.requests) == 0 {
		return
	}
	if g.closes.IsZero() {
		g.begun = len(g.requests)
		g.closes = now.Add(min(g.window.open(s.most(g)-g.begun), s.cfg.Timeout.Std()))
	}
	if g.due = now.Add(g.window.quiet()); g.due.After(g.closes) {
		g.due = g.closes
	}
	if g.timer == nil {
		g.timer = time.AfterFunc(g.due.Sub(now), func() { s.expire(g) })
	}
}

// expire sends a group whose time is up; more may have arrived since the timer was set.
func (s *Stage) expire(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.timer == nil {
		return
	}
	if left := time.Until(g.due); left > 0 {
		g.timer.Reset(left)
		return
	}
	s.send(g)
}

// send sends what a group holds, in messages of at most max_batch_size requests.
func (s *Stage) send(g *group) {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	if !g.closes.IsZero() {
		g.window.closed(len(g.requests) > g.begun)
		g.closes = time.Time{}
	}
	list := g.requests
	g.requests, g.bytes = nil, 0
	if g.sorts {
		sortByMessages(list)
	}
	for len(list) > 0 {
		n, bytes := 1, size(list[0])
		for n < min(len(list), s.cfg.MaxBatchSize) && bytes+size(list[n]) <= s.limits.Bytes {
			bytes += size(list[n])
			n++
		}
		g.decide(list[0], stages.Together(list[1:n:n]))
		list = list[n:]
	}
}

// sortByMessages brings requests with equal beginnings together; equal ones
// keep their order.
func sortByMessages(list []*stages.Request) {
	type entry struct {
		messages []byte
		request  *stages.Request
	}
	entries := make([]entry, len(list))
	for i, r := range list {
		span, _ := schemas.Member(r.Body, "messages")
		messages := span.Of(r.Body)
		entries[i] = entry{messages[:min(len(messages), compared)], r}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return bytes.Compare(a.messages, b.messages) })
	for i, e := range entries {
		list[i] = e.request
	}
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
	beyond := ""
	if r.Beyond { // goes beside the tenant's shard
		beyond = "/beyond"
	}
	return r.Tenant + beyond + "/" + string(r.Class) + "/" + string(r.Kind) + "/" + r.Model + "/" + strconv.FormatUint(h.Sum64(), 36)
}
