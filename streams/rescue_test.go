package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/stages"
)

// startRescuing runs all stages in one group that misses answers after age, and
// gives the group's runner.
func startRescuing(t *testing.T, nc *nats.Conn, age time.Duration, list ...stages.Stage) *Runner {
	t.Helper()
	r, err := NewRunner(nc, RunnerConfig{Layout: testLayout(), MaxDeliver: 3, MaxPayload: 1 << 20, Capacity: 64}, steps(list...))
	require.NoError(t, err)
	r.rescuer.age, r.rescuer.rest = age, 20*time.Millisecond
	keepRunning(t, r)
	return r
}

func rescuedBy(t *testing.T, r *Runner) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(r.cfg.Metrics.rescued)
	families, err := registry.Gather()
	require.NoError(t, err)
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// loseAfter has n requests reach the stream behind a stage that stops there, and
// removes what they became, as servers do that forget it. One more has no id of its own.
func loseAfter(t *testing.T, nc *nats.Conn, js jetstream.JetStream, n int) (unnamed uint64) {
	t.Helper()
	stop := start(t, nc, testLayout(), steps(pass))
	for i := range n {
		publishAs(t, js, "acme", fmt.Sprint("lost-", i), request("a"))
	}
	ack, err := js.Publish(t.Context(), "llm.requests.acme", request("without an id"))
	require.NoError(t, err)
	requireNoneLeft(t, js, "LLM_REQUESTS")
	requireMessages(t, js, "LLM_ARCHIVE", uint64(n+1))
	stop()
	stream, err := js.Stream(t.Context(), "LLM_CACHE")
	require.NoError(t, err)
	require.NotZero(t, stream.CachedInfo().State.Msgs)
	require.NoError(t, stream.Purge(t.Context()))
	return ack.Sequence
}

// What the streams lost on its way is worked again from the archive, and what
// was answered is not.
func TestWhatTheServersLoseIsWorkedAgain(t *testing.T) {
	t.Parallel()
	nc, js := provisioned(t, testLayout())
	unnamed := loseAfter(t, nc, js, 5)
	var mu sync.Mutex
	came := map[string]int{}
	count := stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		mu.Lock()
		defer mu.Unlock()
		for _, r := range requests {
			came[r.Tenant+"/"+r.ID]++
		}
		return make([]stages.Verdict, len(requests))
	})
	r := startRescuing(t, nc, 200*time.Millisecond, count, pass, pass, pass, answer)
	ack, err := js.Publish(t.Context(), "llm.requests.beta", request("hi"))
	require.NoError(t, err)
	response(t, js, fmt.Sprint("llm.responses.beta.", ack.Sequence))
	want := map[string]int{fmt.Sprint("beta/", ack.Sequence): 1}
	for i := range 5 {
		response(t, js, fmt.Sprint("llm.responses.acme.lost-", i))
		want[fmt.Sprint("acme/lost-", i)] = 1
	}
	response(t, js, fmt.Sprint("llm.responses.acme.", unnamed))
	want[fmt.Sprint("acme/", unnamed)] = 1
	require.Eventually(t, func() bool {
		r.rescuer.mu.Lock()
		defer r.rescuer.mu.Unlock()
		return !r.rescuer.window.open()
	}, time.Minute, 10*time.Millisecond, "all is answered, so nothing is to be compared")
	require.Equal(t, want, came)
	require.EqualValues(t, 6, rescuedBy(t, r))
}

// What waits is not taken for lost, however often it is looked at.
func TestWhatWaitsIsNotLost(t *testing.T) {
	t.Parallel()
	nc, js := provisioned(t, testLayout())
	compress := newHolding("acme")
	r := startRescuing(t, nc, 100*time.Millisecond, compress, pass, pass, pass, answer)
	ack, err := js.Publish(t.Context(), "llm.requests.acme", request("hi"))
	require.NoError(t, err)
	told, err := nc.SubscribeSync("llm.compared")
	require.NoError(t, err)
	for range 5 {
		said, err := told.NextMsg(time.Minute)
		require.NoError(t, err)
		var c compared
		require.NoError(t, json.Unmarshal(said.Data, &c))
		require.False(t, c.Done && c.Until.After(time.Now()))
	}
	close(compress.let)
	response(t, js, fmt.Sprint("llm.responses.acme.", ack.Sequence))
	require.Zero(t, rescuedBy(t, r))
}

