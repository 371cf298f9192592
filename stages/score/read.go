package score

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of what is read. A request or completion past them is refused with an
// error, or scored on what lies within: each constant says which.
const (
	maxBody     = 16 << 20 // bytes of a request or completion; more is an error
	maxMessages = 4096     // messages of a request that are looked at
	maxTools    = 128      // tools of a request, and tool calls of an answer, that are checked
	maxChoices  = 16       // choices of a completion that are scored
)

// role is who speaks in a message.
type role uint8

const (
	roleOther role = iota
	roleUser
	roleSystem
	roleAssistant
	roleTool
)

// span is a piece of a byte slice.
type span struct{ from, to int }

func (s span) of(text []byte) []byte { return text[s.from:s.to] }

func (s span) empty() bool { return s.from == s.to }

// message is one message of the request; its text lies in scratch.prompt.
type message struct {
	role role
	text span
}

// tool is a function that the model may call. Parameters is its raw JSON Schema, or nil.
type tool struct {
	name       span
	parameters []byte
}

// call is a tool call of an answer; name and arguments lie in scratch.output.
type call struct {
	name, arguments span
}

// choice is one answer of a completion; its texts lie in scratch.output.
type choice struct {
	text    span
	refusal span
	calls   []call
	finish  span
}

// asked is what the checks need to know of a request.
type asked struct {
	messages []message
	tools    []tool
	json     bool   // the answer must be a JSON value
	object   bool   // ... and an object
	schema   []byte // the answer must fit this JSON Schema; raw, or nil
}

var (
	errTooLarge = fmt.Errorf("body is over %d bytes", maxBody)
	errShape    = errors.New("not a JSON object")
)

// reader walks one JSON body without building a tree.
// Text of interest is unquoted into an arena that the caller owns.
type reader struct {
	body []byte
	buf  bytes.Buffer
	dec  *jsontext.Decoder
}

// reset points the reader at a body. Invalid UTF-8 is read as U+FFFD:
// an answer with one bad byte is still an answer.
func (r *reader) reset(body []byte) error {
	if len(body) > maxBody {
		return errTooLarge
	}
	r.body = body
	r.buf = *bytes.NewBuffer(body)
	if r.dec == nil {
		r.dec = jsontext.NewDecoder(&r.buf, jsontext.AllowInvalidUTF8(true))
		return nil
	}
	r.dec.Reset(&r.buf, jsontext.AllowInvalidUTF8(true))
	return nil
}

// object calls member for each member of the object that comes next.
// A value that is no object is skipped, and reported by a false result.
func (r *reader) object(member func(name []byte) error) (bool, error) {
	if r.dec.PeekKind() != '{' {
		return false, r.dec.SkipValue()
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return false, err
	}
	for r.dec.PeekKind() == '"' {
		name, err := r.dec.ReadValue()
		if err != nil {
			return false, err
		}
		if bytes.IndexByte(name, '\\') >= 0 { // rare: a name written with escapes
			if name, err = jsontext.AppendUnquote(nil, name); err != nil {
				return false, err
			}
		} else {
			name = name[1 : len(name)-1]
		}
		if err := member(name); err != nil {
			return false, err
		}
	}
	_, err := r.dec.ReadToken()
	return true, err
}

