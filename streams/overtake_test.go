package streams

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/stages"
)

// holding is a stage that keeps the requests of one tenant until it is let go,
// and counts how often each of the others came.
type holding struct {
	held string
	let  chan struct{}

	mu   sync.Mutex
	came map[string]int // by tenant/id
}

func newHolding(held string) *holding {
	return &holding{held: held, let: make(chan struct{}), came: map[string]int{}}
}

func (h *holding) Run(ctx context.Context, requests []*stages.Request, decide stages.Decide) {
	for _, request := range requests {
		if request.Tenant == h.held {
			go func() {
				select {
				case <-h.let:
				case <-ctx.Done(): // the test failed before
				}
				decide(request, stages.Verdict{})
			}()
			continue
		}
		h.mu.Lock()
		h.came[request.Tenant+"/"+request.ID]++
		h.mu.Unlock()
		decide(request, stages.Verdict{})
	}
}

// publishFlood stores n requests of a tenant.
func publishFlood(t *testing.T, js jetstream.JetStream, tenant string, n int) {
	t.Helper()
	for i := range n {
		_, err := js.PublishAsync("llm.requests."+tenant, request(strconv.Itoa(i)))
		require.NoError(t, err)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		require.Fail(t, "the flood was not stored")
	}
}

func publishUnder(t *testing.T, js jetstream.JetStream, tenant, id string, header nats.Header) uint64 {
	t.Helper()
	m := &nats.Msg{Subject: "llm.requests." + tenant, Header: nats.Header{HeaderID: []string{id}}, Data: request("hi")}
	maps.Copy(m.Header, header)
	ack, err := js.PublishMsg(t.Context(), m)
	require.NoError(t, err)
	return ack.Sequence
}

// startOvertaking runs replicas of compress whose floods cannot be put aside, and one of the rest.
func startOvertaking(t *testing.T, nc *nats.Conn, layout Layout, compress stages.Stage, replicas int) (runners []*Runner) {
	t.Helper()
	begin := func(group []Step) {
		r, err := NewRunner(nc, RunnerConfig{Layout: layout, MaxDeliver: 3, MaxPayload: 1 << 20, Capacity: 64, LaterFull: func() bool { return true }}, group)
		require.NoError(t, err)
		keepRunning(t, r)
		runners = append(runners, r)
	}
	for range replicas {
		begin(steps(compress))
	}
	begin(steps(nil, pass, pass, pass, answer))
	return runners
}

// Who stands behind a flood that stands still is answered all the same, and each
// of his requests is worked once, whichever replica gets its message in the end.
func TestAQuietTenantOvertakesAFlood(t *testing.T) {
	t.Parallel()
	const flood, probes = 2500, shareBurst // of few a tenant, however small the flood
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	publishFlood(t, js, "loud", flood)
	compress := newHolding("loud")
	for i := range probes / 2 {
		publishUnder(t, js, "quiet", fmt.Sprint("a", i), nil)
	}
	startOvertaking(t, nc, layout, compress, 2)
	for i := range probes / 2 { // while the flood stands
		publishUnder(t, js, "quiet", fmt.Sprint("b", i), nil)
	}
	for i := range probes / 2 {
		response(t, js, fmt.Sprint("llm.responses.quiet.a", i))
		response(t, js, fmt.Sprint("llm.responses.quiet.b", i))
	}
	close(compress.let)
	requireNoneLeft(t, js, "LLM_REQUESTS")
	require.Len(t, compress.came, probes)
	for id, times := range compress.came {
		require.Equal(t, 1, times, "%s was worked again in its turn", id)
	}
	requireMessages(t, js, "LLM_RESPONSES", flood+probes)
}

func requireNoneLeft(t *testing.T, js jetstream.JetStream, stream string) {
	t.Helper()
	requireMessages(t, js, stream, 0)
}

func requireMessages(t *testing.T, js jetstream.JetStream, stream string, n uint64) {
	t.Helper()
	var have uint64
	require.Eventually(t, func() bool {
		s, err := js.Stream(t.Context(), stream)
		if err != nil {
			return false
		}
		have = s.CachedInfo().State.Msgs
		return have == n
	}, time.Minute, 20*time.Millisecond, "%s should hold %d messages", stream, n)
}

