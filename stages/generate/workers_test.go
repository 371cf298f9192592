package generate

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestWorkersTakeTheNextFromTheRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails where a goroutine is left
		const n, calls = 4, 100
		w := newWorkers(t.Context(), n)
		var now, most, made atomic.Int64
		finish := make(chan struct{})
		go func() {
			for range calls {
				w.do(func(begin bool) bool {
					require.True(t, begin)
					most.Store(max(most.Load(), now.Add(1)))
					<-finish
					now.Add(-1)
					made.Add(1)
					return true
				})
			}
		}()
		for range calls {
			synctest.Wait()
			require.LessOrEqual(t, now.Load(), int64(n))
			finish <- struct{}{}
		}
		synctest.Wait()
		require.EqualValues(t, calls, made.Load())
		require.EqualValues(t, n, most.Load())
		require.True(t, w.idle())
		require.Empty(t, w.slots)
	})
}

func TestWhoWaitsForAWorkerGoesBeforeTheRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorkers(t.Context(), 1)
		first, hired, second := make(chan struct{}), make(chan struct{}), false
		w.do(func(bool) bool { <-first; return true })
		w.do(func(bool) bool { second = true; return true }) // stands in the row
		go func() {
			w.hire()
			<-hired
			w.relieve()
		}()
		synctest.Wait()
		close(first)
		synctest.Wait()
		require.False(t, second)
		close(hired)
		synctest.Wait()
		require.True(t, second)
	})
}

func TestTheRowIsGivenBackWithoutAWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leaving, leave := context.WithCancel(t.Context())
		w := newWorkers(leaving, 1)
		finish := make(chan struct{})
		w.do(func(bool) bool { <-finish; return true })
		var back atomic.Int64
		go func() {
			for range 3 { // one stands in the row, one waits for it, one comes later
				w.do(func(begin bool) bool {
					require.False(t, begin)
					back.Add(1)
					return begin
				})
			}
		}()
		synctest.Wait()
		leave()
		w.clear()
		synctest.Wait()
		require.EqualValues(t, 3, back.Load())
		close(finish)
		synctest.Wait()
		require.Empty(t, w.slots)
	})
}
