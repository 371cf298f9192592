package generate_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
)

// flights keeps leases and answers in memory, as the buckets do.
type flights struct {
	mu       sync.Mutex
	holders  map[string]string // by key
	dead     map[string]bool   // holders that nobody answers for
	working  map[string]bool   // holders that work on what they hold
	revision uint64
	answers  map[string]generate.Shared
	changed  map[string]chan struct{}
	failing  bool
}

func newFlights() *flights {
	return &flights{
		holders: map[string]string{}, dead: map[string]bool{}, working: map[string]bool{},
		answers: map[string]generate.Shared{}, changed: map[string]chan struct{}{},
	}
}

func (f *flights) Take(_ context.Context, keys []string) ([]bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failing {
		return nil, errors.New("no server")
	}
	taken := make([]bool, len(keys))
	for i, key := range keys {
		if taken[i] = f.holders[key] == ""; taken[i] {
			f.holders[key] = "me"
		}
	}
	return taken, nil
}

func (f *flights) Look(_ context.Context, key string) (generate.Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	holder := f.holders[key]
	return generate.Lease{Free: holder == "" || !f.dead[holder] && !f.working[holder], Gone: f.dead[holder], Revision: f.revision}, nil
}

func (f *flights) TakeOver(_ context.Context, key string, lease generate.Lease) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if lease.Revision != f.revision {
		return false, nil
	}
	f.revision++
	f.holders[key] = "me"
	return true, nil
}

func (f *flights) Release(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.holders, key)
}

// answered is the holder of a lease that lapses.
const answered = "answered"

func (f *flights) Lapse(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holders[key] = answered
}

func (f *flights) Find(_ context.Context, keys []string) map[string]generate.Shared {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := map[string]generate.Shared{}
	for _, key := range keys {
		if a, ok := f.answers[key]; ok {
			found[key] = a
		}
	}
	return found
}

func (f *flights) Now(ctx context.Context, key string) (generate.Shared, bool, error) {
	shared, ok := f.Find(ctx, []string{key})[key]
	return shared, ok, nil
}

func (f *flights) Changed(key string) (<-chan struct{}, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed[key] == nil {
		f.changed[key] = make(chan struct{})
	}
	return f.changed[key], func() {}
}

// answer is what another process does when it has an answer.
func (f *flights) answer(key string, shared generate.Shared) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[key] = shared
	if f.changed[key] != nil {
		close(f.changed[key])
		f.changed[key] = nil
	}
}

func (f *flights) held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := 0
	for _, holder := range f.holders {
		if holder != answered {
			held++
		}
	}
	return held
}

func newSharing(l *ledger, c *caller, f generate.Flights) *generate.Stage {
	return generate.New(4, generate.Deps{
		Ledger: l, Flights: f, Cost: func(string, schemas.Usage) float64 { return 0.5 },
		Router: func(*stages.Request) (generate.Route, error) {
			return generate.Route{Model: "m", Provider: "p", Caller: c}, nil
		},
	})
}

func equal(id string) *stages.Request {
	r := newRequest(id)
	r.Fingerprint, r.Cache = "print", "miss"
	return r
}

func equals(n int) []*stages.Request {
	var list []*stages.Request
	for i := range n {
		list = append(list, equal(fmt.Sprint("r", i)))
	}
	return list
}

func slow(_ context.Context, call schemas.Call) (schemas.Answer, error) {
	time.Sleep(time.Second) //nolint:forbidigo // the clock of a bubble goes on when all sleep
	return schemas.Answer{Body: []byte(`{"choices":[]}`), Usage: schemas.Usage{PromptTokens: 3}}, nil
}

func TestEqualRequestsOfAProcessShareACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c, f := newLedger(), &caller{do: slow}, newFlights()
		list := equals(20)
		v := run(t.Context(), newSharing(l, c, f), list...)
		v.done.Wait()
		require.Equal(t, 1, c.calls)
		require.Zero(t, f.held(), "the lease is given up")
		for i, r := range list {
			require.Equal(t, stages.ActionContinue, v.of(r).Action)
			require.Equal(t, `{"choices":[]}`, string(r.Answer))
			require.Equal(t, 3, r.Usage.PromptTokens)
			if i > 0 {
				require.Equal(t, "shared", r.Cache)
				require.Zero(t, r.CostUSD)
			}
		}
		require.Equal(t, 0.5, list[0].CostUSD)
		require.Len(t, l.records, 1, "only what was paid is recorded")
	})
}

func TestRequestsThatMayNotShareDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &caller{do: slow}
		off, refresh, again, tenant := equal("off"), equal("refresh"), equal("again"), equal("tenant")
		off.Cache = "off"
		refresh.Options = []byte(`{"cache":{"mode":"refresh"}}`)
		again.Round = 1
		tenant.Tenant = "other"
		v := run(t.Context(), newSharing(newLedger(), c, newFlights()), equal("a"), off, refresh, again, tenant)
		v.done.Wait()
		require.Equal(t, 5, c.calls)
	})
}

// Those who got the same bad answer ask the same again; the one that paid for the
// first round keeps what that cost.
func TestLaterRoundsAreSharedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c, f := newLedger(), &caller{do: slow}, newFlights()
		list := equals(20)
		for i, r := range list {
			if i == 7 {
				r.Calls, r.CostUSD, r.Usage = 1, 0.5, schemas.Usage{PromptTokens: 10}
			}
			r.Again()
			r.Body = []byte(`{"messages":["what was wrong"]}`)
		}
		other := equal("other")
		other.Again()
		other.Body = []byte(`{"messages":["something else was wrong"]}`)
		v := run(t.Context(), newSharing(l, c, f), append(list, other)...)
		v.done.Wait()
		require.Equal(t, 2, c.calls, "one for each question")
		require.Len(t, l.records, 2)
		require.Zero(t, f.held())
		for i, r := range list {
			require.Equal(t, stages.ActionContinue, v.of(r).Action)
			require.Equal(t, `{"choices":[]}`, string(r.Answer))
			require.Equal(t, 1, r.Calls, "an attempt of each")
			switch i {
			case 0:
				require.Equal(t, 0.5, r.CostUSD, "the leader paid")
			case 7:
				require.Equal(t, 0.5, r.CostUSD)
				require.Equal(t, 13, r.Usage.PromptTokens)
			default:
				require.Equal(t, "shared", r.Cache)
				require.Zero(t, r.CostUSD)
				require.Equal(t, 3, r.Usage.PromptTokens)
			}
		}
	})
}

func TestAFailedLeaderFailsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := &caller{}, newFlights()
		failures := 2
		c.do = func(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
			time.Sleep(time.Second) //nolint:forbidigo // the clock of a bubble goes on when all sleep
			if failures--; failures >= 0 {
				return schemas.Answer{}, &schemas.CallError{Status: 400}
			}
			return slow(ctx, call)
		}
		list := equals(10)
		v := run(t.Context(), newSharing(newLedger(), c, f), list...)
		v.done.Wait()
		require.Equal(t, 3, c.calls)
		require.Equal(t, stages.ActionFail, v.of(list[0]).Action)
		require.Equal(t, stages.ActionFail, v.of(list[1]).Action)
		for _, r := range list[2:] {
			require.Equal(t, stages.ActionContinue, v.of(r).Action)
		}
		require.Zero(t, f.held())
	})
}

// Hand-offs of one request that were published one after the other may meet, the
// oldest first: none of them may go back behind the one that came farthest, for
// the server takes nothing again that it has had.
func TestCopiesThatShareAFateGoOnBehindTheFarthest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &caller{do: func(context.Context, schemas.Call) (schemas.Answer, error) {
			time.Sleep(time.Second) //nolint:forbidigo // the clock of a bubble goes on when all sleep
			return schemas.Answer{}, &schemas.CallError{Status: 503, Retryable: true}
		}}
		first, farthest, between := equal("r"), equal("r"), equal("r")
		first.Deliveries, between.Deliveries, farthest.Deliveries = 4, 3, 2
		farthest.Attempt, farthest.Failures, farthest.NotBefore = 2, 1, 1
		between.Attempt = 1
		v := run(t.Context(), newSharing(newLedger(), c, newFlights()), first, farthest, between)
		v.done.Wait()
		require.Equal(t, 1, c.calls)
		for _, r := range []*stages.Request{first, farthest, between} {
			require.Equal(t, stages.ActionRetry, v.of(r).Action)
			require.Equal(t, 2, r.Attempt)
			require.Equal(t, 1, r.Failures, "what was delivered again beside it is no failure")
			require.Equal(t, 2, r.Deliveries)
			require.EqualValues(t, 1, r.NotBefore)
		}
	})
}

func TestTheCallOfAnotherProcessIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := &caller{}, newFlights()
		f.holders["acme.print"], f.working["other"] = "other", true
		list := equals(10)
		s := newSharing(newLedger(), c, f)
		v := run(t.Context(), s, list...)
		time.Sleep(20 * time.Second) //nolint:forbidigo // the clock of a bubble goes on when all sleep
		synctest.Wait()
		require.Equal(t, 10, s.Parking().Parked())
		require.True(t, s.Idle(), "who waits holds no worker")
		f.answer("acme.print", generate.Shared{Request: "acme.x", Model: "theirs", Answer: []byte("answer")})
		v.done.Wait()
		require.Zero(t, c.calls)
		require.Zero(t, s.Parking().Parked())
		require.Equal(t, "answer", string(list[9].Answer))
		require.Equal(t, "theirs", list[9].Selected.Model)
	})
}

func TestADeadLeaderIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := &caller{}, newFlights()
		f.holders["acme.print"], f.dead["other"] = "other", true
		begin := time.Now()
		v := run(t.Context(), newSharing(newLedger(), c, f), equals(10)...)
		v.done.Wait()
		require.Equal(t, 1, c.calls)
		require.Equal(t, 500*time.Millisecond, time.Since(begin), "at the second look")
	})
}

func TestTheSameRequestOnAnotherReplicaIsPaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c, f := newLedger(), &caller{}, newFlights()
		f.holders["acme.a"], f.working["other"] = "other", true
		r := newRequest("a") // shares with nobody, but is leased under its own id
		v := run(t.Context(), newSharing(l, c, f), r)
		time.Sleep(3 * time.Second) //nolint:forbidigo // the clock of a bubble goes on when all sleep
		l.mu.Lock()
		l.records["acme.a"] = generate.Record{Call: "theirs", Answer: []byte("answer")}
		l.mu.Unlock()
		f.Release("acme.a")
		require.Equal(t, stages.ActionContinue, v.of(r).Action)
		require.Equal(t, "answer", string(r.Answer))
		require.Zero(t, c.calls)
	})
}

func TestFollowersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := &caller{do: slow}, newFlights()
		list := equals(generate.MaxFollowers + 11)
		s := newSharing(newLedger(), c, f)
		v := run(t.Context(), s, list...)
		require.Equal(t, generate.MaxFollowers, s.Parking().Parked())
		v.done.Wait()
		require.Equal(t, 1, c.calls)
		require.Equal(t, stages.ActionWait, v.of(list[len(list)-1]).Action)
		require.Equal(t, stages.ActionContinue, v.of(list[generate.MaxFollowers]).Action)
	})
}

func TestFollowersEndByDeadlineAndCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := &caller{do: slow}, newFlights()
		list := equals(3)
		list[1].Deadline = schemas.ToMillis(time.Now().Add(100 * time.Millisecond))
		s := newSharing(newLedger(), c, f)
		v := run(t.Context(), s, list...)
		s.Cancel("acme.r2")
		v.done.Wait()
		require.Equal(t, schemas.CodeDeadlineExceeded, schemas.AsError(v.of(list[1]).Err).Code)
		require.Equal(t, schemas.CodeCancelled, schemas.AsError(v.of(list[2]).Err).Code)
		require.Equal(t, stages.ActionContinue, v.of(list[0]).Action)
		require.Zero(t, s.Parking().Parked())
	})
}

func TestWithoutLeasesNothingIsPaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := &caller{}, newFlights()
		f.failing = true
		r := equal("a")
		require.Equal(t, stages.ActionWait, run(t.Context(), newSharing(newLedger(), c, f), r).of(r).Action)
		require.Zero(t, c.calls)
	})
}

func TestAnswersInPassingAreForThoseWhoWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := &caller{}, newFlights()
		f.answers["acme.print"] = generate.Shared{Request: "acme.x", Answer: []byte("passing"), Passing: true, Made: 1000}
		before, after := equal("before"), equal("after")
		before.Accepted, after.Accepted = 999, 1001
		require.Equal(t, stages.ActionContinue, run(t.Context(), newSharing(newLedger(), c, f), before).of(before).Action)
		require.Equal(t, "passing", string(before.Answer))
		run(t.Context(), newSharing(newLedger(), c, f), after).of(after)
		require.Equal(t, 1, c.calls)
		require.NotEqual(t, "passing", string(after.Answer))
	})
}
