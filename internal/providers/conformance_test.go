package providers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/schemas"
)

// The conformance suite: every provider behind HTTP must behave like this.

const testKey = "sk-test-1234567890-do-not-show"

// remotes are the providers under test, and where each finds its API on the fake.
var remotes = []struct {
	kind, path string
	embeds     bool
}{
	{providers.KindOpenAI, "/v1", true},
	{providers.KindAnthropic, "", false},
	{providers.KindGemini, "/v1beta", true},
}

// eachRemote runs a test over every provider.
func eachRemote(t *testing.T, f func(t *testing.T, kind string, start startFunc)) {
	for _, r := range remotes {
		t.Run(r.kind, func(t *testing.T) {
			f(t, r.kind, func(fakeConfig fakellm.Config, change ...func(*providers.Config)) (*fakellm.Server, providers.Provider) {
				fake := fakellm.New(fakeConfig)
				t.Cleanup(fake.Close)
				cfg := providers.Config{Kind: r.kind, BaseURL: fake.URL + r.path, APIKey: testKey, Timeout: 5 * time.Second}
				for _, c := range change {
					c(&cfg)
				}
				p, err := providers.New(cfg)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, p.Close()) })
				return fake, p
			})
		})
	}
}

type startFunc func(fakellm.Config, ...func(*providers.Config)) (*fakellm.Server, providers.Provider)

var chat = schemas.Call{ID: "call-1", Model: "m", Body: []byte(`{"model":"auto","messages":[{"role":"user","content":"hello"}]}`)}

func streamed(f func(chunk []byte)) schemas.Call {
	call := chat
	call.Delta = f
	return call
}

// callError makes a call that must fail.
func callError(t *testing.T, p providers.Provider, call schemas.Call) *schemas.CallError {
	t.Helper()
	answer, err := p.Generate(context.Background(), call)
	require.Error(t, err, "%s", answer.Body)
	var e *schemas.CallError
	require.ErrorAs(t, err, &e, "%T: %v", err, err)
	require.NotEmpty(t, e.Message)
	require.NotEmpty(t, e.Code)
	require.NotContains(t, e.Error(), testKey)
	require.Less(t, len(e.Message), 1000)
	return e
}

// completion is what tests look at in an answer.
type completion struct {
	ID, Object, Model string
	Choices           []struct {
		Index   int
		Message struct {
			Role, Content, Refusal string
		}
		Delta struct {
			Role, Content string
		}
		FinishReason *string `json:"finish_reason"`
	}
	Usage map[string]any
}

func read(t *testing.T, body []byte) (c completion) {
	t.Helper()
	require.NoError(t, json.Unmarshal(body, &c), "%s", body)
	return c
}

func TestGenerate(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		fake, p := start(fakellm.Config{Prompt: 12, Completion: 7})
		answer, err := p.Generate(context.Background(), chat)
		require.NoError(t, err)
		require.Equal(t, schemas.Usage{PromptTokens: 12, CompletionTokens: 7, TotalTokens: 19}, answer.Usage)
		require.Equal(t, answer.Usage, schemas.ReadUsage(answer.Body))
		require.Equal(t, "fake", answer.Model)
		c := read(t, answer.Body)
		require.Equal(t, "chat.completion", c.Object)
		require.Equal(t, "assistant", c.Choices[0].Message.Role)
		require.Equal(t, fakellm.DefaultText, c.Choices[0].Message.Content)
		require.Equal(t, "stop", *c.Choices[0].FinishReason)
		require.EqualValues(t, 1, fake.Stats().Calls)
	})
}

func TestStreamGivesTheSameAnswer(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		_, p := start(fakellm.Config{})
		whole, err := p.Generate(context.Background(), chat)
		require.NoError(t, err)
		text, chunks, finish := "", 0, ""
		answer, err := p.Generate(context.Background(), streamed(func(chunk []byte) {
			c := read(t, chunk)
			require.Equal(t, "chat.completion.chunk", c.Object)
			require.Len(t, c.Choices, 1, "the chunk with the usage was not asked for")
			text += c.Choices[0].Delta.Content
			if reason := c.Choices[0].FinishReason; reason != nil {
				finish = *reason
			}
			chunks++
		}))
		require.NoError(t, err)
		require.Equal(t, fakellm.DefaultText, text)
		require.Equal(t, "stop", finish)
		require.Greater(t, chunks, 10)
		require.Equal(t, whole.Usage, answer.Usage)
		require.Equal(t, whole.Model, answer.Model)
		require.Equal(t, read(t, whole.Body).Choices, read(t, answer.Body).Choices)
	})
}

