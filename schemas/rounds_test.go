package schemas

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRoundsHaveRecordsOfTheirOwn(t *testing.T) {
	s := State{ID: "a1", Tenant: "acme", Usage: Usage{PromptTokens: 3, TotalTokens: 3}, CostUSD: 0.5}
	require.Equal(t, "acme.a1", s.RecordKey())
	s.Again()
	require.Equal(t, "acme.a1.a1", s.RecordKey())
	require.Equal(t, Spent{Usage{PromptTokens: 3, TotalTokens: 3}, 0.5}, s.Earlier)
	s.Again()
	require.Equal(t, "acme.a1.a2", s.RecordKey())
	require.Equal(t, "acme.a1", s.Key())
	require.False(t, ValidID("a1.a1"), "an id could be taken for a round's record")
}

func TestTheResponseShowsTheUsageOfAllRounds(t *testing.T) {
	h := &Handoff{
		State:  State{ID: "a", Tenant: "t", Usage: Usage{30, 12, 42, 4, 2}, Template: "greet@2", Structure: []byte(`{"repaired":["code_fence"]}`)},
		Answer: []byte(`{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":6,"total_tokens":16,"extra":1}}`),
	}
	read := func() (out struct {
		Usage json.RawMessage
		About struct {
			Template  string
			Structure json.RawMessage
		} `json:"processor"`
	}) {
		body, err := AnswerResponse(h)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(body, &out))
		return out
	}
	require.JSONEq(t, `{"prompt_tokens":10,"completion_tokens":6,"total_tokens":16,"extra":1}`, string(read().Usage), "one call: as the provider said")
	h.Round = 1
	out := read()
	require.JSONEq(t, `{"prompt_tokens":30,"completion_tokens":12,"total_tokens":42,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}`, string(out.Usage))
	require.Equal(t, h.Usage, ReadUsage([]byte(`{"usage":`+string(out.Usage)+`}`)))
	require.Equal(t, "greet@2", out.About.Template)
	require.JSONEq(t, `{"repaired":["code_fence"]}`, string(out.About.Structure))
}

func TestElements(t *testing.T) {
	for array, want := range map[string][]string{
		`[]`: nil, ` [ ] `: nil, `[1, "a,]" , {"b":[2]},[3] ]`: {"1", `"a,]"`, `{"b":[2]}`, "[3]"}, `{}`: nil, ``: nil, `[`: nil,
	} {
		var got []string
		Elements([]byte(array), func(e Span) bool {
			got = append(got, string(e.Of([]byte(array))))
			return true
		})
		require.Equal(t, want, got, array)
	}
	n := 0
	Elements([]byte(`[1,2,3]`), func(Span) bool { n++; return n < 2 })
	require.Equal(t, 2, n)
}

func FuzzElements(f *testing.F) {
	f.Add([]byte(`[1, {"a": [2]}, "x"]`))
	f.Add([]byte(`[,:}]`))
	f.Fuzz(func(t *testing.T, array []byte) {
		var got []json.RawMessage
		Elements(array, func(e Span) bool {
			got = append(got, e.Of(array)) // never out of bounds
			return true
		})
		var want []json.RawMessage
		if json.Valid(array) && json.Unmarshal(array, &want) == nil && want != nil {
			require.Len(t, got, len(want))
			for i := range want {
				require.JSONEq(t, string(want[i]), string(got[i]))
			}
		}
	})
}
