package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/streams"
)

const (
	// replayWindow and lowWindow are how many requests are under way at a time.
	replayWindow = 512
	lowWindow    = 64
	// replaySegment is after how many requests everything that they left on the
	// private server is removed, so that it holds no more at any time.
	replaySegment = 50_000
	// replayMemory bounds the part of a cache in memory that a replay has beside
	// its own, as who only prepares requests.
	replayMemory = 32 * units.MB
	// checkpointEvery is how often what was done is handed to the system, from
	// where a process finds it that comes after one that was killed.
	checkpointEvery = 200 * time.Millisecond
	// sweepReplay is how often stored responses are looked for that did not come by.
	sweepReplay = 5 * time.Second
	// maxFirsts bounds the distinct requests of which is remembered which was the
	// first: the latest of them, twice as many at most, in 25 bytes each or so.
	maxFirsts = 1 << 19
)

// replaySide runs the requests of a tape through one configuration, on the
// private server. What it finds goes to a file, in the order of the tape.
type replaySide struct {
	cfg    config.Config
	nc     *nats.Conn
	tape   *tape
	done   *sideDone // what was done, and where what is done goes
	only   []int     // numbers of the requests to run, sorted; nil is all
	calls  *cassette // in the place of providers
	view   *liveView // may be nil
	clock  *replayClock
	factor float64 // of the recorded speed; 0 is as fast as it goes
	window int     // requests under way
	tally  *replayTally

	local  *streams.Local
	deps   *deps
	slots  chan struct{}
	cancel context.CancelFunc // of the run

	sent          int // in this run; for the goroutine that feeds, as the next
	firsts, older map[requestKey]leader
	latest        map[string]int // requests by tenants with a budget

	mu      sync.Mutex
	open    map[int]*underway
	decided map[int]decision // that wait for those before them
	next    []int            // numbers in the order in which they were sent
	failure error
}

// underway is a request that was sent and is not answered.
type underway struct {
	x     *record
	since time.Time
	done  chan struct{}
	first first
}

// leader is the first of equal requests. Those that follow wait until it is
// done: then what the cache does for them does not depend on chance.
type leader struct {
	at    schemas.Millis
	index int
}

// decision is a result on its way to the file.
type decision struct {
	result result
	first  first
}

// isolated is a configuration for a private server: its own streams, and no archive.
func isolated(cfg config.Config, prefix string, window int) config.Config {
	server := streams.DefaultServer()
	server.Prefix = prefix
	cfg.NATS = server
	cfg.Streams = streams.DefaultStreams()
	cfg.Streams.Archive.Enabled = false
	cfg.Streams.Requests.MaxWaiting = max(cfg.Streams.Requests.MaxWaiting, 2*window)
	cfg.Tenants = nil
	cfg.Cache.SyncInterval = units.Duration(time.Hour) // nobody else writes there
	cfg.Cache.LocalSize = min(cfg.Cache.LocalSize, replayMemory)
	return cfg
}

// run goes on where an earlier run ended, and to the end.
func (s *replaySide) run(ctx context.Context) (err error) {
	s.open, s.decided, s.slots = map[int]*underway{}, map[int]decision{}, make(chan struct{}, s.window)
	s.firsts = make(map[requestKey]leader, len(s.done.firsts))
	for _, f := range s.done.firsts {
		s.lead(f, -1)
	}
	s.done.firsts, s.latest = nil, map[string]int{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.cancel = cancel
	c := s.done.cache
	c.clock, c.fail, c.largest, c.durable = s.clock, s.fail, largestEntry(s.nc.MaxPayload()), !s.calls.dry
	stop, err := s.start(ctx)
	if err != nil {
		return err
	}
	var beside sync.WaitGroup
	if !s.calls.dry {
		beside.Go(func() { s.sweep(ctx) })
	}
	beside.Go(func() { s.checkpoints(ctx) })
	err = s.feed(ctx)
	cancel()
	beside.Wait()
	stopErr := stop()
	if failure := s.failed(); failure != nil { // of which the others are consequences
		return failure
	}
	return errors.Join(err, stopErr)
}

// checkpoints hands over what was done every so often, until ctx ends.
func (s *replaySide) checkpoints(ctx context.Context) {
	ticker := time.NewTicker(checkpointEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := s.done.flush(); err != nil {
				s.fail(err)
			}
		}
	}
}

