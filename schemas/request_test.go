package schemas

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	p, err := Parse([]byte(`{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"stream":true,
		"processor":{"priority":"batch","deadline":"2026-12-01T00:00:00Z","cache":{"mode":"refresh","ttl":"90s"},"route":"summaries"},"made_up":{"x":[1,2]}}`))
	require.NoError(t, err)
	require.Equal(t, "gpt-4o", p.Model)
	require.True(t, p.Stream)
	require.Equal(t, Chat, p.Kind)
	require.Equal(t, Batch, p.Options.Priority)
	require.Equal(t, "refresh", p.Options.Cache.Mode)
	require.Equal(t, "2026-12-01T00:00:00Z", p.Options.Deadline.Format(time.RFC3339))

	p, err = Parse([]byte(`{"input":["a","b"],"model":"text-embedding-3-small"}`))
	require.NoError(t, err)
	require.Equal(t, Embeddings, p.Kind)

	p, err = Parse([]byte(`{"mod\u0065l":"m","messages":[{"role":"tool","content":null}]}`))
	require.NoError(t, err)
	require.Equal(t, "m", p.Model, "names are compared unescaped")

	for _, n := range []string{"1", "3.0", "2e1", "null"} {
		_, err = Parse([]byte(`{"n":` + n + `,"messages":[{"role":"user","content":"a"}]}`))
		require.NoError(t, err, n)
	}

	p, err = Parse([]byte(`{"processor":{"template":"summarise@3","variables":{"text":"a"}}}`))
	require.NoError(t, err)
	require.Equal(t, "auto", p.Model)
	require.Equal(t, "summarise@3", p.Options.Template)
}

func TestParseNamesWhatIsWrong(t *testing.T) {
	for body, want := range map[string]struct {
		code  Code
		param string
	}{
		`{"messages":[{"role":"user"}]} x`:                                 {CodeInvalidJSON, ""},
		`{"messages":[{"role":"user"}]`:                                    {CodeInvalidJSON, ""},
		`{"messages":[{"role":"user"}`:                                     {CodeInvalidJSON, "messages"},
		`{"messages":{}}`:                                                  {CodeInvalidField, "messages"},
		`{"messages":[]}`:                                                  {CodeInvalidField, "messages"},
		`{"messages":["hi"]}`:                                              {CodeInvalidField, "messages[0]"},
		`{"messages":[{"role":7}]}`:                                        {CodeInvalidField, "messages[0].role"},
		`{"messages":[{"role":"user","content":7}]}`:                       {CodeInvalidField, "messages[0].content"},
		`{"messages":[{"role":"user"}],"model":7}`:                         {CodeInvalidField, "model"},
		`{"messages":[{"role":"user"}],"stream":"yes"}`:                    {CodeInvalidField, "stream"},
		`{"messages":[{"role":"user"}],"input":"a"}`:                       {CodeInvalidField, "input"},
		`{"input":7}`:                                                      {CodeInvalidField, "input"},
		`{"messages":[{"role":"user"}],"processor":7}`:                     {CodeInvalidField, "processor"},
		`{"messages":[{"role":"user"}],"processor":{"route":7}}`:           {CodeInvalidField, "processor.route"},
		`{"messages":[{"role":"user"}],"processor":{"cache":{"ttl":"1"}}}`: {CodeInvalidField, "processor.cache.ttl"},
		`{"messages":[{"role":"user"}],"processor":{"deadline":"soon"}}`:   {CodeInvalidField, "processor.deadline"},
		`{"messages":[{"role":"user"}],"a":1,"\u0061":2}`:                  {CodeDuplicateMember, "a"},
		`{"messages":[{"role":"user"}],"n":"3"}`:                           {CodeInvalidField, "n"},
		`{"messages":[{"role":"user"}],"n":0}`:                             {CodeInvalidField, "n"},
		`{"messages":[{"role":"user"}],"\u006e":1.5}`:                      {CodeInvalidField, "n"},
		`{"messages":[{"role":"user"}],"n":100000000000000000000}`:         {CodeInvalidField, "n"},
	} {
		_, err := Parse([]byte(body))
		var e *Error
		require.ErrorAs(t, err, &e, body)
		require.Equal(t, want.code, e.Code, "%s: %v", body, err)
		require.Equal(t, want.param, e.Param, "%s: %v", body, err)
		require.NotEmpty(t, e.Message)
	}
}

