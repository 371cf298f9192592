package generate

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/generate/prefix"
)

// Flights lets equal requests in all processes share one call: a lease says who
// makes it, the cache brings its answer. Keys are those of leases. It is safe
// for concurrent use.
type Flights interface {
	// Take asks for the leases of keys, all at once. Where taken is false
	// somebody holds it, or held it a moment ago. With an error none is taken.
	Take(ctx context.Context, keys []string) (taken []bool, err error)
	// Look tells who holds a lease, and TakeOver takes it if it has not changed since.
	Look(ctx context.Context, key string) (Lease, error)
	TakeOver(ctx context.Context, key string, lease Lease) (taken bool, err error)
	// Release gives a lease up whose call brought no answer. Lapse is for one whose
	// answer can be found: it may stay for a while, and is free to who looks at
	// it. Neither waits.
	Release(key string)
	Lapse(key string)
	// Find gives what answers there are, as far as this process knows; Now asks
	// where it is certain.
	Find(ctx context.Context, keys []string) map[string]Shared
	Now(ctx context.Context, key string) (Shared, bool, error)
	// Changed gives a channel that is closed when a key has got an answer. done
	// must be called when nobody waits for it any more.
	Changed(key string) (changed <-chan struct{}, done func())
}

// Lease is what a look at a lease found.
type Lease struct {
	Free     bool // nobody works on it
	Gone     bool // nobody answered under its holder's name
	Revision uint64
}

// Shared is the answer to an equal request.
type Shared struct {
	Request  string // that paid for it: tenant.id
	Model    string
	Provider string
	Usage    schemas.Usage
	Answer   []byte
	Made     schemas.Millis
	Passing  bool // it may be shared by requests that were accepted before it was made
}

const (
	// MaxFollowers and MaxFollowerBytes bound the requests that wait in memory
	// for an equal one; what comes on top goes back to the stream for a moment.
	MaxFollowers     = 4096
	MaxFollowerBytes = 64 << 20
	// lookAgain is how often a lease that another process holds is looked at. A
	// holder that nobody answers for at two looks is dead.
	lookAgain = 500 * time.Millisecond
)

// flight is a call that is made, here or in another process, and the requests
// that wait for its answer.
type flight struct {
	key       string
	leader    *passenger // whose call it is; nil while another process makes it
	cancel    context.CancelFunc
	cancelled bool
	followers []*passenger
	turn      *prefix.Turn // of the leader, whose prompt others may begin with
}

// passenger is a request of a flight.
type passenger struct {
	request  *stages.Request
	decide   stages.Decide
	deadline *time.Timer // of a follower that has one
}

func (p *passenger) end(verdict stages.Verdict) { p.decide(p.request, verdict) }

// flightKey is the key of the lease: that of the cache where an answer may be
// shared, else that of the request's own record.
func flightKey(r *stages.Request) string {
	if shareable(r) {
		return cache.CallKey(r)
	}
	return r.RecordKey()
}

func shareable(r *stages.Request) bool {
	return r.Fingerprint != "" && r.Cache == cache.Miss && !cache.Refresh(r)
}

// begin starts the calls of requests, or lets them wait for those of equal ones.
func (s *Stage) begin(ctx context.Context, requests []*stages.Request, decide stages.Decide) {
	begun := make([]*flight, 0, len(requests))
	for _, r := range requests {
		if f := s.board(&passenger{request: r, decide: decide}); f != nil {
			begun = append(begun, f)
		}
	}
	if s.deps.Flights != nil && len(begun) > 0 {
		begun = s.lease(ctx, begun)
	}
	for _, f := range begun {
		s.start(ctx, f)
	}
}

// board has a request join the flight of its equals; if there is none it leads
// the one that board gives.
func (s *Stage) board(p *passenger) *flight {
	key := flightKey(p.request)
	s.mu.Lock()
	f := s.flights[key]
	if f == nil {
		f = &flight{key: key, leader: p}
		s.flights[key] = f
		s.mu.Unlock()
		return f
	}
	parked := s.park(f, p)
	s.mu.Unlock()
	if !parked {
		p.end(stages.Wait(unpark))
	}
	return nil
}

// park has a request wait for a flight. The caller holds the lock.
func (s *Stage) park(f *flight, p *passenger) bool {
	if !s.parking.Enter(p.request) {
		return false
	}
	f.followers = append(f.followers, p)
	if d := p.request.Deadline; d != 0 {
		p.deadline = time.AfterFunc(time.Until(d.Time()), func() { s.expire(f, p) })
	}
	return true
}

