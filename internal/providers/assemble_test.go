package providers

import (
	"fmt"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
)

func assemble(t *testing.T, chunks ...string) schemas.Answer {
	t.Helper()
	a := newAssembler(1 << 20)
	for _, chunk := range chunks {
		_, err := a.add([]byte(chunk))
		require.NoError(t, err, chunk)
	}
	answer := a.answer()
	require.True(t, jsontext.Value(answer.Body).IsValid(), "%s", answer.Body)
	return answer
}

func choiceChunk(choice string) string {
	return `{"id":"c1","object":"chat.completion.chunk","created":5,"model":"m-1","choices":[` + choice + `]}`
}

func TestAssembleText(t *testing.T) {
	answer := assemble(t,
		choiceChunk(`{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}`),
		choiceChunk(`{"index":0,"delta":{"content":"a \"b\" \ud83d"},"logprobs":{"content":[{"token":"a"}],"refusal":null}}`),
		choiceChunk(`{"index":1,"delta":{"role":"assistant","reasoning_content":"hm"}}`),
		choiceChunk(`{"index":0,"delta":{"content":"\ude00"},"logprobs":{"content":[{"token":"c"},{"token":"d"}],"refusal":null}}`),
		choiceChunk(`{"index":0,"delta":{},"finish_reason":"stop"},{"index":1,"delta":{"reasoning_content":"m","content":"x"},"finish_reason":"length"}`),
		`{"id":"c1","choices":[],"service_tier":"default","obfuscation":"abc","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`)
	require.Equal(t, "m-1", answer.Model)
	require.Equal(t, schemas.Usage{PromptTokens: 1, CompletionTokens: 2, TotalTokens: 3}, answer.Usage)
	require.JSONEq(t, `{"id":"c1","object":"chat.completion","created":5,"model":"m-1","service_tier":"default","choices":[
		{"index":0,"message":{"role":"assistant","content":"a \"b\" 😀","refusal":null},"logprobs":{"content":[{"token":"a"},{"token":"c"},{"token":"d"}],"refusal":null},"finish_reason":"stop"},
		{"index":1,"message":{"role":"assistant","content":"x","reasoning_content":"hmm","refusal":null},"logprobs":null,"finish_reason":"length"}],
		"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`, string(answer.Body))
}