// fail ends the run.
func (s *replaySide) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failLocked(err)
}

func (s *replaySide) failLocked(err error) {
	if s.failure == nil {
		s.failure = err
		s.cancel()
	}
}

// start runs the pipeline, all stages in one group, which changes no outcome.
// One that pays keeps on the private server what it does, so that nothing that
// an interruption finds answered is worked again.
func (s *replaySide) start(ctx context.Context) (stop func() error, err error) {
	if err := s.cfg.Resources.Apply(serverMemory(s.cfg)); err != nil {
		return nil, err
	}
	s.local = streams.NewLocal(s.window, !s.calls.dry, func(subject string, response []byte) {
		if index, ok := indexOf(subject[strings.LastIndexByte(subject, '.')+1:]); ok {
			s.answered(index, response)
		}
	})
	if s.deps, err = newDepsFor(ctx, s.cfg, s.nc, nil, &replaying{local: s.local, calls: s.calls, cache: s.done.cache, view: s.view}); err != nil {
		return nil, err
	}
	d := s.deps
	s.calls.cost, s.calls.count, s.calls.now = d.models.cost, d.counter, s.underway
	s.calls.stand(d.models, simulatedProviders(s.cfg.ProviderList()))
	if s.calls.dry {
		err = d.budgets.charge(ctx, s.done.charges)
	}
	if err != nil {
		d.close()
		return nil, fmt.Errorf("charging the budgets again: %w", err)
	}
	r, err := streams.NewRunner(s.nc, d.runnerConfig(stages.Names), steps(d))
	if err != nil {
		d.close()
		return nil, err
	}
	p := pipeline{deps: d, runners: []*streams.Runner{r}}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- p.Run(running) }()
	return func() error {
		cancel()
		return <-done
	}, nil
}

func (s *replaySide) underway(index int) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.open[index]; u != nil {
		return u.x
	}
	return nil
}

// feed sends the requests behind those that are done, and returns when all are answered.
func (s *replaySide) feed(ctx context.Context) error {
	first, begun, begin := true, time.Time{}, time.Now()
	number := 0
	err := s.tape.each(0, func(index int, _ int64, x *record) error {
		if s.only != nil {
			if _, wanted := slices.BinarySearch(s.only, index); !wanted {
				return nil
			}
		}
		if number++; number <= s.done.count {
			if number == s.done.count && index != s.done.last {
				return hint(fmt.Errorf("result %d is that of request %d and not of %d", number, s.done.last, index), "begin anew with --fresh")
			}
			return nil
		}
		s.clock.set(x.Time)
		if first {
			first, begun = false, x.Time
		}
		if s.factor > 0 {
			due := begin.Add(time.Duration(float64(x.Time.Sub(begun)) / s.factor))
			if err := waitUntil(ctx, due); err != nil {
				return err
			}
		}
		if s.sent++; s.sent%replaySegment == 0 {
			if err := s.clear(ctx); err != nil {
				return err
			}
		}
		return s.send(ctx, index, x)
	})
	if err != nil {
		return err
	}
	return s.drain(ctx)
}