func TestStreamPassesOnUsageWhenAsked(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		_, p := start(fakellm.Config{})
		var last []byte
		call := streamed(func(chunk []byte) { last = append(last[:0], chunk...) })
		call.Body = []byte(`{"messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_usage":true}}`)
		_, err := p.Generate(context.Background(), call)
		require.NoError(t, err)
		c := read(t, last)
		require.Empty(t, c.Choices)
		require.EqualValues(t, 30, c.Usage["total_tokens"])
	})
}

func TestStatuses(t *testing.T) {
	retryable := map[int]bool{408: true, 409: true, 429: true, 500: true, 502: true, 503: true, 504: true, 520: true, 529: true}
	for _, status := range []int{400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 501, 502, 503, 504, 520, 529} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			eachRemote(t, func(t *testing.T, _ string, start startFunc) {
				_, p := start(fakellm.Config{Script: []*fakellm.Step{{Status: status}, {Status: status}}})
				for _, call := range []schemas.Call{chat, streamed(func([]byte) { t.Error("a delta") })} {
					e := callError(t, p, call)
					require.Equal(t, status, e.Status)
					require.Equal(t, retryable[status], e.Retryable, e.Message)
					require.Equal(t, status < 500 || status == 529, e.Unbilled)
				}
				_, err := p.Generate(context.Background(), chat)
				require.NoError(t, err, "the provider must be usable after an error")
			})
		})
	}
}

func TestRetryAfter(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		_, p := start(fakellm.Config{RetryAfter: 1700 * time.Millisecond, Limit: 0, Script: []*fakellm.Step{
			{Status: 429}, {Status: 429, Header: map[string]string{"Retry-After-Ms": "oops"}},
		}})
		e := callError(t, p, chat)
		require.Equal(t, 1700*time.Millisecond, e.RetryAfter)
		require.Equal(t, schemas.CodeRateLimitExceeded, e.Code)
		require.Equal(t, schemas.RateLimitError, e.Response().Type)
	})
}

// A stream that breaks off at any event is an error that may be retried and may
// have been billed, unless nothing but the figures was still to come.
func TestStreamCutAtEveryEvent(t *testing.T) {
	for _, r := range remotes {
		for _, clean := range []bool{false, true} {
			for i := range fakellm.NewFake(fakellm.Config{}).StreamEvents(r.kind) {
				t.Run(fmt.Sprintf("%s/clean=%v/%d", r.kind, clean, i), func(t *testing.T) {
					at := i
					if i == 0 {
						at = -1
					}
					step := &fakellm.Step{CutEvents: at}
					if clean {
						step = &fakellm.Step{EndEvents: at}
					}
					fake := fakellm.New(fakellm.Config{Script: []*fakellm.Step{step}})
					defer fake.Close()
					p, err := providers.New(providers.Config{Kind: r.kind, BaseURL: fake.URL + r.path})
					require.NoError(t, err)
					defer p.Close()
					finish := false
					answer, err := p.Generate(context.Background(), streamed(func(chunk []byte) {
						for _, c := range read(t, chunk).Choices {
							finish = finish || c.FinishReason != nil
						}
					}))
					if finish {
						require.NoError(t, err)
						require.Equal(t, fakellm.DefaultText, read(t, answer.Body).Choices[0].Message.Content)
						return
					}
					var e *schemas.CallError
					require.ErrorAs(t, err, &e, "%v", err)
					require.True(t, e.Retryable)
					require.False(t, e.Unbilled)
					_, err = p.Generate(context.Background(), chat)
					require.NoError(t, err)
				})
			}
		}
	}
}

