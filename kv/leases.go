package kv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
)

const (
	// leaseTTL is how long the lease of a process that stands still is kept. It is
	// longer than the election of a stream's leader (4 to 9 s), during which
	// nothing can be renewed.
	leaseTTL   = 15 * time.Second
	renewEvery = 3 * time.Second
	// releasedTTL is how long the marker of a released lease stays: whoever looked
	// for the answer before it was there then meets the marker, and looks again.
	releasedTTL = 5 * time.Second
	// probeTimeout bounds the wait for a process to say that it is alive.
	probeTimeout = 500 * time.Millisecond
	// makeTimeout bounds making the bucket anew.
	makeTimeout = 10 * time.Second
	// maxLeases bounds the leases that a process holds and the creations under way.
	maxLeases = 8192
	// maxLapsing bounds the leases of a process that wait for their end: those of
	// 4,000 answers a second. Each takes about 200 of the bucket's bytes, so that
	// it has room for those of twenty such processes.
	maxLapsing = 1 << 16
)

// LeaseState is what is known of a lease.
type LeaseState int

// What may be known of a lease.
const (
	LeaseFree   LeaseState = iota // nobody holds it
	LeaseHeld                     // its holder works on it
	LeaseSilent                   // its holder does not answer: it stands still, or is cut off
	LeaseGone                     // nobody answers under the holder's name: it has died, or lost its connection
)

// Lease is what a look at a lease found.
type Lease struct {
	State    LeaseState
	Revision uint64 // to take it over with
}

// Leases say which process runs which call now: keys are tenant.fingerprint or
// tenant.id, values the process. They are renewed until they are released. It
// is safe for concurrent use.
type Leases struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	put     *jsx.Publisher
	bucket  string
	process string
	alive   func(process string) string
	stop    func()
	layout  Layout

	missing  atomic.Bool // the bucket was not there when last asked
	headless *jsx.Headless

	mu      sync.Mutex
	held    map[string]*held
	lapsing lapsing
}

type held struct {
	revision uint64 // 0 while it is being taken
	lost     bool   // the bucket has another revision, or none after a restart of its server
	renewed  time.Time
	renewing bool
}

// NewLeases opens the bucket for a process, whose name no other has and is a
// subject token, and answers under alive(process) whether it works on a key.
// Close ends it.
func NewLeases(nc *nats.Conn, l Layout, process string, alive func(process string) string) (*Leases, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	put, err := jsx.NewPublisher(nc, jsx.PublisherConfig{Window: maxLeases})
	if err != nil {
		return nil, err
	}
	s := &Leases{
		nc: nc, js: js, put: put, bucket: l.Bucket(BucketLeases), process: process, alive: alive, layout: l,
		headless: jsx.NewHeadless("KV_" + l.Bucket(BucketLeases)), held: map[string]*held{},
	}
	sub, err := nc.Subscribe(alive(process), s.answer)
	if err != nil {
		put.Close()
		return nil, fmt.Errorf("answering for process %s: %w", process, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { s.renew(ctx) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
		_ = sub.Unsubscribe()
		put.Close()
	})
	return s, nil
}

// Close ends the renewals and the answers for the process: leases that it holds
// are free for others.
func (s *Leases) Close() { s.stop() }

func (s *Leases) subject(key string) string { return "$KV." + s.bucket + "." + key }

// answer says whether the process works on the key that it is asked for.
func (s *Leases) answer(m *nats.Msg) {
	s.mu.Lock()
	_, works := s.held[string(m.Data)]
	s.mu.Unlock()
	_ = m.Respond([]byte(strconv.FormatBool(works))) // whoever asked asks again
}

// Take asks for the leases of keys, all at once. taken[i] says whether keys[i]
// is this process's now; else somebody holds it, or held it a moment ago: see
// Check. With an error none is taken.
func (s *Leases) Take(ctx context.Context, keys []string) (taken []bool, err error) {
	taken = make([]bool, len(keys))
	asked, messages := make([]int, 0, len(keys)), make([]*nats.Msg, 0, len(keys))
	for i, key := range keys {
		if s.reserve(key) {
			asked, messages = append(asked, i), append(messages, s.message(key, 0))
		}
	}
	for n, o := range s.put.PublishAll(ctx, messages) {
		i := asked[n]
		s.decided(keys[i], o)
		if o.Err != nil && !jsx.IsWrongLastSequence(o.Err) && !jsx.IsInFlight(o.Err) {
			err = o.Err
		}
		taken[i] = o.Err == nil
	}
	if err == nil {
		return taken, nil
	}
	for i, key := range keys {
		if taken[i] {
			s.Release(key)
		}
	}
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		s.missing.Store(true)
	}
	return nil, fmt.Errorf("taking leases: %w", err)
}

