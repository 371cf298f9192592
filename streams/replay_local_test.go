package streams_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/streams"
)

// localSteps are stages that answer at once, or after what a request's body asks
// for: a failure that is tried again, a wait, or a way back from the last stage.
func localSteps() []streams.Step {
	var mu sync.Mutex
	seen := map[string]int{}
	first := func(r *stages.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		seen[r.ID]++
		return seen[r.ID] == 1
	}
	on := func(decide func(*stages.Request) stages.Verdict) stages.Stage {
		return stages.Func(func(_ context.Context, requests []*stages.Request) (list []stages.Verdict) {
			for _, r := range requests {
				list = append(list, decide(r))
			}
			return list
		})
	}
	next := on(func(*stages.Request) stages.Verdict { return stages.Continue() })
	return []streams.Step{
		{Name: stages.Compress, Stage: on(func(r *stages.Request) stages.Verdict {
			if r.Model == "fails-early" && first(r) {
				return stages.Retry(errors.New("not yet"), time.Millisecond)
			}
			return stages.Continue()
		})},
		{Name: stages.Cache, Stage: next}, {Name: stages.Batch, Stage: next},
		{Name: stages.Generate, Stage: on(func(r *stages.Request) stages.Verdict {
			switch {
			case r.Model == "waits" && first(r):
				return stages.Wait(20 * time.Millisecond)
			case r.Model == "waits-long" && first(r):
				return stages.Wait(31 * time.Second)
			case r.Model == "fails" && first(r):
				return stages.Retry(errors.New("not yet"), time.Millisecond)
			case r.Model == "never":
				return stages.Retry(errors.New("never"), time.Millisecond)
			}
			r.Answer = fmt.Appendf(nil, `{"id":"x","model":%q,"choices":[]}`, r.Model)
			return stages.Continue()
		})},
		{Name: stages.Score, Stage: on(func(r *stages.Request) stages.Verdict {
			if r.Model == "goes-back" && first(r) {
				return stages.SkipTo(stages.Generate)
			}
			return stages.Answer()
		})},
	}
}

func TestLocalTrafficNeedsNoStreams(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	var mu sync.Mutex
	answers := map[string]string{}
	local := streams.NewLocal(4, false, func(subject string, response []byte) {
		mu.Lock()
		defer mu.Unlock()
		answers[subject] = string(response)
	})
	r, err := streams.NewRunner(nc, streams.RunnerConfig{
		Layout: streams.NewLayout(streams.DefaultServer(), streams.DefaultStreams()), MaxPayload: int(nc.MaxPayload()), Local: local,
	}, localSteps())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	models := []string{"at-once", "fails-early", "waits", "fails", "never", "goes-back"}
	if os.Getenv("PROCESSOR_SLOW") != "" { // half a minute
		models = append(models, "waits-long")
	}
	send := func(id, body string) error {
		m := nats.NewMsg("llm.requests.acme")
		m.Header.Set(streams.HeaderID, id)
		m.Data = []byte(body)
		return local.Send(t.Context(), m)
	}
	for _, model := range models {
		require.NoError(t, send(model, fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hi"}]}`, model)))
	}
	require.NoError(t, send("broken", "{"))
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(answers) == len(models)+1
	}, 90*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
	for _, model := range models {
		want := `"choices"`
		if model == "never" {
			want = `"code":"provider_error"`
		}
		require.Contains(t, answers["llm.responses.acme."+model], want, model)
	}
	require.Contains(t, answers["llm.responses.acme.broken"], `"code":"invalid_json"`)
	require.Error(t, send("late", "{}"), "who has ended takes no more")
	names := js.StreamNames(t.Context())
	for name := range names.Name() {
		require.Fail(t, "there is a stream", name)
	}
}
