package generate_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/generate/limit"
)

// provider answers for the models of a test, each as told.
type provider struct {
	mu    sync.Mutex
	calls []string // models, in order
	does  map[string]func(ctx context.Context) (schemas.Answer, error)
}

func (p *provider) Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	p.mu.Lock()
	p.calls = append(p.calls, call.Model)
	do := p.does[call.Model]
	p.mu.Unlock()
	if do != nil {
		return do(ctx)
	}
	return schemas.Answer{Body: []byte(`{"choices":[]}`), Usage: schemas.Usage{PromptTokens: 3, CompletionTokens: 1, TotalTokens: 4}}, nil
}

func (p *provider) set(model string, do func(ctx context.Context) (schemas.Answer, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.does[model] = do
}

func (p *provider) called(model string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.calls {
		if m == model {
			n++
		}
	}
	return n
}

func failing(status int, usage schemas.Usage) func(context.Context) (schemas.Answer, error) {
	return func(context.Context) (schemas.Answer, error) {
		return schemas.Answer{}, &schemas.CallError{Status: status, Code: schemas.CodeProviderUnavailable, Retryable: true, Usage: usage}
	}
}

func lasting(d time.Duration) func(context.Context) (schemas.Answer, error) {
	return func(ctx context.Context) (schemas.Answer, error) {
		select {
		case <-ctx.Done():
			return schemas.Answer{}, &schemas.CallError{Code: schemas.CodeCancelled}
		case <-time.After(d):
		}
		return schemas.Answer{Body: []byte(`{"choices":[]}`)}, nil
	}
}

// limited makes a stage whose requests go to model a, then to b and to c.
func limited(t *testing.T, connections int, budget generate.Budget) (*generate.Stage, *provider, *limit.Limiter) {
	p := &provider{does: map[string]func(context.Context) (schemas.Answer, error){}}
	limits := limit.New([]limit.Config{{Name: "p", MaxConnections: connections}, {Name: "q", MaxConnections: connections}})
	t.Cleanup(limits.Close)
	s := generate.New(8, generate.Deps{
		Ledger: newLedger(), Budget: budget, Limits: limits,
		Cost: func(_ string, u schemas.Usage) float64 { return float64(u.TotalTokens) },
		Router: func(r *stages.Request) (generate.Route, error) {
			route := generate.Route{Model: "a", Provider: "p", Because: "requested", Caller: p}
			if r.Model == "with fallbacks" {
				route.Fallback = []generate.Route{{Model: "b", Provider: "p", Because: "fallback of a", Caller: p}, {Model: "c", Provider: "q", Because: "fallback of a", Caller: p}}
			}
			return route, nil
		},
	})
	return s, p, limits
}

func withFallbacks(id string) *stages.Request {
	r := newRequest(id)
	r.Model = "with fallbacks"
	return r
}

func TestFallbacksAreTakenInOrderAndShown(t *testing.T) {
	s, p, _ := limited(t, 4, nil)
	p.set("a", failing(503, schemas.Usage{PromptTokens: 5, TotalTokens: 5}))
	p.set("b", failing(429, schemas.Usage{}))
	r := withFallbacks("r")
	require.Equal(t, stages.ActionContinue, run(t.Context(), s, r).of(r).Action)
	require.Equal(t, []string{"a", "b", "c"}, p.calls)
	require.Equal(t, "c", r.Selected.Model)
	require.Equal(t, "fallback of a", r.Selected.Because)
	require.Equal(t, []schemas.Tried{
		{Model: "a", Provider: "p", Error: schemas.CodeProviderUnavailable},
		{Model: "b", Provider: "p", Error: schemas.CodeProviderUnavailable},
	}, r.Selected.Tried)
	require.Equal(t, 3, r.Calls)
	require.Equal(t, 9, r.Usage.TotalTokens, "what the failed call was billed counts")
	require.InDelta(t, 9, r.CostUSD, 1e-9)
}

func TestNoFallbackBeginsAfterTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &caller{do: func(context.Context, schemas.Call) (schemas.Answer, error) {
			time.Sleep(2 * time.Second) //nolint:forbidigo // the clock of a bubble
			return schemas.Answer{}, &schemas.CallError{Status: 504, Retryable: true}
		}}
		route := func(model string) generate.Route { return generate.Route{Model: model, Provider: "p", Caller: slow} }
		s := generate.New(1, generate.Deps{
			Ledger: newLedger(), Cost: func(string, schemas.Usage) float64 { return 0 },
			Timeout: func(string) time.Duration { return 3 * time.Second },
			Router: func(*stages.Request) (generate.Route, error) {
				first := route("a")
				first.Fallback = []generate.Route{route("b"), route("c")}
				return first, nil
			},
		})
		r := newRequest("r")
		require.Equal(t, stages.ActionRetry, run(t.Context(), s, r).of(r).Action)
		require.Equal(t, 2, slow.calls)
	})
}

