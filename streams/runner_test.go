package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testLayout() Layout {
	return Layout{
		Names: Names{Prefix: "llm"}, Replicas: 1, AckWait: 2 * time.Second, RequestsBytes: 1 << 30, MaxWaiting: 100_000,
		Archive: true, ArchiveBytes: 1 << 30, ArchiveAge: time.Hour, StageBytes: 1 << 30,
		ResponsesBytes: 1 << 30, ResponsesAge: time.Hour, DeadBytes: 1 << 30, DeadAge: time.Hour,
	}
}

// pass is a stage that sends everything on.
var pass = stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
	return make([]stages.Verdict, len(requests))
})

// answer is a last stage that replies with the request's id.
var answer = stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
	verdicts := make([]stages.Verdict, len(requests))
	for i, r := range requests {
		r.Answer = []byte(`{"object":"chat.completion","choices":[]}`)
		verdicts[i] = stages.Answer()
	}
	return verdicts
})

func steps(list ...stages.Stage) []Step {
	var out []Step
	for i, s := range list {
		if s != nil {
			out = append(out, Step{Name: stages.Names[i], Stage: s})
		}
	}
	return out
}

// start runs one runner a group until the test ends or stop is called.
func start(t *testing.T, nc *nats.Conn, layout Layout, groups ...[]Step) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for _, g := range groups {
		r, err := NewRunner(nc, RunnerConfig{Layout: layout, MaxDeliver: 3, MaxPayload: 1 << 20}, g)
		require.NoError(t, err)
		done.Go(func() { require.NoError(t, r.Run(ctx)) })
	}
	stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(stop)
	return stop
}

// keepRunning runs a runner until the test ends.
func keepRunning(t *testing.T, r *Runner) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { require.NoError(t, r.Run(ctx)) })
	t.Cleanup(func() { cancel(); done.Wait() })
}

func request(text string) []byte {
	return fmt.Appendf(nil, `{"model":"auto","messages":[{"role":"user","content":%q}]}`, text)
}

func response(t *testing.T, js jetstream.JetStream, subject string) *jetstream.RawStreamMsg {
	t.Helper()
	stream, err := js.Stream(t.Context(), "LLM_RESPONSES")
	require.NoError(t, err)
	var m *jetstream.RawStreamMsg
	require.Eventually(t, func() bool {
		m, err = stream.GetLastMsgForSubject(t.Context(), subject)
		return err == nil
	}, 30*time.Second, 2*time.Millisecond, "no response on %s", subject)
	return m
}

func TestRequestPassesFiveGroups(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	require.NoError(t, Provision(t.Context(), js, layout), "provisioning again")
	stop := start(t, nc, layout,
		steps(pass), steps(nil, pass), steps(nil, nil, pass), steps(nil, nil, nil, pass), steps(nil, nil, nil, nil, answer))

	ack, err := js.Publish(t.Context(), "llm.requests.acme", request("hi"))
	require.NoError(t, err)
	require.Greater(t, ack.Sequence, uint64(time.Now().Add(-time.Minute).UnixMilli()), "sequences begin at the Unix time in ms")
	got := response(t, js, fmt.Sprintf("llm.responses.acme.%d", ack.Sequence))
	var body struct {
		About struct {
			ID     string
			Tenant string
			Stages map[string]struct {
				QueuedMS float64 `json:"queued_ms"`
				RanMS    float64 `json:"ran_ms"`
			}
		} `json:"processor"`
	}
	require.NoError(t, json.Unmarshal(got.Data, &body))
	t.Log(string(got.Data))
	require.Equal(t, "acme", body.About.Tenant)
	require.Len(t, body.About.Stages, 5)

	const n = 500
	for i := range n {
		m := nats.NewMsg("llm.requests.acme")
		m.Header.Set(HeaderID, fmt.Sprintf("r-%d", i))
		m.Data = request("hello")
		_, err := js.PublishMsgAsync(m)
		require.NoError(t, err)
	}
	for i := range n {
		response(t, js, fmt.Sprintf("llm.responses.acme.r-%d", i))
	}
	stop()
	for _, name := range []string{"LLM_REQUESTS", "LLM_CACHE", "LLM_BATCH", "LLM_GENERATE", "LLM_SCORE"} {
		requireDrained(t, js, name)
	}
	archive, err := js.Stream(t.Context(), "LLM_ARCHIVE")
	require.NoError(t, err)
	info, err := archive.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, n+1, info.State.Msgs)
}

