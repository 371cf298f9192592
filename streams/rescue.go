package streams

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// What a stream has acknowledged is as safe as its servers keep it. Two of three
// that are killed within a second, or a machine that loses power before its disk
// was told, may lose a message that was on its way between stages. The archive
// knows what was accepted, and the responses what was answered. So after trouble
// with a server the requests of the time before it are compared, and one without
// an answer is worked once more, as if it were delivered again: whatever was
// answered or recorded is found before anything is paid. The comparison costs
// nothing while there is no trouble.
const (
	// rescueBefore is how long before trouble a request may have been accepted.
	rescueBefore = 10 * time.Minute
	// rescueAge is how old a request is before its answer is missed: longer than
	// the duplicate window, in which the server drops a hand-off made anew.
	rescueAge = 150 * time.Second
	// rescueLate is the age from which one without an answer is worked again, once,
	// though something of its tenant waits, which may be it.
	rescueLate = 10 * time.Minute
	// rescueRest is the time between two comparisons, rescueAgain that between two
	// attempts at a request, and rescueEnd when it is given up to find all answers.
	rescueRest  = time.Minute
	rescueAgain = 4 * time.Minute
	rescueEnd   = time.Hour
	// rescueMost bounds the requests without an answer that are known at a time.
	rescueMost = 1024
	// rescuePause is the rest after each 256 requests that are compared.
	rescuePause = 20 * time.Millisecond
	// rescueSlack is how far the clocks of two replicas and the times at which
	// they learn of the same trouble may be apart.
	rescueSlack = 5 * time.Second
)

// rescuer finds requests that were lost and works them. A nil one does nothing.
type rescuer struct {
	runner *Runner
	name   string
	age    time.Duration
	rest   time.Duration
	heard  []*nats.Subscription
	status chan nats.Status

	mu     sync.Mutex
	window rescueWindow // of acceptance, that is to be compared; zero: none
	next   time.Time    // when it is compared

	tried map[uint64]time.Time // when a request was worked again, by its sequence in the archive
}

// rescueWindow is a time of acceptance that is to be compared.
type rescueWindow struct {
	opened time.Time
	from   time.Time // where it began
	since  time.Time // up to where all is answered
	until  time.Time
	fresh  bool // nothing of it was compared yet
}

func (w rescueWindow) open() bool { return !w.opened.IsZero() }

// compared is what a replica tells the others.
type compared struct {
	Name  string    `json:"name"`
	From  time.Time `json:"from"`
	Since time.Time `json:"since"` // all from From to here is answered
	Until time.Time `json:"until"`
	Done  bool      `json:"done"` // and all the rest
}

// newRescuer makes the rescuer of a runner, nil if that takes no requests or
// there is no archive to compare with.
func newRescuer(r *Runner) *rescuer {
	if r.overtaker == nil || !r.cfg.Layout.Archive {
		return nil
	}
	return &rescuer{runner: r, name: rand.Text(), age: rescueAge, rest: rescueRest, tried: map[uint64]time.Time{}}
}

// listen notices trouble with servers, and what other replicas have compared,
// until close.
func (s *rescuer) listen() error {
	if s == nil {
		return nil
	}
	names := s.runner.names
	const elected = ".LEADER_ELECTED."
	for subject, hear := range map[string]nats.MsgHandler{
		names.Compared(): s.hear,
		"$JS.EVENT.ADVISORY.STREAM" + elected + "*":     s.hearElected,
		"$JS.EVENT.ADVISORY.CONSUMER" + elected + "*.*": s.hearElected,
	} {
		sub, err := s.runner.nc.Subscribe(subject, hear)
		if err != nil {
			return fmt.Errorf("listening for trouble with servers: %w", err)
		}
		s.heard = append(s.heard, sub)
	}
	s.status = s.runner.nc.StatusChanged(nats.CONNECTED)
	s.trouble() // whatever happened before this process began
	return nil
}

func (s *rescuer) close() {
	if s == nil {
		return
	}
	for _, sub := range s.heard {
		_ = sub.Unsubscribe()
	}
	if s.status != nil {
		s.runner.nc.RemoveStatusListener(s.status)
	}
}

// hearElected takes it for trouble that a stream or consumer of the product has a new leader.
func (s *rescuer) hearElected(m *nats.Msg) {
	if _, stream, ok := strings.Cut(m.Subject, ".LEADER_ELECTED."); ok && strings.HasPrefix(stream, s.runner.names.stream("")) {
		s.trouble()
	}
}

