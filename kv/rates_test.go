package kv

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
)

// shortMinute is what stands for a minute in these tests.
const shortMinute = 1500 * time.Millisecond

// newReplicas opens a bucket for replicas that have a connection each, and whose
// minutes are short.
func newReplicas(t *testing.T, n int) []*Rates {
	server := natstest.Start(t)
	replicas := make([]*Rates, n)
	for i := range replicas {
		_, js := natstest.Connect(t, server)
		require.NoError(t, Provision(t.Context(), js, layout()))
		replicas[i] = newRates(t, js)
	}
	return replicas
}

func newRates(t *testing.T, js jetstream.JetStream) *Rates {
	r, err := NewRates(t.Context(), js, layout())
	require.NoError(t, err)
	r.times = rateTimes{window: shortMinute + shortMinute/60, life: shortMinute / 30, grain: shortMinute / 120}
	t.Cleanup(r.Close)
	return r
}

// take takes from an allowance for as long as ctx lets it and notes when.
func take(ctx context.Context, a *Allowance, tokens int, took func(time.Time)) {
	changed := make(chan struct{}, 1)
	a.OnChange(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	for ctx.Err() == nil {
		if a.Take(tokens) {
			took(time.Now())
			continue
		}
		a.Want(50, 50*tokens)
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// takeAll has some replicas take as much as they get for three minutes.
func takeAll(t *testing.T, replicas, calls, tokens, each int) []time.Time {
	all := newReplicas(t, replicas)
	ctx, cancel := context.WithTimeout(t.Context(), 3*shortMinute)
	defer cancel()
	var mu sync.Mutex
	var times []time.Time
	var running sync.WaitGroup
	for _, r := range all {
		a := r.Allowance("openai", calls, tokens)
		running.Go(func() {
			take(ctx, a, each, func(at time.Time) {
				mu.Lock()
				defer mu.Unlock()
				times = append(times, at)
			})
		})
	}
	running.Wait()
	slices.SortFunc(times, time.Time.Compare)
	return times
}

// most is the most calls that fall into one minute, whichever.
func most(times []time.Time) int {
	n, from := 0, 0
	for to := range times {
		for times[to].Sub(times[from]) >= shortMinute {
			from++
		}
		n = max(n, to-from+1)
	}
	return n
}

func TestTenReplicasShareTheCallsOfAMinute(t *testing.T) {
	t.Parallel()
	times := takeAll(t, 10, 400, 0, 0)
	require.LessOrEqual(t, most(times), 400, "in any minute")
	require.GreaterOrEqual(t, len(times), 3*400*9/10, "of what is allowed, nine tenths are used")
}

func TestReplicasShareTheTokensOfAMinute(t *testing.T) {
	t.Parallel()
	times := takeAll(t, 3, 0, 100_000, 700)
	require.LessOrEqual(t, most(times)*700, 100_000)
	require.GreaterOrEqual(t, len(times)*700, 3*100_000*9/10)
}

func TestWhatWasNotUsedIsGivenBack(t *testing.T) {
	both := newReplicas(t, 2)
	a := both[0].Allowance("openai", 10, 0)
	a.Want(10, 0)
	eventually(t, "drawn", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.total().Calls > 0 })
	a.Want(0, 0) // all of them were cancelled
	list := func() (n int) {
		chunks, _, err := both[1].read("openai")
		require.NoError(t, err)
		for _, c := range chunks {
			n += c.Calls
		}
		return n
	}
	eventually(t, "given back", func() bool { return list() == 0 })
}

func TestACallLargerThanAMinuteTakesAllOfIt(t *testing.T) {
	a := newReplicas(t, 1)[0].Allowance("openai", 0, 1000)
	require.False(t, a.Take(5000), "nothing was drawn yet")
	eventually(t, "taken", func() bool { return a.Take(5000) })
	require.False(t, a.Take(1))
}