// unparked ends the wait of followers that were taken out of their flight.
func (s *Stage) unparked(followers ...*passenger) {
	for _, p := range followers {
		s.parking.Leave(p.request)
		if p.deadline != nil {
			p.deadline.Stop()
		}
	}
}

// expire fails a follower whose deadline has passed, if it still waits.
func (s *Stage) expire(f *flight, p *passenger) {
	s.mu.Lock()
	i := slices.Index(f.followers, p)
	if i >= 0 {
		f.followers = slices.Delete(f.followers, i, i+1)
	}
	s.mu.Unlock()
	if i >= 0 {
		s.unparked(p)
		p.end(stages.Fail(deadlinePassed()))
	}
}

// lease gives the flights that this process may make a call for. The others are
// decided, or wait.
func (s *Stage) lease(ctx context.Context, begun []*flight) []*flight {
	begun = s.landKnown(ctx, begun, false)
	if len(begun) == 0 {
		return nil
	}
	taken, err := s.deps.Flights.Take(ctx, keysOf(begun))
	if err != nil { // nothing may be paid on a guess
		slog.Warn("taking leases failed, trying again", "error", err)
		for _, f := range begun {
			s.land(f, stages.Wait(time.Second))
		}
		return nil
	}
	ours := begun[:0]
	for i, f := range begun {
		if taken[i] {
			ours = append(ours, f)
		} else {
			s.await(ctx, f)
		}
	}
	return s.landKnown(ctx, ours, true) // answered between the look and the lease
}

func keysOf(flights []*flight) []string {
	keys := make([]string, len(flights))
	for i, f := range flights {
		keys[i] = f.key
	}
	return keys
}

// landKnown lands the flights whose answer is in the cache and gives the others.
func (s *Stage) landKnown(ctx context.Context, flights []*flight, leased bool) []*flight {
	keys := make([]string, 0, len(flights))
	for _, f := range flights {
		if shareable(f.leader.request) {
			keys = append(keys, f.key)
		}
	}
	if len(keys) == 0 {
		return flights
	}
	found := s.deps.Flights.Find(ctx, keys)
	if len(found) == 0 {
		return flights
	}
	rest := flights[:0]
	for _, f := range flights {
		shared, ok := found[f.key]
		if !ok || !usable(shared, f.leader.request) || shared.Request == f.leader.request.Key() {
			rest = append(rest, f)
			continue
		}
		if leased {
			s.deps.Flights.Lapse(f.key)
		}
		leader := f.leader
		f.leader = nil
		s.share(leader.request, shared)
		leader.end(stages.Continue())
		s.landShared(f, shared)
	}
	return rest
}

func usable(shared Shared, r *stages.Request) bool {
	return !shared.Passing || r.Accepted <= shared.Made
}

// share gives a request the answer to an equal one: it costs nothing beyond what
// answers before it cost. That of a later round was asked for on behalf of all
// who share it, as one of the attempts of each.
func (s *Stage) share(r *stages.Request, shared Shared) {
	r.Cache = cache.Shared
	if s.deps.Shared != nil {
		s.deps.Shared()
	}
	r.Answer, r.Usage, r.CostUSD = shared.Answer, r.Earlier.Usage.Add(shared.Usage), r.Earlier.CostUSD
	if r.Round == 0 {
		r.Tokens.Bill(shared.Usage.PromptTokens)
	} else {
		r.Calls = max(r.Calls, 1)
	}
	r.Selected = schemas.Selected{Model: shared.Model, Provider: shared.Provider, Because: "shared"}
}

// remove ends a flight and gives its followers.
func (s *Stage) remove(f *flight) []*passenger {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flights, f.key)
	followers := f.followers
	f.followers = nil
	return followers
}

// land ends a flight with the same verdict for all: none has an answer.
func (s *Stage) land(f *flight, verdict stages.Verdict) {
	followers := s.remove(f)
	s.unparked(followers...)
	if f.leader != nil {
		f.leader.end(verdict)
	}
	for _, p := range followers {
		p.end(verdict)
	}
}

// landShared ends a flight with an answer. Who may not share it begins anew.
func (s *Stage) landShared(f *flight, shared Shared) {
	followers := s.remove(f)
	s.unparked(followers...)
	for _, p := range followers {
		if !usable(shared, p.request) || shared.Request == p.request.Key() {
			p.end(stages.Wait(time.Second)) // its own answer is on record, and found so
			continue
		}
		s.share(p.request, shared)
		p.end(stages.Continue())
	}
}

