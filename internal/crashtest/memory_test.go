package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/proc"
	"github.com/adpa/processor/streams/embedded"
)

// TestAFloodOfLargePromptsKeepsToMaxMemory floods a processor that may use
// 256 MB with prompts of 900 KB, together more than what it may use. The NATS
// server is a process of its own, or part of the processor, and of its memory.
func TestAFloodOfLargePromptsKeepsToMaxMemory(t *testing.T) {
	if os.Getenv("PROCESSOR_SLOW") == "" {
		t.Skip("PROCESSOR_SLOW=1 moves hundreds of megabytes")
	}
	t.Run("server apart", func(t *testing.T) { flood(t, false) })
	t.Run("server inside", func(t *testing.T) { flood(t, true) })
}

func flood(t *testing.T, own bool) {
	limit := int64(256 << 20)
	if own {
		limit += embedded.Memory
	}
	const prompts = 400
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	program, err := proc.Build(ctx, dir)
	require.NoError(t, err)
	var url, server string
	if own {
		port := freePort(t)
		url = fmt.Sprintf("nats://127.0.0.1:%d", port)
		server = fmt.Sprintf("{embedded: {dir: %q, port: %d}}", filepath.Join(dir, "nats"), port)
	} else {
		s, err := proc.Start(ctx, "nats "+filepath.Join(dir, "nats")+" -1")
		require.NoError(t, err)
		defer s.Kill()
		url, server = s.URL, fmt.Sprintf("{url: %q}", s.URL)
	}
	configuration := filepath.Join(dir, "processor.yaml")
	require.NoError(t, os.WriteFile(configuration, fmt.Appendf(nil, "nats: %s\nhttp: {addr: \"127.0.0.1:0\"}\nresources: {max_memory: 256MB}\ncache: {max_size: 200MB, local_size: 200MB}\n", server), 0o600))
	var log bytes.Buffer
	p, err := proc.Command(ctx, &log, program, "run", "--config", configuration)
	require.NoError(t, err)
	defer func() { _ = p.Stop() }()

	nc, err := nats.Connect(url, nats.RetryOnFailedConnect(true), nats.ReconnectWait(50*time.Millisecond), nats.MaxReconnects(-1))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(8))
	require.NoError(t, err)
	awaitConsumer(ctx, t, js)
	published := make(chan error, 1)
	go func() { published <- publishLarge(js, prompts) }()

	most, answered := int64(0), 0
	for answered < prompts {
		select {
		case err := <-published:
			require.NoError(t, err)
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%d of %d answered\n%s", answered, prompts, log.String())
		}
		resident, err := p.ResidentBytes()
		require.NoError(t, err)
		most = max(most, resident)
		stream, err := js.Stream(ctx, "LLM_RESPONSES")
		require.NoError(t, err)
		answered = int(stream.CachedInfo().State.Msgs)
	}
	t.Logf("%d prompts of 900 KB: at most %d MB resident", prompts, most>>20)
	require.Less(t, most, limit*11/10)
	requireAnswers(ctx, t, js, prompts)
}

func awaitConsumer(ctx context.Context, t *testing.T, js jetstream.JetStream) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := js.Consumer(ctx, "LLM_REQUESTS", "compress")
		return err == nil
	}, 30*time.Second, 20*time.Millisecond)
}

func publishLarge(js jetstream.JetStream, n int) error {
	words := []string{"river", "mountain", "engine", "ledger", "harbour", "violet", "copper", "answer", "winter", "signal"}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		text := make([]byte, 0, 900<<10)
		for len(text) < 900<<10 {
			text = fmt.Appendf(text, "The %s of the %s was %d. ", words[random.IntN(len(words))], words[random.IntN(len(words))], random.IntN(1000))
		}
		body, err := json.Marshal(map[string]any{"model": "m", "messages": []any{map[string]any{"role": "user", "content": fmt.Sprintf("Text %d: %s", i, text)}}})
		if err != nil {
			return err
		}
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: "llm.requests.acme", Data: body}, jetstream.WithStallWait(time.Minute)); err != nil {
			return err
		}
	}
	<-js.PublishAsyncComplete()
	return nil
}

func requireAnswers(ctx context.Context, t *testing.T, js jetstream.JetStream, n int) {
	t.Helper()
	stream, err := js.Stream(ctx, "LLM_RESPONSES")
	require.NoError(t, err)
	first := stream.CachedInfo().State.FirstSeq
	for i := range n {
		m, err := stream.GetMsg(ctx, first+uint64(i))
		require.NoError(t, err)
		require.Contains(t, string(m.Data), `"choices"`, "an answer, not an error")
	}
}
