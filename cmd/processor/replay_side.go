package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/streams"
)

const (
	// replayWindow and lowWindow are how many requests are under way at a time.
	replayWindow = 512
	lowWindow    = 64
	// settleEvery is after how many requests it is waited until the cache holds
	// what was answered: with what is under way that is less than it takes at a
	// time, and what is too much it drops, which would leave hits to chance.
	settleEvery = 256
	// replaySegment is after how many requests everything that they left on the
	// private server is removed, so that it holds no more at any time.
	replaySegment = 50_000
	// replayCache bounds the part of the cache in memory: the rest is read from
	// the private server.
	replayCache = 32 * units.MB
	// sweepReplay is how often stored responses are looked for that did not come by.
	sweepReplay = 5 * time.Second
	// maxLeaders bounds the distinct requests whose first answer is remembered.
	maxLeaders = 200_000
)

// result is what became of one request of the tape: a line of a results file.
type result struct {
	Index   int              `json:"i"`
	Outcome evaluate.Outcome `json:"o"`
	Note    note             `json:"n,omitzero"`
	Pending bool             `json:"pending,omitzero"` // the answer is a placeholder
}

// replaySide runs the requests of a tape through one configuration, on the
// private server. What it finds goes to a file, in the order of the tape.
type replaySide struct {
	cfg    config.Config
	nc     *nats.Conn
	tape   *tape
	path   string       // of the results
	only   []int        // numbers of the requests to run, sorted; nil is all
	calls  *cassette    // in the place of providers
	view   *liveView    // may be nil
	clock  *replayClock // may be nil
	factor float64      // of the recorded speed; 0 is as fast as it goes
	window int          // requests under way
	tally  *replayTally

	js      jetstream.JetStream
	local   *streams.Local
	deps    *deps
	leaders *lru.Cache[string, *leader]
	slots   chan struct{}
	cancel  context.CancelFunc // of the run

	mu      sync.Mutex
	open    map[int]*underway
	decided map[int]result // that wait for those before them
	next    []int          // numbers in the order in which they were sent
	out     *bufio.Writer
	failure error
}

// underway is a request that was sent and is not answered.
type underway struct {
	x      *record
	since  time.Time
	leader *leader
}

// leader is the first of equal requests. Those that follow wait until it is
// done: then what the cache does for them does not depend on chance.
type leader struct {
	at      time.Time
	done    chan struct{}
	settled bool // in the cache; for the goroutine that feeds
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
	cfg.Cache.LocalSize = min(cfg.Cache.LocalSize, replayCache)
	return cfg
}