// array calls element for each element of the array that comes next, up to limit;
// the rest is skipped, as is a value that is no array.
func (r *reader) array(limit int, element func() error) error {
	if r.dec.PeekKind() != '[' {
		return r.dec.SkipValue()
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	for n := 0; ; n++ {
		kind := r.dec.PeekKind()
		if kind == ']' || kind == 0 {
			_, err := r.dec.ReadToken()
			return err
		}
		if n >= limit {
			if err := r.dec.SkipValue(); err != nil {
				return err
			}
			continue
		}
		if err := element(); err != nil {
			return err
		}
	}
}

// text appends the string that comes next to the arena and returns where it lies.
// Anything else than a string is skipped and leaves an empty span.
func (r *reader) text(arena *[]byte) (span, error) {
	from := len(*arena)
	if r.dec.PeekKind() != '"' {
		return span{from, from}, r.dec.SkipValue()
	}
	value, err := r.dec.ReadValue()
	if err != nil {
		return span{}, err
	}
	if bytes.IndexByte(value, '\\') < 0 {
		*arena = append(*arena, value[1:len(value)-1]...)
	} else {
		// The decoder has checked the syntax; what is left to complain of is invalid
		// UTF-8, which AppendUnquote replaces by U+FFFD.
		*arena, _ = jsontext.AppendUnquote(*arena, value)
	}
	return span{from, len(*arena)}, nil
}

// raw returns the bytes of the value that comes next; they alias the body.
func (r *reader) raw() ([]byte, error) {
	value, err := r.dec.ReadValue()
	if err != nil {
		return nil, err
	}
	end := int(r.dec.InputOffset())
	return r.body[end-len(value) : end], nil
}

// content appends the text of a message's content: a string, or the text parts of an array.
func (r *reader) content(arena *[]byte) (span, error) {
	if r.dec.PeekKind() != '[' {
		return r.text(arena)
	}
	whole := span{len(*arena), len(*arena)}
	err := r.array(maxMessages, func() error {
		_, err := r.object(func(name []byte) error {
			if string(name) != "text" {
				return r.dec.SkipValue()
			}
			if len(*arena) > whole.from {
				*arena = append(*arena, '\n')
			}
			_, err := r.text(arena)
			return err
		})
		return err
	})
	whole.to = len(*arena)
	return whole, err
}

// finish checks that nothing follows the body's value.
func (r *reader) finish() error {
	if r.dec.PeekKind() == 0 && int(r.dec.InputOffset())+len(bytes.TrimSpace(r.body[r.dec.InputOffset():])) == int(r.dec.InputOffset()) {
		return nil
	}
	return errors.New("more data after the JSON value")
}

// readRequest reads what the checks need of a chat completion request.
func (x *scratch) readRequest(body []byte) error {
	r := &x.reader
	if err := r.reset(body); err != nil {
		return err
	}
	ok, err := r.object(func(name []byte) error {
		switch string(name) {
		case "messages":
			return r.array(maxMessages, x.readMessage)
		case "tools":
			return r.array(maxTools, x.readTool)
		case "response_format":
			return x.readResponseFormat()
		case "processor":
			return x.readProcessor()
		default:
			return r.dec.SkipValue()
		}
	})
	return x.ended(ok, err)
}

func (x *scratch) ended(ok bool, err error) error {
	if err != nil {
		return err
	}
	if !ok {
		return errShape
	}
	return x.reader.finish()
}

func (x *scratch) readMessage() error {
	var m message
	r := &x.reader
	_, err := r.object(func(name []byte) (err error) {
		switch string(name) {
		case "role":
			m.role, err = x.readRole()
		case "content":
			m.text, err = r.content(&x.prompt)
			x.prompt = append(x.prompt, '\n') // keeps the words of two messages apart
		default:
			err = r.dec.SkipValue()
		}
		return err
	})
	x.asked.messages = append(x.asked.messages, m)
	return err
}

func (x *scratch) readRole() (role, error) {
	if x.reader.dec.PeekKind() != '"' {
		return roleOther, x.reader.dec.SkipValue()
	}
	value, err := x.reader.dec.ReadValue()
	if err != nil {
		return roleOther, err
	}
	switch string(value) {
	case `"user"`:
		return roleUser, nil
	case `"system"`, `"developer"`:
		return roleSystem, nil
	case `"assistant"`:
		return roleAssistant, nil
	case `"tool"`, `"function"`:
		return roleTool, nil
	}
	return roleOther, nil
}

// readTool reads {"type": "function", "function": {"name": ..., "parameters": {...}}}.
func (x *scratch) readTool() error {
	r := &x.reader
	_, err := r.object(func(name []byte) error {
		if string(name) != "function" {
			return r.dec.SkipValue()
		}
		var t tool
		_, err := r.object(func(name []byte) (err error) {
			switch string(name) {
			case "name":
				t.name, err = r.text(&x.names)
			case "parameters":
				t.parameters, err = r.raw()
			default:
				err = r.dec.SkipValue()
			}
			return err
		})
		x.asked.tools = append(x.asked.tools, t)
		return err
	})
	return err
}

// readResponseFormat reads {"type": "json_object"} and {"type": "json_schema", "json_schema": {"schema": {...}}}.
func (x *scratch) readResponseFormat() error {
	r := &x.reader
	_, err := r.object(func(name []byte) error {
		switch string(name) {
		case "type":
			kind, err := r.raw()
			x.asked.object = string(kind) == `"json_object"`
			x.asked.json = x.asked.json || x.asked.object || string(kind) == `"json_schema"`
			return err
		case "json_schema":
			_, err := r.object(x.readSchemaMember)
			return err
		default:
			return r.dec.SkipValue()
		}
	})
	return err
}

// readSchemaMember takes the member "schema" of the object being read.
func (x *scratch) readSchemaMember(name []byte) (err error) {
	if string(name) != "schema" || x.reader.dec.PeekKind() == 'n' {
		return x.reader.dec.SkipValue()
	}
	x.asked.schema, err = x.reader.raw()
	x.asked.json = true
	return err
}

// readProcessor reads {"structure": {"format": "json", "schema": {...}}}.
func (x *scratch) readProcessor() error {
	r := &x.reader
	_, err := r.object(func(name []byte) error {
		if string(name) != "structure" {
			return r.dec.SkipValue()
		}
		_, err := r.object(func(name []byte) error {
			if string(name) != "format" {
				return x.readSchemaMember(name)
			}
			format, err := r.raw()
			x.asked.json = x.asked.json || string(format) == `"json"`
			return err
		})
		return err
	})
	return err
}

// readCompletion reads the answers of a chat completion.
func (x *scratch) readCompletion(body []byte) error {
	r := &x.reader
	if err := r.reset(body); err != nil {
		return err
	}
	ok, err := r.object(func(name []byte) error {
		if string(name) != "choices" {
			return r.dec.SkipValue()
		}
		return r.array(maxChoices, x.readChoice)
	})
	return x.ended(ok, err)
}

func (x *scratch) readChoice() error {
	var c choice
	r := &x.reader
	_, err := r.object(func(name []byte) (err error) {
		switch string(name) {
		case "finish_reason":
			c.finish, err = r.text(&x.output)
		case "message":
			_, err = r.object(func(name []byte) error { return x.readAnswer(name, &c) })
		default:
			err = r.dec.SkipValue()
		}
		return err
	})
	x.choices = append(x.choices, c)
	return err
}

func (x *scratch) readAnswer(name []byte, c *choice) (err error) {
	r := &x.reader
	switch string(name) {
	case "content":
		c.text, err = r.content(&x.output)
	case "refusal":
		c.refusal, err = r.text(&x.output)
	case "tool_calls":
		err = r.array(maxTools, func() error { return x.readCall(c) })
	default:
		err = r.dec.SkipValue()
	}
	return err
}

// readCall reads {"function": {"name": ..., "arguments": "..."}}.
func (x *scratch) readCall(c *choice) error {
	r := &x.reader
	_, err := r.object(func(name []byte) error {
		if string(name) != "function" {
			return r.dec.SkipValue()
		}
		var k call
		_, err := r.object(func(name []byte) (err error) {
			switch string(name) {
			case "name":
				k.name, err = r.text(&x.output)
			case "arguments":
				k.arguments, err = r.text(&x.output)
			default:
				err = r.dec.SkipValue()
			}
			return err
		})
		c.calls = append(c.calls, k)
		return err
	})
	return err
}