// trouble opens the time before now to comparison, or extends what is open to now.
func (s *rescuer) trouble() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.window.open() {
		before := now.Add(-rescueBefore)
		s.window = rescueWindow{opened: now, from: before, since: before, fresh: true}
		s.next = now.Add(s.age + s.jitter())
	}
	s.window.until = now.Add(rescueSlack)
}

// jitter keeps replicas from comparing at the same time.
func (s *rescuer) jitter() time.Duration { return mathrand.N(s.rest) }

// hear leaves to another replica what that one compares.
func (s *rescuer) hear(m *nats.Msg) {
	var c compared
	if json.Unmarshal(m.Data, &c) != nil || c.Name == s.name {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.window
	if !w.open() || c.From.After(w.since.Add(rescueSlack)) || w.until.After(c.Until.Add(rescueSlack)) {
		return
	}
	if w.fresh = false; c.Since.After(w.since) {
		w.since = c.Since
	}
	if c.Done {
		*w = rescueWindow{}
	}
	s.next = time.Now().Add(s.rest + s.jitter())
}

// run compares what is to be compared until ctx ends.
func (s *rescuer) run(ctx context.Context) {
	if s == nil {
		return
	}
	tick := time.NewTicker(s.rest / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.status:
			s.trouble()
		case <-tick.C:
			if w, due := s.due(); due {
				s.compare(ctx, w)
			}
		}
	}
}

func (s *rescuer) due() (rescueWindow, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.window, s.window.open() && !time.Now().Before(s.next)
}

// compare looks through a window once, has worked again what was lost, and
// leaves what is still to be answered to the next time.
func (s *rescuer) compare(ctx context.Context, w rescueWindow) {
	asOf := time.Now().Add(-s.age)
	left, err := s.lookThrough(ctx, &w, asOf)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = time.Now().Add(s.rest + s.jitter())
	s.window.fresh, s.window.from, s.window.since = s.window.fresh && err != nil, w.from, w.since
	done := err == nil && left == 0 && !asOf.Before(s.window.until)
	late := time.Since(w.opened) > rescueEnd
	if late && !done {
		slog.Warn("not every request that was accepted before trouble with a server has an answer", "known", left, "since", w.since, "error", err)
	}
	if err == nil {
		s.tell(w, done || late)
	}
	if done || late {
		s.window = rescueWindow{}
		clear(s.tried)
	}
}

func (s *rescuer) tell(w rescueWindow, done bool) {
	if data, err := json.Marshal(compared{Name: s.name, From: w.from, Since: w.since, Until: w.until, Done: done}); err == nil {
		_ = s.runner.nc.Publish(s.runner.names.Compared(), data)
	}
}

// lookThrough compares what a window holds of requests that were accepted up to
// asOf. It moves the window's beginning to where the next comparison begins, and
// gives how many requests have no answer.
func (s *rescuer) lookThrough(ctx context.Context, w *rescueWindow, asOf time.Time) (left int, err error) {
	if err := s.bound(ctx, w); err != nil {
		return 0, err
	}
	until := w.until
	if asOf.Before(until) {
		until = asOf
	}
	missed, err := s.unanswered(ctx, w.since, until)
	if err != nil {
		return 0, err
	}
	if len(missed) > 0 {
		w.since = missed[0].accepted
	} else if until.After(w.since) {
		w.since = until
	}
	return len(missed), s.rescue(ctx, missed)
}

// bound has a window begin where it can be compared: not before the oldest
// answer that is kept, and where nothing was accepted of late, before the last
// that was.
func (s *rescuer) bound(ctx context.Context, w *rescueWindow) error {
	names := s.runner.names
	archive, err := s.runner.js.Stream(ctx, names.Archive())
	if err != nil {
		return err
	}
	responses, err := s.runner.js.Stream(ctx, names.Responses())
	if err != nil {
		return err
	}
	if last := archive.CachedInfo().State.LastTime; w.fresh && !last.IsZero() && last.Before(w.since) {
		w.since = last.Add(-rescueBefore)
		w.from = w.since
	}
	info := responses.CachedInfo()
	if info.State.FirstSeq <= max(1, info.Config.FirstSeq) {
		return nil // every answer is kept
	}
	oldest := info.State.FirstTime
	if info.State.Msgs == 0 {
		oldest = time.Now()
	}
	if oldest.After(w.since) {
		w.since = oldest
	}
	return nil
}

// missing is an accepted request without an answer.
type missing struct {
	tenant   string
	sequence uint64 // in the archive
	accepted time.Time
}