func TestAllModelsFailing(t *testing.T) {
	s, p, _ := limited(t, 4, nil)
	for _, model := range []string{"a", "b", "c"} {
		p.set(model, failing(500, schemas.Usage{TotalTokens: 2}))
	}
	r := withFallbacks("r")
	v := run(t.Context(), s, r).of(r)
	require.Equal(t, stages.ActionRetry, v.Action)
	require.Len(t, schemas.AsError(v.Err).Details["tried"], 3)
	require.Equal(t, 6, r.Earlier.Usage.TotalTokens, "goes on with the request")
}

// open has the breaker of model a open.
func open(t *testing.T, s *generate.Stage, p *provider, limits *limit.Limiter) {
	t.Helper()
	p.set("a", failing(500, schemas.Usage{}))
	for i := range 8 {
		r := newRequest(fmt.Sprint("failing", i))
		require.Equal(t, stages.ActionRetry, run(t.Context(), s, r).of(r).Action)
	}
	require.True(t, limits.Open("p", "a"))
}

func TestAnOpenBreakerHasRequestsWaitAndNotDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, limits := limited(t, 4, nil)
		open(t, s, p, limits)
		before := p.called("a")
		first, second := newRequest("one"), newRequest("two")
		v := run(t.Context(), s, first, second)
		synctest.Wait()
		require.Equal(t, before, p.called("a"))
		require.Equal(t, 2, s.Parking().Parked(), "they wait in memory")
		require.True(t, s.Idle(), "without a worker")
		p.set("a", nil)
		require.Equal(t, stages.ActionContinue, v.of(first).Action)
		require.Equal(t, stages.ActionContinue, v.of(second).Action)
		require.Zero(t, s.Parking().Parked())
	})
}

func TestAnOutageCountsAsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, limits := limited(t, 4, nil)
		open(t, s, p, limits)
		for i := range 20 { // minutes of it
			r := newRequest(fmt.Sprint("r", i))
			require.Equal(t, stages.ActionWait, run(t.Context(), s, r).of(r).Action)
		}
	})
}

func TestAnOpenBreakerIsPassedOverWhereThereAreFallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, limits := limited(t, 4, nil)
		open(t, s, p, limits)
		before := p.called("a")
		r := withFallbacks("r")
		begin := time.Now()
		require.Equal(t, stages.ActionContinue, run(t.Context(), s, r).of(r).Action)
		require.Zero(t, time.Since(begin))
		require.Equal(t, before, p.called("a"))
		require.Equal(t, "b", r.Selected.Model)
		require.Equal(t, "a", r.Selected.Tried[0].Model)
	})
}

func TestRefusedRequestsWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, _ := limited(t, 4, nil)
		var once sync.Once
		p.set("a", func(context.Context) (answer schemas.Answer, err error) {
			once.Do(func() {
				err = &schemas.CallError{Status: 429, Retryable: true, Unbilled: true, RetryAfter: time.Second}
			})
			answer.Body = []byte(`{"choices":[]}`)
			return answer, err
		})
		r := newRequest("r")
		begin := time.Now()
		require.Equal(t, stages.ActionContinue, run(t.Context(), s, r).of(r).Action)
		require.Equal(t, time.Second, time.Since(begin), "as the provider asked")
		require.Equal(t, 2, r.Calls)
		require.Empty(t, r.Selected.Tried)

		p.set("a", func(context.Context) (schemas.Answer, error) {
			return schemas.Answer{}, &schemas.CallError{Status: 429, Retryable: true, Unbilled: true, RetryAfter: time.Minute}
		})
		r = newRequest("long")
		require.Equal(t, stages.Wait(time.Minute), run(t.Context(), s, r).of(r), "in the stream, as no failure")
	})
}

func TestWhatIsRefusedForEverIsNotTriedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, _ := limited(t, 4, nil)
		p.set("a", failing(429, schemas.Usage{}))
		r := newRequest("r")
		require.Equal(t, stages.ActionWait, run(t.Context(), s, r).of(r).Action, "no failure")
		r = newRequest("r")
		r.Deliveries = 60
		verdict := run(t.Context(), s, r).of(r)
		require.Equal(t, stages.ActionRetry, verdict.Action, "a failure, of which there may be few")
		require.Error(t, verdict.Err)
	})
}

func TestOtherModelsGoPastOneThatIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, limits := limited(t, 4, nil)
		open(t, s, p, limits)
		var requests []*stages.Request
		for i := range 30 {
			requests = append(requests, newRequest(fmt.Sprint("r", i)))
		}
		stuck := run(t.Context(), s, requests...)
		other := withFallbacks("other")
		require.Equal(t, stages.ActionContinue, run(t.Context(), s, other).of(other).Action)
		p.set("a", nil)
		stuck.done.Wait()
	})
}

func TestWhatCannotBeInTimeIsAnsweredEarlyAndCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, _ := limited(t, 4, nil)
		p.set("a", lasting(3*time.Second))
		for i := range 12 {
			r := newRequest(fmt.Sprint("r", i))
			require.Equal(t, stages.ActionContinue, run(t.Context(), s, r).of(r).Action)
		}
		before := p.called("a")
		due := func(id string, in time.Duration) *stages.Request {
			r := newRequest(id)
			r.Deadline = schemas.ToMillis(time.Now().Add(in))
			return r
		}
		begin := time.Now()
		late := due("late", 2*time.Second)
		v := run(t.Context(), s, late).of(late)
		require.Equal(t, schemas.CodeDeadlineExceeded, schemas.AsError(v.Err).Code)
		require.Zero(t, time.Since(begin))
		require.Equal(t, before, p.called("a"))
		require.Zero(t, late.Calls)

		good := due("good", 4*time.Second)
		require.Equal(t, stages.ActionContinue, run(t.Context(), s, good).of(good).Action)

		var requests []*stages.Request // more than can be in time
		for i := range 12 {
			requests = append(requests, due(fmt.Sprint("many", i), 7*time.Second))
		}
		all := run(t.Context(), s, requests...)
		all.done.Wait()
		answered := 0
		for _, r := range requests {
			if v := all.of(r); v.Action == stages.ActionContinue {
				answered++
			} else {
				require.Zero(t, r.Calls, "it was not called in vain")
			}
		}
		require.Equal(t, 8, answered, "two rounds of four")
	})
}

func TestACancelledRequestStopsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, _ := limited(t, 1, nil)
		p.set("a", lasting(10*time.Second))
		running, waiting := newRequest("running"), newRequest("waiting")
		v := run(t.Context(), s, running)
		synctest.Wait()
		w := run(t.Context(), s, waiting)
		synctest.Wait()
		s.Cancel("acme.waiting")
		begin := time.Now()
		require.Equal(t, schemas.CodeCancelled, schemas.AsError(w.of(waiting).Err).Code)
		require.Zero(t, time.Since(begin))
		require.Equal(t, 1, p.called("a"))
		require.Equal(t, stages.ActionContinue, v.of(running).Action)
	})
}

// book notes what is reserved and how it ends.
type book struct {
	mu     sync.Mutex
	events []string
}

func (b *book) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, fmt.Sprintf(format, args...))
}

func (b *book) Limited(string) bool                        { return true }
func (b *book) Waits(*stages.Request, generate.Route) bool { return false }
func (b *book) Changed(string) <-chan struct{}             { return nil }
func (b *book) Reserve(_ context.Context, _ *stages.Request, route generate.Route, _ string) (generate.Grant, error) {
	b.note("reserve %s", route.Model)
	return generate.Grant{}, nil
}

func (b *book) Settle(_ context.Context, _ *stages.Request, record generate.Record) error {
	b.note("settle %s %d", record.Model, record.Usage.TotalTokens)
	return nil
}

func (b *book) Release(context.Context, *stages.Request, string) error {
	b.note("release")
	return nil
}

func (b *book) Forfeit(_ context.Context, _ *stages.Request, route generate.Route, _ string, usage schemas.Usage) error {
	b.note("forfeit %s %d", route.Model, usage.TotalTokens)
	return nil
}

func TestEachCallIsReservedAndEndedOnce(t *testing.T) {
	b := &book{}
	s, p, _ := limited(t, 4, b)
	p.set("a", failing(503, schemas.Usage{TotalTokens: 5}))
	p.set("b", func(context.Context) (schemas.Answer, error) {
		return schemas.Answer{}, &schemas.CallError{Status: 429, Retryable: true, Unbilled: true}
	})
	r := withFallbacks("r")
	require.Equal(t, stages.ActionContinue, run(t.Context(), s, r).of(r).Action)
	require.True(t, slices.Equal([]string{"reserve a", "forfeit a 5", "reserve b", "release", "reserve c", "settle c 4"}, b.events), "%v", b.events)
}
