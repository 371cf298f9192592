package providers_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/schemas"
)

func simulated(t testing.TB, s providers.Simulated) providers.Provider {
	t.Helper()
	p, err := providers.New(providers.Config{Kind: providers.KindSimulated, Simulated: s})
	require.NoError(t, err)
	return p
}

// ask gives the text of the simulated answer to a body, and the completion.
func ask(t *testing.T, p providers.Provider, body string) (string, completion) {
	t.Helper()
	answer, err := p.Generate(context.Background(), schemas.Call{ID: "1", Model: "gpt-x", Body: []byte(body)})
	require.NoError(t, err)
	require.Equal(t, answer.Usage, schemas.ReadUsage(answer.Body))
	c := read(t, answer.Body)
	return c.Choices[0].Message.Content, c
}

func userBody(text, rest string) string {
	return `{"messages":[{"role":"system","content":"You are the bridge keeper of pillars."},{"role":"user","content":` + string(schemas.Quote(text)) + `}]` + rest + `}`
}

const story = `The ferry left at dawn with forty people. A storm had been announced for the evening.
The bridge over the Elbe was closed because its pillars were cracked. Cooks prepared soup for everybody. Repairing the pillars of the bridge will cost two million. The children sang.`

func TestSimulatedAnswersFromTheContext(t *testing.T) {
	p := simulated(t, providers.Simulated{})
	text, c := ask(t, p, userBody(story+"\n\nWhy was the bridge closed, and what will the pillars cost?", ""))
	require.Contains(t, text, "The bridge over the Elbe was closed because its pillars were cracked.")
	require.Contains(t, text, "Repairing the pillars of the bridge will cost two million.")
	require.NotContains(t, text, "soup")
	require.NotContains(t, text, "Why was", "the question is no answer")
	require.NotContains(t, text, "keeper", "neither is the system's message")
	require.Equal(t, "simulated/gpt-x", c.Model)
	require.Equal(t, "stop", *c.Choices[0].FinishReason)
}

func TestSimulatedIsDeterministic(t *testing.T) {
	body := userBody(story+" What happened?", "")
	one, err := simulated(t, providers.Simulated{}).Generate(context.Background(), schemas.Call{ID: "1", Model: "m", Body: []byte(body)})
	require.NoError(t, err)
	p := simulated(t, providers.Simulated{})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			other := []byte(userBody(strings.Repeat("Something else entirely. ", i+1), ""))
			_, _ = p.Generate(context.Background(), schemas.Call{Body: other})
			again, err := p.Generate(context.Background(), schemas.Call{ID: fmt.Sprint(i), Model: "m", Body: []byte(body)})
			if err != nil || string(again.Body) != string(one.Body) {
				t.Errorf("%v\n%s\n%s", err, again.Body, one.Body)
			}
		})
	}
	wg.Wait()
}

func TestSimulatedAnswersAnything(t *testing.T) {
	p := simulated(t, providers.Simulated{})
	for name, body := range map[string]string{
		"short":         userBody("hi", ""),
		"empty":         userBody("", ""),
		"question only": userBody("What is the capital city of France?", ""),
		"one letter":    userBody(strings.Repeat("a", 900_000), ""),
		"many lines":    userBody(strings.Repeat("some words here\n", 50_000), ""),
		"parts":         `{"messages":[{"role":"user","content":[{"type":"text","text":"Tell me all."},{"type":"image_url","image_url":{"url":"x"}}]}]}`,
		"no content":    `{"messages":[{"role":"user"}]}`,
		"null":          `{"messages":[{"role":"user","content":null}]}`,
		"other script":  userBody("東京は日本の首都です。富士山は高い。首都はどこ?", ""),
		"tool":          `{"messages":[{"role":"user","content":"Weather?"},{"role":"tool","tool_call_id":"1","content":"The weather in Rome is sunny today."}]}`,
	} {
		text, _ := ask(t, p, body)
		require.NotEmpty(t, text, name)
		require.LessOrEqual(t, len(text), 4000, name)
	}
}

func TestSimulatedHeedsParameters(t *testing.T) {
	p := simulated(t, providers.Simulated{TokenFactor: 2})
	body := userBody(story+" Why was the bridge closed?", "")
	whole, c := ask(t, p, body)
	full := c.Usage["completion_tokens"].(float64)
	cut, c := ask(t, p, userBody(story+" Why was the bridge closed?", `,"max_completion_tokens":10`))
	require.True(t, strings.HasPrefix(whole, cut))
	require.Equal(t, "length", *c.Choices[0].FinishReason)
	require.LessOrEqual(t, c.Usage["completion_tokens"].(float64), 10.0)
	require.Greater(t, full, 10.0)
	stopped, c := ask(t, p, userBody(story+" Why was the bridge closed?", `,"stop":["nothing","Elbe"]`))
	require.NotContains(t, stopped, "Elbe")
	require.True(t, strings.HasPrefix(whole, stopped))
	require.Equal(t, "stop", *c.Choices[0].FinishReason)
	_, c = ask(t, p, userBody(story, `,"n":3`))
	require.Len(t, c.Choices, 3)
	require.Equal(t, 2, c.Choices[2].Index)
}

