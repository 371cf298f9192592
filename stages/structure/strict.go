package structure

import "slices"

// What OpenAI's strict mode takes ("Structured model outputs: supported schemas").
// Its bounds on properties, 5,000, and on the characters of names and values,
// 120,000, are beyond what a schema of 64 KB can hold.
const (
	strictLevels = 10
	strictEnums  = 1000 // values of all enums
)

// strictKeywords are those that strict mode knows. The others, such as oneOf,
// not and if, make a request fail there.
var strictKeywords = []string{
	"$defs", "$ref", "additionalProperties", "anyOf", "const", "definitions", "description", "enum",
	"exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maximum", "minItems", "minimum",
	"multipleOf", "pattern", "properties", "required", "title", "type",
}

var strictFormats = []string{"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}

// Strict reports whether the schema keeps the rules of OpenAI's strict mode: an
// object at the root, every object closed and with all its properties required,
// and known keywords only. In doubt it says no, which costs the model's guarantee
// but never an error.
func (s *Schema) Strict() bool {
	root, ok := s.value.(map[string]any)
	if !ok || root["type"] != "object" || root["anyOf"] != nil {
		return false
	}
	x := strictness{}
	return x.schema(root, 1) && x.enums <= strictEnums
}

// Object reports whether only objects can fit the schema, by what it says at its root.
func (s *Schema) Object() bool {
	root, ok := s.value.(map[string]any)
	return ok && root["type"] == "object"
}

// strictness counts what strict mode bounds.
type strictness struct{ enums int }

func (x *strictness) schema(v any, level int) bool {
	s, ok := v.(map[string]any)
	if !ok || level > strictLevels {
		return false
	}
	for keyword := range s {
		if !slices.Contains(strictKeywords, keyword) {
			return false
		}
	}
	if format, ok := s["format"].(string); ok && !slices.Contains(strictFormats, format) {
		return false
	}
	values, _ := s["enum"].([]any)
	x.enums += len(values)
	return x.object(s, level) && x.each(s["anyOf"], level) && x.named(s["$defs"], level) && x.named(s["definitions"], level) &&
		(s["items"] == nil || x.schema(s["items"], level+1))
}

// object checks that an object is closed and needs all its properties.
func (x *strictness) object(s map[string]any, level int) bool {
	types, isList := s["type"].([]any)
	if s["properties"] == nil && s["type"] != "object" && !(isList && slices.Contains(types, any("object"))) {
		return true
	}
	properties, _ := s["properties"].(map[string]any)
	required, _ := s["required"].([]any)
	if s["additionalProperties"] != false || len(required) != len(properties) {
		return false
	}
	for name := range properties {
		if !slices.Contains(required, any(name)) {
			return false
		}
	}
	return x.named(s["properties"], level+1)
}

func (x *strictness) named(v any, level int) bool {
	list, _ := v.(map[string]any)
	for _, s := range list {
		if !x.schema(s, level) {
			return false
		}
	}
	return true
}

func (x *strictness) each(v any, level int) bool {
	list, _ := v.([]any)
	for _, s := range list {
		if !x.schema(s, level) {
			return false
		}
	}
	return true
}
