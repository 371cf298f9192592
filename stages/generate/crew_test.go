package generate

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestACrewKeepsGoroutinesWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails where a goroutine is left
		var c crew
		var done sync.WaitGroup
		more := make(chan struct{})
		const functions = 3 * keepWaiting
		done.Add(functions)
		for range functions {
			c.do(func() { <-more; done.Done() })
		}
		synctest.Wait()
		for left := functions - 1; left >= 0; left-- {
			more <- struct{}{}
			synctest.Wait()
			require.Equal(t, left, c.running)
			require.LessOrEqual(t, len(c.waiting), max(left, keepWaiting))
		}
		done.Wait()
		require.Empty(t, c.waiting)
	})
}

func TestACrewRunsAtOnceWhatItIsGiven(t *testing.T) {
	var c crew
	var done sync.WaitGroup
	one, other := make(chan struct{}), make(chan struct{})
	done.Add(2)
	c.do(func() { one <- struct{}{}; <-other; done.Done() })
	c.do(func() { <-one; other <- struct{}{}; done.Done() })
	done.Wait()
}