func TestUnusableAnswers(t *testing.T) {
	const page = "<!DOCTYPE html><html><body>Bad gateway: nginx</body></html>"
	for name, step := range map[string]*fakellm.Step{
		"html":          {Body: page, ContentType: "text/html; charset=utf-8"},
		"html 502":      {Status: 502, Body: page, ContentType: "text/html"},
		"plain text":    {Body: "upstream connect error", ContentType: "text/plain"},
		"invalid JSON":  {Body: `{"choices":[{"message":`},
		"no object":     {Body: `[1,2]`},
		"empty":         {Body: " "},
		"empty object":  {Body: `{}`},
		"null":          {Body: `null`},
		"cut off":       {CutBytes: 100},
		"dropped":       {Drop: true},
		"deep":          {Body: strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000)},
		"stream as zip": {Body: "\x1f\x8b\x08\x00", ContentType: "application/gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			eachRemote(t, func(t *testing.T, _ string, start startFunc) {
				calls := []schemas.Call{chat, streamed(func([]byte) {})}
				if name == "cut off" {
					calls = calls[:1] // streams have their own test
				}
				_, p := start(fakellm.Config{Script: []*fakellm.Step{step, step}[:len(calls)]})
				for _, call := range calls {
					e := callError(t, p, call)
					require.True(t, e.Retryable, e.Message)
					require.False(t, e.Unbilled)
					require.NotContains(t, e.Message, "<html")
				}
				_, err := p.Generate(context.Background(), chat)
				require.NoError(t, err)
			})
		})
	}
}

