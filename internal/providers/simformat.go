package providers

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// formatted gives the answer in the form that response_format asks for.
func (x *scratch) formatted(extract []byte) []byte {
	var format struct {
		Type   string `json:"type"`
		Schema struct {
			Schema map[string]any `json:"schema"`
		} `json:"json_schema"`
	}
	if json.Unmarshal(x.request.format, &format, jsontext.AllowInvalidUTF8(true)) != nil {
		return extract
	}
	switch format.Type {
	case "json_object":
		return encoded(map[string]any{"answer": string(extract)})
	case "json_schema":
		g := instance{root: format.Schema.Schema, text: string(extract)}
		return encoded(g.of(format.Schema.Schema, 0))
	}
	return extract
}

func encoded(value any) []byte {
	out, err := json.Marshal(value, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil { // a constant of the schema that JSON has no form for
		return []byte("null")
	}
	return out
}

// toolCall gives a list of tool calls where the request demands one: tool_choice
// is required, or names a function. With auto the simulated provider answers in text.
func (x *scratch) toolCall() []byte {
	if len(x.request.tools) == 0 || len(x.request.choice) == 0 {
		return nil
	}
	named := ""
	if span, ok := schemas.Member(x.request.choice, "function"); ok {
		function := span.Of(x.request.choice)
		if name, ok := schemas.Member(function, "name"); ok {
			named = textOf(name.Of(function))
		}
	} else if string(x.request.choice) != `"required"` {
		return nil
	}
	var tools []struct {
		Function struct {
			Name       string         `json:"name"`
			Parameters map[string]any `json:"parameters"`
		} `json:"function"`
	}
	if json.Unmarshal(x.request.tools, &tools, jsontext.AllowInvalidUTF8(true)) != nil {
		return nil
	}
	for _, tool := range tools {
		if named != "" && tool.Function.Name != named {
			continue
		}
		arguments := []byte("{}")
		if tool.Function.Parameters != nil {
			g := instance{root: tool.Function.Parameters, text: string(x.extract())}
			arguments = encoded(g.of(tool.Function.Parameters, 0))
		}
		return encoded([]map[string]any{{
			"id": "call_simulated", "type": "function",
			"function": map[string]any{"name": tool.Function.Name, "arguments": string(arguments)},
		}})
	}
	return nil
}

// instance makes a value that fits a JSON Schema, as far as the usual keywords
// go: type, const, enum, default-free properties, required, items, minItems,
// the bounds of strings and numbers, $ref within the schema, anyOf, oneOf, allOf.
type instance struct {
	root  map[string]any
	text  string
	nodes int
}

// Bounds of what is made.
const (
	maxInstanceDepth = 16
	maxInstanceNodes = 2000
)

func (g *instance) of(schema any, depth int) any {
	s, ok := schema.(map[string]any)
	if g.nodes++; !ok || depth > maxInstanceDepth || g.nodes > maxInstanceNodes {
		return nil
	}
	if value, ok := s["const"]; ok {
		return value
	}
	if list, ok := s["enum"].([]any); ok && len(list) > 0 {
		return list[0]
	}
	if ref, ok := s["$ref"].(string); ok {
		return g.of(g.resolve(ref), depth+1)
	}
	for _, name := range []string{"anyOf", "oneOf"} {
		if list, ok := s[name].([]any); ok && len(list) > 0 {
			return g.of(list[0], depth+1)
		}
	}
	if list, ok := s["allOf"].([]any); ok {
		return g.of(merged(s, list), depth+1)
	}
	return g.typed(s, depth)
}

func (g *instance) typed(s map[string]any, depth int) any {
	switch typeOf(s) {
	case "object":
		return g.object(s, depth)
	case "array":
		list := []any{}
		for range min(max(int(number(s, "minItems", 1)), 0), 100) {
			list = append(list, g.of(s["items"], depth+1))
		}
		return list
	case "string":
		return g.string(s)
	case "integer":
		return int64(clampTo(1, math.Ceil(number(s, "minimum", number(s, "exclusiveMinimum", math.Inf(-1))+1)), math.Floor(number(s, "maximum", math.Inf(1)))))
	case "number":
		low, high := number(s, "minimum", math.Inf(-1)), number(s, "maximum", math.Inf(1))
		return clampTo(0.5, low, high)
	case "boolean":
		return true
	}
	return nil
}

func (g *instance) object(s map[string]any, depth int) any {
	out := map[string]any{}
	properties, _ := s["properties"].(map[string]any)
	required, _ := s["required"].([]any)
	for name, property := range properties {
		// Deep down only what must be there is made, so that a schema which
		// contains itself comes to an end.
		if depth < maxInstanceDepth/4 || contains(required, name) {
			out[name] = g.of(property, depth+1)
		}
	}
	return out
}

func (g *instance) string(s map[string]any) string {
	switch s["format"] {
	case "date-time":
		return "2026-01-01T00:00:00Z"
	case "date":
		return "2026-01-01"
	case "email":
		return "simulated@example.com"
	case "uri":
		return "https://example.com/"
	case "uuid":
		return "00000000-0000-4000-8000-000000000000"
	}
	text := []rune(g.text)
	if most := number(s, "maxLength", math.Inf(1)); float64(len(text)) > most {
		text = text[:max(int(most), 0)]
	}
	if least := int(min(number(s, "minLength", 0), 10_000)); len(text) < least {
		return string(text) + strings.Repeat(".", least-len(text))
	}
	return string(text)
}

// resolve follows a reference within the schema, as in #/$defs/item.
func (g *instance) resolve(ref string) any {
	var at any = g.root
	for _, name := range strings.Split(strings.TrimPrefix(ref, "#"), "/")[1:] {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)]
	}
	return at
}

func typeOf(s map[string]any) string {
	switch t := s["type"].(type) {
	case string:
		return t
	case []any:
		if len(t) > 0 {
			name, _ := t[0].(string)
			return name
		}
	}
	if s["properties"] != nil {
		return "object"
	}
	if s["items"] != nil {
		return "array"
	}
	return "string"
}

// merged puts the schemas of an allOf together; of equal keywords the last wins,
// but properties and required add up.
func merged(s map[string]any, all []any) map[string]any {
	out := map[string]any{}
	properties, required := map[string]any{}, []any{}
	for _, part := range append([]any{s}, all...) {
		p, _ := part.(map[string]any)
		for name, value := range p {
			if name != "allOf" {
				out[name] = value
			}
		}
		more, _ := p["properties"].(map[string]any)
		maps.Copy(properties, more)
		list, _ := p["required"].([]any)
		required = append(required, list...)
	}
	if len(properties) > 0 {
		out["properties"], out["required"] = properties, required
	}
	return out
}

func number(s map[string]any, name string, missing float64) float64 {
	if n, ok := s[name].(float64); ok {
		return n
	}
	return missing
}

func clampTo(value, low, high float64) float64 { return min(max(value, low), high) }

func contains(list []any, name string) bool {
	return slices.Contains(list, any(name))
}
