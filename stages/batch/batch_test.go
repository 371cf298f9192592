package batch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRequest(tenant, id, body string) *stages.Request {
	r := &stages.Request{}
	r.Tenant, r.ID, r.Class, r.Kind, r.Model, r.Body = tenant, id, schemas.Interactive, schemas.Chat, "m", []byte(body)
	return r
}

func embedding(id string) *stages.Request {
	r := newRequest("acme", id, `{"input":"a"}`)
	r.Kind = schemas.Embeddings
	return r
}

func offline(id, messages string) *stages.Request {
	r := newRequest("acme", id, `{"messages":[`+messages+`]}`)
	r.Class = schemas.Batch
	return r
}

// sent is what a stage has sent: the ids of each batch, and when.
type sent struct {
	stage   *Stage
	batches [][]string
	after   []time.Duration
	begun   time.Time
}

func newSent(size int, timeout time.Duration, bytes int) *sent {
	return &sent{
		stage: New(Config{MaxBatchSize: size, Timeout: units.Duration(timeout)}, Limits{Bytes: bytes}),
		begun: time.Now(),
	}
}

func (s *sent) run(t *testing.T, requests ...*stages.Request) {
	s.stage.Run(t.Context(), requests, func(r *stages.Request, v stages.Verdict) {
		ids := []string{r.ID}
		for _, other := range v.With {
			ids = append(ids, other.ID)
		}
		s.batches, s.after = append(s.batches, ids), append(s.after, time.Since(s.begun))
	})
}

// pass lets time pass in a bubble.
func (s *sent) pass(d time.Duration) {
	s.sync()
	time.Sleep(d) //nolint:forbidigo // the clock of a bubble goes on when all sleep
	synctest.Wait()
	s.sync()
}

// sync orders what the test does and what timers do, for the race detector.
func (s *sent) sync() {
	s.stage.mu.Lock()
	defer s.stage.mu.Unlock()
}

func TestRequestsOfAKindShareABatch(t *testing.T) {
	s := newSent(3, time.Second, 1<<20)
	var requests []*stages.Request
	for i := range 4 {
		requests = append(requests, newRequest("acme", fmt.Sprint("a", i), fmt.Sprintf(`{"temperature":0,"messages":[%d]}`, i)))
	}
	requests = append(requests,
		newRequest("other", "tenant", `{"temperature":0,"messages":[]}`),
		newRequest("acme", "parameters", `{"temperature":1,"messages":[]}`))
	s.run(t, requests...)
	require.ElementsMatch(t, [][]string{{"a0", "a1", "a2"}, {"a3"}, {"tenant"}, {"parameters"}}, s.batches)
	require.Zero(t, s.stage.groups.Len(), "nothing is kept of what waits for nobody")
}

func TestBatchesAreBoundedByBytes(t *testing.T) {
	s := newSent(100, time.Second, 10_000)
	var requests []*stages.Request
	for i := range 8 {
		requests = append(requests, newRequest("acme", fmt.Sprint(i), fmt.Sprintf(`{"messages":["%02000d"]}`, i)))
	}
	s.run(t, requests...)
	require.Equal(t, [][]string{{"0", "1", "2"}, {"3", "4", "5"}, {"6", "7"}}, s.batches)
}

func TestAloneWaitsForTheShortestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSent(3, time.Second, 1<<20)
		s.run(t, embedding("a"))
		require.Empty(t, s.batches)
		s.pass(time.Second)
		require.Equal(t, []time.Duration{minWindow}, s.after)
	})
}

func TestAFullBatchGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSent(3, time.Second, 1<<20)
		s.run(t, embedding("a"), embedding("b"))
		require.Empty(t, s.batches)
		s.run(t, embedding("c"), embedding("d"))
		require.Equal(t, [][]string{{"a", "b", "c"}}, s.batches)
		s.pass(time.Second)
		require.Equal(t, [][]string{{"a", "b", "c"}, {"d"}}, s.batches)
	})
}

func TestTheTimeoutBoundsTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSent(3, time.Millisecond, 1<<20)
		s.run(t, embedding("a"))
		s.pass(time.Second)
		require.Equal(t, []time.Duration{time.Millisecond}, s.after)

		s = newSent(3, 0, 1<<20)
		s.run(t, embedding("a"), offline("b", "1"))
		require.Len(t, s.batches, 2, "without a timeout nobody waits")
	})
}

