package generate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/generate/prefix"
)

// aheadStage is a stage whose upstream streams: the first token after 3 s, the
// end after 10. It notes when each call begins.
type aheadStage struct {
	*generate.Stage
	begun time.Time

	mu    sync.Mutex
	calls map[string]time.Duration // by the request's own words
	fail  int                      // calls that fail before one succeeds
}

func newAheadStage(workers int) *aheadStage {
	s := &aheadStage{begun: time.Now(), calls: map[string]time.Duration{}}
	c := &caller{do: s.answer}
	s.Stage = generate.New(workers, generate.Deps{
		Ledger: newLedger(), Cost: func(string, schemas.Usage) float64 { return 0 },
		Router: func(*stages.Request) (generate.Route, error) {
			return generate.Route{Model: "m", Provider: "p", Caller: c}, nil
		},
		Deltas:   func(*stages.Request) func([]byte) { return func([]byte) {} },
		Prefixes: prefix.NewGate(5 * time.Second),
	})
	return s
}

func (s *aheadStage) answer(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	own := string(call.Body[len(call.Body)-7 : len(call.Body)-4])
	s.mu.Lock()
	if _, again := s.calls[own]; !again {
		s.calls[own] = time.Since(s.begun)
	}
	fails := s.fail > 0
	s.fail--
	s.mu.Unlock()
	for _, wait := range []time.Duration{3 * time.Second, 7 * time.Second} {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return schemas.Answer{}, &schemas.CallError{Code: schemas.CodeCancelled, Err: ctx.Err()}
		}
		if fails {
			return schemas.Answer{}, errors.New("no connection")
		}
		if call.Delta != nil {
			call.Delta([]byte(`{}`))
		}
	}
	return schemas.Answer{Body: []byte(`{"choices":[]}`)}, nil
}

// sharing makes a request with three letters of its own behind a long prompt.
func sharing(own string, stream bool) *stages.Request {
	r := newRequest(own)
	r.Stream = stream
	r.Body = fmt.Appendf(nil, `{"messages":[{"role":"user","content":"%s %s"}]}`, strings.Repeat("context ", 2000), own)
	return r
}

func TestOthersFollowAtTheFirstToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAheadStage(2)
		stranger := sharing("you", true)
		stranger.Tenant = "umbrella"
		v := run(t.Context(), s, sharing("one", true), sharing("two", true), sharing("six", true), stranger)
		synctest.Wait()
		require.Equal(t, 2, s.Parking().Parked(), "who waits counts against nobody")
		v.done.Wait()
		for _, verdict := range v.got {
			require.Equal(t, stages.ActionContinue, verdict.Action)
		}
		require.Zero(t, s.calls["one"])
		require.Zero(t, s.calls["you"], "the other tenant does not wait, and has found a worker")
		require.ElementsMatch(t, []time.Duration{10 * time.Second, 10 * time.Second}, []time.Duration{s.calls["two"], s.calls["six"]},
			"at 3 s they may go, at 10 s there are workers")
		require.Zero(t, s.Parking().Parked())
	})
}

func TestFollowersGoWithoutTheLeaderInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAheadStage(10)
		hurried := sharing("two", true)
		hurried.Deadline = schemas.ToMillis(time.Now().Add(4 * time.Second))
		v := run(t.Context(), s, sharing("one", true), hurried, sharing("six", true))
		v.done.Wait()
		require.Equal(t, map[string]time.Duration{"one": 0, "two": 2 * time.Second, "six": 3 * time.Second}, s.calls,
			"half of what is left, and the first token")
	})
}

func TestAnUnstreamedLeaderIsWaitedForForItsUsualFirstToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAheadStage(10)
		v := run(t.Context(), s, sharing("one", false), sharing("two", false))
		v.done.Wait()
		require.Equal(t, map[string]time.Duration{"one": 0, "two": time.Second}, s.calls)
	})
}

func TestWhenTheLeaderFailsTheNextGoesAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAheadStage(10)
		s.fail = 1
		v := run(t.Context(), s, sharing("one", true), sharing("two", true), sharing("six", true))
		v.done.Wait()
		later := max(s.calls["two"], s.calls["six"])
		require.Equal(t, 3*time.Second, min(s.calls["two"], s.calls["six"]))
		require.Equal(t, 5*time.Second, later, "the bound of the wait, before the second leader's first token")
	})
}

func TestWhoWaitsForAPrefixCanBeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAheadStage(10)
		first, second := sharing("one", true), sharing("two", true)
		decided := make(chan *stages.Request, 2)
		s.Run(t.Context(), []*stages.Request{first, second}, func(r *stages.Request, verdict stages.Verdict) {
			if r == second {
				require.Equal(t, stages.ActionFail, verdict.Action)
			}
			decided <- r
		})
		synctest.Wait()
		s.Cancel(second.Key())
		require.Equal(t, second, <-decided)
		require.Zero(t, time.Since(s.begun))
		require.NotContains(t, s.calls, "two", "nothing was called")
		require.Equal(t, first, <-decided)
	})
}
