package score

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const personSchema = `{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
	"required": ["name", "age"], "additionalProperties": false}`

// askFor builds a request with further members, written as JSON.
func askFor(members string) []byte {
	return fmt.Appendf(nil, `{"model": "m", "messages": [{"role": "user", "content": "Who is it?"}], %s}`, members)
}

func TestStructure(t *testing.T) {
	s := New(DefaultConfig())
	strict := `"response_format": {"type": "json_schema", "json_schema": {"name": "p", "strict": true, "schema": ` + personSchema + `}}`
	object := `"response_format": {"type": "json_object"}`
	ours := `"processor": {"structure": {"format": "json", "schema": ` + personSchema + `}}`
	for _, c := range []struct {
		name, members, answer string
		flags                 []string
		reason                string
	}{
		{"fits", strict, `{"name": "Ada", "age": 36}`, nil, ""},
		{"fits ours", ours, `{"name": "Ada", "age": 36}`, nil, ""},
		{"white space around", strict, "\n {\"name\": \"Ada\", \"age\": 36}\n", nil, ""},
		{"wrong type", strict, `{"name": "Ada", "age": "36"}`, []string{Schema}, "/age"},
		{"wrong type, ours", ours, `{"name": "Ada", "age": "36"}`, []string{Schema}, "/age"},
		{"member missing", strict, `{"name": "Ada"}`, []string{Schema}, "age"},
		{"member too many", strict, `{"name": "Ada", "age": 36, "x": 1}`, []string{Schema}, "x"},
		{"text", strict, "It is Ada.", []string{Format}, "not the JSON value"},
		{"code fence", strict, "```json\n{\"name\": \"Ada\", \"age\": 36}\n```", []string{Format}, "not the JSON value"},
		{"text behind", strict, `{"name": "Ada", "age": 36} as asked`, []string{Format}, "more text after"},
		{"unclosed", strict, `{"name": "Ada", "age": 3`, []string{Truncated, Format}, "unexpected EOF"},
		{"name twice", strict, `{"name": "Ada", "name": "Eva", "age": 36}`, []string{Format}, "duplicate"},
		{"any object", object, `{"x": [1, 2, {"y": null}]}`, nil, ""},
		{"no object", object, `[1, 2]`, []string{Format}, "not an object"},
		{"too deep", object, strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), []string{Repetition, Format}, "nested deeper"},
		{"a number of a gigabyte", ours, `{"name": "Ada", "age": 1e1000000000}`, []string{Format}, "number is too large"},
		{"text where none is asked", `"response_format": {"type": "text"}`, "It is Ada.", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := s.Score(askFor(c.members), reply(c.answer, "stop"), Options{})
			require.NoError(t, err)
			require.Equal(t, c.flags, r.Flags, r.Reason)
			if c.reason == "" {
				require.Empty(t, r.Reason)
			} else {
				require.Contains(t, r.Reason, c.reason)
			}
			require.Less(t, len(r.Reason), 400)
		})
	}
}

func TestSchemaOfTheCallerGoesFirst(t *testing.T) {
	s := New(DefaultConfig())
	opts := Options{Schema: []byte(`{"type": "array"}`)}
	r, err := s.Score(askFor(`"response_format": {"type": "json_object"}`), reply(`{}`, "stop"), opts)
	require.NoError(t, err)
	require.Equal(t, []string{Schema}, r.Flags)
}

func TestToolCalls(t *testing.T) {
	s := New(DefaultConfig())
	tools := `"tools": [{"type": "function", "function": {"name": "find", "parameters": ` + personSchema + `}},
		{"type": "function", "function": {"name": "now"}}]`
	for _, c := range []struct{ name, tool, arguments, reason string }{
		{"fits", "find", `{"name": "Ada", "age": 36}`, ""},
		{"does not fit", "find", `{"name": "Ada"}`, "do not fit"},
		{"not JSON", "find", `name=Ada`, "not a JSON value"},
		{"cut off", "find", `{"name": "Ad`, "not a JSON value"},
		{"not an object", "now", `[1]`, "not a JSON object"},
		{"no parameters", "now", `{}`, ""},
		{"no arguments", "now", ``, ""},
		{"unknown tool", "delete", `{}`, "does not offer: delete"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, err := json.Marshal(map[string]any{"choices": []any{map[string]any{"finish_reason": "tool_calls", "message": map[string]any{
				"role": "assistant", "content": nil, "tool_calls": []any{map[string]any{"id": "1", "type": "function",
					"function": map[string]any{"name": c.tool, "arguments": c.arguments}}}}}}})
			require.NoError(t, err)
			r, err := s.Score(askFor(tools), answer, Options{})
			require.NoError(t, err)
			require.Equal(t, c.reason != "", r.Has(ToolCall), r.Reason)
			require.Contains(t, r.Reason, c.reason)
			require.False(t, r.Has(Empty), "a tool call is an answer")
			require.Empty(t, r.Metrics, "there is no text to measure")
			if c.reason == "" {
				require.Equal(t, 1.0, r.Score)
			}
		})
	}
}