// Headers that look like the server's steer nothing.
func TestWhatOvertakesCannotForgeWhoItIs(t *testing.T) {
	t.Parallel()
	const flood = 2500
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	publishFlood(t, js, "loud", flood)
	victim := publishUnder(t, js, "victim", "v", nil)
	publishUnder(t, js, "forger", "f", nats.Header{
		"Nats-Sequence": {strconv.FormatUint(victim, 10)}, "Nats-Subject": {"llm.requests.victim"}, "Nats-Stream": {"LLM_CACHE"},
		"Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}, "Status": {"404"}, "Description": {"Message Not Found"},
	})
	publishUnder(t, js, "forger", "g", nil)
	compress := newHolding("loud")
	startOvertaking(t, nc, layout, compress, 1)
	for _, subject := range []string{"forger.f", "forger.g", "victim.v"} {
		response(t, js, "llm.responses."+subject)
	}
	close(compress.let)
	requireNoneLeft(t, js, "LLM_REQUESTS")
	requireMessages(t, js, "LLM_RESPONSES", flood+3)
	require.Equal(t, map[string]int{"forger/f": 1, "forger/g": 1, "victim/v": 1}, compress.came)
}

// A request that fails ahead of its turn is worked again in its turn.
func TestWhatFailsWhileItOvertakesKeepsItsTurn(t *testing.T) {
	t.Parallel()
	const flood = 2500
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	publishFlood(t, js, "loud", flood)
	publishUnder(t, js, "quiet", "q", nil)
	hold := newHolding("loud")
	var tried atomic.Int64
	first := make(chan struct{})
	compress := stages.Before(func(_ context.Context, r *stages.Request) (stages.Verdict, bool) {
		if r.Tenant == "quiet" && tried.Add(1) == 1 {
			close(first)
			return stages.Retry(fmt.Errorf("not now"), time.Millisecond), true
		}
		return stages.Verdict{}, false
	}, hold)
	startOvertaking(t, nc, layout, compress, 1)
	select {
	case <-first:
	case <-time.After(time.Minute):
		require.Fail(t, "the request did not overtake")
	}
	close(hold.let)
	response(t, js, "llm.responses.quiet.q")
	requireNoneLeft(t, js, "LLM_REQUESTS")
	require.EqualValues(t, 2, tried.Load())
}

func TestWhoMayOvertake(t *testing.T) {
	flooded := map[string]int64{"loud": 9000, "quiet": 30, "brisk": 140, "busy": 600}
	require.ElementsMatch(t, []string{"quiet", "brisk"}, mayOvertake(flooded))
	require.Empty(t, mayOvertake(map[string]int64{"a": 100, "b": 100, "c": 90}), "nobody floods")
	require.Empty(t, mayOvertake(map[string]int64{"a": 900, "b": 900, "c": 900}), "all flood")
	require.Empty(t, mayOvertake(nil))
	for i := range 2 * overtakeTenants {
		flooded[fmt.Sprint("t", i)] = 1
	}
	require.Len(t, mayOvertake(flooded), overtakeTenants)
}

// However many stand behind a flood, no more are taken ahead of their turn than
// the process has room for.
func TestThoseWhoOvertakeAreBounded(t *testing.T) {
	t.Parallel()
	const flood, tenants, each = 2500, 40, 25
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	publishFlood(t, js, "loud", flood)
	for i := range tenants {
		publishFlood(t, js, fmt.Sprint("quiet", i), each)
	}
	let := make(chan struct{})
	compress := stageFunc(func(ctx context.Context, requests []*stages.Request, decide stages.Decide) {
		for _, request := range requests {
			go func() {
				select {
				case <-let:
				case <-ctx.Done(): // the test failed before
				}
				decide(request, stages.Verdict{})
			}()
		}
	})
	r := startOvertaking(t, nc, layout, compress, 1)[0]
	require.Eventually(t, func() bool { return r.overtaker.open.Load() >= overtakeOpen }, time.Minute, time.Millisecond)
	require.Never(t, func() bool { return r.overtaker.open.Load() > overtakeOpen+overtakeReads*shareBurst }, 4*overtakeEvery, time.Millisecond)
	close(let)
	requireNoneLeft(t, js, "LLM_REQUESTS")
	requireMessages(t, js, "LLM_RESPONSES", flood+tenants*each)
	require.Zero(t, r.overtaker.open.Load())
}

type stageFunc func(ctx context.Context, requests []*stages.Request, decide stages.Decide)

func (f stageFunc) Run(ctx context.Context, requests []*stages.Request, decide stages.Decide) {
	f(ctx, requests, decide)
}

func TestWhatIsKnownOfOvertakenRequestsIsBounded(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	r, err := NewRunner(nc, RunnerConfig{Layout: layout, MaxPayload: 1 << 20}, steps(pass))
	require.NoError(t, err)
	for i := range maxOvertaken + 10 {
		r.overtaker.hearDone(&nats.Msg{Data: strconv.AppendInt(nil, int64(i), 10)})
	}
	r.overtaker.hearDone(&nats.Msg{Data: []byte("no number")})
	require.Equal(t, maxOvertaken, r.overtaker.done.Len())
	require.True(t, r.overtaker.passed(maxOvertaken))
	require.False(t, r.overtaker.passed(0), "forgotten: it is worked in its turn")
	var none *overtaker
	require.False(t, none.passed(1))
}