// FuzzParse holds that what is accepted is JSON that the standard library
// reads, and that scanning its members finds the same as parsing.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"model":"a","messages":[{"role":"user","content":"hi"}],"processor":{"cache":{"mode":"off"}}}`))
	f.Add([]byte(`{"input":[[1,2],[3]],"x":1e400,"y":"\ud83d\ude00"}`))
	f.Add([]byte(`{"messages":[{"role":"us\u0065r","content":"\\\""}], "a" : { } }`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := Parse(body); err != nil {
			var e *Error
			require.ErrorAs(t, err, &e, "every refusal is one for the application")
			require.NotEmpty(t, e.Code)
			return
		}
		var want map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(body, &want))
		got := map[string]string{}
		Members(body, func(name []byte, _, value Span) bool {
			plain, err := Unquote([]byte(`"` + string(name) + `"`))
			require.NoError(t, err)
			got[plain] = string(value.Of(body))
			return true
		})
		require.Len(t, got, len(want))
		for name, value := range want {
			require.Equal(t, string(value), got[name])
		}
		key := CacheKey(body, nil)
		again := AppendCanonical(nil, body)
		require.True(t, json.Valid(again), "%s", again)
		require.Equal(t, string(again), string(AppendCanonical(nil, again)), "canonical form is its own canonical form")
		require.Equal(t, key, CacheKey(again, nil))
		without := DeleteMember(body, "processor")
		require.True(t, json.Valid(without), "%s", without)
		with := SetMember(without, "processor", []byte(`{"a":1}`))
		require.True(t, json.Valid(with), "%s", with)
	})
}

func TestErrorsSayWhichFieldAndWhatWouldBeRight(t *testing.T) {
	ask := func(member string) string {
		return `{"messages":[{"role":"user","content":"x"}],` + member + `}`
	}
	for body, want := range map[string]string{
		ask(`"stream":"yes"`):                         "stream: is a string, it must be true or false",
		ask(`"model":3`):                              "model: is a number, it must be a string",
		ask(`"processor":{"deadline":"tomorrow"}`):    "processor.deadline: has the wrong type or form; it must be a time like 2026-12-01T00:00:00Z (RFC 3339)",
		ask(`"processor":{"cache":false}`):            "processor.cache: has the wrong type or form; it must be an object with mode, ttl, match, scope",
		ask(`"processor":{"cache":{"mode":"maybe"}}`): `processor.cache.mode: "maybe" is none of on, off, refresh`,
		ask(`"processor":{"cache":{"age":1}}`):        "processor.cache.age: is not known; processor.cache takes mode, ttl, match, scope",
		ask(`"processor":{"bogus":1}`):                "processor.bogus: is not known; processor takes template, variables, structure, compress, cache, quality, select, route, tune, priority, deadline",
		ask(`"processor":{"route":7}`):                "processor.route: has the wrong type or form; it must be a string",
		ask(`"user":"a","user":"b"`):                  "user: the member stands more than once in its object",
		`{"model":"m"}`:                               `messages is missing: a list like [{"role": "user", "content": "..."}]`,
		`{"input":[]}`:                                "input is empty: it needs at least one text",
	} {
		_, err := Parse([]byte(body))
		var response ErrorBody
		require.NoError(t, json.Unmarshal(ErrorResponse(&State{ID: "a", Tenant: "b"}, "compress", err), &response))
		require.Equal(t, want, response.Error.Message, body)
	}
}

func TestCacheKeysNeverChange(t *testing.T) {
	const plain = `{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"temperature":0.5,"seed":9007199254740993}`
	same := []string{
		plain,
		`{ "temperature": 5e-1, "seed": 9007199254740993, "messages":[{"content":"h\u0069","role":"user"}], "model":"gpt-4o" }`,
		`{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"temperature":0.50,"seed":9007199254740993,"stream":true,"user":"u","metadata":{"a":"b"},"processor":{"priority":"batch"}}`,
	}
	for _, body := range same {
		require.Equal(t, CacheKey([]byte(plain), nil), CacheKey([]byte(body), nil), body)
	}
	for _, body := range []string{
		strings.Replace(plain, "993", "992", 1), // differs only above 2^53
		strings.Replace(plain, "0.5", "0.51", 1),
		strings.Replace(plain, "hi", "Hi", 1),
		strings.Replace(plain, `"temperature"`, `"top_logprobs":3,"temperature"`, 1),
		strings.Replace(plain, `"temperature"`, `"reasoning_effort":"low","temperature"`, 1),
		strings.Replace(plain, `"temperature"`, `"unknown":null,"temperature"`, 1),
	} {
		require.NotEqual(t, CacheKey([]byte(plain), nil), CacheKey([]byte(body), nil), body)
	}
	require.NotEqual(t, CacheKey([]byte(plain), nil), CacheKey([]byte(plain), []byte(`{"structure":{"format":"json"}}`)))
	require.Equal(t, CacheKey([]byte(plain), []byte(`{"priority":"batch"}`)), CacheKey([]byte(plain), []byte(`{"priority":"interactive"}`)))
	for body, key := range keyVectors {
		require.Equal(t, key, CacheKey([]byte(body), nil), body)
	}
}

