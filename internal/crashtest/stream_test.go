package crashtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/internal/proc"
	"github.com/adpa/processor/streams"
)

// stuckUpstream streams an answer of which the first call stops after two chunks,
// until its caller is gone.
func stuckUpstream(t *testing.T) *httptest.Server {
	calls := make(chan int, 1)
	calls <- 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost { // a look at whether the provider is there
			fmt.Fprint(w, `{"object":"list","data":[]}`)
			return
		}
		call := <-calls + 1
		calls <- call
		w.Header().Set("Content-Type", "text/event-stream")
		for i, word := range []string{"one ", "two ", "three ", "four"} {
			if call == 1 && i == 2 {
				<-r.Context().Done()
				return
			}
			finish := "null"
			if i == 3 {
				finish = `"stop"`
			}
			fmt.Fprintf(w, `data: {"id":"c%d","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":%q},"finish_reason":%s}]}`+"\n\n", call, fmt.Sprint(call, word), finish)
			w.(http.Flusher).Flush()
		}
		fmt.Fprint(w, "data: [DONE]\n\n")
	}))
	t.Cleanup(s.Close)
	return s
}

// text gives the text of a chunk, behind a space.
func text(t *testing.T, chunk []byte) string {
	var c struct {
		Choices []struct{ Delta struct{ Content string } }
	}
	require.NoError(t, json.Unmarshal(chunk, &c))
	require.Len(t, c.Choices, 1)
	return " " + c.Choices[0].Delta.Content
}

// A worker is killed in the middle of a stream. Whoever reads it sees the answer
// begin anew, and has all of it in the end; so has who comes after that.
func TestAStreamWhoseWorkerIsKilledBeginsAnew(t *testing.T) {
	if os.Getenv("PROCESSOR_SLOW") == "" {
		t.Skip("PROCESSOR_SLOW=1 waits until a killed worker's message comes again")
	}
	if testing.Short() {
		t.Skip("waits for a redelivery")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	program, err := proc.Build(ctx, dir)
	require.NoError(t, err)
	server := natstest.Start(t)
	nc, _ := natstest.Connect(t, server)
	configuration := filepath.Join(dir, "processor.yaml")
	require.NoError(t, os.WriteFile(configuration, fmt.Appendf(nil, `
nats: {url: %q}
http: {addr: "127.0.0.1:0"}
providers: [{name: fake, kind: openai, base_url: "%s/v1", api_key: none}]
`, server.ClientURL(), stuckUpstream(t).URL), 0o600))
	out, err := proc.Run(ctx, program, "provision", "--config", configuration)
	require.NoError(t, err, out)
	worker := func() *proc.Process {
		p, err := proc.Command(ctx, os.Stderr, program, "run", "--config", configuration)
		require.NoError(t, err)
		t.Cleanup(p.Kill)
		return p
	}

	first := worker()
	client, err := streams.NewClient(nc, streams.Names{Prefix: "llm"}, "acme")
	require.NoError(t, err)
	var got []string
	two := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := client.Stream(ctx, streams.Message{ID: "s", Body: []byte(`{"model":"m","stream":true,"messages":[{"role":"user","content":"count"}]}`)},
			func(d streams.Delta) {
				if got = append(got, fmt.Sprint(d.Number, text(t, d.Chunk))); len(got) == 2 {
					close(two)
				}
			})
		done <- err
	}()
	select {
	case <-two:
	case err := <-done:
		require.NoError(t, err)
		require.Fail(t, "the answer came before its worker was killed")
	}
	first.Kill()
	worker()
	require.NoError(t, <-done)
	all := []string{"1 1one ", "2 1two ", "1 2one ", "2 2two ", "3 2three ", "4 2four"}
	require.Equal(t, all, got)

	var late []string
	_, err = client.Follow(ctx, "s", func(d streams.Delta) { late = append(late, fmt.Sprint(d.Number, text(t, d.Chunk))) })
	require.NoError(t, err)
	require.Equal(t, all, late)
}
