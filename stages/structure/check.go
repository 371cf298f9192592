package structure

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/adpa/processor/schemas"
)

// result is what became of an answer.
type result struct {
	answer     []byte      // the completion, with repaired texts in it
	text       string      // of the first choice that is wrong, as it came
	violations []Violation // of that choice; none if all choices fit
	repaired   []string    // what was done, each once
}

// choice is one answer of a completion.
type choice struct {
	content schemas.Span // of the JSON string; empty where there is no text
	cutOff  bool         // it ended at the limit of its length
	other   bool         // it calls tools or refuses, which is no matter of form
}

// check looks at every choice of a completion. What is no completion passes: that
// is for others to find.
func (f *form) check(completion []byte) result {
	r := result{answer: completion}
	var out []byte
	done := 0
	for _, c := range choices(completion) {
		if c.other {
			continue
		}
		text := ""
		if !c.content.Empty() {
			text, _ = schemas.Unquote(c.content.Of(completion))
		}
		value, repaired := Repair([]byte(text))
		if violations := f.violations(value, c.cutOff); len(violations) > 0 {
			return result{answer: completion, text: text, violations: violations}
		}
		if len(repaired) > 0 {
			out = append(append(out, completion[done:c.content.Start]...), schemas.Quote(string(value))...)
			done = c.content.End
			for _, repair := range repaired {
				if !slices.Contains(r.repaired, repair) {
					r.repaired = append(r.repaired, repair)
				}
			}
		}
	}
	if done > 0 {
		r.answer = append(out, completion[done:]...)
	}
	return r
}

// violations says what is wrong with the text of an answer.
func (f *form) violations(text []byte, cutOff bool) []Violation {
	if len(bytes.TrimSpace(text)) == 0 {
		return []Violation{{Message: "the answer is empty"}}
	}
	t, err := ParseTree(bytes.TrimSpace(text))
	switch {
	case err != nil && cutOff:
		return []Violation{{Message: "the answer was cut off at the limit of its length before its JSON value was complete"}}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return []Violation{{Message: "the answer ends before its JSON value does"}}
	case err != nil:
		return []Violation{{Message: clip(fmt.Sprintf("the answer is not a JSON value alone: %v", err))}}
	case f.schema != nil:
		return f.schema.Violations(t)
	}
	if _, ok := t.Value.(map[string]any); !ok {
		return []Violation{{Message: "the answer is not a JSON object"}}
	}
	return nil
}

// choices reads the answers of a completion.
func choices(completion []byte) (list []choice) {
	whole, _ := schemas.Member(completion, "choices")
	schemas.Elements(whole.Of(completion), func(e schemas.Span) bool {
		list = append(list, readChoice(completion, whole.Start+e.Start, whole.Start+e.End))
		return true
	})
	return list
}

func readChoice(completion []byte, start, end int) (c choice) {
	object := completion[start:end]
	if reason, ok := schemas.Member(object, "finish_reason"); ok {
		c.cutOff = string(reason.Of(object)) == `"length"`
	}
	message, _ := schemas.Member(object, "message")
	start += message.Start
	object = message.Of(object)
	schemas.Members(object, func(name []byte, _, value schemas.Span) bool {
		raw := value.Of(object)
		switch string(name) {
		case "content":
			if len(raw) > 0 && raw[0] == '"' {
				c.content = schemas.Span{Start: start + value.Start, End: start + value.End}
			}
		case "refusal":
			c.other = c.other || len(raw) > 2 && raw[0] == '"'
		case "tool_calls":
			c.other = c.other || len(raw) > 2 && raw[0] == '[' && len(bytes.TrimSpace(raw[1:len(raw)-1])) > 0
		}
		return true
	})
	return c
}
