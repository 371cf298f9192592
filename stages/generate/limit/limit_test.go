package limit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// upstreamModel answers as a provider would: each call takes its time, and what
// is above its limit is refused.
type upstreamModel struct {
	mu                    sync.Mutex
	limit                 int
	latency               time.Duration
	wait                  time.Duration // asked for with a refusal
	running               int
	most, calls, refused  int
	slowedAbove           int // calls beside so many others take longer in proportion
	failing               float64
	failsAfter            time.Duration // where failures take another time than answers
	settled               time.Time     // figures count from here
	settledOK, settledBad int
}

func (u *upstreamModel) call() Outcome {
	u.mu.Lock()
	u.calls++
	u.running++
	u.most = max(u.most, u.running)
	refused := u.limit > 0 && u.running > u.limit
	latency := u.latency
	if u.slowedAbove > 0 {
		latency = latency * time.Duration(max(u.running, u.slowedAbove)) / time.Duration(u.slowedAbove)
	}
	fails := rand.Float64() < u.failing
	if fails && u.failsAfter > 0 {
		latency = u.failsAfter
	}
	u.mu.Unlock()
	if !refused {
		time.Sleep(latency) //nolint:forbidigo // the clock of a bubble
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running--
	counts := !u.settled.IsZero() && time.Now().After(u.settled)
	if refused {
		u.refused++
		if counts {
			u.settledBad++
		}
		return Outcome{Kind: Refused, RetryAfter: u.wait}
	}
	if counts {
		u.settledOK++
	}
	if fails {
		return Outcome{Kind: Failed}
	}
	return Outcome{Kind: Went, Took: latency, Tokens: 10}
}

// load runs so many callers against a model until ctx ends.
func load(ctx context.Context, l *Limiter, u *upstreamModel, callers int) {
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for {
				place, err := l.Enter(ctx, Ask{Provider: "p", Model: "m"})
				if err != nil {
					return
				}
				place.Leave(u.call())
			}
		})
	}
	running.Wait()
}

func one(connections int) *Limiter {
	return New([]Config{{Name: "p", MaxConnections: connections}})
}

func TestHiddenLimitsAreUsedAndKept(t *testing.T) {
	for _, hidden := range []int{1, 7, 10, 40, 90} {
		for _, wait := range []time.Duration{0, time.Second} {
			synctest.Test(t, func(t *testing.T) {
				l := one(100)
				defer l.Close()
				const settling, measured = 20 * time.Second, 5 * time.Minute
				u := &upstreamModel{limit: hidden, latency: 200 * time.Millisecond, wait: wait, settled: time.Now().Add(settling)}
				ctx, cancel := context.WithTimeout(t.Context(), settling+measured)
				defer cancel()
				load(ctx, l, u, 150)
				possible := float64(hidden) * measured.Seconds() / 0.2
				t.Logf("limit %d, asked to wait %v: %.3f of it used, %.4f refused", hidden, wait, float64(u.settledOK)/possible, float64(u.settledBad)/float64(u.settledOK+u.settledBad))
				require.GreaterOrEqual(t, float64(u.settledOK), 0.85*possible)
				require.Less(t, float64(u.settledBad), 0.03*float64(u.settledOK+u.settledBad))
			})
		}
	}
}

func TestALimitThatChangesIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := one(100)
		defer l.Close()
		u := &upstreamModel{limit: 80, latency: 200 * time.Millisecond}
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		var low, high atomic.Int64
		note := func(to *atomic.Int64) func() { return func() { to.Store(int64(l.Figures()[0].Limit)) } }
		change := func(after time.Duration, limit int) {
			time.AfterFunc(after, func() { u.mu.Lock(); u.limit = limit; u.mu.Unlock() })
		}
		change(30*time.Second, 8)
		time.AfterFunc(40*time.Second, note(&low))
		change(60*time.Second, 60)
		time.AfterFunc(3*time.Minute, note(&high))
		load(ctx, l, u, 150)
		require.LessOrEqual(t, low.Load(), int64(9))
		require.GreaterOrEqual(t, high.Load(), int64(50))
	})
}