// unanswered gives the oldest requests that were accepted within [since, until)
// and have no answer: all of them, or rescueMost and some.
func (s *rescuer) unanswered(ctx context.Context, since, until time.Time) (missed []missing, err error) {
	archive, err := NewArchive(s.runner.nc, s.runner.names, rescuePause)
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	var part map[string]missing // by the subject of the response
	err = archive.Each(ctx, since, until, "", func(a Archived) error {
		if part == nil {
			part = make(map[string]missing, archiveBatch)
		}
		part[s.runner.names.Response(a.Tenant, a.ID)] = missing{tenant: a.Tenant, sequence: a.Sequence, accepted: a.Published}
		if len(part) < archiveBatch {
			return nil
		}
		err := s.unansweredOf(ctx, part, &missed)
		if part = nil; err == nil && len(missed) >= rescueMost {
			return errEnd
		}
		return err
	})
	if err == nil {
		err = s.unansweredOf(ctx, part, &missed)
	}
	slices.SortFunc(missed, func(a, b missing) int { return cmp.Compare(a.sequence, b.sequence) })
	return missed, err
}

// unansweredOf appends to missed which of the given requests have no answer.
func (s *rescuer) unansweredOf(ctx context.Context, asked map[string]missing, missed *[]missing) error {
	found, err := s.runner.get.Last(ctx, s.runner.names.Responses(), slices.Collect(maps.Keys(asked)))
	if err != nil {
		return err
	}
	for subject, m := range asked {
		if _, ok := found[subject]; !ok {
			*missed = append(*missed, m)
		}
	}
	return nil
}

// rescue works requests again that nobody else will.
func (s *rescuer) rescue(ctx context.Context, missed []missing) error {
	byTenant := map[string][]missing{}
	known := map[uint64]time.Time{}
	for _, m := range missed {
		byTenant[m.tenant] = append(byTenant[m.tenant], m)
		if at, ok := s.tried[m.sequence]; ok {
			known[m.sequence] = at
		}
	}
	s.tried = known
	again := 0
	defer func() { s.note(again) }()
	for tenant, list := range byTenant {
		waits, err := s.waits(ctx, tenant)
		if err != nil {
			return err
		}
		for _, m := range list {
			if !s.lost(m, waits) {
				continue
			}
			if !s.runner.overtaker.room() {
				return nil
			}
			s.tried[m.sequence] = time.Now()
			if err := s.work(ctx, m); err != nil {
				return err
			}
			again++
		}
	}
	return nil
}

// note tells how many requests are worked again.
func (s *rescuer) note(again int) {
	if again > 0 {
		s.runner.cfg.Metrics.rescuedAgain(again)
		slog.Warn("requests that were accepted before trouble with a server and lost in it are worked again", "requests", again)
	}
}

// waits reports whether anything of a tenant is on its way.
func (s *rescuer) waits(ctx context.Context, tenant string) (bool, error) {
	counter := tenantCounter{s.runner.nc, s.runner.names}
	// The door first: what leaves it now is found behind it.
	n, err := counter.matching(ctx, s.runner.names.Requests(), s.runner.names.Request(tenant))
	if err != nil || n > 0 {
		return true, err
	}
	n, err = counter.count(ctx, tenant)
	return n > 0, err
}

// lost reports whether a request is to be worked again. While something of its
// tenant waits it may be that, so it is worked once in any case, and late.
func (s *rescuer) lost(m missing, waits bool) bool {
	at, tried := s.tried[m.sequence]
	if waits {
		return !tried && time.Since(m.accepted) > rescueLate
	}
	return !tried || time.Since(at) > rescueAgain
}

// work has a request of the archive worked as if it had been delivered again.
func (s *rescuer) work(ctx context.Context, m missing) error {
	r := s.runner
	found, err := r.get.Next(ctx, r.names.Archive(), r.names.Request(m.tenant), m.sequence, 1, r.cfg.Pull)
	if err != nil || len(found) == 0 || found[0].Sequence != m.sequence {
		return err
	}
	again := found[0]
	sequence, _ := strconv.ParseUint(sourceSequence(again.Header.Get(headerSource)), 10, 64)
	r.overtaker.work(rescued{stored(again)}, again, sequence, min(2, r.cfg.MaxDeliver))
	return nil
}

// rescued is the message of a request that is worked again. The server knows
// nothing of that: where it fails, the next comparison finds it.
type rescued struct{ pulled }

// Ack implements jetstream.Msg.
func (rescued) Ack() error { return nil }

// TermWithReason implements jetstream.Msg.
func (rescued) TermWithReason(string) error { return nil }

// NakWithDelay implements jetstream.Msg.
func (rescued) NakWithDelay(time.Duration) error { return nil }

// InProgress implements jetstream.Msg.
func (rescued) InProgress() error { return nil }
