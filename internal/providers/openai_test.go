package providers_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/schemas"
)

// sent makes a call and gives the address and body that reached the provider.
func sent(t *testing.T, cfg providers.Config, call schemas.Call) (path, body string, header map[string][]string) {
	t.Helper()
	fake := fakellm.New(fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step {
		path, body, header = c.Path, string(c.Body), c.Header
		return nil
	}})
	defer fake.Close()
	cfg.Kind, cfg.BaseURL = providers.KindOpenAI, fake.URL+cfg.BaseURL
	p, err := providers.New(cfg)
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Generate(context.Background(), call)
	require.NoError(t, err)
	return path, body, header
}

func TestOpenAIBodyPassesByteForByte(t *testing.T) {
	for name, test := range map[string]struct {
		in, out string
		stream  bool
	}{
		"nothing to change": {in: ` { "model" : "m" , "x":[1,{"a":1e400}] ,"messages":[] } `, out: ` { "model" : "m" , "x":[1,{"a":1e400}] ,"messages":[] } `},
		"the model":         {in: `{ "messages":[], "model":"auto", "n": 12345678901234567890 }`, out: `{ "messages":[], "model":"m", "n": 12345678901234567890 }`},
		"a model is added":  {in: `{"messages":[]}`, out: `{"messages":[],"model":"m"}`},
		"the processor":     {in: `{"processor":{"route":"}"}, "messages":[],"model":"m"}`, out: `{"messages":[],"model":"m"}`},
		"stream is off":     {in: `{"messages":[],"stream":true,"model":"m","stream_options":{"include_usage":true}}`, out: `{"messages":[],"model":"m"}`},
		"stream is on":      {stream: true, in: `{"messages":[],"model":"m"}`, out: `{"messages":[],"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		"options are kept":  {stream: true, in: `{"messages":[],"stream":false,"model":"m","stream_options":{"include_obfuscation":false}}`, out: `{"messages":[],"stream":true,"model":"m","stream_options":{"include_obfuscation":false,"include_usage":true}}`},
		"null options":      {stream: true, in: `{"messages":[],"model":"m","stream_options":null}`, out: `{"messages":[],"model":"m","stream_options":{"include_usage":true},"stream":true}`},
		"escaped names":     {in: `{"mod\u0065l":"x","\u0070rocessor":{},"messages":[]}`, out: `{"model":"m","messages":[]}`},
		"nested members":    {in: `{"model":"m","messages":[{"role":"user","content":"\"model\":\"x\"","model":"y","stream":true}]}`, out: `{"model":"m","messages":[{"role":"user","content":"\"model\":\"x\"","model":"y","stream":true}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			call := schemas.Call{Model: "m", Body: []byte(test.in)}
			if test.stream {
				call.Delta = func([]byte) {}
			}
			_, body, _ := sent(t, providers.Config{}, call)
			require.Equal(t, test.out, body)
			require.Equal(t, test.in, string(call.Body), "the call's body is read-only")
		})
	}
}

func TestAddresses(t *testing.T) {
	embeddings := chat
	embeddings.Embeddings, embeddings.Body = true, []byte(`{"input":"x"}`)
	azure := providers.Config{APIVersion: "2024-10-21", APIKey: testKey}
	for _, test := range []struct {
		cfg  providers.Config
		call schemas.Call
		path string
	}{
		{providers.Config{}, chat, "/chat/completions"},
		{providers.Config{BaseURL: "/v1"}, chat, "/v1/chat/completions"},
		{providers.Config{BaseURL: "/v1/"}, embeddings, "/v1/embeddings"},
		{azure, chat, "/openai/deployments/m/chat/completions"},
		{azure, embeddings, "/openai/deployments/m/embeddings"},
	} {
		path, _, header := sent(t, test.cfg, test.call)
		require.Equal(t, test.path, path)
		if test.cfg.APIVersion != "" {
			require.Equal(t, []string{testKey}, header["Api-Key"])
			require.Empty(t, header["Authorization"])
		}
	}
}

func TestHeaders(t *testing.T) {
	_, _, header := sent(t, providers.Config{APIKey: testKey, Headers: map[string]providers.Secret{"openai-organization": "org-1"}}, chat)
	require.Equal(t, []string{"Bearer " + testKey}, header["Authorization"])
	require.Equal(t, []string{"org-1"}, header["Openai-Organization"])
	require.Equal(t, []string{"application/json"}, header["Content-Type"])
	_, _, header = sent(t, providers.Config{}, schemas.Call{ID: "bad\r\nX: y", Model: "m", Body: chat.Body})
	require.Empty(t, header["Authorization"], "without a key none is sent")
	require.Empty(t, header["X-Client-Request-Id"])
}

// Answers that others would stumble over are made valid; they are paid.
func TestPaidAnswersAreKept(t *testing.T) {
	const frame = `{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"%"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":2},"completion_tokens_details":{"reasoning_tokens":1}}}`
	for name, text := range map[string]string{
		"invalid UTF-8":  "a\xffb",
		"half surrogate": `a\ud83db`,
		"escapes":        `a\u0000\"b`,
	} {
		body := []byte("\n" + frame)
		body = append(body[:0:0], []byte(replaceOnce(string(body), text))...)
		fake := fakellm.New(fakellm.Config{Script: []*fakellm.Step{{Body: string(body), ContentType: "text/plain"}}})
		p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: fake.URL})
		require.NoError(t, err)
		answer, err := p.Generate(context.Background(), chat)
		require.NoError(t, err, name)
		require.True(t, json.Valid(answer.Body))
		require.Equal(t, schemas.Usage{PromptTokens: 3, CompletionTokens: 4, TotalTokens: 7, CachedTokens: 2, ReasoningTokens: 1}, answer.Usage)
		require.NoError(t, p.Close())
		fake.Close()
	}
}