func TestUnusableStreams(t *testing.T) {
	for name, events := range map[string][]string{
		"no JSON":         {"data: hello"},
		"half JSON":       {`data: {"choices":[`},
		"a list":          {"data: [1]"},
		"nothing":         {": keep-alive"},
		"done at once":    {"data: [DONE]"},
		"an error":        {`data: {"error":{"message":"the model is overloaded","type":"server_error"}}`},
		"an error event":  {"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}"},
		"a number as key": {`data: {"choices":[{"index":"x","delta":7}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			eachRemote(t, func(t *testing.T, _ string, start startFunc) {
				_, p := start(fakellm.Config{Script: []*fakellm.Step{{Events: events}}})
				e := callError(t, p, streamed(func([]byte) {}))
				require.True(t, e.Retryable, e.Message)
				require.False(t, e.Unbilled)
			})
		})
	}
}

func TestHugeAnswersAreCutOff(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		fake, p := start(fakellm.Config{Script: []*fakellm.Step{
			{Huge: 100 << 20}, {Body: strings.Repeat("a", 2_000_000)}, {Events: []string{"data: " + strings.Repeat("a", 2_000_000)}},
		}})
		begun := time.Now()
		for _, call := range []schemas.Call{chat, chat, streamed(func([]byte) {})} {
			e := callError(t, p, call)
			require.Contains(t, e.Message, "max_response")
			require.False(t, e.Unbilled)
			require.False(t, e.Retryable)
		}
		require.Less(t, time.Since(begun), 30*time.Second) // not until an endless body ends
		require.Eventually(t, func() bool { return p.(providers.Pooled).Stats().Open == 0 }, time.Second, time.Millisecond,
			"a connection with an endless body must not be used again")
		require.EqualValues(t, 3, fake.Stats().Connections)
	})
}

// A stream that never ends is cut off at the bound, however small its pieces are.
func TestEndlessStreamIsCutOff(t *testing.T) {
	piece := `data: {"choices":[{"index":0,"delta":{"content":"` + strings.Repeat("a", 50) + `"}}]}`
	events := make([]string, 5000)
	for i := range events {
		events[i] = piece
	}
	fake := fakellm.New(fakellm.Config{Script: []*fakellm.Step{{Events: events}}})
	defer fake.Close()
	p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: fake.URL, MaxResponse: 100_000})
	require.NoError(t, err)
	defer p.Close()
	n := 0
	e := callError(t, p, streamed(func([]byte) { n++ }))
	require.Contains(t, e.Message, "max_response")
	require.InDelta(t, 2000, n, 10)
}

func TestDripsWithinTheTimeout(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		_, p := start(fakellm.Config{Text: "slow", Script: []*fakellm.Step{{Drip: time.Microsecond}, {Drip: time.Microsecond}}})
		for _, call := range []schemas.Call{chat, streamed(func([]byte) {})} {
			answer, err := p.Generate(context.Background(), call)
			require.NoError(t, err)
			require.Equal(t, "slow", read(t, answer.Body).Choices[0].Message.Content)
		}
	})
}

func TestTimeout(t *testing.T) {
	for name, step := range map[string]*fakellm.Step{
		"hangs": {Hang: true}, "drips": {Drip: 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			eachRemote(t, func(t *testing.T, _ string, start startFunc) {
				_, p := start(fakellm.Config{Script: []*fakellm.Step{step, step}}, func(c *providers.Config) { c.Timeout = 100 * time.Millisecond })
				for _, call := range []schemas.Call{chat, streamed(func([]byte) {})} {
					e := callError(t, p, call)
					require.Contains(t, e.Message, "100ms")
					require.True(t, e.Retryable)
					require.False(t, e.Unbilled, "the call was sent: what it cost is unknown")
					require.Equal(t, schemas.CodeProviderUnavailable, e.Code)
				}
			})
		})
	}
}

func TestCancel(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		fake, p := start(fakellm.Config{Script: []*fakellm.Step{{Hang: true}, {Hang: true}}})
		for i, want := range []schemas.Code{schemas.CodeCancelled, schemas.CodeDeadlineExceeded} {
			ctx, cancel := context.WithCancel(context.Background())
			if want == schemas.CodeDeadlineExceeded {
				ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
			}
			done := make(chan error, 1)
			go func() {
				_, err := p.Generate(ctx, chat)
				done <- err
			}()
			require.Eventually(t, func() bool { return fake.Stats().InFlight == 1 }, time.Second, time.Millisecond)
			if i == 0 {
				cancel()
			}
			var e *schemas.CallError
			require.ErrorAs(t, <-done, &e)
			cancel()
			require.Equal(t, want, e.Code)
			require.False(t, e.Retryable)
			require.False(t, e.Unbilled)
			require.Eventually(t, func() bool { return fake.Stats().InFlight == 0 }, time.Second, time.Millisecond, "the provider's call goes on")
		}
	})
}

// A call that never left was surely not billed.
func TestUnreachable(t *testing.T) {
	for _, r := range remotes {
		for name, address := range map[string]string{
			"refused": "http://127.0.0.1:1", "no such host": "http://no-such-host.invalid",
		} {
			t.Run(r.kind+"/"+name, func(t *testing.T) {
				p, err := providers.New(providers.Config{Kind: r.kind, BaseURL: address + r.path, APIKey: testKey})
				require.NoError(t, err)
				defer p.Close()
				e := callError(t, p, chat)
				require.True(t, e.Unbilled)
				require.True(t, e.Retryable)
				require.Equal(t, schemas.CodeProviderUnavailable, e.Code)
				require.Zero(t, e.Status)
			})
		}
	}
}

// A call that waits for a connection when its time is up was not sent.
func TestWaitingForAConnectionIsUnbilled(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		fake, p := start(fakellm.Config{Script: []*fakellm.Step{{Hang: true}}}, func(c *providers.Config) { c.MaxConnections = 1 })
		first, cancelFirst := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			_, err := p.Generate(first, chat)
			done <- err
		}()
		require.Eventually(t, func() bool { return fake.Stats().InFlight == 1 }, time.Second, time.Millisecond)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := p.Generate(ctx, chat)
		var e *schemas.CallError
		require.ErrorAs(t, err, &e)
		require.True(t, e.Unbilled)
		require.EqualValues(t, 1, fake.Stats().Calls)
		cancelFirst()
		require.Error(t, <-done)
	})
}

func TestKeyIsSentAndNeverShown(t *testing.T) {
	eachRemote(t, func(t *testing.T, kind string, start startFunc) {
		var seen atomic.Value
		leak := fmt.Sprintf(`{"error":{"message":"Incorrect API key provided: %s","type":"invalid_request_error"}}`, testKey)
		_, p := start(fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step {
			seen.Store(c.Header.Get("Authorization") + c.Header.Get("X-Api-Key") + c.Header.Get("X-Goog-Api-Key"))
			return &fakellm.Step{Status: 400 + int(c.Number)%2, Body: leak}
		}})
		for range 2 {
			_ = callError(t, p, chat)
			require.Contains(t, seen.Load(), testKey)
		}
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			require.NotContains(t, fmt.Sprintf(format, p), testKey)
		}
	})
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		fake, p := start(fakellm.Config{Script: []*fakellm.Step{{Status: 307, Body: "moved", Header: map[string]string{"Location": "http://127.0.0.1:1/elsewhere"}}}})
		e := callError(t, p, chat)
		require.Equal(t, 307, e.Status)
		require.False(t, e.Retryable)
		require.EqualValues(t, 1, fake.Stats().Calls)
	})
}

func TestCheckAndWarm(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		fake, p := start(fakellm.Config{})
		checker := p.(providers.Checker)
		require.NoError(t, checker.Check(context.Background()))
		require.NoError(t, checker.Warm(context.Background(), 4))
		require.GreaterOrEqual(t, fake.Stats().Connections, int64(1))
		for range 10 {
			_, err := p.Generate(context.Background(), chat)
			require.NoError(t, err)
		}
		// One that was being opened while another became idle may come after Warm.
		require.LessOrEqual(t, fake.Stats().Connections, int64(4), "warm connections are used")
		require.EqualValues(t, 10, fake.Stats().Calls)
	})
}

func TestEmbeddings(t *testing.T) {
	for _, r := range remotes {
		t.Run(r.kind, func(t *testing.T) {
			fake := fakellm.New(fakellm.Config{Dimensions: 3})
			defer fake.Close()
			p, err := providers.New(providers.Config{Kind: r.kind, BaseURL: fake.URL + r.path})
			require.NoError(t, err)
			defer p.Close()
			call := schemas.Call{Model: "m", Embeddings: true, Body: []byte(`{"model":"x","input":["a","b"]}`)}
			if !r.embeds {
				e := callError(t, p, call)
				require.True(t, e.Unbilled)
				require.Zero(t, fake.Stats().Calls)
				return
			}
			answer, err := p.Generate(context.Background(), call)
			require.NoError(t, err)
			var list struct {
				Object string
				Data   []struct {
					Index     int
					Embedding []float64
				}
			}
			require.NoError(t, json.Unmarshal(answer.Body, &list))
			require.Equal(t, "list", list.Object)
			require.Len(t, list.Data, 2)
			require.Equal(t, 1, list.Data[1].Index)
			require.Len(t, list.Data[1].Embedding, 3)
			require.NotEqual(t, list.Data[0].Embedding, list.Data[1].Embedding)
		})
	}
}

// A server that ignores "stream": true answers with the whole, which is one chunk then.
func TestWholeAnswerToAStream(t *testing.T) {
	eachRemote(t, func(t *testing.T, kind string, start startFunc) {
		whole := map[string]string{
			providers.KindOpenAI:    `{"id":"1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}`,
			providers.KindAnthropic: `{"type":"message","id":"1","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn"}`,
			providers.KindGemini:    `{"responseId":"1","candidates":[{"content":{"parts":[{"text":"hi"}]},"finishReason":"STOP"}]}`,
		}[kind]
		_, p := start(fakellm.Config{Script: []*fakellm.Step{{Body: whole}}})
		text := ""
		answer, err := p.Generate(context.Background(), streamed(func(chunk []byte) {
			c := read(t, chunk)
			require.Equal(t, "chat.completion.chunk", c.Object)
			text += c.Choices[0].Delta.Content
		}))
		require.NoError(t, err)
		require.Equal(t, "hi", text)
		require.Equal(t, "hi", read(t, answer.Body).Choices[0].Message.Content)
		require.Zero(t, answer.Usage, "a missing usage is unknown")
	})
}

