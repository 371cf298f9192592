package combine

import (
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
)

// Each of two requests gets the vectors of its own inputs, in their order,
// whatever the inputs are, and the shares add up.
func FuzzCombined(f *testing.F) {
	for _, input := range []string{`"a"`, `["b","c\"]"]`, `[1,2]`, `[[1],[2,3]]`, `[ "x" , "y" ]`, `""`, `[]`, `{"a":1}`, `["\u0022,[",""]`} {
		f.Add([]byte(input), []byte(`["d"]`), uint16(7))
		f.Add([]byte(`[4,5]`), []byte(input), uint16(1000))
	}
	f.Fuzz(func(t *testing.T, first, second []byte, bill uint16) {
		if !jsontext.Value(first).IsValid() || !jsontext.Value(second).IsValid() {
			t.Skip()
		}
		var parts []*part
		for _, raw := range [][]byte{first, second} {
			body := []byte(`{"input":` + string(raw) + `,"dimensions":8}`)
			in, ok := readInput(body)
			if !ok {
				return
			}
			parts = append(parts, &part{call: schemas.Call{Body: body}, input: in, tokens: len(raw)})
		}
		if parts[0].input.alike != parts[1].input.alike {
			return
		}
		u := &upstream{latency: time.Nanosecond}
		answer, err := u.Generate(t.Context(), schemas.Call{Body: combined(parts)})
		require.NoError(t, err)
		answer.Usage = schemas.Usage{PromptTokens: int(bill), TotalTokens: int(bill)}
		shared := shares(answer.Usage, parts)
		answers, err := split(answer, parts, shared)
		require.NoError(t, err)
		require.Equal(t, int(bill), shared[0].PromptTokens+shared[1].PromptTokens)
		for i, p := range parts {
			var want []string
			for _, element := range p.input.elements {
				want = append(want, string(jsontext.Value(element)))
			}
			require.Equal(t, want, vectors(t, answers[i]))
		}
	})
}

// An answer that is not what it should be is an error, never another's vector.
func FuzzSplit(f *testing.F) {
	for _, body := range []string{
		`{"data":[{"index":0},{"index":1},{"index":2}]}`, `{"data":[{"index":1},{"index":1},{"index":2}]}`,
		`{"data":[{},{},{}],"model":"m","usage":{}}`, `{"data":[{"index":-1}]}`, `{"data":[{"index":9},{}]}`, `{"data":7}`, `{"data":[`, `[`, `{"data":[1,2,3]}`,
	} {
		f.Add([]byte(body))
	}
	in, _ := readInput([]byte(`{"input":["a","b"]}`))
	other, _ := readInput([]byte(`{"input":"c"}`))
	parts := []*part{{input: in}, {input: other}}
	f.Fuzz(func(t *testing.T, body []byte) {
		answers, err := split(schemas.Answer{Body: body}, parts, shares(schemas.Usage{}, parts))
		if err != nil {
			require.Nil(t, answers)
			return
		}
		require.Len(t, answers, 2)
		if jsontext.Value(body).IsValid() {
			for _, a := range answers {
				require.True(t, jsontext.Value(a.Body).IsValid(), "%s", a.Body)
			}
		}
	})
}
