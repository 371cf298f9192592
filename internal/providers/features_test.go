package providers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/schemas"
)

// recording is a file of testdata: what an application asks, what the provider is
// asked then and what it answers, whole and as a stream.
type recording struct {
	kind, path string
	sections   map[string]string
}

func recordings(t *testing.T) map[string]recording {
	t.Helper()
	list := map[string]recording{}
	for _, r := range remotes {
		files, err := filepath.Glob("testdata/" + r.kind + "/*.txtar")
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(files), 4, r.kind)
		for _, file := range files {
			archive, err := txtar.ParseFile(file)
			require.NoError(t, err)
			sections := map[string]string{}
			for _, f := range archive.Files {
				sections[f.Name] = string(f.Data)
			}
			list[r.kind+"/"+strings.TrimSuffix(filepath.Base(file), ".txtar")] = recording{r.kind, r.path, sections}
		}
	}
	return list
}

// play has a provider that answers with the steps, and gives what it was asked.
func (r recording) play(t *testing.T, steps ...*fakellm.Step) (providers.Provider, *[][]byte) {
	t.Helper()
	asked := &[][]byte{}
	fake := fakellm.New(fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step {
		*asked = append(*asked, bytes.Clone(c.Body))
		return steps[len(*asked)-1]
	}})
	t.Cleanup(fake.Close)
	p, err := providers.New(providers.Config{Kind: r.kind, BaseURL: fake.URL + r.path, APIKey: testKey})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p, asked
}

func (r recording) call(delta func([]byte)) schemas.Call {
	return schemas.Call{ID: "call-1", Model: "the-model", Body: []byte(r.sections["openai request"]), Delta: delta}
}

func (r recording) events() []string {
	return strings.Split(strings.TrimSpace(r.sections["native stream"]), "\n\n")
}

// answer is the answer to expect, but for what is made up on the way.
func (r recording) answer() string {
	if translated := r.sections["openai answer"]; translated != "" {
		return translated
	}
	return r.sections["native answer"]
}

// essence is what must be equal in two answers: all but the time.
func essence(t *testing.T, body string) string {
	t.Helper()
	var members map[string]any
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&members), "%s", body)
	delete(members, "created")
	text, err := json.Marshal(members)
	require.NoError(t, err)
	return string(text)
}

// Tools and their results, images, schemas, system messages, stop sequences,
// log probabilities, refusals, finish reasons, cached and reasoning tokens: each
// provider is asked in its own words, and its answer, whole or streamed, is OpenAI's.
func TestFeatures(t *testing.T) {
	for name, r := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			if _, fails := r.sections["error"]; fails {
				p, asked := r.play(t)
				e := callError(t, p, r.call(nil))
				require.True(t, e.Unbilled)
				require.False(t, e.Retryable)
				require.Equal(t, strings.TrimSpace(r.sections["error"]), e.Response().Error())
				require.Empty(t, *asked, "the provider is not asked what it cannot be asked")
				return
			}
			steps := []*fakellm.Step{{Body: r.sections["native answer"]}}
			if r.sections["native stream"] != "" {
				steps = append(steps, &fakellm.Step{Events: r.events()})
			}
			p, asked := r.play(t, steps...)
			whole, err := p.Generate(context.Background(), r.call(nil))
			require.NoError(t, err)
			require.JSONEq(t, r.sections["native request"], string((*asked)[0]))
			require.Equal(t, essence(t, r.answer()), essence(t, string(whole.Body)))
			require.Equal(t, schemas.ReadUsage([]byte(r.answer())), whole.Usage)
			if len(steps) == 1 {
				return
			}
			chunks := 0
			streamed, err := p.Generate(context.Background(), r.call(func([]byte) { chunks++ }))
			require.NoError(t, err)
			require.Positive(t, chunks)
			require.Equal(t, essence(t, r.answer()), essence(t, string(streamed.Body)))
			require.Equal(t, whole.Usage, streamed.Usage)
			require.Equal(t, whole.Model, streamed.Model)
		})
	}
}

// A stream of tool calls, refusals or several choices that breaks off is never
// taken for a whole answer.
func TestFeaturesCutAtEveryEvent(t *testing.T) {
	for name, r := range recordings(t) {
		if r.sections["native stream"] == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			events := r.events()
			var steps []*fakellm.Step
			for i := range events {
				at := i
				if i == 0 {
					at = -1
				}
				steps = append(steps, &fakellm.Step{Events: events, CutEvents: at}, &fakellm.Step{Events: events, EndEvents: at})
			}
			p, _ := r.play(t, steps...)
			broken := 0
			for i := range steps {
				answer, err := p.Generate(context.Background(), r.call(func([]byte) {}))
				if err == nil { // nothing but the figures, or the end, was missing
					require.Equal(t, choices(t, r.answer()), choices(t, string(answer.Body)), "%d of %d events", i/2, len(events))
					continue
				}
				broken++
				var e *schemas.CallError
				require.ErrorAs(t, err, &e, fmt.Sprint(i))
				require.True(t, e.Retryable)
				require.False(t, e.Unbilled)
			}
			require.Greater(t, broken, 1)
		})
	}
}

func choices(t *testing.T, body string) string {
	t.Helper()
	span, ok := schemas.Member([]byte(body), "choices")
	require.True(t, ok)
	var list any
	require.NoError(t, json.Unmarshal(span.Of([]byte(body)), &list))
	text, err := json.Marshal(list)
	require.NoError(t, err)
	return string(text)
}
