package structure

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStrict(t *testing.T) {
	levels := func(n int) string {
		open := `{"type": "object", "additionalProperties": false, "required": ["a"], "properties": {"a": `
		return strings.Repeat(open, n-1) + `{"type": "string"}` + strings.Repeat("}}", n-1)
	}
	enum := func(n int) string {
		return `{"type": "object", "additionalProperties": false, "properties": {"a": {"enum": [0` + strings.Repeat(",1", n-1) + `]}}, "required": ["a"]}`
	}
	for name, c := range map[string]struct {
		schema string
		want   bool
	}{
		"closed and required":   {personSchema, true},
		"open":                  {`{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}`, false},
		"optional":              {`{"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false}`, false},
		"another is required":   {`{"type": "object", "properties": {"a": {}}, "required": ["b"], "additionalProperties": false}`, false},
		"no object":             {`{"type": "array", "items": {"type": "string"}}`, false},
		"anyOf at the root":     {`{"type": "object", "anyOf": [{}], "properties": {}, "required": [], "additionalProperties": false}`, false},
		"empty object":          {`{"type": "object", "properties": {}, "required": [], "additionalProperties": false}`, true},
		"nested open":           {`{"type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"], "additionalProperties": false}`, false},
		"nullable open object":  {`{"type": "object", "properties": {"a": {"type": ["object", "null"]}}, "required": ["a"], "additionalProperties": false}`, false},
		"references":            {`{"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "required": ["a"], "additionalProperties": false, "$defs": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}`, true},
		"oneOf":                 {`{"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}]}}, "required": ["a"], "additionalProperties": false}`, false},
		"minLength":             {`{"type": "object", "properties": {"a": {"type": "string", "minLength": 2}}, "required": ["a"], "additionalProperties": false}`, false},
		"unknown format":        {`{"type": "object", "properties": {"a": {"type": "string", "format": "uri"}}, "required": ["a"], "additionalProperties": false}`, false},
		"known format":          {`{"type": "object", "properties": {"a": {"type": "string", "format": "date"}}, "required": ["a"], "additionalProperties": false}`, true},
		"boolean schema within": {`{"type": "object", "properties": {"a": true}, "required": ["a"], "additionalProperties": false}`, false},
		"ten levels":            {levels(10), true},
		"eleven levels":         {levels(11), false},
		"a thousand values":     {enum(strictEnums), true},
		"too many values":       {enum(strictEnums + 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Compile([]byte(c.schema))
			require.NoError(t, err)
			require.Equal(t, c.want, s.Strict())
		})
	}
}