// message takes or renews a lease whose last revision is the given one.
func (s *Leases) message(key string, revision uint64) *nats.Msg {
	header := takeHeader
	if revision != 0 {
		header = leaseHeader(revision)
	}
	return &nats.Msg{Subject: s.subject(key), Data: []byte(s.process), Header: header}
}

// takeHeader is that of a lease which nobody has; messages share it.
var takeHeader = leaseHeader(0)

func leaseHeader(revision uint64) nats.Header {
	return nats.Header{
		jetstream.ExpectedLastSubjSeqHeader: []string{strconv.FormatUint(revision, 10)},
		jetstream.MsgTTLHeader:              []string{leaseTTL.String()},
	}
}

// reserve notes that a lease is being taken: from then on this process answers
// for it. It is false if the process has it already, or has too many.
func (s *Leases) reserve(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[key] != nil || len(s.held) >= maxLeases {
		return false
	}
	s.held[key] = &held{renewed: time.Now()}
	return true
}

// decided notes whether a reserved lease was granted; if not, it is forgotten.
func (s *Leases) decided(key string, o jsx.Outcome) {
	if o.Err != nil {
		s.forget(key)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.held[key]; h != nil {
		h.revision, h.renewed = o.Ack.Sequence, time.Now()
	}
}

func (s *Leases) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, key)
}

// Check looks at a lease, and asks its holder whether it still works on it.
func (s *Leases) Check(ctx context.Context, key string) (Lease, error) {
	m, found, err := jsx.LastFromLeader(ctx, s.nc, "KV_"+s.bucket, s.subject(key))
	if err != nil {
		return Lease{}, fmt.Errorf("looking at the lease %s: %w", key, err)
	}
	lease := Lease{Revision: m.Sequence}
	if !found || len(m.Data) == 0 { // never taken, released or expired
		return lease, nil
	}
	if string(m.Data) == s.process {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.held[key] != nil {
			lease.State = LeaseHeld
		}
		return lease, nil
	}
	lease.State = s.probe(ctx, string(m.Data), key)
	return lease, nil
}

func (s *Leases) probe(ctx context.Context, process, key string) LeaseState {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	reply, err := s.nc.RequestWithContext(ctx, s.alive(process), []byte(key))
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return LeaseGone
	case err != nil:
		return LeaseSilent
	case string(reply.Data) == "true":
		return LeaseHeld
	}
	return LeaseFree
}

// TakeOver takes a lease that a look found at the given revision. It is false
// if somebody else was faster.
func (s *Leases) TakeOver(ctx context.Context, key string, revision uint64) (bool, error) {
	if !s.reserve(key) {
		return false, nil
	}
	o := s.put.PublishAll(ctx, []*nats.Msg{s.message(key, revision)})[0]
	s.decided(key, o)
	err := o.Err
	switch {
	case err == nil:
		return true, nil
	case jsx.IsWrongLastSequence(err), jsx.IsInFlight(err):
		return false, nil
	}
	return false, fmt.Errorf("taking the lease %s over: %w", key, err)
}

