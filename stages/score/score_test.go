package score

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ask builds a request with one user message.
func ask(prompt string) []byte { return askWith("", prompt) }

// askWith builds a request with a system message, if any, and a user message.
func askWith(system, prompt string) []byte {
	var messages []any
	if system != "" {
		messages = append(messages, map[string]any{"role": "system", "content": system})
	}
	messages = append(messages, map[string]any{"role": "user", "content": prompt})
	b, _ := json.Marshal(map[string]any{"model": "m", "messages": messages})
	return b
}

// reply builds a completion with one choice.
func reply(text, finish string) []byte {
	b, _ := json.Marshal(map[string]any{"id": "c", "object": "chat.completion", "choices": []any{map[string]any{
		"index": 0, "finish_reason": finish, "message": map[string]any{"role": "assistant", "content": text}}}})
	return b
}

var (
	benchPrompt = strings.Repeat("Explain how a durable consumer on a stream differs from an ephemeral one, and when each is right. ", 10)
	benchAnswer = "A durable consumer keeps its place on the server by name, so a worker can die and resume; an ephemeral one is removed when its reader goes away. Use the first for work, the second for a look."
	longAnswer  = func() string {
		var b strings.Builder
		for i := range 20 {
			b.WriteString(benchAnswer[i:] + " ")
			if b.Len() > 1800 {
				break
			}
		}
		return b.String()
	}()
)

func TestFirst(t *testing.T) {
	s := New(DefaultConfig())
	r, err := s.Score(ask(benchPrompt), reply(benchAnswer, "stop"), Options{})
	require.NoError(t, err)
	t.Log(r)
}

func BenchmarkScore(b *testing.B) {
	s := New(DefaultConfig())
	for name, c := range map[string][2][]byte{
		"short": {ask(benchPrompt), reply(benchAnswer, "stop")},
		"long":  {ask(benchPrompt), reply(longAnswer, "stop")},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Score(c[0], c[1], Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
