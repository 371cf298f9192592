package combine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
)

// callers has so many requests at a time come, each after the answer to one
// before it, and gives how many are answered in three seconds and with how many calls.
func callers(t *testing.T, latency time.Duration, atOnce, places, inputs int) (answered, calls int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{latency: latency}
		c := newCombiner(u, inputs)
		c.pace = newPace()
		free := make(chan struct{}, places)
		leave := func(*Ended) { <-free }
		c.hooks.Try = func(string) Leave {
			select {
			case free <- struct{}{}:
				return leave
			default:
				return nil
			}
		}
		c.hooks.Enter = func(ctx context.Context, _ string) (Leave, error) {
			select {
			case free <- struct{}{}:
				return leave, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if inputs < 2 { // nothing is combined, but calls take places all the same
			c.limits.Inputs = 2
			c.alone.Store(true)
		}
		begin := time.Now()
		var running sync.WaitGroup
		var n, failed atomic.Int64
		for i := range atOnce {
			running.Go(func() {
				time.Sleep(time.Duration(i) * latency / time.Duration(atOnce)) //nolint:forbidigo // the clock of a bubble
				for k := 0; time.Since(begin) < 3*time.Second; k++ {
					if _, err := c.Generate(t.Context(), embed(fmt.Sprintf(`{"input":"%d of %d"}`, k, i))); err != nil {
						failed.Add(1)
					}
					n.Add(1)
				}
			})
		}
		running.Wait()
		require.Zero(t, failed.Load())
		answered, calls = int(n.Load()), len(u.calls)
	})
	return answered, calls
}

func TestSlowCallsWaitForNobodyWhileThereIsAPlace(t *testing.T) {
	for _, latency := range []time.Duration{25 * time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond} {
		alone, _ := callers(t, latency, 64, 100, 1)
		shared, calls := callers(t, latency, 64, 100, 100)
		t.Logf("calls of %v: %d requests alone, %d shared in %d calls: %.3f", latency, alone, shared, calls, float64(shared)/float64(alone))
		require.GreaterOrEqual(t, float64(shared), 0.99*float64(alone))
	}
}

func TestRequestsGatherWhileAllPlacesAreTaken(t *testing.T) {
	for _, places := range []int{1, 4, 8} {
		alone, _ := callers(t, 50*time.Millisecond, 64, places, 1)
		shared, calls := callers(t, 50*time.Millisecond, 64, places, 100)
		t.Logf("%d places: %d requests alone, %d shared in %d calls: x%.1f", places, alone, shared, calls, float64(shared)/float64(alone))
		require.Greater(t, shared, 5*alone)
		require.LessOrEqual(t, calls, alone+places, "no more calls than there are places for")
	}
}

func TestShortCallsWaitForCompany(t *testing.T) {
	answered, calls := callers(t, 4*time.Millisecond, 64, 100, 100)
	t.Logf("%d requests in %d calls", answered, calls)
	require.Less(t, 20*calls, answered)
}

func TestThePaceIsThatOfTheQuickestOfTheLastCalls(t *testing.T) {
	const linger = 2 * time.Millisecond
	p := newPace()
	require.False(t, p.short(linger), "nothing is known")
	learn := func(n int, took time.Duration) {
		for range n {
			p.learn(took)
		}
	}
	learn(1, time.Second)
	require.False(t, p.short(linger))
	learn(1, 5*time.Millisecond)
	require.True(t, p.short(linger), "a busy machine makes most calls slow, not all")
	learn(2*paceWindow, 50*time.Millisecond)
	require.False(t, p.short(linger), "the provider has become slower")
}

// A call that was refused is repeated in halves, each in a place of its own.
func TestEachCallHasAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{refuse: "bad", latency: time.Millisecond}
		c := newCombiner(u, 100)
		var entered, ended, none atomic.Int64
		c.hooks.Enter = func(context.Context, string) (Leave, error) {
			entered.Add(1)
			return func(call *Ended) {
				if call == nil {
					none.Add(1)
					return
				}
				ended.Add(1)
			}, nil
		}
		all(t.Context(), c, embed(`{"input":"a"}`), embed(`{"input":"bad"}`), embed(`{"input":""}`), embed(`{"input":"b","user":"x"}`))
		calls := len(u.calls)
		require.GreaterOrEqual(t, calls, 4, "three together, one and two, and the one that is sent as it is")
		require.EqualValues(t, calls, entered.Load())
		require.EqualValues(t, calls, ended.Load())

		all(t.Context(), c, schemas.Call{Model: "m", Body: []byte(`{"messages":[],"input":"a"}`)})
		require.EqualValues(t, calls, entered.Load(), "chats have their own")
		require.Zero(t, none.Load())
	})
}

// Who waits for a place may leave, and nothing was billed then.
func TestWhoLeavesBeforeThereIsAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{}
		c := newCombiner(u, 100)
		c.hooks.Enter = func(ctx context.Context, _ string) (Leave, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, got := range all(ctx, c, embed(`{"input":"a"}`), embed(`{"input":"b"}`), embed(`{"input":""}`)) {
			require.Equal(t, time.Second, got.took)
			var e *schemas.CallError
			require.ErrorAs(t, got.err, &e)
			require.Equal(t, schemas.CodeDeadlineExceeded, e.Code)
			require.True(t, e.Unbilled)
		}
		require.Empty(t, u.calls)
		require.Empty(t, c.groups)
	})
}