func replaceOnce(frame, text string) string {
	for i := range frame {
		if frame[i] == '%' {
			return frame[:i] + text + frame[i+1:]
		}
	}
	return frame
}

// OpenRouter and others answer 200 with an error object when a model fails late.
func TestErrorsInBodies(t *testing.T) {
	for body, want := range map[string]schemas.CallError{
		`{"error":{"message":"slow down","code":429}}`:                             {Status: 429, Code: schemas.CodeRateLimitExceeded, Retryable: true},
		`{"error":{"message":"bad","type":"invalid_request_error","param":"top"}}`: {Status: 400, Code: schemas.CodeInvalidField, Param: "top"},
		`{"error":{"message":"boom"}}`:                                             {Status: 500, Code: schemas.CodeProviderError, Retryable: true},
	} {
		fake := fakellm.New(fakellm.Config{Script: []*fakellm.Step{{Body: body}, {Events: []string{"data: " + body}}}})
		p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: fake.URL})
		require.NoError(t, err)
		for _, call := range []schemas.Call{chat, streamed(func([]byte) {})} {
			e := callError(t, p, call)
			require.Equal(t, want.Status, e.Status)
			require.Equal(t, want.Code, e.Code)
			require.Equal(t, want.Param, e.Param)
			require.Equal(t, want.Retryable, e.Retryable)
			require.False(t, e.Unbilled)
		}
		require.NoError(t, p.Close())
		fake.Close()
	}
}

func TestErrorsByWhatTheySay(t *testing.T) {
	for _, test := range []struct {
		status    int
		body      string
		header    map[string]string
		code      schemas.Code
		retryable bool
	}{
		{400, `{"error":{"message":"too long","code":"context_length_exceeded","param":"messages"}}`, nil, schemas.CodeContextLengthExceeded, false},
		{400, `{"error":{"message":"This model's maximum context length is 4096 tokens."}}`, nil, schemas.CodeContextLengthExceeded, false},
		{400, `{"error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}`, nil, schemas.CodeContextLengthExceeded, false},
		{404, `{"error":{"message":"nope","code":"model_not_found"}}`, nil, schemas.CodeModelNotFound, false},
		{404, `{"error":"model 'x' not found"}`, nil, schemas.CodeModelNotFound, false},
		{404, `404 page not found`, nil, schemas.CodeProviderError, false},
		{429, `{"error":{"message":"pay","code":"insufficient_quota"}}`, nil, schemas.CodeInsufficientQuota, false},
		{429, `{"detail":"slow"}`, map[string]string{"x-should-retry": "false"}, schemas.CodeRateLimitExceeded, false},
		{400, `{"message":"try again"}`, map[string]string{"x-should-retry": "true"}, schemas.CodeInvalidField, true},
		{500, `[{"error":{"code":500,"message":"in a list"}}]`, nil, schemas.CodeProviderError, true},
	} {
		fake := fakellm.New(fakellm.Config{Script: []*fakellm.Step{{Status: test.status, Body: test.body, Header: test.header}}})
		p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: fake.URL})
		require.NoError(t, err)
		e := callError(t, p, chat)
		require.Equal(t, test.code, e.Code, test.body)
		require.Equal(t, test.retryable, e.Retryable, test.body)
		require.NoError(t, p.Close())
		fake.Close()
	}
}