// requireDrained checks that no stage has work left in a stream.
func requireDrained(t *testing.T, js jetstream.JetStream, name string) {
	t.Helper()
	require.Empty(t, unsettled(t, js, name))
}

// unsettled names a consumer of a stream that has work left; empty if none has.
func unsettled(t *testing.T, js jetstream.JetStream, name string) (consumer string) {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	require.NoError(t, err)
	for info := range stream.ListConsumers(t.Context()).Info() { // to its end, or the listing never ends
		if !strings.HasPrefix(info.Name, "JS_SRC_") && info.NumPending+uint64(info.NumAckPending) > 0 {
			consumer = info.Name + " of " + name
		}
	}
	return consumer
}

func TestRetryKeepsFailuresApartFromWaits(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	var mu sync.Mutex
	seen := map[string]int{}
	moody := stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		mu.Lock()
		defer mu.Unlock()
		verdicts := make([]stages.Verdict, len(requests))
		for i, r := range requests {
			seen[r.ID]++
			switch {
			case strings.HasPrefix(r.ID, "fails"):
				verdicts[i] = stages.Retry(&schemas.CallError{Status: 500, Message: "broken", Retryable: true}, time.Millisecond)
			case strings.HasPrefix(r.ID, "recovers") && seen[r.ID] < 3:
				verdicts[i] = stages.Retry(&schemas.CallError{Status: 500, Message: "broken", Retryable: true}, time.Millisecond)
			case strings.HasPrefix(r.ID, "waits") && seen[r.ID] < 8: // more often than it may fail
				verdicts[i] = stages.Wait(time.Millisecond)
			}
		}
		return verdicts
	})
	start(t, nc, layout, steps(pass), steps(nil, pass), steps(nil, nil, together{}), steps(nil, nil, nil, moody), steps(nil, nil, nil, nil, answer))
	for _, id := range []string{"fails-1", "fails-2", "recovers-1", "recovers-2", "waits-1", "waits-2"} {
		publishAs(t, js, "acme", id, request(id))
	}
	for _, id := range []string{"recovers-1", "recovers-2", "waits-1", "waits-2"} {
		require.Contains(t, string(response(t, js, "llm.responses.acme."+id).Data), `"choices"`, id)
	}
	for _, id := range []string{"fails-1", "fails-2"} {
		got := response(t, js, "llm.responses.acme."+id)
		require.Contains(t, string(got.Data), `"code":"provider_error"`)
		mu.Lock()
		require.Equal(t, 3, seen[id], "attempts of %s", id)
		mu.Unlock()
	}
	dead, err := js.Stream(t.Context(), "LLM_DEAD")
	require.NoError(t, err)
	letter, err := dead.GetLastMsgForSubject(t.Context(), "llm.dead.generate.acme")
	require.NoError(t, err)
	require.Equal(t, string(request(letter.Header.Get(HeaderID))), string(letter.Data), "the original bytes")
	require.Equal(t, "provider_error", letter.Header.Get(HeaderReason))
	require.Equal(t, "generate", letter.Header.Get(HeaderStage))
	require.Equal(t, "llm.requests.acme", letter.Header.Get(HeaderSubject), "where the application published it")
}

// together sends whole slices on as one batch a tenant and class.
type together struct{}

func (together) Run(_ context.Context, requests []*stages.Request, decide stages.Decide) {
	groups := map[string][]*stages.Request{}
	for _, r := range requests {
		key := r.Tenant + string(r.Class)
		groups[key] = append(groups[key], r)
	}
	for _, g := range groups {
		decide(g[0], stages.Together(g[1:]))
	}
}

func publishAs(t *testing.T, js jetstream.JetStream, tenant, id string, body []byte) {
	t.Helper()
	m := nats.NewMsg("llm.requests." + tenant)
	m.Header.Set(HeaderID, id)
	m.Data = body
	_, err := js.PublishMsg(t.Context(), m)
	require.NoError(t, err)
}