func TestSimulatedFitsSchemas(t *testing.T) {
	p := simulated(t, providers.Simulated{})
	text, _ := ask(t, p, userBody(story, `,"response_format":{"type":"json_object"}`))
	require.True(t, json.Valid([]byte(text)))
	for _, schema := range []string{
		`{"type":"object","properties":{"name":{"type":"string","maxLength":5},"age":{"type":"integer","minimum":18},"tags":{"type":"array","items":{"enum":["a","b"]},"minItems":2},"ok":{"type":"boolean"},"none":{"type":"null"},"x":{"type":["number","null"],"maximum":0.25}},"required":["name","age","tags"],"additionalProperties":false}`,
		`{"$defs":{"node":{"type":"object","properties":{"value":{"const":7},"next":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/node"}]},"list":{"type":"array","items":{"$ref":"#/$defs/node"}}},"required":["value"]}},"$ref":"#/$defs/node"}`,
		`{"allOf":[{"properties":{"a":{"type":"string","minLength":2000}},"required":["a"]},{"properties":{"when":{"type":"string","format":"date-time"}},"required":["when"]}]}`,
		`{"type":"array","items":{"type":"string"},"minItems":3}`,
	} {
		text, c := ask(t, p, userBody(story, `,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":`+schema+`}}`))
		parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
		require.NoError(t, err)
		compiler := jsonschema.NewCompiler()
		require.NoError(t, compiler.AddResource("schema.json", parsed))
		compiled, err := compiler.Compile("schema.json")
		require.NoError(t, err)
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		require.NoError(t, err, text)
		require.NoError(t, compiled.Validate(value), "%s\n%s", schema, text)
		require.Equal(t, "stop", *c.Choices[0].FinishReason)
	}
	// A schema that contains itself without end must come to one.
	_, _ = ask(t, p, userBody(story, `,"response_format":{"type":"json_schema","json_schema":{"schema":{"$ref":"#"}}}`))
	_, _ = ask(t, p, userBody(story, `,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"array","minItems":100,"items":{"$ref":"#"}}}}`))
}

func TestSimulatedCallsToolsOnDemand(t *testing.T) {
	p := simulated(t, providers.Simulated{})
	const tools = `,"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]`
	for choice, want := range map[string]string{
		``: "", `,"tool_choice":"auto"`: "", `,"tool_choice":"none"`: "",
		`,"tool_choice":"required"`: "f", `,"tool_choice":{"type":"function","function":{"name":"g"}}`: "g",
	} {
		call := schemas.Call{Model: "m", Body: []byte(userBody(story, tools+choice))}
		whole, err := p.Generate(context.Background(), call)
		require.NoError(t, err)
		call.Delta = func([]byte) {}
		streamed, err := p.Generate(context.Background(), call)
		require.NoError(t, err)
		require.Equal(t, string(whole.Body), string(streamed.Body))
		var c struct {
			Choices []struct {
				Message struct {
					ToolCalls []struct {
						Function struct{ Name, Arguments string }
					} `json:"tool_calls"`
				}
				FinishReason string `json:"finish_reason"`
			}
		}
		require.NoError(t, json.Unmarshal(whole.Body, &c))
		calls := c.Choices[0].Message.ToolCalls
		if want == "" {
			require.Empty(t, calls)
			continue
		}
		require.Equal(t, "tool_calls", c.Choices[0].FinishReason)
		require.Equal(t, want, calls[0].Function.Name)
		require.True(t, json.Valid([]byte(calls[0].Function.Arguments)))
	}
}

// At the configured speed, whole and streamed, and deltas as they are due.
func TestSimulatedTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := simulated(t, providers.Simulated{FirstToken: 300 * time.Millisecond, TokensPerSecond: 10})
		call := schemas.Call{Model: "m", Body: []byte(userBody(story+" Why was the bridge closed?", ""))}
		begun := time.Now()
		whole, err := p.Generate(context.Background(), call)
		require.NoError(t, err)
		tokens := whole.Usage.CompletionTokens
		require.Greater(t, tokens, 20)
		require.Equal(t, 300*time.Millisecond+time.Duration(tokens)*100*time.Millisecond, time.Since(begun))
		begun = time.Now()
		var first time.Duration
		text := ""
		call.Delta = func(chunk []byte) {
			if first == 0 {
				first = time.Since(begun)
			}
			text += read(t, chunk).Choices[0].Delta.Content
		}
		streamed, err := p.Generate(context.Background(), call)
		require.NoError(t, err)
		require.Equal(t, 300*time.Millisecond, first)
		require.InDelta(t, (300*time.Millisecond + time.Duration(tokens)*100*time.Millisecond).Seconds(), time.Since(begun).Seconds(), 0.2)
		require.Equal(t, string(whole.Body), string(streamed.Body))
		require.Equal(t, read(t, whole.Body).Choices[0].Message.Content, text)
	})
}

func TestSimulatedCanBeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := simulated(t, providers.Simulated{FirstToken: time.Hour})
		for want, end := range map[schemas.Code]func(context.Context) (context.Context, context.CancelFunc){
			schemas.CodeCancelled: func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			},
			schemas.CodeDeadlineExceeded: func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, time.Second)
			},
		} {
			for _, call := range []schemas.Call{chat, streamed(func([]byte) {})} {
				ctx, cancel := end(context.Background())
				_, err := p.Generate(ctx, call)
				cancel()
				var e *schemas.CallError
				require.ErrorAs(t, err, &e)
				require.Equal(t, want, e.Code)
				require.False(t, e.Unbilled)
				_, err = p.Generate(ctx, call)
				require.ErrorAs(t, err, &e)
				require.True(t, e.Unbilled, "it had ended before the call began")
			}
		}
	})
}

func TestSimulatedFailures(t *testing.T) {
	p := simulated(t, providers.Simulated{Failures: map[int]float64{429: 0.1, 500: 0.2, 0: 0.05}})
	got := map[int]int{}
	const calls = 4000
	for i := range calls {
		call := chat
		call.ID = fmt.Sprintf("call-%d", i)
		_, err := p.Generate(context.Background(), call)
		_, again := p.Generate(context.Background(), call)
		require.Equal(t, err, again, "the same call has the same fate")
		if err == nil {
			got[200]++
			continue
		}
		var e *schemas.CallError
		require.ErrorAs(t, err, &e)
		require.True(t, e.Retryable)
		require.Equal(t, e.Status == 429, e.Unbilled)
		got[e.Status]++
	}
	require.InDelta(t, 0.1*calls, got[429], 0.03*calls)
	require.InDelta(t, 0.2*calls, got[500], 0.03*calls)
	require.InDelta(t, 0.05*calls, got[0], 0.02*calls)
}

func TestSimulatedEmbeddings(t *testing.T) {
	p := simulated(t, providers.Simulated{})
	embed := func(body string) [][]float64 {
		answer, err := p.Generate(context.Background(), schemas.Call{Model: "e", Embeddings: true, Body: []byte(body)})
		require.NoError(t, err)
		require.Equal(t, "simulated/e", answer.Model)
		require.Positive(t, answer.Usage.PromptTokens)
		var list struct {
			Data []struct {
				Index     int
				Embedding json.RawMessage
			}
		}
		require.NoError(t, json.Unmarshal(answer.Body, &list))
		var vectors [][]float64
		for i, d := range list.Data {
			require.Equal(t, i, d.Index)
			var text string
			if json.Unmarshal(d.Embedding, &text) == nil {
				raw, err := base64.StdEncoding.DecodeString(text)
				require.NoError(t, err)
				require.Len(t, raw, 64*4)
				continue
			}
			var v []float64
			require.NoError(t, json.Unmarshal(d.Embedding, &v))
			vectors = append(vectors, v)
		}
		return vectors
	}
	cosine := func(a, b []float64) (sum float64) {
		for i := range a {
			sum += a[i] * b[i]
		}
		return sum
	}
	v := embed(`{"input":["The bridge is closed today","today the BRIDGE is closed","Cooks prepare the soup"],"dimensions":512}`)
	require.Len(t, v, 3)
	require.Len(t, v[0], 512)
	require.InDelta(t, 1, math.Sqrt(cosine(v[0], v[0])), 1e-3)
	require.InDelta(t, 1, cosine(v[0], v[1]), 1e-3)
	require.Greater(t, cosine(v[0], v[1]), cosine(v[0], v[2])+0.3)
	require.Len(t, embed(`{"input":"x"}`)[0], 256)
	require.Len(t, embed(`{"input":[1,2,3]}`), 1, "a list of tokens is one text")
	require.Len(t, embed(`{"input":[[1,2],[3]]}`), 2)
	require.Empty(t, embed(`{"input":"x","dimensions":64,"encoding_format":"base64"}`))
	_, err := p.Generate(context.Background(), schemas.Call{Embeddings: true, Body: []byte(`{"input":["` + strings.Repeat(`x","`, 3000) + `"]}`)})
	require.ErrorContains(t, err, "2048")
}
