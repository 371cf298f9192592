package generate

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/stages"
)

// slowLedger takes its time for each round trip.
type slowLedger struct {
	takes time.Duration

	mu     sync.Mutex
	bursts []int // how many records each round trip had
}

func (l *slowLedger) Look(context.Context, []*stages.Request) ([]Past, error) { return nil, nil }

func (l *slowLedger) Record(_ context.Context, requests []*stages.Request, _ []Record) []Recorded {
	l.mu.Lock()
	l.bursts = append(l.bursts, len(requests))
	l.mu.Unlock()
	<-time.After(l.takes)
	return make([]Recorded, len(requests))
}

func newRecorder(takes time.Duration) (c *recorder, l *slowLedger, done func() int) {
	l = &slowLedger{takes: takes}
	var mu sync.Mutex
	recorded := 0
	c = &recorder{ledger: l, crew: new(crew), done: func(*answered, Record, error) {
		mu.Lock()
		recorded++
		mu.Unlock()
	}}
	return c, l, func() int {
		mu.Lock()
		defer mu.Unlock()
		return recorded
	}
}

func TestAnswersThatComeWhileOthersAreRecordedAreRecordedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l, done := newRecorder(recordTogether / 2)
		for range 10 {
			c.add(&answered{ctx: t.Context()})
			synctest.Wait()
		}
		<-time.After(recordTogether)
		synctest.Wait()
		require.Equal(t, 10, done())
		require.Equal(t, []int{1, 9}, l.bursts)

		c.add(&answered{ctx: t.Context()}) // what comes alone waits for nobody
		<-time.After(recordTogether / 2)
		synctest.Wait()
		require.Equal(t, 11, done())
	})
}

func TestARecordThatTakesLongHoldsOthersUpForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l, done := newRecorder(time.Minute)
		for range 3 {
			c.add(&answered{ctx: t.Context()})
		}
		<-time.After(recordTogether)
		synctest.Wait()
		require.Equal(t, []int{1, 2}, l.bursts)
		require.Zero(t, done())
		<-time.After(2 * time.Minute)
		require.Equal(t, 3, done())
	})
}