func TestBadInputIsAnsweredAtItsPlace(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	start(t, nc, layout, steps(pass, pass, pass, pass, answer))
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	for name, c := range map[string]struct {
		tenant, id, body, code, names string
		header                        map[string]string
	}{
		"no json":       {body: `hello`, code: "invalid_json"},
		"empty":         {body: ``, code: "invalid_json"},
		"no object":     {body: `["a"]`, code: "invalid_json", names: "a list"},
		"a string":      {body: `"` + strings.Repeat("a", 900_000) + `"`, code: "invalid_json", names: "a string"},
		"no messages":   {body: `{"model":"auto"}`, code: "missing_field", names: "messages"},
		"no role":       {body: `{"messages":[{"role":"user","content":"a"},{"content":"b"}]}`, code: "missing_field", names: "messages[1].role"},
		"bad role":      {body: `{"messages":[{"role":"king","content":"a"}]}`, code: "invalid_field", names: "messages[0].role"},
		"repeated":      {body: `{"messages":[{"role":"user","content":"a"}],"model":"a","model":"b"}`, code: "duplicate_member", names: "model"},
		"deep repeated": {body: `{"messages":[{"role":"user","content":"a"}],"x":{"y":[{"z":1,"z":2}]}}`, code: "duplicate_member", names: "x.y.0.z"},
		"too deep":      {body: `{"messages":[{"role":"user","content":"a"}],"x":` + deep + `}`, code: "invalid_json", names: "nested"},
		"bad UTF-8":     {body: "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", code: "invalid_json"},
		"too large":     {body: `{"messages":[{"role":"user","content":"` + strings.Repeat("a", 1<<20-64<<10) + `"}]}`, code: "too_large"},
		"late":          {body: string(request("a")), header: map[string]string{HeaderDeadline: "2020-01-01T00:00:00Z"}, code: "deadline_exceeded"},
		"late in body":  {body: `{"messages":[{"role":"user","content":"a"}],"processor":{"deadline":"2020-01-01T00:00:00Z"}}`, code: "deadline_exceeded"},
		"no time":       {body: string(request("a")), header: map[string]string{HeaderDeadline: "tomorrow"}, code: "invalid_field", names: HeaderDeadline},
		"no class":      {body: string(request("a")), header: map[string]string{HeaderPriority: "urgent"}, code: "invalid_field", names: HeaderPriority},
		"bad option":    {body: `{"messages":[{"role":"user","content":"a"}],"processor":{"cash":"on"}}`, code: "invalid_field", names: "processor.cash"},
		"bad mode":      {body: `{"messages":[{"role":"user","content":"a"}],"processor":{"cache":{"mode":"sometimes"}}}`, code: "invalid_field", names: "processor.cache.mode"},
		"id of digits":  {id: "17", body: string(request("a")), code: "invalid_field", names: HeaderID},
		"id with dots":  {id: "a.b", body: string(request("a")), code: "invalid_field", names: "given_id"},
		"tenant":        {tenant: "what!", body: string(request("a")), code: "invalid_field", names: "what!"},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := c.tenant
			if tenant == "" {
				tenant = "acme"
			}
			m := nats.NewMsg("llm.requests." + tenant)
			for k, v := range c.header {
				m.Header.Set(k, v)
			}
			if c.id != "" {
				m.Header.Set(HeaderID, c.id)
			}
			m.Data = []byte(c.body)
			ack, err := js.PublishMsg(t.Context(), m)
			require.NoError(t, err)
			got := string(response(t, js, fmt.Sprintf("llm.responses.%s.%d", tenant, ack.Sequence)).Data)
			require.Contains(t, got, `"code":"`+c.code+`"`)
			require.Contains(t, got, c.names)
			require.Less(t, len(got), 2000, "errors are short")
		})
	}
	dead, err := js.Stream(t.Context(), "LLM_DEAD")
	require.NoError(t, err)
	_, err = dead.GetLastMsgForSubject(t.Context(), "llm.dead.compress._")
	require.NoError(t, err, "a tenant outside the alphabet is dead as _")
}

func TestUsedIDGetsTheFirstAnswer(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	start(t, nc, layout, steps(pass, pass, pass, pass, answer))
	publishAs(t, js, "acme", "once", request("a"))
	first := response(t, js, "llm.responses.acme.once")

	sub, err := nc.SubscribeSync("llm.responses.acme.once")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	publishAs(t, js, "acme", "once", request("a"))
	again, err := sub.NextMsg(5 * time.Second)
	require.NoError(t, err)
	require.Equal(t, string(first.Data), string(again.Data))
	publishAs(t, js, "acme", "once", request("b"))
	other, err := sub.NextMsg(5 * time.Second)
	require.NoError(t, err)
	require.Contains(t, string(other.Data), `"conflict":true`)
	require.Equal(t, first.Sequence, response(t, js, "llm.responses.acme.once").Sequence, "one stored response")
}

