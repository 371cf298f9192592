package limit

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func gathering(connections int, rate Rate) *Limiter {
	return New([]Config{{Name: "p", MaxConnections: connections, Rate: rate, Gathers: true}})
}

var (
	part   = Ask{Provider: "p", Model: "m", Tokens: 10, Embeddings: true}
	shared = Ask{Provider: "p", Model: "m", Embeddings: true, Gathered: true}
)

// counted is a rate that permits all and counts.
type counted struct{ calls, tokens int }

func (c *counted) Take(tokens int) bool     { c.calls++; c.tokens += tokens; return true }
func (c *counted) Want(int, int)            {}
func (c *counted) Used(estimated, used int) { c.tokens += used - estimated }
func (c *counted) OnChange(func())          {}

func TestRequestsThatShareCallsTakeTheirPlacesTogether(t *testing.T) {
	rate := &counted{}
	l := gathering(1, rate)
	defer l.Close()
	call, _ := l.TryEnter(shared)
	require.NotNil(t, call)
	var parts []*Place
	for range 5 {
		place, _ := l.TryEnter(part)
		require.NotNil(t, place, "the next call's")
		parts = append(parts, place)
	}
	second, busy := l.TryEnter(shared)
	require.Nil(t, second)
	require.Equal(t, Busy{}, busy)
	chat, _ := l.TryEnter(Ask{Provider: "p", Model: "other"})
	require.Nil(t, chat, "the connections are those of all models")
	for _, p := range parts {
		p.Leave(Outcome{Kind: Went, Took: time.Second, Used: 7})
	}
	require.Equal(t, 1, l.Figures()[0].Running)
	call.Leave(Outcome{Kind: Went, Took: time.Second, Used: 35})
	require.Equal(t, counted{calls: 5, tokens: 35}, *rate, "requests count, and their tokens once")
	require.Zero(t, l.Figures()[0].Running)
	require.EqualValues(t, 1, l.Figures()[0].Calls)

	alone := one(1)
	defer alone.Close()
	place, _ := alone.TryEnter(part)
	require.NotNil(t, place)
	place, _ = alone.TryEnter(part)
	require.Nil(t, place, "where nothing is shared each is a call")
}

// A call that waits for a place is in nobody's way who may share it.
func TestRequestsJoinACallThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := gathering(1, nil)
		defer l.Close()
		first, _ := l.TryEnter(shared)
		got := make(chan *Place)
		go func() {
			place, err := l.Enter(t.Context(), shared)
			if err == nil {
				got <- place
			}
		}()
		synctest.Wait()
		place, _ := l.TryEnter(part)
		require.NotNil(t, place)
		require.Positive(t, l.Room(), "more may come")
		first.Leave(Outcome{Kind: Went})
		(<-got).Leave(Outcome{Kind: NotCalled})
		require.Zero(t, l.Figures()[0].Running)
	})
}

func TestASharedCallThatFailsIsOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := gathering(4, nil)
		defer l.Close()
		share := func(requests int, o Outcome) {
			var parts []*Place
			for range requests {
				place, err := l.Enter(t.Context(), part)
				require.NoError(t, err)
				parts = append(parts, place)
			}
			call, err := l.Enter(t.Context(), shared)
			require.NoError(t, err)
			call.Leave(o)
			for _, p := range parts {
				p.Leave(o)
			}
		}
		share(64, Outcome{Kind: Failed})
		require.False(t, l.Open("p", "m"))
		for range failuresInARow - 1 {
			share(2, Outcome{Kind: Failed})
		}
		require.True(t, l.Open("p", "m"))
		share(1, Outcome{Kind: Failed}) // the try
		require.True(t, l.Open("p", "m"))
		share(1, Outcome{Kind: Went})
		require.False(t, l.Open("p", "m"))
		require.EqualValues(t, 2, l.Figures()[0].Opened)

		share(32, Outcome{Kind: Refused, RetryAfter: time.Second})
		f := l.Figures()[0]
		require.EqualValues(t, 1, f.Refused)
		begin := time.Now()
		share(1, Outcome{Kind: Went})
		require.Equal(t, time.Second, time.Since(begin), "nobody is let in meanwhile")
	})
}
