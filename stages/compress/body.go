package compress

import (
	"bytes"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// part is a text of a message: where its JSON string stands in the body.
type part struct {
	start, end int // with the quotes
	// cached is true when the caller marked the part as the end of a prefix
	// that the provider caches ("cache_control").
	cached bool
}

// message is one element of a body's messages.
type message struct {
	from  role
	parts []part
	// calls is true when the message holds tool calls.
	calls bool
}

// messages are used again, so that a body in which nothing is saved costs no
// allocation.
var messages = sync.Pool{New: func() any { return &message{parts: make([]part, 0, 8)} }}

// eachMessage calls visit for each element of the top-level member messages.
// The body is valid JSON. The message is only valid during the call.
func eachMessage(body []byte, visit func(m *message)) {
	start := skipSpace(body, 0)
	if start >= len(body) || body[start] != '{' {
		return
	}
	m := messages.Get().(*message)
	defer messages.Put(m)
	eachMember(body, start, func(name []byte, start, _ int) bool {
		if string(name) != `"messages"` || body[start] != '[' {
			return true
		}
		eachElement(body, start, func(start, _ int) bool {
			if body[start] == '{' {
				*m = message{parts: m.parts[:0]}
				readMessage(body, start, m)
				visit(m)
			}
			return true
		})
		return true
	})
}

func readMessage(body []byte, start int, m *message) {
	eachMember(body, start, func(name []byte, start, end int) bool {
		switch string(name) {
		case `"role"`:
			m.from = roleOf(body[start:end])
		case `"content"`:
			readContent(body, start, end, m)
		case `"tool_calls"`:
			m.calls = body[start] == '['
		}
		return true
	})
}

func readContent(body []byte, start, end int, m *message) {
	switch body[start] {
	case '"':
		m.parts = append(m.parts, part{start: start, end: end})
	case '[':
		eachElement(body, start, func(start, _ int) bool {
			if body[start] == '{' {
				readPart(body, start, m)
			}
			return true
		})
	}
}

// readPart adds {"type": "text", "text": "..."}.
func readPart(body []byte, start int, m *message) {
	var p part
	isText := false
	eachMember(body, start, func(name []byte, start, end int) bool {
		switch string(name) {
		case `"type"`:
			isText = string(body[start:end]) == `"text"`
		case `"text"`:
			if body[start] == '"' {
				p.start, p.end = start, end
			}
		case `"cache_control"`:
			p.cached = body[start] == '{'
		}
		return true
	})
	if isText && p.end > 0 {
		m.parts = append(m.parts, p)
	}
}

func roleOf(raw []byte) role {
	switch string(raw) {
	case `"system"`, `"developer"`:
		return roleSystem
	case `"user"`:
		return roleUser
	case `"assistant"`:
		return roleAssistant
	case `"tool"`, `"function"`:
		return roleTool
	}
	return roleOther
}

// unquote gives the text of a JSON string, and false when it is not valid.
func unquote(raw []byte) (string, bool) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), true
	}
	text, err := jsontext.AppendUnquote(make([]byte, 0, len(raw)), raw)
	return string(text), err == nil
}

// bodyEdit replaces the JSON string of a part.
type bodyEdit struct {
	part
	text string
}

// spliceBody gives a copy of the body in which the strings of the edits are
// replaced and every other byte is as it was.
func spliceBody(body []byte, edits []bodyEdit) ([]byte, error) {
	out := make([]byte, 0, len(body))
	at := 0
	for _, e := range edits {
		out = append(out, body[at:e.start]...)
		var err error
		if out, err = jsontext.AppendQuote(out, e.text); err != nil {
			return nil, err
		}
		at = e.end
	}
	return append(out, body[at:]...), nil
}
