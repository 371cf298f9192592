package score

import (
	"bytes"
	"errors"
	"io"
)

// structure tells whether an answer is the JSON value that was asked for: the flag
// Format or Schema with the reason, and whether the value is merely cut off.
func (s *Scorer) structure(x *scratch, c *choice) (flag, reason string, cut bool) {
	if !x.asked.json || len(c.calls) > 0 || c.text.empty() {
		return "", "", false
	}
	t, err := parseTree(bytes.TrimSpace(c.text.of(x.output)))
	if err != nil {
		return Format, clip("the answer is not the JSON value that was asked for: " + err.Error()), errors.Is(err, io.ErrUnexpectedEOF)
	}
	if _, object := t.value.(map[string]any); x.asked.object && !object {
		return Format, "the answer is a JSON value but not an object", false
	}
	if x.asked.schema == nil {
		return "", "", false
	}
	schema := s.schemas.get(x.asked.schema)
	if schema.err != nil {
		return "", clip("not checked: " + schema.err.Error()), false
	}
	if reason := schema.violation(t); reason != "" {
		return Schema, "the answer does not fit the schema: " + reason, false
	}
	return "", "", false
}

// toolCalls tells what is wrong with the answer's tool calls, or gives "".
func (s *Scorer) toolCalls(x *scratch, c *choice) string {
	for _, call := range c.calls {
		if reason := s.toolCall(x, call); reason != "" {
			return clip(reason)
		}
	}
	return ""
}

func (s *Scorer) toolCall(x *scratch, k call) string {
	name := k.name.of(x.output)
	for _, t := range x.asked.tools {
		if bytes.Equal(t.name.of(x.names), name) {
			return s.arguments(x, k, t)
		}
	}
	return "the answer calls a tool that the request does not offer: " + string(name[:min(len(name), 64)])
}

// arguments checks a call's arguments. None at all stand for an empty object.
func (s *Scorer) arguments(x *scratch, k call, t tool) string {
	text := bytes.TrimSpace(k.arguments.of(x.output))
	if len(text) == 0 {
		text = []byte("{}")
	}
	value, err := parseTree(text)
	if err != nil {
		return "the arguments of a tool call are not a JSON value: " + err.Error()
	}
	if _, object := value.value.(map[string]any); !object {
		return "the arguments of a tool call are not a JSON object"
	}
	if t.parameters == nil {
		return ""
	}
	schema := s.schemas.get(t.parameters)
	if schema.err != nil {
		return "" // the request's fault, not the answer's
	}
	if reason := schema.violation(value); reason != "" {
		return "the arguments of a tool call do not fit its parameters: " + reason
	}
	return ""
}