func TestConsumersThatVanishAreMadeAgain(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	start(t, nc, layout, steps(pass), steps(nil, pass), steps(nil, nil, pass), steps(nil, nil, nil, pass), steps(nil, nil, nil, nil, answer))
	publishAs(t, js, "acme", "before", request("a"))
	response(t, js, "llm.responses.acme.before")
	require.NoError(t, js.DeleteConsumer(t.Context(), "LLM_REQUESTS", "compress"))
	require.NoError(t, js.DeleteConsumer(t.Context(), "LLM_SCORE", "score-interactive"))
	publishAs(t, js, "acme", "after", request("a"))
	response(t, js, "llm.responses.acme.after")
}

func TestServerRestartLosesNothing(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	server := natstest.StartOn(t, dir, -1)
	port := server.Addr().(*net.TCPAddr).Port
	nc, js := natstest.Connect(t, server)
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	slow := stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		time.Sleep(time.Millisecond) //nolint:forbidigo // work that takes a while
		return make([]stages.Verdict, len(requests))
	})
	stop := start(t, nc, layout, steps(pass), steps(nil, pass), steps(nil, nil, together{}), steps(nil, nil, nil, slow), steps(nil, nil, nil, nil, answer))
	const n = 300
	for i := range n {
		publishAs(t, js, "acme", fmt.Sprintf("r-%d", i), request("a"))
		if i == n/2 {
			server.Shutdown()
			server.WaitForShutdown()
			server = natstest.StartOn(t, dir, port)
			require.Eventually(t, nc.IsConnected, 10*time.Second, 5*time.Millisecond)
		}
	}
	for i := range n {
		response(t, js, fmt.Sprintf("llm.responses.acme.r-%d", i))
	}
	stop()
}

func TestLongWaitsGoThroughTheLaterStream(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	waits := stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		verdicts := make([]stages.Verdict, len(requests))
		for i, r := range requests {
			if r.Attempt == 0 {
				verdicts[i] = stages.Wait(inMemoryWait + time.Second)
			}
		}
		return verdicts
	})
	start(t, nc, layout, steps(pass), steps(nil, pass), steps(nil, nil, pass), steps(nil, nil, nil, waits), steps(nil, nil, nil, nil, answer))
	publishAs(t, js, "acme", "patient", request("a"))
	later, err := js.Stream(t.Context(), "LLM_LATER")
	require.NoError(t, err)
	var scheduled *jetstream.RawStreamMsg
	require.Eventually(t, func() bool {
		scheduled, err = later.GetLastMsgForSubject(t.Context(), "llm.later.at.acme.patient")
		return err == nil
	}, 30*time.Second, 5*time.Millisecond)
	require.Eventually(t, func() bool { // acknowledged a moment after the schedule is stored
		return unsettled(t, js, "LLM_GENERATE") == ""
	}, 30*time.Second, 5*time.Millisecond)

	// The server would bring it back in half a minute; the message that it then
	// makes is published here at once.
	due := nats.NewMsg("llm.later.due.generate.interactive.acme")
	due.Header.Set(HeaderVersion, scheduled.Header.Get(HeaderVersion))
	due.Data = scheduled.Data
	_, err = js.PublishMsg(t.Context(), due)
	require.NoError(t, err)
	require.Contains(t, string(response(t, js, "llm.responses.acme.patient").Data), `"choices"`)
}

func TestLaterComesBackByItself(t *testing.T) {
	_, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	m := &nats.Msg{Subject: "llm.later.at.acme.r-1", Data: []byte("x"), Header: nats.Header{
		HeaderVersion:          handoffVersion,
		"Nats-Schedule":        []string{"@at " + time.Now().Add(time.Second).UTC().Format(time.RFC3339)},
		"Nats-Schedule-Target": []string{"llm.later.due.generate.interactive.acme"},
	}}
	_, err := js.PublishMsg(t.Context(), m)
	require.NoError(t, err)
	consumer, err := js.Consumer(t.Context(), "LLM_LATER", "generate")
	require.NoError(t, err)
	back, err := consumer.Next(jetstream.FetchMaxWait(5 * time.Second))
	require.NoError(t, err)
	require.Equal(t, "x", string(back.Data()))
	require.Equal(t, handoffVersion[0], back.Headers().Get(HeaderVersion), "headers come along")
}