func waitUntil(ctx context.Context, due time.Time) error {
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send publishes one request once there is room for it.
func (s *replaySide) send(ctx context.Context, index int, x *record) error {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.failed(); err != nil {
		return err
	}
	body, first, err := s.inOrder(ctx, index, x)
	if err == nil {
		err = s.oneByOne(ctx, index, x)
	}
	if err != nil {
		return err
	}
	m := s.message(index, x, body)
	s.mu.Lock()
	s.open[index] = &underway{x, time.Now(), make(chan struct{}), first}
	s.next = append(s.next, index)
	s.mu.Unlock()
	if !schemas.ValidName(x.Tenant) || len(body) > streams.MaxRequest(int(s.nc.MaxPayload())) {
		s.decide(index, result{Index: index, Outcome: evaluate.Outcome{Error: string(refusal(x))}})
		return nil
	}
	return s.local.Send(ctx, m)
}

// refusal is how a deployment answers what cannot be published here.
func refusal(x *record) schemas.Code {
	if !schemas.ValidName(x.Tenant) {
		return schemas.CodeInvalidField
	}
	return schemas.CodeTooLarge
}

// message makes the message of a request. A deadline is as far away as it was.
func (s *replaySide) message(index int, x *record, body []byte) *nats.Msg {
	m := nats.NewMsg(streams.Names{Prefix: s.cfg.NATS.Prefix}.Request(x.Tenant))
	m.Header.Set(streams.HeaderID, replayID(index))
	if x.Priority != "" {
		m.Header.Set(streams.HeaderPriority, x.Priority)
	}
	if x.Deadline != "" {
		m.Header.Set(streams.HeaderDeadline, shifted(x.Deadline, x.Time))
	}
	m.Data = shiftDeadline(body, x.Time)
	return m
}

// shifted moves a deadline to where it is as far from now as it was from the
// time of publishing. What is no time stays as it is.
func shifted(deadline string, published time.Time) string {
	at, err := time.Parse(time.RFC3339, deadline)
	if err != nil {
		return deadline
	}
	return time.Now().Add(at.Sub(published)).UTC().Format(time.RFC3339Nano)
}

func shiftDeadline(body []byte, published time.Time) []byte {
	options, ok := schemas.Member(body, "processor")
	if !ok || body[options.Start] != '{' {
		return body
	}
	object := options.Of(body)
	span, ok := schemas.Member(object, "deadline")
	if !ok {
		return body
	}
	text, err := schemas.Unquote(span.Of(object))
	if err != nil {
		return body
	}
	return schemas.SetMember(body, "processor", schemas.SetMember(object, "deadline", schemas.Quote(shifted(text, published))))
}

// inOrder waits for the first of equal requests, and has one that comes after
// its answer has aged out of the cache ask anew: at its recorded time the entry
// would have been gone, however fast the replay is.
func (s *replaySide) inOrder(ctx context.Context, index int, x *record) (body []byte, f first, err error) {
	body = x.body()
	key, ttl, ok := s.cachedAs(x)
	if !ok {
		return body, f, nil
	}
	before, known := s.leader(key)
	if known {
		if err := s.await(ctx, before.index); err != nil {
			return nil, f, err
		}
		if x.Time.Sub(before.at.Time()) < ttl {
			return body, f, nil
		}
		body = refreshed(body)
	}
	f = first{key, schemas.ToMillis(x.Time)}
	s.lead(f, index)
	return body, f, nil
}

// oneByOne has the requests of a tenant with a budget follow each other where
// nothing is paid: which of them the budget refuses is not left to chance then.
func (s *replaySide) oneByOne(ctx context.Context, index int, x *record) error {
	free := s.calls.dry || len(simulatedProviders(s.cfg.ProviderList())) == len(s.cfg.ProviderList())
	if !free || !s.deps.budgets.Limited(x.Tenant) {
		return nil
	}
	before, sent := s.latest[x.Tenant]
	s.latest[x.Tenant] = index
	if !sent {
		return nil
	}
	return s.await(ctx, before)
}

// leader gives the first of the requests with a key.
func (s *replaySide) leader(key requestKey) (leader, bool) {
	if l, known := s.firsts[key]; known {
		return l, true
	}
	l, known := s.older[key]
	if known {
		s.lead(first{key, l.at}, l.index)
	}
	return l, known
}

// lead notes who is the first of the requests with a key. The oldest are forgotten.
func (s *replaySide) lead(f first, index int) {
	if len(s.firsts) >= maxFirsts {
		s.firsts, s.older = map[requestKey]leader{}, s.firsts
	}
	s.firsts[f.key] = leader{f.at, index}
}

// await waits until a request has its outcome.
func (s *replaySide) await(ctx context.Context, index int) error {
	s.mu.Lock()
	u := s.open[index]
	s.mu.Unlock()
	if u == nil {
		return nil
	}
	select {
	case <-u.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cachedAs gives what equal requests have in common, and how long their answer
// stays in the cache; ok is false for a request that is not cached, or is broken.
func (s *replaySide) cachedAs(x *record) (key requestKey, ttl time.Duration, ok bool) {
	if !s.cfg.Cache.Enabled || x.Request == nil {
		return 0, 0, false
	}
	body := x.body()
	parsed, err := schemas.Parse(body)
	if err != nil || parsed.Options.Cache != nil && parsed.Options.Cache.Mode == "off" {
		return 0, 0, false
	}
	r := &stages.Request{}
	r.Tenant, r.Body, r.Kind = x.Tenant, body, parsed.Kind
	if span, ok := schemas.Member(body, "processor"); ok {
		r.Options = span.Of(body)
	}
	alike := cache.Alike(cacheConfig(s.cfg.Cache), r)
	h := fnv.New64a()
	_, _ = h.Write([]byte(alike))
	ttl = s.ttl(&parsed.Options)
	if cache.Refresh(r) { // whatever there is, it leads
		ttl = 0
	}
	return requestKey(max(h.Sum64(), 1)), ttl, true
}

func (s *replaySide) ttl(o *schemas.Options) time.Duration {
	if o.Cache != nil && o.Cache.TTL != "" {
		if ttl, err := time.ParseDuration(o.Cache.TTL); err == nil {
			return ttl
		}
	}
	return s.cfg.Cache.TTL.Std()
}

// answered takes a response of the pipeline.
func (s *replaySide) answered(index int, body []byte) {
	s.mu.Lock()
	_, open := s.open[index]
	s.mu.Unlock()
	if !open { // came twice
		return
	}
	c, err := readStored(body)
	if err != nil {
		c = &storedResponse{} // the outcome of what cannot be read is an error
		c.Error = &struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		}{Code: "unreadable_response"}
	}
	r := result{Index: index, Outcome: c.outcome(body), Note: s.calls.take(index), Pending: c.Fingerprint == placeholder}
	r.Outcome.Stages = s.timings(r.Outcome.Stages, &r.Note)
	s.decide(index, r)
}

// timings keeps what a deployment would measure too: recorded calls, calls that
// were paid, and at a recorded speed all stages. At full speed the work of a
// stage is as long as the replay makes it.
func (s *replaySide) timings(measured map[string]float64, n *note) map[string]float64 {
	kept := map[string]float64{}
	for stage, ms := range measured {
		if s.factor > 0 || stage == stages.Generate && n.Paid.Calls > 0 {
			kept[stage] = ms
		}
	}
	if n.Cassette > 0 && n.Paid.Calls == 0 {
		delete(kept, stages.Generate)
		if n.CallMS > 0 {
			kept[stages.Generate] = n.CallMS
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return kept
}

// decide writes what is decided in the order in which it was sent.
func (s *replaySide) decide(index int, r result) {
	s.done.cache.decided(index)
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.open[index]
	if u == nil {
		return
	}
	delete(s.open, index)
	close(u.done)
	s.decided[index] = decision{r, u.first}
	s.tally.add(&r)
	written := 0
	for _, i := range s.next {
		d, ok := s.decided[i]
		if !ok {
			break
		}
		delete(s.decided, i)
		written++
		if err := s.done.add(&d.result, d.first); err != nil {
			s.failLocked(err)
		}
	}
	s.next = append(s.next[:0], s.next[written:]...)
	for range written {
		<-s.slots
	}
}

func (s *replaySide) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// drain waits until everything that was sent is answered.
func (s *replaySide) drain(ctx context.Context) error {
	for range cap(s.slots) {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range cap(s.slots) {
		<-s.slots
	}
	return s.failed()
}

// clear removes from the private server what answered requests left there.
func (s *replaySide) clear(ctx context.Context) error {
	if err := errors.Join(s.drain(ctx), s.done.flush()); err != nil {
		return err
	}
	names := streams.Names{Prefix: s.cfg.NATS.Prefix}
	left := []string{"KV_" + bucketLayout(s.cfg).Bucket(kv.BucketAnswers)}
	if !s.calls.dry {
		left = append(left, names.Responses(), names.Dead())
	}
	return purge(ctx, s.nc, left...)
}

// sweep looks for responses that are stored and did not come by, as those that a
// stage finds to requests of an interrupted run.
func (s *replaySide) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepReplay)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		keys := map[string]int{}
		s.mu.Lock()
		for index, u := range s.open {
			if time.Since(u.since) > sweepReplay {
				keys[u.x.Tenant+"."+replayID(index)] = index
			}
		}
		s.mu.Unlock()
		found, _ := s.deps.ledger.responses.Find(ctx, slices.Collect(maps.Keys(keys))) // what cannot be read now is looked for again
		for key, body := range found {
			s.answered(keys[key], body)
		}
	}
}
