package score

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// Attempts are switched off where they add nothing, a few go on, and they are
// switched on again once they help.
func TestEarnings(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	e := NewEarnings(0.05, 0)
	play := func(helps float64, n int) (allowed int, last Switch) {
		for i := range n {
			if on, _ := e.Allowed("t/r", fmt.Sprint(helps, i)); !on {
				continue
			}
			allowed++
			gain := -0.1
			if random.Float64() < helps {
				gain = 0.6
			}
			if change, switched := e.Observe("t/r", gain, 0.001); switched {
				last = change
			}
		}
		return allowed, last
	}
	allowed, change := play(0.5, 1000)
	require.Equal(t, 1000, allowed, "half of the answers become better")
	require.Zero(t, change)
	allowed, change = play(0, 5000)
	require.False(t, change.On)
	require.Contains(t, change.Because, "scored higher")
	require.Less(t, allowed, 1500, "then only some are tried")
	require.Greater(t, allowed, 300)
	_, because := e.Allowed("t/r", "some name")
	require.NotEmpty(t, because)
	_, change = play(0.5, 5000)
	require.True(t, change.On)
	on, _ := e.Allowed("t/other", "some name")
	require.True(t, on)
}

func TestEarningsCountWhatAnAttemptCosts(t *testing.T) {
	cheap, dear := NewEarnings(0, 10), NewEarnings(0, 10)
	for i := range 100 {
		gain := 0.2 * float64(i%2) // 0.1 on average
		cheap.Observe("r", gain, 0.001)
		dear.Observe("r", gain, 1)
	}
	on, _ := cheap.Allowed("r", "x")
	require.True(t, on, "100 for a dollar")
	on, because := dear.Allowed("r", "x")
	require.False(t, on)
	require.Contains(t, because, "for a dollar")
}

func TestEarningsAreBounded(t *testing.T) {
	e := NewEarnings(0.05, 0)
	for i := range earnRoutes + 100 {
		e.Observe(fmt.Sprint(i), 0, 0)
	}
	require.Len(t, e.routes, earnRoutes)
}
