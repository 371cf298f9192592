package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

// followed is what a reader has of a streamed answer.
type followed struct {
	text   string // of the last attempt
	chunks int    // of the last attempt
	starts int    // attempts
	usage  *schemas.Usage
	ended  bool // the finish reason was there
	whole  answer
}

// follow reads a streamed answer to its end, as an application does.
func (p *testPipeline) follow(id string) (f followed) {
	p.t.Helper()
	client, err := streams.NewClient(p.nc, streams.Names{Prefix: "llm"}, "acme")
	require.NoError(p.t, err)
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	given, err := client.Follow(ctx, id, func(d streams.Delta) {
		var chunk struct {
			Object  string
			Choices []struct {
				Delta        struct{ Content string }
				FinishReason *string `json:"finish_reason"`
			}
			Usage *schemas.Usage
		}
		require.NoError(p.t, json.Unmarshal(d.Chunk, &chunk, json.MatchCaseInsensitiveNames(true)))
		require.Equal(p.t, "chat.completion.chunk", chunk.Object)
		if d.Number == 1 {
			f = followed{starts: f.starts + 1}
		}
		f.chunks++
		require.Equal(p.t, f.chunks, d.Number, "chunks come in order, without gaps and doubles")
		for _, c := range chunk.Choices {
			f.text += c.Delta.Content
			f.ended = f.ended || c.FinishReason != nil
		}
		if chunk.Usage != nil {
			f.usage = chunk.Usage
			require.Empty(p.t, chunk.Choices, "usage comes in a chunk of its own")
		}
	})
	require.NoError(p.t, err)
	require.NoError(p.t, json.Unmarshal(given.Body, &f.whole, json.MatchCaseInsensitiveNames(true)), string(given.Body))
	return f
}

func (f followed) requireWhole(t *testing.T) {
	t.Helper()
	require.NotEmpty(t, f.text)
	require.Equal(t, f.whole.Choices[0].Message.Content, f.text)
	require.True(t, f.ended, "no finish reason")
}

func streamedChat(text, more string) string {
	return strings.TrimSuffix(chat(text), "}") + `,"stream":true` + more + `}`
}

const withUsage = `,"stream_options":{"include_usage":true}`

func TestCachedAnswersStream(t *testing.T) {
	t.Parallel()
	var p *testPipeline
	p = newTestPipeline(t, fakellm.Config{Respond: func(fakellm.Call) *fakellm.Step {
		p.hold(func() bool { return p.parked() == 2 })
		return nil
	}}, nil)
	p.start()
	p.publish("leader", streamedChat("hello", withUsage))
	p.publish("follower", streamedChat("hello", withUsage))
	p.publish("plain", streamedChat("hello", ""))
	by := map[string]int{}
	for _, id := range []string{"leader", "follower", "plain"} {
		f := p.follow(id)
		f.requireWhole(t)
		by[f.whole.About.Cache]++
		require.Equal(t, 1, f.starts, "one attempt")
		if id == "plain" {
			require.Nil(t, f.usage, "usage that nobody asked for")
			continue
		}
		require.NotNil(t, f.usage, "usage was asked for")
		require.Equal(t, f.whole.Usage.TotalTokens, f.usage.TotalTokens)
	}
	require.Equal(t, map[string]int{"miss": 1, "shared": 2}, by)

	p.publish("later", streamedChat("hello", withUsage))
	f := p.follow("later")
	f.requireWhole(t)
	require.Equal(t, "hit", f.whole.About.Cache)
	require.Equal(t, 2, f.chunks, "the whole, and its usage")
	require.Equal(t, f.whole.Usage.TotalTokens, f.usage.TotalTokens)
}

func TestAStreamThatIsCutOffBeginsAnew(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Script: []*fakellm.Step{{CutEvents: 4}}}, func(c *config.Config) { c.Cache.Enabled = false })
	p.start()
	p.publish("r", streamedChat("hello", ""))
	p.await("r")
	f := p.follow("r")
	f.requireWhole(t)
	require.Equal(t, 2, f.starts, "the first attempt, and the second")
	require.Equal(t, fakellm.DefaultText, f.text)
}

// What is asked for without "stream" has no chunks, from the cache neither.
func TestAnswersThatAreNotToBeStreamedAreNot(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{}, nil)
	p.start()
	for _, id := range []string{"miss", "hit"} {
		p.publish(id, chat("hello"))
		require.Equal(t, id, p.await(id).About.Cache)
		require.Zero(t, p.follow(id).chunks)
	}
}