func TestRegroupingStrandsNothing(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	// Requests wait before every stage, as a deployment with a group a stage leaves them.
	stop := start(t, nc, layout, steps(pass), steps(nil, pass), steps(nil, nil, pass))
	publishAs(t, js, "acme", "at-generate", request("a"))
	awaitWaiting(t, js, "LLM_GENERATE")
	stop()
	stop = start(t, nc, layout, steps(pass))
	publishAs(t, js, "acme", "at-cache", request("a"))
	awaitWaiting(t, js, "LLM_CACHE")
	stop()
	publishAs(t, js, "acme", "at-compress", request("a"))

	start(t, nc, layout, steps(pass, pass, pass, pass, answer))
	for _, id := range []string{"at-generate", "at-cache", "at-compress"} {
		require.Contains(t, string(response(t, js, "llm.responses.acme."+id).Data), `"choices"`)
	}
}

func awaitWaiting(t *testing.T, js jetstream.JetStream, name string) {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 1
	}, 30*time.Second, 2*time.Millisecond)
}

func TestHandoffsThatNobodyCanReadAreDead(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	start(t, nc, layout, steps(pass, pass, pass, pass, answer))
	for _, version := range []string{"", "1"} {
		m := nats.NewMsg("llm.stages.cache.interactive.0.acme")
		if version != "" {
			m.Header.Set(HeaderVersion, version)
		}
		m.Data = []byte("damaged " + version)
		_, err := js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	dead, err := js.Stream(t.Context(), "LLM_DEAD")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := dead.Info(t.Context())
		return err == nil && info.State.Msgs == 2
	}, 30*time.Second, 2*time.Millisecond)
	requireDrained(t, js, "LLM_CACHE")
}

func TestHandoffsOfANewerVersionAreLeftToOthers(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	stop := start(t, nc, layout, steps(pass, pass, pass, pass, answer))
	m := nats.NewMsg("llm.stages.cache.interactive.0.acme")
	m.Header.Set(HeaderVersion, "2")
	m.Data = []byte("what only others can read")
	_, err := js.PublishMsg(t.Context(), m)
	require.NoError(t, err)
	publishAs(t, js, "acme", "other", request("a"))
	response(t, js, "llm.responses.acme.other")
	stop()
	requireDrained(t, js, "LLM_CACHE")
	consumer, err := js.Consumer(t.Context(), "LLM_LATER", "cache")
	require.NoError(t, err)
	batch, err := consumer.Fetch(1, jetstream.FetchMaxWait(20*time.Second))
	require.NoError(t, err)
	left, ok := <-batch.Messages()
	require.True(t, ok, "it comes back")
	require.Equal(t, "llm.later.due.cache.interactive.acme", left.Subject())
	require.Equal(t, "2", left.Headers().Get(HeaderVersion))
	require.Equal(t, "what only others can read", string(left.Data()))
	meta, err := left.Metadata()
	require.NoError(t, err)
	require.EqualValues(t, 1, meta.NumDelivered, "that it met a replica which cannot read it is no failure")
}

func TestFullStreamsHoldBackAndRecover(t *testing.T) {
	t.Parallel() // it mostly waits
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	layout.StageBytes = 40_000 // some thirty hand-offs
	require.NoError(t, Provision(t.Context(), js, layout))
	// Nobody takes from the cache stream, so compress can publish no more.
	stopDoor := start(t, nc, layout, steps(pass))
	const n = 200
	for i := range n {
		publishAs(t, js, "acme", fmt.Sprintf("r-%d", i), request("a"))
	}
	stream, err := js.Stream(t.Context(), "LLM_CACHE")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Bytes > 30_000
	}, 30*time.Second, 5*time.Millisecond)
	// Longer than the server waits for a sign of life: held messages keep giving it.
	time.Sleep(layout.AckWait + time.Second) //nolint:forbidigo // the server's clock runs; what must not happen gives no sign
	start(t, nc, layout, steps(nil, pass, pass, pass, answer))
	for i := range n {
		require.Contains(t, string(response(t, js, fmt.Sprintf("llm.responses.acme.r-%d", i)).Data), `"choices"`, "backpressure is no failure")
	}
	stopDoor()
}