// doubling is a schema whose check visits 2 to the power of n places.
func doubling(n int) string {
	var b strings.Builder
	b.WriteString(`{"$ref": "#/$defs/d0", "$defs": {`)
	for i := range n {
		fmt.Fprintf(&b, `"d%d": {"allOf": [{"$ref": "#/$defs/d%d"}, {"$ref": "#/$defs/d%d"}]},`, i, i+1, i+1)
	}
	fmt.Fprintf(&b, `"d%d": {"type": "string"}}}`, n)
	return b.String()
}

// branching is a schema that visits each level of a nested value twice.
const branching = `{"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [
	{"properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["b"]}, {"properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["c"]}]}}}`

func TestHostileSchemas(t *testing.T) {
	enum := `"x"` + strings.Repeat(`,"abcdefgh"`, 5000)
	many := "[" + strings.Repeat(`1,`, 100_000) + "1]"
	for name, c := range map[string]struct{ schema, answer, reason string }{
		"doubling references":     {doubling(40), `1`, "takes too long"},
		"doubling, draft 7":       {strings.Replace(doubling(40), "{", `{"$schema": "http://json-schema.org/draft-07/schema#",`, 1), `1`, "takes too long"},
		"branching on each level": {branching, strings.Repeat(`{"a":`, 60) + "1" + strings.Repeat("}", 60), "takes too long"},
		"reference to itself":     {`{"$ref": "#"}`, `1`, "does not fit"},
		"long enum, many values":  {`{"items": {"enum": [` + enum + `]}}`, many, "takes too long"},
		"remote reference":        {`{"$ref": "http://example.com/schema.json"}`, `1`, "not followed"},
		"file reference":          {`{"$ref": "file:///etc/passwd"}`, `1`, "not followed"},
		"remote dialect":          {`{"$schema": "http://example.com/dialect"}`, `1`, "not followed"},
		"own vocabulary":          {`{"$vocabulary": {"urn:x": true}}`, `1`, "vocabulary"},
		"too many patterns":       {`{"allOf": [` + strings.Repeat(`{"pattern": "a"},`, 100) + `{}]}`, `"a"`, "regular expressions"},
		"pattern that explodes":   {`{"pattern": "((((a{100}){100}){100}){100})"}`, `"a"`, "not checked"},
		"too large":               {`{"title": "` + strings.Repeat("x", 100_000) + `"}`, `1`, "over 65536 bytes"},
		"too deep":                {strings.Repeat(`{"not":`, 200) + "{}" + strings.Repeat("}", 200), `1`, "nested deeper"},
		"no schema":               {`{"type": "nothing"}`, `1`, "not checked"},
		"bound of a gigabyte":     {`{"minimum": 1e1000000000}`, `1`, "number is too large"},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(DefaultConfig())
			request := askFor(`"response_format": {"type": "json_schema", "json_schema": {"schema": ` + c.schema + `}}`)
			start := time.Now()
			r, err := s.Score(request, reply(c.answer, "stop"), Options{})
			require.NoError(t, err)
			require.Contains(t, r.Reason, c.reason)
			require.Equal(t, !strings.HasPrefix(r.Reason, "not checked"), r.Has(Schema), "an unusable schema is not the answer's fault")
			// Generous: it is a matter of milliseconds against hours.
			require.Less(t, time.Since(start), time.Minute)
		})
	}
}

func TestHeavyPatternIsBounded(t *testing.T) {
	s := New(DefaultConfig())
	schema := `{"allOf": [` + strings.Repeat(`{"pattern": "^(a|b|ab)*c$"},`, 60) + `{}]}`
	start := time.Now()
	r, err := s.Score(askFor(`"x": 1`), reply(`"`+strings.Repeat("ab", 400_000)+`"`, "stop"), Options{Schema: []byte(schema)})
	require.NoError(t, err)
	require.True(t, r.Has(Schema))
	require.Less(t, time.Since(start), time.Minute)
}