func TestAssembleToolCalls(t *testing.T) {
	for name, pieces := range map[string][]string{
		"as OpenAI sends them": {
			`{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}`,
			`{"index":0,"function":{"arguments":"{\"x\""}}`, `{"index":0,"function":{"arguments":":1}"}}`,
			`{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}`,
		},
		"mixed": {
			`{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{"}}`,
			`{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":"}}`,
			`{"index":1,"function":{"name":"","arguments":"}"}}`, `{"index":0,"id":"","function":{"arguments":"1}"}}`,
		},
		"without index": {
			`{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":"}}`, `{"function":{"arguments":"1}"}}`,
			`{"id":"b","type":"function","function":{"name":"g","arguments":{}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			chunks := []string{choiceChunk(`{"index":0,"delta":{"role":"assistant","content":null}}`)}
			for _, piece := range pieces {
				chunks = append(chunks, choiceChunk(`{"index":0,"delta":{"tool_calls":[`+piece+`]}}`))
			}
			chunks = append(chunks, choiceChunk(`{"index":0,"delta":{},"finish_reason":"tool_calls"}`))
			require.JSONEq(t, `{"id":"c1","object":"chat.completion","created":5,"model":"m-1","choices":[{"index":0,"logprobs":null,"finish_reason":"tool_calls","message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[
				{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},
				{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}}]}`, string(assemble(t, chunks...).Body))
		})
	}
}

func TestAssembleIsBounded(t *testing.T) {
	for name, chunk := range map[string]string{
		"text":      choiceChunk(`{"index":0,"delta":{"content":"aaaaaaaaaa"}}`),
		"arguments": choiceChunk(`{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"aaaaaaaaaa"}}]}}`),
		"logprobs":  choiceChunk(`{"index":0,"delta":{},"logprobs":{"content":[{"token":"a"}]}}`),
		"unknown":   choiceChunk(`{"index":0,"delta":{"x":["aaaaaaaaaa"]}}`),
	} {
		a := newAssembler(1000)
		var err error
		n := 0
		for ; err == nil && n < 1000; n++ {
			_, err = a.add([]byte(chunk))
		}
		require.ErrorIs(t, err, errTooLarge, name)
		require.Less(t, len(a.answer().Body), 2000, name)
		require.Greater(t, n, 40, "%s: what a chunk repeats must not count", name)
	}
	a := newAssembler(1 << 20)
	for i := range 2 * maxChoices {
		_, err := a.add([]byte(choiceChunk(fmt.Sprintf(`{"index":%d,"delta":{"tool_calls":[{"index":%d,"id":"x"}]}}`, i*1_000_000, i))))
		require.NoError(t, err)
	}
	require.Len(t, a.choices, maxChoices)
}

// A whole answer made into one chunk, and that put together again, is the same.
func TestWholeChunkIsTheInverse(t *testing.T) {
	whole := `{"id":"c1","object":"chat.completion","created":5,"model":"m","x":{"y":1},"choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{\"a\":\"\\u00e9\"}"}}]},"logprobs":null,"finish_reason":"tool_calls"},{"index":1,"message":{"role":"assistant","content":"hi","refusal":null},"logprobs":{"content":[{"token":"hi"}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`
	require.JSONEq(t, whole, string(assemble(t, string(WholeChunk([]byte(whole)))).Body))
	for _, odd := range []string{`{}`, `{"choices":null}`, `{"choices":[1]}`, `{"choices":[{}]}`} {
		require.True(t, jsontext.Value(WholeChunk([]byte(odd))).IsValid())
	}
}

func TestElements(t *testing.T) {
	var got []string
	elements([]byte(` [ 1 , "a,]\"[" ,{"b":[2,{"c":"]"}]}, [ ] ,null] `), func(e []byte) bool {
		got = append(got, string(e))
		return len(got) < 10
	})
	require.Equal(t, []string{"1", `"a,]\"["`, `{"b":[2,{"c":"]"}]}`, "[ ]", "null"}, got)
	got = nil
	elements([]byte(`[1,2,3]`), func(e []byte) bool {
		got = append(got, string(e))
		return len(got) < 2
	})
	require.Equal(t, []string{"1", "2"}, got)
}

func FuzzAssemble(f *testing.F) {
	f.Add(choiceChunk(`{"index":0,"delta":{"content":"a\ud83d","tool_calls":[{"index":0,"function":{"arguments":"x"}}]}}`), choiceChunk(`{"index":0,"delta":{"content":[1]},"finish_reason":"stop"}`))
	f.Add(`{"choices":[{"delta":{"role":7,"function_call":{"arguments":"\"","name":"n"}},"logprobs":{"content":[]}}],"usage":{}}`, `{"id":[],"choices":[]}`)
	f.Fuzz(func(t *testing.T, one, two string) {
		a := newAssembler(1 << 16)
		for _, chunk := range []string{one, two, one} {
			if _, err := a.add([]byte(chunk)); err != nil {
				return
			}
		}
		answer := a.answer()
		require.True(t, jsontext.Value(answer.Body).IsValid(jsontext.AllowDuplicateNames(true)), "%s", answer.Body)
		require.Contains(t, string(answer.Body), "choices")
		require.True(t, jsontext.Value(WholeChunk(answer.Body)).IsValid(jsontext.AllowDuplicateNames(true)))
	})
}

func FuzzElements(f *testing.F) {
	f.Add([]byte(`[1,"]",{"a":[]}]`))
	f.Fuzz(func(t *testing.T, in []byte) {
		valid := jsontext.Value(in).IsValid()
		n := 0
		elements(in, func(e []byte) bool {
			n++
			require.False(t, valid && !jsontext.Value(e).IsValid(), "%s", e)
			return true
		})
		require.LessOrEqual(t, n, len(in))
	})
}