// await has a flight wait for the call of another process.
func (s *Stage) await(ctx context.Context, f *flight) {
	s.mu.Lock()
	leader := f.leader
	parked := s.park(f, leader)
	if parked {
		f.leader = nil
	}
	s.mu.Unlock()
	if !parked {
		s.land(f, stages.Wait(unpark))
		return
	}
	go s.follow(ctx, f)
}

// follow waits until another process has answered, or leads when it cannot any more.
func (s *Stage) follow(ctx context.Context, f *flight) {
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	gone := 0
	for {
		changed, done := s.deps.Flights.Changed(f.key)
		if s.look(ctx, f, &gone) {
			done()
			return
		}
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
			done()
			s.land(f, stages.Wait(time.Second))
			return
		}
		done()
	}
}

// look finds out what became of another process's call. It is true if that
// needs no more looking.
func (s *Stage) look(ctx context.Context, f *flight, gone *int) (over bool) {
	if s.abandoned(f) {
		return true
	}
	if shared, ok := s.deps.Flights.Find(ctx, []string{f.key})[f.key]; ok && s.anyUsable(f, shared) {
		s.landShared(f, shared)
		return true
	}
	lease, err := s.deps.Flights.Look(ctx, f.key)
	if err != nil {
		return false
	}
	if *gone++; !lease.Gone {
		*gone = 0
	}
	if !lease.Free && *gone < 2 {
		return false
	}
	if over, err := s.landCertain(ctx, f); over || err != nil {
		return over
	}
	taken, err := s.deps.Flights.TakeOver(ctx, f.key, lease)
	if err != nil || !taken {
		return false
	}
	if s.leadNext(ctx, f) {
		return true
	}
	s.deps.Flights.Release(f.key) // the last follower has left meanwhile
	return s.abandoned(f)
}

// abandoned ends a flight that nobody waits for any more.
func (s *Stage) abandoned(f *flight) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(f.followers) > 0 {
		return false
	}
	delete(s.flights, f.key)
	return true
}

func (s *Stage) anyUsable(f *flight, shared Shared) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(f.followers, func(p *passenger) bool { return usable(shared, p.request) })
}

// landCertain looks where it is certain for the answer of a call that has ended:
// in the cache, and in the records of those who wait.
func (s *Stage) landCertain(ctx context.Context, f *flight) (over bool, err error) {
	shared, ok, err := s.deps.Flights.Now(ctx, f.key)
	if err != nil {
		return false, err
	}
	if ok && s.anyUsable(f, shared) {
		s.landShared(f, shared)
		return true, nil
	}
	s.mu.Lock()
	waiting := slices.Clone(f.followers)
	s.mu.Unlock()
	requests := make([]*stages.Request, len(waiting))
	for i, p := range waiting {
		requests[i] = p.request
	}
	past, err := s.deps.Ledger.Look(ctx, requests)
	if err != nil {
		return false, err
	}
	for i, p := range waiting {
		if past[i].Response != nil || past[i].Paid != nil {
			s.landPast(ctx, f, p, past[i])
		}
	}
	return s.abandoned(f), nil
}

// landPast decides a follower that was answered before.
func (s *Stage) landPast(ctx context.Context, f *flight, p *passenger, past Past) {
	s.mu.Lock()
	i := slices.Index(f.followers, p)
	if i >= 0 {
		f.followers = slices.Delete(f.followers, i, i+1)
	}
	s.mu.Unlock()
	if i >= 0 {
		s.unparked(p)
		s.decidePast(ctx, p.request, past, p.decide)
	}
}

// leadNext has the next follower lead; false if there is none.
func (s *Stage) leadNext(ctx context.Context, f *flight) bool {
	s.mu.Lock()
	if len(f.followers) == 0 {
		s.mu.Unlock()
		return false
	}
	next := f.followers[0]
	f.followers = slices.Delete(f.followers, 0, 1)
	f.leader, f.cancelled = next, false
	s.mu.Unlock()
	s.unparked(next)
	go s.start(ctx, f)
	return true
}

// start makes the call of a flight once there is a worker for it.
func (s *Stage) start(ctx context.Context, f *flight) {
	r := f.leader.request
	call, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	f.cancel = cancel
	s.calls[r.RecordKey()] = f
	s.mu.Unlock()
	prompt := s.prompt(r)
	turn, waiting := s.deps.Prefixes.Begin(time.Now(), prompt)
	f.turn = turn
	if s.draining.Err() != nil {
		s.end(ctx, f, handedBack)
		return
	}
	if waiting != nil { // takes a worker once who goes ahead of it is there
		s.workers.apart(func() bool {
			f.turn = s.followPrefix(call, r, prompt)
			return s.work(ctx, call, f, false)
		})
		return
	}
	if s.limited(r) { // takes a worker once it is granted its budget
		s.workers.apart(func() bool { return s.work(ctx, call, f, false) })
		return
	}
	s.workers.do(func(begin bool) bool {
		if !begin || s.draining.Err() != nil {
			s.end(ctx, f, handedBack)
			return begin
		}
		return s.work(ctx, call, f, true)
	})
}