// Requests that arrive every 4 ms fill a batch of 10 in 36: the window learns it.
func TestTheWindowFollowsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSent(10, time.Second, 1<<20)
		for i := range 200 {
			s.run(t, embedding(fmt.Sprint(i)))
			s.pass(4 * time.Millisecond)
		}
		for _, b := range s.batches[len(s.batches)-5:] {
			require.GreaterOrEqual(t, len(b), 4)
		}
		g, _ := s.stage.groups.Get(key(embedding("")))
		require.InDelta(t, 4*time.Millisecond, g.window.gap, 1e5)
		require.InDelta(t, 36*time.Millisecond, g.window.open(9), 1e6)
		require.Equal(t, maxWindow, g.window.open(99), "never more than that")
		s.pass(time.Minute)
		for range 20 {
			s.run(t, embedding("late"))
			s.pass(time.Minute)
		}
		require.Equal(t, minWindow, g.window.open(9), "what arrives seldom finds no company")
	})
}

// Who waits for the answer before asking again would wait for itself.
func TestASequentialCallerIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSent(10, time.Second, 1<<20)
		var waits []time.Duration
		for i := range 60 {
			begun, before := time.Now(), len(s.batches)
			s.run(t, embedding(fmt.Sprint(i)))
			for len(s.batches) == before {
				s.pass(100 * time.Microsecond)
			}
			waits = append(waits, time.Since(begun))
			s.pass(5 * time.Millisecond) // the call
		}
		slow := 0
		for _, wait := range waits[20:] {
			require.LessOrEqual(t, wait, maxWindow)
			if wait > minWindow+time.Millisecond {
				slow++
			}
		}
		require.LessOrEqual(t, slow, 40/probe+1, "all but the looks whether that has changed are short: %v", waits)
	})
}

func TestInteractiveChatsWaitForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSent(10, time.Second, 1<<20)
		for i := range 100 {
			s.run(t, newRequest("acme", fmt.Sprint(i), `{"messages":[]}`))
			s.pass(time.Millisecond)
			require.Len(t, s.batches, i+1)
		}
		for i, after := range s.after {
			require.Equal(t, time.Duration(i)*time.Millisecond, after)
		}
	})
}

func TestOfflineBatchesAreInOrderOfTheirPrefixes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSent(10, time.Second, 1<<20)
		var first, second []*stages.Request
		for i := range 300 {
			list := &first
			if i >= 150 {
				list = &second
			}
			prefix := i * 7 % 5
			*list = append(*list, offline(fmt.Sprint(prefix, "/", i), fmt.Sprintf(`"prompt %d %s",%d`, prefix, strings.Repeat("x", 500), i)))
		}
		s.run(t, first...)
		s.pass(time.Millisecond)
		s.run(t, second...)
		require.Empty(t, s.batches, "hundreds are put in order together")
		s.pass(time.Second)
		require.Len(t, s.batches, 30)
		var prefixes []byte
		for _, id := range slices.Concat(s.batches...) {
			if len(prefixes) == 0 || prefixes[len(prefixes)-1] != id[0] {
				prefixes = append(prefixes, id[0])
			}
		}
		require.Equal(t, "01234", string(prefixes))
	})
}

func TestWhatIsSortedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSent(10, time.Second, 1<<20)
		var requests []*stages.Request
		for i := range maxSorted {
			requests = append(requests, offline(fmt.Sprint(i), "1"))
		}
		s.run(t, requests...)
		require.Len(t, slices.Concat(s.batches...), maxSorted, "so many go at once")
		require.Equal(t, "0", s.batches[0][0], "equal ones keep their order")

		s = newSent(1000, time.Second, 1<<20)
		large := strings.Repeat("x", maxSortedBytes/4)
		for i := range 4 {
			s.run(t, offline(fmt.Sprint(i), `"`+large+`"`))
		}
		require.Equal(t, [][]string{{"0"}, {"1"}, {"2"}}, s.batches, "each is more than a message holds")
		s.pass(time.Second)
		require.Len(t, s.batches, 4)
	})
}

func TestGroupsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSent(10, time.Second, 1<<20)
		var requests []*stages.Request
		for i := range maxGroups + 10 {
			r := embedding(fmt.Sprint(i))
			r.Model = r.ID
			requests = append(requests, r)
		}
		s.run(t, requests...)
		require.Len(t, s.batches, 10, "those that waited longest make room")
		require.Equal(t, maxGroups, s.stage.groups.Len())
		s.pass(time.Second)
		require.Len(t, s.batches, maxGroups+10)
	})
}

func TestWhatGoesBesideTheShardIsApart(t *testing.T) {
	s := newSent(10, time.Second, 1<<20)
	within, beyond := newRequest("acme", "within", `{}`), newRequest("acme", "beyond", `{}`)
	beyond.Beyond = true
	s.run(t, within, beyond)
	require.ElementsMatch(t, [][]string{{"within"}, {"beyond"}}, s.batches)
}
