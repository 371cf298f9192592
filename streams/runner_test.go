package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/stages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testLayout() Layout {
	return Layout{
		Names: Names{Prefix: "llm"}, Replicas: 1, RequestsBytes: 1 << 30, MaxWaiting: 100_000,
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
	}, 10*time.Second, 2*time.Millisecond, "no response on %s", subject)
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
	stream, err := js.Stream(t.Context(), name)
	require.NoError(t, err)
	for info := range stream.ListConsumers(t.Context()).Info() {
		if strings.HasPrefix(info.Name, "JS_SRC_") {
			continue
		}
		require.Zero(t, info.NumPending+uint64(info.NumAckPending), "%s of %s", info.Name, name)
	}
}
