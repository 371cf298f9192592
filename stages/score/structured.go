package score

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/adpa/processor/stages/structure"
)

// maxReason bounds what is said of an answer that does not fit, in bytes.
const maxReason = 300

// structure tells whether an answer is the JSON value that was asked for: the flag
// Format or Schema with the reason, and whether the value is merely cut off.
func (s *Scorer) structure(x *scratch, c *choice) (flag, reason string, cut bool) {
	if !x.asked.json || len(c.calls) > 0 || c.text.empty() {
		return "", "", false
	}
	t, err := structure.ParseTree(bytes.TrimSpace(c.text.of(x.output)))
	if err != nil {
		return Format, clip("the answer is not the JSON value that was asked for: " + err.Error()), errors.Is(err, io.ErrUnexpectedEOF)
	}
	if _, object := t.Value.(map[string]any); x.asked.object && !object {
		return Format, "the answer is a JSON value but not an object", false
	}
	if x.asked.schema == nil {
		return "", "", false
	}
	schema, err := s.schemas.Get(x.asked.schema)
	if err != nil {
		return "", clip("not checked: " + err.Error()), false
	}
	if wrong := schema.Violations(t); len(wrong) > 0 {
		return Schema, clip("the answer does not fit the schema: " + wrong[0].String()), false
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
	value, err := structure.ParseTree(text)
	if err != nil {
		return "the arguments of a tool call are not a JSON value: " + err.Error()
	}
	if _, object := value.Value.(map[string]any); !object {
		return "the arguments of a tool call are not a JSON object"
	}
	if t.parameters == nil {
		return ""
	}
	schema, err := s.schemas.Get(t.parameters)
	if err != nil {
		return "" // the request's fault, not the answer's
	}
	if wrong := schema.Violations(value); len(wrong) > 0 {
		return "the arguments of a tool call do not fit its parameters: " + wrong[0].String()
	}
	return ""
}

// clip bounds a description.
func clip(s string) string {
	if len(s) > maxReason {
		return strings.ToValidUTF8(s[:maxReason], "") + "..."
	}
	return s
}
