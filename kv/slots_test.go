package kv

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
)

// Whoever takes times of a tenant at once with others, no two get the same ones.
func TestTimesAreGivenOutOnce(t *testing.T) {
	const takers, takes, each, rate = 4, 20, 5, 1000
	_, js := natstest.Connect(t, natstest.Start(t))
	layout := Layout{Prefix: "llm", AnswersBytes: 1 << 30, AnswersAge: time.Hour, CacheBytes: 1 << 30}
	require.NoError(t, Provision(t.Context(), js, layout))
	began := time.Now()
	var mu sync.Mutex
	var firsts []time.Time
	var taking sync.WaitGroup
	for range takers {
		taking.Go(func() {
			slots, err := NewSlots(t.Context(), js, layout)
			if err != nil {
				t.Error(err)
				return
			}
			for range takes {
				first, err := slots.Reserve(t.Context(), "acme", rate, each)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				firsts = append(firsts, first)
				mu.Unlock()
			}
		})
	}
	taking.Wait()
	require.Len(t, firsts, takers*takes)
	slices.SortFunc(firsts, time.Time.Compare)
	require.False(t, firsts[0].Before(began.Truncate(time.Microsecond)))
	for i, first := range firsts[1:] {
		require.GreaterOrEqual(t, first.Sub(firsts[i]), each*time.Second/rate, "times of two takes overlap")
	}
}