func TestFewerCallsWhereTheyGetSlower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := one(100)
		defer l.Close()
		u := &upstreamModel{latency: 200 * time.Millisecond, slowedAbove: 100}
		time.AfterFunc(20*time.Second, func() { u.mu.Lock(); u.slowedAbove = 10; u.mu.Unlock() })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var lowest atomic.Int64
		lowest.Store(100)
		for at := 21 * time.Second; at < time.Minute; at += time.Second {
			time.AfterFunc(at, func() { lowest.Store(min(lowest.Load(), int64(l.Figures()[0].Limit))) })
		}
		load(ctx, l, u, 150)
		require.Less(t, lowest.Load(), int64(50), "calls took ten times as long")
	})
}

func TestCallsThatAreSlowForAnotherReasonAreNotThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := one(100)
		defer l.Close()
		u := &upstreamModel{latency: 200 * time.Millisecond}
		time.AfterFunc(20*time.Second, func() { u.mu.Lock(); u.latency = 2 * time.Second; u.mu.Unlock() })
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		load(ctx, l, u, 150)
		require.Greater(t, l.Figures()[0].Limit, 90)
	})
}

func TestModelsShareTheConnectionsOfTheirProvider(t *testing.T) {
	l := one(3)
	defer l.Close()
	var places []*Place
	for _, model := range []string{"a", "b", "a"} {
		place, _ := l.TryEnter(Ask{Provider: "p", Model: model})
		require.NotNil(t, place)
		places = append(places, place)
	}
	place, busy := l.TryEnter(Ask{Provider: "p", Model: "c"})
	require.Nil(t, place)
	require.False(t, busy.Long)
	places[0].Leave(Outcome{Kind: Went})
	place, _ = l.TryEnter(Ask{Provider: "p", Model: "c"})
	require.NotNil(t, place)
}

func fail(t *testing.T, l *Limiter, n int) {
	for range n {
		place, err := l.Enter(t.Context(), Ask{Provider: "p", Model: "m"})
		require.NoError(t, err)
		place.Leave(Outcome{Kind: Failed})
	}
}

func TestABreakerOpensTriesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := one(10)
		defer l.Close()
		fail(t, l, failuresInARow-1)
		require.False(t, l.Open("p", "m"))
		fail(t, l, 1)
		require.True(t, l.Open("p", "m"))
		place, busy := l.TryEnter(Ask{Provider: "p", Model: "m"})
		require.Nil(t, place)
		require.True(t, busy.Long)
		require.False(t, l.Open("p", "other"), "each model has its own")

		begin := time.Now()
		entered := make(chan *Place, 3)
		for range 3 {
			go func() {
				p, err := l.Enter(t.Context(), Ask{Provider: "p", Model: "m"})
				if err == nil {
					entered <- p
				}
			}()
		}
		try := <-entered
		require.GreaterOrEqual(t, time.Since(begin), openFirst*3/4)
		synctest.Wait()
		require.True(t, try.Try)
		require.Empty(t, entered, "one tries, the others wait")
		try.Leave(Outcome{Kind: Failed})
		begin = time.Now()
		try = <-entered
		require.GreaterOrEqual(t, time.Since(begin), 2*openFirst*3/4, "each time longer")
		try.Leave(Outcome{Kind: Went})
		second := <-entered
		require.False(t, second.Try)
		require.False(t, l.Open("p", "m"))
		second.Leave(Outcome{Kind: Went})
	})
}

func TestATryThatWasCancelledLeavesTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := one(10)
		defer l.Close()
		fail(t, l, failuresInARow)
		try, err := l.Enter(t.Context(), Ask{Provider: "p", Model: "m"})
		require.NoError(t, err)
		try.Leave(Outcome{Kind: Ended})
		next, _ := l.TryEnter(Ask{Provider: "p", Model: "m"})
		require.NotNil(t, next)
		require.True(t, next.Try)
	})
}

func TestWhatFailedBeforeTriesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New([]Config{{Name: "p", MaxConnections: 100}})
		defer l.Close()
		poison, healthy := Ask{Provider: "p", Model: "m", Retry: true}, Ask{Provider: "p", Model: "m", Batch: true}
		for range failuresInARow {
			place, _ := l.TryEnter(healthy)
			place.Leave(Outcome{Kind: Failed})
		}
		require.True(t, l.Open("p", "m"))
		began := make(chan Ask, 2)
		for _, ask := range []Ask{poison, healthy} {
			go func() {
				place, err := l.Enter(t.Context(), ask)
				require.NoError(t, err)
				began <- ask
				place.Leave(Outcome{Kind: Went})
			}()
			synctest.Wait()
		}
		require.Equal(t, healthy, <-began, "one that may fail by itself tries last")
		require.Equal(t, poison, <-began)
	})
}

func TestWhatFailedBeforeDoesNotPassOthersToTry(t *testing.T) {
	q := &queue{}
	retry := &Ask{Retry: true}
	require.False(t, q.behind(retry, true), "alone it may try")
	q.push(&waiter{ask: Ask{}})
	require.True(t, q.behind(retry, true))
	require.False(t, q.behind(retry, false), "while the breaker is closed lines are served apart")
}

func TestOneFailureInFiveDoesNotOpenABreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := one(20)
		defer l.Close()
		u := &upstreamModel{latency: 200 * time.Millisecond, failing: 0.2}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		load(ctx, l, u, 30)
		f := l.Figures()[0]
		require.LessOrEqual(t, f.Opened, uint64(1)) // eight in a row happen once in 400,000 calls
		require.Equal(t, 20, f.Limit)
	})
}

// Models answer in seconds and fail at once: then the failures come first.
func TestQuickFailuresAmongSlowAnswersDoNotOpenABreaker(t *testing.T) {
	for _, c := range []struct {
		connections int
		latency     time.Duration
	}{{64, 200 * time.Millisecond}, {64, 10 * time.Second}, {500, 10 * time.Second}} {
		for _, failing := range []float64{0.2, 1} {
			t.Run(fmt.Sprint(c, failing), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := one(c.connections)
					defer l.Close()
					u := &upstreamModel{latency: c.latency, failing: failing, failsAfter: time.Millisecond}
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					load(ctx, l, u, c.connections)
					if failing < 1 {
						require.Zero(t, l.Figures()[0].Opened)
					} else {
						require.Less(t, u.calls, 2*c.connections+failuresInARow+10, "two rounds, and the tries")
					}
				})
			})
		}
	}
}

func TestRetriesStayWithinTheirBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := one(50)
		defer l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var running sync.WaitGroup
		for i := range 80 { // half of those who call are retries, if they may
			running.Go(func() {
				for {
					place, err := l.Enter(ctx, Ask{Provider: "p", Model: "m", Retry: i%2 == 0})
					if err != nil {
						return
					}
					time.Sleep(200 * time.Millisecond) //nolint:forbidigo // the clock of a bubble
					place.Leave(Outcome{Kind: Went, Took: 200 * time.Millisecond})
				}
			})
		}
		running.Wait()
		f := l.Figures()[0]
		require.LessOrEqual(t, float64(f.Retries), 11+30*retriesASecond+RetryShare*float64(f.Calls))
		require.GreaterOrEqual(t, float64(f.Retries), 0.15*float64(f.Calls))
		require.Greater(t, f.Calls, uint64(5000), "retries that wait are in nobody's way")
	})
}

func TestWhatAProviderAsksForIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := one(10)
		defer l.Close()
		enter := func() (*Place, time.Duration) {
			begin := time.Now()
			place, err := l.Enter(t.Context(), Ask{Provider: "p", Model: "m", Tokens: 100})
			require.NoError(t, err)
			return place, time.Since(begin)
		}
		place, _ := enter()
		place.Leave(Outcome{Kind: Refused, RetryAfter: 7 * time.Second})
		place, waited := enter()
		require.Equal(t, 7*time.Second, waited)

		place.Leave(Outcome{Kind: Went, Says: true,
			Calls:     Said{Limit: 60, Remaining: 1, Reset: time.Minute, At: time.Now()},
			AllTokens: Said{Limit: -1, Remaining: -1, Reset: -1, At: time.Now()},
		})
		last, waited := enter()
		require.Zero(t, waited, "one is left")
		last.Leave(Outcome{Kind: Went})
		place, waited = enter()
		require.InDelta(t, 1.02, waited.Seconds(), 0.01, "the next comes in a second")

		place.Leave(Outcome{Kind: Went, Says: true,
			AllTokens: Said{Limit: 6000, Remaining: 0, Reset: time.Minute, At: time.Now()},
			Calls:     Said{Limit: 60, Remaining: 60, Reset: 0, At: time.Now()},
		})
		_, waited = enter()
		require.InDelta(t, 1, waited.Seconds(), 0.01, "a hundred of 6000 tokens")
	})
}

func TestBatchHasAShareAndInteractiveGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := one(1)
		defer l.Close()
		held, _ := l.TryEnter(Ask{Provider: "p", Model: "m"})
		var mu sync.Mutex
		var order []bool
		for _, batch := range []bool{true, false} {
			for range 32 {
				go func() {
					place, err := l.Enter(t.Context(), Ask{Provider: "p", Model: "m", Batch: batch})
					if err != nil {
						return
					}
					mu.Lock()
					order = append(order, batch)
					mu.Unlock()
					place.Leave(Outcome{Kind: Went})
				}()
			}
			synctest.Wait()
		}
		held.Leave(Outcome{Kind: Went})
		synctest.Wait()
		batches := 0
		for _, batch := range order[:32] {
			if batch {
				batches++
			}
		}
		require.Equal(t, 32/batchShare, batches)
		require.Len(t, order, 64)
	})
}

func TestThereIsRoomWhileSomethingCanBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := one(4)
		defer l.Close()
		require.Positive(t, l.Room())
		ctx, cancel := context.WithCancel(t.Context())
		for range 4 + 1 + 4/2 {
			go func() { _, _ = l.Enter(ctx, Ask{Provider: "p", Model: "m"}) }()
		}
		synctest.Wait()
		require.Equal(t, 1, l.Room(), "a trickle")
		require.Zero(t, l.Room(), "as many wait as the next places are for")
		time.Sleep(trickleEvery) //nolint:forbidigo // the clock of a bubble
		require.Equal(t, 1, l.Room(), "for models that nobody has asked for yet")
		cancel()
		synctest.Wait()
		require.Positive(t, l.Room())
	})
}

func TestModelsAreBounded(t *testing.T) {
	l := one(2)
	defer l.Close()
	for i := range 3 * maxModels {
		place, _ := l.TryEnter(Ask{Provider: "p", Model: string(rune('a'+i%26)) + time.Duration(i).String()})
		require.NotNil(t, place)
		place.Leave(Outcome{Kind: Went})
	}
	require.LessOrEqual(t, len(l.Figures()), maxModels)
}

func TestTypicalTimesAreKnownAfterSomeAnswers(t *testing.T) {
	l := one(2)
	defer l.Close()
	for i := range enoughAnswers {
		require.Zero(t, l.Typical("p", "m"), i)
		place, _ := l.TryEnter(Ask{Provider: "p", Model: "m"})
		place.Leave(Outcome{Kind: Went, Took: 3 * time.Second})
	}
	require.Equal(t, 3*time.Second, l.Typical("p", "m"))
	require.Zero(t, l.Typical("other", "m"))
}