func TestLimits(t *testing.T) {
	headers := map[string]map[string]string{
		providers.KindOpenAI: {
			"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s",
			"x-ratelimit-limit-tokens": "150000", "x-ratelimit-remaining-tokens": "149984", "x-ratelimit-reset-tokens": "6m0s",
		},
		providers.KindAnthropic: {
			"anthropic-ratelimit-requests-limit": "60", "anthropic-ratelimit-requests-remaining": "59",
			"anthropic-ratelimit-requests-reset": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
			"anthropic-ratelimit-tokens-limit":   "150000", "anthropic-ratelimit-tokens-remaining": "149984",
		},
	}
	eachRemote(t, func(t *testing.T, kind string, start startFunc) {
		_, p := start(fakellm.Config{Script: []*fakellm.Step{nil, {Header: headers[kind]}}})
		limited := p.(providers.Limited)
		_, err := p.Generate(context.Background(), chat)
		require.NoError(t, err)
		_, ok := limited.Limits("m")
		require.False(t, ok)
		_, err = p.Generate(context.Background(), chat)
		require.NoError(t, err)
		l, ok := limited.Limits("m")
		require.Equal(t, headers[kind] != nil, ok)
		if !ok {
			return
		}
		require.Equal(t, 60, l.LimitRequests)
		require.Equal(t, 59, l.RemainingRequests)
		require.Equal(t, 149984, l.RemainingTokens)
		require.Greater(t, l.ResetRequests, 900*time.Millisecond)
	})
}

// The call's id goes along where it can, so that an upstream's logs can be searched for it.
func TestRequestID(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		ids := make(chan http.Header, 1)
		_, p := start(fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step {
			ids <- c.Header
			return nil
		}})
		_, err := p.Generate(context.Background(), chat)
		require.NoError(t, err)
		require.Equal(t, "call-1", (<-ids).Get("X-Client-Request-Id"))
	})
}