// run goes on where an earlier run ended, and to the end.
func (s *replaySide) run(ctx context.Context) (err error) {
	done, f, err := openResults(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if s.calls.dry && done == s.tape.requests {
		return nil
	}
	if s.calls.dry && done > 0 {
		if err := s.anew(ctx, f); err != nil {
			return err
		}
		done = 0
	}
	s.out = bufio.NewWriterSize(f, 256<<10)
	s.open, s.decided, s.slots = map[int]*underway{}, map[int]result{}, make(chan struct{}, s.window)
	if s.leaders, err = lru.New[string, *leader](maxLeaders); err != nil {
		return fmt.Errorf("making the list of requests: %w", err)
	}
	s.tally.skip(done)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.cancel = cancel
	stop, err := s.start(ctx)
	if err != nil {
		return err
	}
	var sweeping sync.WaitGroup
	if !s.calls.dry {
		sweeping.Go(func() { s.sweep(ctx) })
	}
	err = s.feed(ctx, done)
	cancel()
	sweeping.Wait()
	err = errors.Join(err, s.failed(), s.flush(), stop())
	if err != nil {
		return err
	}
	return f.Sync()
}

// anew forgets what a run that pays nothing had done when it was cut off. What
// was cached and what was noted need not be in step, and to find it out again
// costs nothing.
func (s *replaySide) anew(ctx context.Context, results *os.File) error {
	js, err := jetstream.New(s.nc)
	if err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	stream, err := js.Stream(ctx, "KV_"+bucketLayout(s.cfg).Bucket(kv.BucketCache))
	if err == nil {
		err = stream.Purge(ctx)
	}
	if err == nil {
		err = results.Truncate(0)
	}
	if err == nil {
		_, err = results.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("beginning a side anew: %w", err)
	}
	return nil
}

// start runs the pipeline, all stages in one group, which changes no outcome.
// One that pays keeps on the private server what it does, so that nothing that
// an interruption finds answered is worked again.
func (s *replaySide) start(ctx context.Context) (stop func() error, err error) {
	if s.js, err = jetstream.New(s.nc); err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	if err := s.cfg.Resources.Apply(serverMemory(s.cfg)); err != nil {
		return nil, err
	}
	if s.deps, err = newDeps(ctx, s.cfg, s.nc, nil); err != nil {
		return nil, err
	}
	d := s.deps
	s.local = streams.NewLocal(s.window, !s.calls.dry, func(subject string, response []byte) {
		if index, ok := indexOf(subject[strings.LastIndexByte(subject, '.')+1:]); ok {
			s.answered(index, response)
		}
	})
	s.calls.cost, s.calls.count, s.calls.now = d.models.cost, d.counter, s.underway
	s.calls.stand(d.models, simulatedProviders(s.cfg.ProviderList()))
	d.replay = &replaying{calls: s.calls, view: s.view, local: s.local}
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

// feed sends the requests behind the first done ones, and returns when all are answered.
func (s *replaySide) feed(ctx context.Context, done int) error {
	first, begun, begin := true, time.Time{}, time.Now()
	number, sent := 0, 0
	err := s.tape.each(0, func(index int, _ int64, x *record) error {
		if s.only != nil {
			if _, wanted := slices.BinarySearch(s.only, index); !wanted {
				return nil
			}
		}
		if number++; number <= done {
			return nil
		}
		if s.clock != nil {
			s.clock.set(x.Time)
		}
		if first {
			first, begun = false, x.Time
		}
		if s.factor > 0 {
			due := begin.Add(time.Duration(float64(x.Time.Sub(begun)) / s.factor))
			if err := waitUntil(ctx, due); err != nil {
				return err
			}
		}
		if sent++; sent%replaySegment == 0 {
			if err := s.clear(ctx); err != nil {
				return err
			}
		}
		if sent%settleEvery == 0 {
			if err := s.settle(ctx, &leader{}); err != nil {
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
	body, first, err := s.inOrder(ctx, x)
	if err != nil {
		return err
	}
	m := s.message(index, x, body)
	s.mu.Lock()
	s.open[index] = &underway{x, time.Now(), first}
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
func (s *replaySide) inOrder(ctx context.Context, x *record) (body []byte, first *leader, err error) {
	body = x.body()
	key, ttl, ok := s.cachedAs(x)
	if !ok {
		return body, nil, nil
	}
	before, known := s.leaders.Get(key)
	if known {
		select {
		case <-before.done:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		if err := s.settle(ctx, before); err != nil {
			return nil, nil, err
		}
		if x.Time.Sub(before.at) < ttl {
			return body, nil, nil
		}
		body = refreshed(body)
	}
	first = &leader{at: x.Time, done: make(chan struct{})}
	s.leaders.Add(key, first)
	return body, first, nil
}

// cachedAs gives what equal requests have in common, and how long their answer
// stays in the cache; ok is false for a request that is not cached, or is broken.
func (s *replaySide) cachedAs(x *record) (key string, ttl time.Duration, ok bool) {
	if !s.cfg.Cache.Enabled || x.Request == nil {
		return "", 0, false
	}
	body := x.body()
	parsed, err := schemas.Parse(body)
	if err != nil || parsed.Options.Cache != nil && parsed.Options.Cache.Mode != "" && parsed.Options.Cache.Mode != "on" {
		return "", 0, false
	}
	var options []byte
	if span, ok := schemas.Member(body, "processor"); ok {
		options = span.Of(body)
	}
	return x.Tenant + "." + schemas.CacheKey(body, options), s.ttl(&parsed.Options), true
}

// settle waits until the cache holds what the first of equal requests left
// there, or took back: writes are kept in their order, so that one more that is
// kept says it of those before it.
func (s *replaySide) settle(ctx context.Context, first *leader) error {
	if first.settled {
		return nil
	}
	first.settled = true
	kept := make(chan struct{})
	s.deps.cache.Put("_.settled", kv.Entry{Passing: true, Answer: []byte("{}")}, time.Second, func() { close(kept) })
	select {
	case <-kept:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.open[index]
	if u == nil {
		return
	}
	delete(s.open, index)
	if u.leader != nil {
		close(u.leader.done)
	}
	s.decided[index] = r
	s.tally.add(&r)
	written := 0
	for _, i := range s.next {
		r, ok := s.decided[i]
		if !ok {
			break
		}
		delete(s.decided, i)
		written++
		line, err := marshalLine(&r)
		if err == nil {
			_, err = s.out.Write(line)
		}
		if err != nil && s.failure == nil {
			s.failure = fmt.Errorf("writing the results: %w", err)
			s.cancel()
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

func (s *replaySide) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("writing the results: %w", err)
	}
	return nil
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
	if err := errors.Join(s.drain(ctx), s.flush()); err != nil || s.calls.dry {
		return err
	}
	names := streams.Names{Prefix: s.cfg.NATS.Prefix}
	for _, name := range []string{names.Responses(), names.Dead(), "KV_" + s.cfg.NATS.Prefix + "_answers"} {
		stream, err := s.js.Stream(ctx, name)
		if err == nil {
			err = stream.Purge(ctx)
		}
		if err != nil {
			return fmt.Errorf("clearing the private server: %w", err)
		}
	}
	return nil
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

// openResults opens a results file behind its last whole line, and says how
// many it has.
func openResults(path string) (lines int, f *os.File, err error) {
	f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return 0, nil, fmt.Errorf("opening the results: %w", err)
	}
	reader, end := bufio.NewReaderSize(f, 256<<10), int64(0)
	for {
		_, length, err := readLine(reader, 0)
		if err != nil {
			break // what is behind the last whole line was cut off
		}
		lines, end = lines+1, end+int64(length)
	}
	if err = f.Truncate(end); err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return 0, nil, fmt.Errorf("opening the results: %w", err)
	}
	return lines, f, nil
}

// readResults calls f with each result of a file, in order. A file that is not
// there has none.
func readResults(path string, f func(*result) error) error {
	reader, err := openResultReader(path)
	if err != nil {
		return err
	}
	defer reader.close()
	for {
		r, err := reader.next()
		if r == nil || err != nil {
			return err
		}
		if err := f(r); err != nil {
			return err
		}
	}
}