// keyVectors are keys that must stay what they are between versions: a change
// would make every stored answer a miss.
var keyVectors = map[string]string{
	`{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}`:                                                                                "f6ba5028679eb60d0565209bd47356058dc9001b52bef518c77f9115949c479f",
	`{"model":"m","messages":[{"role":"user","content":"\u00e9\n\"\ud83d\ude00"}],"n":1,"x":[1.0,-0.0,1e21,12345678901234567890,0.1e-7,true,null]}`: "d80a8e231f3de815db798d4c23714ec9e5aae1fcf5bcd924090f4fe17352de46",
	`{"input":["a","b"],"model":"e"}`: "be719004170e2f6011cbf5a956abdb2f66860545e1bbed082b973c1b82b38d9a",
}

func TestMembersAreEditedInPlace(t *testing.T) {
	const body = `{ "a" : 1, "processor":{"x":[1,{"y":"}"}]} ,"b":"\"{"}`
	require.Equal(t, `{ "a" : 1 ,"b":"\"{"}`, string(DeleteMember([]byte(body), "processor")))
	require.Equal(t, `{ "processor":{"x":[1,{"y":"}"}]} ,"b":"\"{"}`, string(DeleteMember([]byte(body), "a")))
	require.Equal(t, `{ "a" : 2, "processor":{"x":[1,{"y":"}"}]} ,"b":"\"{"}`, string(SetMember([]byte(body), "a", []byte("2"))))
	require.Equal(t, `{"c":3}`, string(SetMember([]byte(`{}`), "c", []byte("3"))))
	require.Equal(t, `{"a":1,"c":3}`, string(SetMember([]byte(`{"a":1}`), "c", []byte("3"))))
	require.Equal(t, `{}`, string(DeleteMember([]byte(`{"a":1}`), "a")))
}

func TestTypedErrorsAreFound(t *testing.T) {
	err := Typed(&Error{Type: TokenOptimizationType, Code: CodePerRequestLimit, Details: map[string]any{"limit": 4000}})
	var typed TokenOptimizationError
	require.ErrorAs(t, err, &typed)
	require.Equal(t, 4000, typed.Details["limit"])
	require.Equal(t, CodePerRequestLimit, AsError(err).Code)
	require.NotContains(t, string(ErrorResponse(&State{ID: "a", Tenant: "b"}, "generate", errors.New("dial tcp 10.0.0.1: secret"))), "secret")
}

func TestTextsOfErrorsNameTheFieldOnce(t *testing.T) {
	for message, want := range map[string]string{
		"is a number":                           "n: is a number",
		"the body is invalid json":              "n: the body is invalid json",
		"n is 0, it must be 1":                  "n is 0, it must be 1",
		"no model takes n":                      "no model takes n",
		"n_best and nb have nothing to do with": "n: n_best and nb have nothing to do with",
	} {
		require.Equal(t, want, Invalid(CodeInvalidField, "n", "%s", message).Text())
	}
	require.Equal(t, "messages[0].role is missing", Invalid(CodeMissingField, "messages[0].role", "messages[0].role is missing").Text())
	require.Equal(t, "nothing is named", Invalid(CodeInvalidJSON, "", "nothing is named").Text())
}

func TestErrorResponseHasOpenAIsShape(t *testing.T) {
	text := ErrorResponse(&State{ID: "a", Tenant: "b", Usage: Usage{PromptTokens: 3}}, "generate",
		&CallError{Status: 429, Message: "slow down", Code: CodeRateLimitExceeded, RetryAfter: 1500 * time.Millisecond})
	require.JSONEq(t, `{"error":{"message":"slow down","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"},
		"processor":{"id":"a","tenant":"b","stage":"generate","details":{"provider_status":429},"retry_after_ms":1500,
		"usage":{"prompt_tokens":3,"completion_tokens":0,"total_tokens":0}}}`, string(text))
}

func BenchmarkParse(b *testing.B) {
	body := []byte(`{"model":"gpt-4o","messages":[{"role":"system","content":"Answer briefly."},{"role":"user","content":"` + strings.Repeat("The quick brown fox. ", 45) + `"}]}`)
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			_, _ = Parse(body)
		}
	})
	b.Run("key", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			_ = CacheKey(body, nil)
		}
	})
}

func TestDollarsAreShownWithoutTheNoiseOfSums(t *testing.T) {
	h := Handoff{State: State{ID: "a", Tenant: "b", CostUSD: 0.00003 + 0.00015, Selected: Selected{Model: "m", Tried: []Tried{}}}, Answer: []byte(`{}`)}
	answer, err := AnswerResponse(&h)
	require.NoError(t, err)
	require.Contains(t, string(answer), `"cost_usd":0.00018,`)
	require.NotContains(t, string(answer), "tried", "there is nothing to tell of")
	require.Contains(t, string(ErrorResponse(&h.State, "score", errors.New("x"))), `"cost_usd":0.00018`)
}