// Answers that are kept no more are no reason to ask again.
func TestWhatWasAnsweredLongAgoIsNotLost(t *testing.T) {
	t.Parallel()
	nc, js := provisioned(t, testLayout())
	r := startRescuing(t, nc, 20*time.Millisecond, pass, pass, pass, pass, answer)
	closed := func() bool {
		r.rescuer.mu.Lock()
		defer r.rescuer.mu.Unlock()
		return !r.rescuer.window.open()
	}
	for _, keep := range []uint64{0, 2} { // none is left, some are
		for i := range 5 {
			id := fmt.Sprint("r-", keep, "-", i)
			publishAs(t, js, "acme", id, request("a"))
			response(t, js, "llm.responses.acme."+id)
		}
		stream, err := js.Stream(t.Context(), "LLM_RESPONSES")
		require.NoError(t, err)
		purge := []jetstream.StreamPurgeOpt{}
		if keep > 0 {
			purge = append(purge, jetstream.WithPurgeKeep(keep))
		}
		require.NoError(t, stream.Purge(t.Context(), purge...))
		r.rescuer.trouble()
		require.Eventually(t, closed, time.Minute, 5*time.Millisecond)
	}
	require.Zero(t, rescuedBy(t, r))
}

func TestTroubleIsWhatElectsALeader(t *testing.T) {
	nc, _ := provisioned(t, testLayout())
	r := startRescuing(t, nc, time.Hour, pass, pass, pass, pass, answer)
	window := func() rescueWindow {
		r.rescuer.mu.Lock()
		defer r.rescuer.mu.Unlock()
		return r.rescuer.window
	}
	require.Eventually(t, func() bool { return window().open() }, time.Minute, time.Millisecond, "a start is one")
	tell := func(c compared) {
		data, err := json.Marshal(c)
		require.NoError(t, err)
		require.NoError(t, nc.Publish("llm.compared", data))
		require.NoError(t, nc.Flush())
	}
	first := window()
	tell(compared{Name: "other", From: first.from, Since: first.since, Until: first.until.Add(-time.Minute), Done: true})
	tell(compared{Name: "other", From: first.from.Add(time.Minute), Since: first.until, Until: first.until, Done: true})
	require.NoError(t, nc.Publish("llm.compared", []byte("{")))
	further := first.since.Add(time.Minute)
	tell(compared{Name: "other", From: first.from, Since: further, Until: first.until})
	require.Eventually(t, func() bool { return window().since.Equal(further) }, time.Minute, time.Millisecond, "the rest is what is left")
	tell(compared{Name: "other", From: first.from, Since: further, Until: first.until, Done: true})
	require.Eventually(t, func() bool { return !window().open() }, time.Minute, time.Millisecond, "another replica has compared all of it")
	for _, stream := range []string{"OTHER", "LLM_CACHE.cache-batch", "LLM_CACHE"} {
		kind := "STREAM"
		if stream == "LLM_CACHE.cache-batch" {
			kind = "CONSUMER"
		}
		require.NoError(t, nc.Publish("$JS.EVENT.ADVISORY."+kind+".LEADER_ELECTED."+stream, nil))
		require.NoError(t, nc.Flush())
		if stream == "OTHER" {
			require.False(t, window().open())
			continue
		}
		require.Eventually(t, func() bool { return window().open() }, time.Minute, time.Millisecond)
		tell(compared{Name: "other", From: window().from, Since: window().until, Until: window().until, Done: true})
		require.Eventually(t, func() bool { return !window().open() }, time.Minute, time.Millisecond)
	}
}

func TestWhoIsLost(t *testing.T) {
	now := time.Now()
	s := &rescuer{tried: map[uint64]time.Time{2: now, 3: now.Add(-rescueAgain)}}
	for _, c := range []struct {
		sequence uint64
		age      time.Duration
		waits    bool
		lost     bool
	}{
		{1, time.Minute, false, true},
		{1, time.Minute, true, false},
		{1, rescueLate + time.Second, true, true},
		{2, rescueLate + time.Second, true, false},
		{2, time.Hour, false, false},
		{3, time.Hour, false, true},
	} {
		require.Equal(t, c.lost, s.lost(missing{sequence: c.sequence, accepted: now.Add(-c.age)}, c.waits), "%+v", c)
	}
}