func TestInteractiveGoesFirstAndBatchKeepsAShare(t *testing.T) {
	q := newQueue(2)
	add := func(lane int, class schemas.Class, n int) {
		for range n {
			it := &item{from: &delivery{lane: lane}}
			it.request.Class = class
			q.push(it)
		}
	}
	add(0, schemas.Batch, 100)
	add(0, schemas.Interactive, 100)
	add(1, schemas.Interactive, 10)
	counts := map[schemas.Class]int{}
	lanes := map[int]int{}
	for range 8 {
		for _, it := range q.take(4) {
			counts[it.request.Class]++
			lanes[it.from.lane]++
		}
	}
	require.Equal(t, map[schemas.Class]int{schemas.Interactive: 28, schemas.Batch: 4}, counts)
	require.Equal(t, 10, lanes[1], "a flood in one lane does not hold back the other")
	counts = map[schemas.Class]int{}
	for range 3 {
		for _, it := range q.take(1000) {
			counts[it.request.Class]++
		}
		if q.size == 0 {
			break
		}
	}
	require.Equal(t, map[schemas.Class]int{schemas.Interactive: 82, schemas.Batch: 96}, counts)
}

func TestLongWorkIsNotDeliveredAgain(t *testing.T) {
	t.Parallel() // it mostly waits
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	layout.AckWait = time.Second
	require.NoError(t, Provision(t.Context(), js, layout))
	var mu sync.Mutex
	runs := map[string]int{}
	long := stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		mu.Lock()
		for _, r := range requests {
			runs[r.ID]++
		}
		mu.Unlock()
		time.Sleep(4 * layout.AckWait) //nolint:forbidigo // work that takes longer than the server waits
		return make([]stages.Verdict, len(requests))
	})
	groups := [][]Step{steps(pass), steps(nil, pass), steps(nil, nil, together{}), steps(nil, nil, nil, long), steps(nil, nil, nil, nil, answer)}
	start(t, nc, layout, groups...)
	start(t, nc, layout, groups...) // a second replica stands ready to take what is redelivered
	for _, id := range []string{"a", "b", "c"} {
		publishAs(t, js, "acme", id, request(id))
	}
	for _, id := range []string{"a", "b", "c"} {
		response(t, js, "llm.responses.acme."+id)
	}
	require.Equal(t, map[string]int{"a": 1, "b": 1, "c": 1}, runs)
}

func TestMemoryIsBoundedByBytes(t *testing.T) {
	t.Parallel() // it mostly waits
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	const n = 40
	for i := range n {
		publishAs(t, js, "acme", fmt.Sprintf("r-%d", i), request(strings.Repeat("x", 900_000)))
	}
	block := make(chan struct{})
	slow := stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		<-block
		return make([]stages.Verdict, len(requests))
	})
	r, err := NewRunner(nc, RunnerConfig{Layout: layout, MaxPayload: 1 << 20, Bytes: 8 << 20}, steps(slow, pass, pass, pass, answer))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { require.NoError(t, r.Run(ctx)) })
	held := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.bytes
	}
	require.Eventually(t, func() bool { return held() >= 8<<20 }, 30*time.Second, time.Millisecond)
	require.Never(t, func() bool { return held() > 24<<20 }, 2*time.Second, 5*time.Millisecond, "a pull may bring what was free before it, no more")
	close(block)
	for i := range n {
		response(t, js, fmt.Sprintf("llm.responses.acme.r-%d", i))
	}
	cancel()
	done.Wait()
}

func TestPaceDecidesWhatIsHeldBeyondTheCapacity(t *testing.T) {
	now := time.Now()
	p := pace{at: now}
	p.settled = 10 // in a tenth of a second: five in the time ahead
	require.Equal(t, 5, p.ahead(now.Add(paceEvery)))
	p.settled = 1 << 20
	require.Equal(t, 5, p.ahead(now.Add(paceEvery+time.Millisecond)), "measured seldom")
	require.Equal(t, maxAhead, p.ahead(now.Add(2*paceEvery)))
	require.Zero(t, p.ahead(now.Add(3*paceEvery)), "what stands still takes no more")
}
