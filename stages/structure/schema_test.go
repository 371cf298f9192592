package structure

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const personSchema = `{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
	"required": ["name", "age"], "additionalProperties": false}`

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

func check(raw []byte) error {
	_, err := Compile(raw)
	return err
}

func parse(t *testing.T, text string) Tree {
	tree, err := ParseTree([]byte(text))
	require.NoError(t, err)
	return tree
}

func TestCompile(t *testing.T) {
	require.NoError(t, check([]byte(personSchema)))
	require.ErrorContains(t, check([]byte(`{"type": "nothing"}`)), "compiling the schema")
	require.ErrorContains(t, check([]byte(`{"type": `)), "parsing the schema")
}

func TestSchemaCacheIsBounded(t *testing.T) {
	c := NewSchemas()
	for i := range maxSchemas + 50 {
		s, err := c.Get(fmt.Appendf(nil, `{"const": %d}`, i))
		require.NoError(t, err)
		require.Empty(t, s.Violations(Tree{json.Number(fmt.Sprint(i)), 1}))
	}
	require.Equal(t, maxSchemas, c.lru.Len())
	first, _ := c.Get([]byte(`{"const": 300}`))
	again, _ := c.Get([]byte(`{"const": 300}`))
	require.Same(t, first, again)
	_, err := c.Get([]byte(`{"title": "` + strings.Repeat("x", maxSchemaBytes) + `"}`))
	require.ErrorIs(t, err, errSchemaBytes)
	require.Equal(t, maxSchemas, c.lru.Len(), "what is too large is not kept")
}

// A check that runs out of steps leaves nothing behind that would change the next one.
func TestCheckAfterExhaustion(t *testing.T) {
	s, err := Compile([]byte(doubling(40)))
	require.NoError(t, err)
	for range 3 {
		require.Equal(t, []Violation{{Message: errWork.Error()}}, s.Violations(parse(t, "1")))
	}
	light, err := Compile([]byte(doubling(5)))
	require.NoError(t, err)
	require.NotEmpty(t, light.Violations(parse(t, "1")))
	require.Empty(t, light.Violations(parse(t, `"text"`)))
}

func TestViolationsNameThePlaceOfEach(t *testing.T) {
	s, err := Compile([]byte(`{"properties": {"a/b": {"type": "string"}, "list": {"items": {"type": "integer", "maximum": 9}}}, "required": ["c"]}`))
	require.NoError(t, err)
	require.Equal(t, []Violation{
		{"", "missing property 'c'"},
		{"/a~1b", "got number, want string"},
		{"/list/1", "got string, want integer"},
		{"/list/2", "maximum: got 10, want 9"},
	}, s.Violations(parse(t, `{"a/b": 1, "list": [1, "2", 10]}`)))
}

func TestViolationsAreBounded(t *testing.T) {
	s, err := Compile([]byte(`{"items": {"type": "integer"}}`))
	require.NoError(t, err)
	list := s.Violations(parse(t, "["+strings.Repeat(`"x",`, 20_000)+`"x"]`))
	require.Len(t, list, maxViolations)
}