// Release gives a lease up. It does not wait: a release that is lost is found
// out by whoever asks this process for the lease.
func (s *Leases) Release(key string) {
	s.mu.Lock()
	h := s.held[key]
	delete(s.held, key)
	s.mu.Unlock()
	if h == nil || h.revision == 0 || h.renewing {
		return
	}
	_ = s.nc.PublishMsg(&nats.Msg{Subject: s.subject(key), Header: nats.Header{
		"KV-Operation":                      []string{"DEL"},
		jetstream.ExpectedLastSubjSeqHeader: []string{strconv.FormatUint(h.revision, 10)},
		jetstream.MsgTTLHeader:              []string{releasedTTL.String()},
	}})
}

// Lapse gives a lease up and leaves it to its end: that costs the server nothing,
// and who meets it until then is told that nobody works on it, as by a marker.
// Where too many are left already, it is Release.
func (s *Leases) Lapse(key string) {
	s.mu.Lock()
	lapses := s.held[key] != nil && s.lapsing.add()
	if lapses {
		delete(s.held, key)
	}
	s.mu.Unlock()
	if !lapses {
		s.Release(key)
	}
}

// lapsing counts the leases that wait for their end, by the second in which they
// were left.
type lapsing struct {
	all     int
	seconds [leaseTTL/time.Second + 1]int
	now     int
}

func (l *lapsing) add() bool {
	if l.all >= maxLapsing {
		return false
	}
	l.all++
	l.seconds[l.now]++
	return true
}

// tick begins another second: what was left longest ago has ended.
func (l *lapsing) tick() {
	l.now = (l.now + 1) % len(l.seconds)
	l.all -= l.seconds[l.now]
	l.seconds[l.now] = 0
}

// renew keeps what is held until ctx ends.
func (s *Leases) renew(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			s.mu.Lock()
			s.lapsing.tick()
			s.mu.Unlock()
			if s.missing.Swap(false) {
				s.make(ctx)
			}
			s.renewDue(ctx, now)
		}
	}
}

// make makes the bucket anew: it was in the memory of a server that restarted, or
// of several whose copies elect no leader any more. Where that fails, whoever
// asks for a lease next finds it missing again.
func (s *Leases) make(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	if headless, err := s.headless.Remove(ctx, s.js); headless {
		s.missing.Store(true) // look again
		if err != nil {
			slog.Warn("the bucket of leases has no leader", "error", err)
		}
		return
	}
	if err := provisionLeases(ctx, s.js, s.layout); err != nil {
		slog.Warn("making the bucket of leases anew failed", "error", err)
	}
}

// renewDue renews what was not renewed for a while. A lease that somebody took
// over is not renewed; the call goes on, and who records an answer first wins.
// One that went with its server is taken anew.
func (s *Leases) renewDue(ctx context.Context, now time.Time) {
	due := map[string]uint64{}
	s.mu.Lock()
	for key, h := range s.held {
		if h.revision != 0 && now.Sub(h.renewed) >= renewEvery {
			if due[key], h.renewing = h.revision, true; h.lost {
				due[key] = 0 // only if nobody else has it
			}
		}
	}
	s.mu.Unlock()
	asked := make(map[string]*jsx.Future, len(due))
	for key, revision := range due {
		if future, err := s.put.Begin(s.message(key, revision)); err == nil {
			asked[key] = future
		}
	}
	for key := range due {
		s.renewed(ctx, key, asked[key])
	}
}

func (s *Leases) renewed(ctx context.Context, key string, asked *jsx.Future) {
	var ack jsx.Ack
	lost := false
	if asked != nil {
		var err error
		ack, err = asked.Wait(ctx)
		lost = jsx.IsWrongLastSequence(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.held[key]; h != nil {
		h.renewing, h.lost = false, lost
		if ack.Sequence != 0 {
			h.revision, h.renewed = ack.Sequence, time.Now()
		}
	}
}
