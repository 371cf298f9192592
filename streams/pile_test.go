package streams

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhoeverTakesFromAPileMissesNothing(t *testing.T) {
	p := newPile[int]()
	const goroutines, each = 4, 1000
	var adding sync.WaitGroup
	for range goroutines {
		adding.Go(func() {
			for i := range each {
				p.add(i)
			}
		})
	}
	taken, sum := 0, 0
	for taken < goroutines*each {
		<-p.wake
		for _, one := range p.take() {
			taken++
			sum += one
		}
	}
	adding.Wait()
	require.Equal(t, goroutines*each*(each-1)/2, sum)
	require.Empty(t, p.take())
}
