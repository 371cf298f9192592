package schemas

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseBatchLine(t *testing.T) {
	line, err := ParseBatchLine([]byte(`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":"x"}],"odd":1.0}}` + "\n"))
	require.NoError(t, err)
	require.Equal(t, "a", line.CustomID)
	require.Equal(t, `{"model":"m","messages":[{"role":"user","content":"x"}],"odd":1.0}`, string(line.Body), "the body is untouched")
	_, err = ParseBatchLine([]byte(`{"custom_id":"a","url":"/v1/embeddings","body":{"input":"x"}}`))
	require.NoError(t, err)

	for text, want := range map[string]string{
		``:                                     "no JSON object",
		`nonsense`:                             "no JSON object",
		`[1]`:                                  "no JSON object",
		`{"custom_id":"a"`:                     "not valid JSON",
		`{"custom_id":7}`:                      "custom_id: has the wrong type",
		`{"url":"x"}`:                          "custom_id is missing",
		`{"custom_id":"a"}`:                    "url is missing",
		`{"custom_id":"a"} {}`:                 "not valid JSON",
		`{"custom_id":"a","custom_id":"b"}`:    "more than once",
		`{"custom_id":"a","url":"/v1/images"}`: `url "/v1/images" is not known`,
		`{"custom_id":"a","method":"GET","url":"/v1/embeddings"}`:                             "not POST",
		`{"custom_id":"a","url":"/v1/embeddings"}`:                                            "body is missing",
		`{"custom_id":"a","url":"/v1/embeddings","body":"x"}`:                                 "body must be an object",
		`{"custom_id":"a","url":"/v1/embeddings","body":{"messages":[]}}`:                     "input is missing",
		`{"custom_id":"a","url":"/v1/chat/completions","body":{"input":"x"}}`:                 "in place of messages",
		`{"custom_id":"a","url":"/v1/chat/completions","body":{"messages":1,"messages":2}}`:   "more than once",
		"{\"custom_id\":\"\xff\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":1}}": "not valid JSON",
	} {
		_, err := ParseBatchLine([]byte(text))
		require.ErrorContains(t, err, want, text)
		var e *Error
		require.ErrorAs(t, err, &e)
	}
}

func TestBatchResults(t *testing.T) {
	result, failed := NewBatchResult("c", "id-1", []byte(`{"choices":[]}`))
	require.False(t, failed)
	require.Equal(t, 200, result.Response.StatusCode)
	result, failed = NewBatchResult("c", "id-1", []byte(`{"error":{"message":"m","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}`))
	require.True(t, failed)
	require.Equal(t, 429, result.Response.StatusCode)
	require.Equal(t, "batch_req_id-1", result.ID)
	failure := NewBatchFailure("", 17, Invalid(CodeMissingField, "custom_id", "is missing"))
	require.Nil(t, failure.CustomID)
	require.Equal(t, &BatchError{Code: CodeMissingField, Message: "custom_id: is missing", Line: 17}, failure.Error)
}

func FuzzParseBatchLine(f *testing.F) {
	f.Add([]byte(`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}`))
	f.Add([]byte(`{"custom_id":"a","url":7}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		line, err := ParseBatchLine(text)
		if err == nil {
			require.NotEmpty(t, line.CustomID)
			require.EqualValues(t, '{', line.Body.Kind())
		}
	})
}