// end decides the leader of a flight, and the followers with it: copies of the
// leader share its fate, the others its answer. After an error the next one leads.
func (s *Stage) end(ctx context.Context, f *flight, verdict stages.Verdict) {
	f.cancel()
	f.turn.End(time.Now(), verdict.Action == stages.ActionContinue)
	leader := f.leader
	s.mu.Lock()
	delete(s.calls, leader.request.RecordKey())
	copies := s.takeCopies(f)
	s.mu.Unlock()
	s.unparked(copies...)
	likeLeader(leader.request, copies)
	for _, p := range copies {
		p.end(verdict)
	}
	switch verdict.Action {
	case stages.ActionContinue:
		shared := sharedOf(leader.request)
		leader.end(verdict)
		s.landShared(f, shared)
	case stages.ActionWait: // for a budget, which is the followers' too
		s.release(f.key)
		s.land(f, verdict)
	default:
		leader.end(verdict)
		if s.leadNext(ctx, f) {
			return
		}
		s.release(f.key)
		s.endEmpty(ctx, f)
	}
}

// likeLeader gives copies what became of their leader. What all of them have been
// through is that of the one that came farthest: under the attempt of another the
// server knows the next hand-off already, and would drop the only one that goes on;
// and what was delivered again beside it is no failure.
func likeLeader(leader *stages.Request, copies []*passenger) {
	farthest := leader
	for _, p := range copies {
		if r := p.request; cmp.Or(cmp.Compare(r.Attempt, farthest.Attempt), cmp.Compare(r.Deliveries, farthest.Deliveries)) > 0 {
			farthest = r
		}
	}
	leader.Attempt, leader.Failures, leader.NotBefore, leader.Deliveries = farthest.Attempt, farthest.Failures, farthest.NotBefore, farthest.Deliveries
	for _, p := range copies {
		p.request.Answer, p.request.State, p.request.Deliveries = leader.Answer, leader.State, leader.Deliveries
	}
}

// endEmpty ends a flight without a leader; if somebody has joined meanwhile it begins anew.
func (s *Stage) endEmpty(ctx context.Context, f *flight) {
	f.leader = nil
	for _, p := range s.remove(f) {
		s.unparked(p)
		go s.begin(ctx, []*stages.Request{p.request}, p.decide)
	}
}

// takeCopies takes the copies of the leader out of the followers: late
// redeliveries, or hand-offs that were published again. The caller holds the lock.
func (s *Stage) takeCopies(f *flight) (copies []*passenger) {
	key := f.leader.request.RecordKey()
	for i := 0; i < len(f.followers); {
		if p := f.followers[i]; p.request.RecordKey() == key {
			copies = append(copies, p)
			f.followers = slices.Delete(f.followers, i, i+1)
		} else {
			i++
		}
	}
	return copies
}

func sharedOf(r *stages.Request) Shared {
	return Shared{
		Request: r.Key(), Model: r.Selected.Model, Provider: r.Selected.Provider,
		Usage: r.Usage.Minus(r.Earlier.Usage), Answer: cache.ForOthers(r, r.Answer), Made: schemas.ToMillis(time.Now()),
	}
}

func (s *Stage) release(key string) {
	if s.deps.Flights != nil {
		s.deps.Flights.Release(key)
	}
}

// lapse gives up the lease of a request that has a recorded answer.
func (s *Stage) lapse(key string) {
	if s.deps.Flights != nil {
		s.deps.Flights.Lapse(key)
	}
}

// Cancel ends the call of a request (tenant.id), or its wait for that of an
// equal one, if it is in this process.
func (s *Stage) Cancel(key string) {
	s.mu.Lock()
	for round := range schemas.MaxRounds {
		if f := s.calls[schemas.RecordKey(key, round)]; f != nil {
			f.cancelled = true
			f.cancel()
		}
	}
	var cancelled []*passenger
	for _, f := range s.flights {
		f.followers = slices.DeleteFunc(f.followers, func(p *passenger) bool {
			if p.request.Key() == key {
				cancelled = append(cancelled, p)
				return true
			}
			return false
		})
	}
	s.mu.Unlock()
	s.unparked(cancelled...)
	for _, p := range cancelled {
		p.end(stages.Fail(wasCancelled()))
	}
}
