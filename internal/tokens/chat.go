package tokens

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// Chat counts the prompt tokens of a chat completion request in OpenAI's
// format, for the model (not the one that the body names).
//
// Messages count as OpenAI's cookbook says: the texts, three tokens a message,
// one a name and three for the reply. Functions count by the cookbook's
// formula, carried on into nested objects; calls of functions, and a JSON
// schema for the answer, by an estimate, for their form is not public. Images
// count by the rule of the model; an image that would have to be fetched as if
// it were large. Audio and files count as nothing.
//
// The body is read once, as a stream. Members that have no part in the prompt
// are skipped, and so are values of another type than they should have:
// checking requests is not the counter's business. It is an error if the body
// is no JSON object, repeats a member or is not UTF-8.
func (c *Counter) Chat(model string, body []byte) (Count, error) {
	r, err := c.reader(model, body)
	if err != nil {
		return Count{}, err
	}
	defer r.release()
	if err := r.document(r.chatMember); err != nil {
		return Count{}, fmt.Errorf("counting the tokens of a chat request: %w", err)
	}
	if r.functions {
		r.tools += afterFunctions
	}
	return Count{
		Messages: r.rule.scale(r.messages + r.rule.PerReply),
		Tools:    r.rule.scale(r.tools),
		Images:   r.images,
	}, nil
}

// Embeddings counts the tokens of an embeddings request in OpenAI's format:
// those of its texts, or those that it holds already.
func (c *Counter) Embeddings(model string, body []byte) (Count, error) {
	r, err := c.reader(model, body)
	if err != nil {
		return Count{}, err
	}
	defer r.release()
	if err := r.document(r.embeddingsMember); err != nil {
		return Count{}, fmt.Errorf("counting the tokens of an embeddings request: %w", err)
	}
	count := Count{Messages: r.rule.scale(r.messages) + r.given}
	if count.Longest = r.longest; count.Longest == 0 { // there is one input
		count.Longest = count.Messages
	}
	return count, nil
}

// What the cookbook adds for the parts of functions, apart from PerFunction.
const (
	perProperties  = 3
	perProperty    = 3
	perEnum        = -3
	perEnumValue   = 3
	afterFunctions = 12
)

// Estimates for what is not public: what surrounds a call of a function in the
// history, and a schema for the answer.
const (
	perCall   = 3
	perSchema = 8
)

// reader goes through a request and adds up.
type reader struct {
	json   *jsontext.Decoder
	source bytes.Buffer
	rule   Rule
	enc    *Encoding
	buf    []byte // a string without its escapes
	line   []byte // text put together to be counted

	messages, tools, images int
	given                   int  // tokens that the request holds as numbers
	longest                 int  // of several inputs, the tokens of the longest
	functions               bool // whether there was one
}

var readers = sync.Pool{New: func() any { return &reader{json: jsontext.NewDecoder(new(bytes.Buffer))} }}

func (c *Counter) reader(model string, body []byte) (*reader, error) {
	rule, enc, err := c.rule(model)
	if err != nil {
		return nil, err
	}
	r := readers.Get().(*reader)
	r.rule, r.enc = rule, enc
	r.source = *bytes.NewBuffer(body)
	r.json.Reset(&r.source)
	return r, nil
}

func (r *reader) release() {
	// Nothing of the request stays behind.
	*r = reader{json: r.json, buf: bounded(r.buf), line: bounded(r.line)}
	r.json.Reset(&r.source)
	readers.Put(r)
}

func (r *reader) document(member func(name []byte) error) error {
	if kind := r.json.PeekKind(); kind != '{' {
		if _, err := r.json.ReadToken(); err != nil {
			return unexpectedEnd(err)
		}
		return fmt.Errorf("the body is a JSON %s: want an object", kind)
	}
	if err := r.object(member); err != nil {
		return unexpectedEnd(err)
	}
	if _, err := r.json.ReadToken(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("there is more after the JSON object")
	}
	return nil
}

// unexpectedEnd keeps an end of the body from looking like success.
func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (r *reader) chatMember(name []byte) error {
	switch string(name) {
	case "messages":
		return r.array(r.message)
	case "tools":
		return r.array(r.tool)
	case "functions":
		return r.array(r.function)
	case "response_format":
		return r.object(r.formatMember)
	}
	return r.json.SkipValue()
}

func (r *reader) message() error {
	r.messages += r.rule.PerMessage
	return r.object(r.messageMember)
}

func (r *reader) messageMember(name []byte) error {
	switch string(name) {
	case "content":
		if r.json.PeekKind() == '[' {
			return r.array(r.part)
		}
		return r.text(&r.messages)
	case "name":
		if r.json.PeekKind() == '"' {
			r.messages += r.rule.PerName
		}
		return r.text(&r.messages)
	case "tool_calls":
		return r.array(r.call)
	case "function_call":
		r.messages += perCall
		return r.object(r.callMember)
	case "tool_call_id": // links messages; the model does not see it
		return r.json.SkipValue()
	}
	// The role, a refusal, and what other providers add ("reasoning_content").
	return r.text(&r.messages)
}

func (r *reader) call() error {
	r.messages += perCall
	return r.object(func(name []byte) error {
		if string(name) == "function" || string(name) == "custom" {
			return r.object(r.callMember)
		}
		return r.json.SkipValue()
	})
}

func (r *reader) callMember(name []byte) error {
	switch string(name) {
	case "name", "arguments", "input":
		return r.text(&r.messages)
	}
	return r.json.SkipValue()
}

// part is one of the parts of a message: text, refusal, an image, or other.
func (r *reader) part() error {
	if r.json.PeekKind() == '"' {
		return r.text(&r.messages)
	}
	return r.object(func(name []byte) error {
		switch string(name) {
		case "text", "refusal":
			return r.text(&r.messages)
		case "image_url":
			return r.image()
		}
		return r.json.SkipValue()
	})
}

func (r *reader) image() error {
	width, height, detail := maxSide, maxSide, "auto"
	readURL := func() error {
		url, err := r.string()
		if err == nil && url != nil {
			width, height = imageSize(url)
		}
		return err
	}
	var err error
	if r.json.PeekKind() == '"' { // the URL alone, as some write it
		err = readURL()
	} else {
		err = r.object(func(name []byte) error {
			switch string(name) {
			case "url":
				return readURL()
			case "detail":
				value, err := r.string()
				detail = string(value)
				return err
			}
			return r.json.SkipValue()
		})
	}
	r.images += r.rule.Images.Tokens(width, height, detail)
	return err
}

func (r *reader) tool() error {
	return r.object(func(name []byte) error {
		if string(name) == "function" || string(name) == "custom" {
			return r.function()
		}
		return r.json.SkipValue()
	})
}

func (r *reader) function() error {
	r.functions = true
	r.tools += r.rule.PerFunction
	return r.object(func(name []byte) error {
		switch string(name) {
		case "name":
			return r.text(&r.tools)
		case "description":
			return r.described()
		case "parameters":
			return r.object(r.parametersMember)
		}
		return r.json.SkipValue()
	})
}

// parametersMember is a member of the schema of all parameters, whose own type
// and description do not count.
func (r *reader) parametersMember(name []byte) error {
	if string(name) == "type" || string(name) == "description" {
		return r.json.SkipValue()
	}
	return r.schemaMember(name)
}

func (r *reader) schema() error { return r.object(r.schemaMember) }

func (r *reader) schemaMember(name []byte) error {
	switch string(name) {
	case "type", "description":
		return r.described()
	case "enum":
		if r.json.PeekKind() == '[' {
			r.tools += perEnum
		}
		return r.array(func() error {
			r.tools += perEnumValue
			return r.text(&r.tools)
		})
	case "properties":
		return r.properties()
	case "items", "additionalProperties", "not":
		return r.schema()
	case "anyOf", "oneOf", "allOf", "prefixItems":
		return r.array(r.schema)
	case "$defs", "definitions":
		return r.object(func([]byte) error { return r.schema() })
	}
	return r.json.SkipValue()
}

func (r *reader) properties() error {
	first := true
	return r.object(func(name []byte) error {
		if first {
			r.tools += perProperties
			first = false
		}
		r.tools += perProperty + r.enc.CountBytes(name)
		return r.schema()
	})
}

// described counts a type or a description: the cookbook puts a colon before
// it and leaves its full stop away.
func (r *reader) described() error {
	text, err := r.string()
	if err != nil || text == nil {
		return err
	}
	// The colon is part of a piece of text with what is behind it.
	r.line = append(append(r.line[:0], ':'), bytes.TrimSuffix(text, []byte{'.'})...)
	r.tools += r.enc.CountBytes(r.line)
	return nil
}

func (r *reader) formatMember(name []byte) error {
	if string(name) != "json_schema" {
		return r.json.SkipValue()
	}
	r.tools += perSchema
	return r.object(func(name []byte) error {
		switch string(name) {
		case "name", "description":
			return r.text(&r.tools)
		case "schema":
			return r.compact()
		}
		return r.json.SkipValue()
	})
}

// compact counts the JSON that comes next, without white space between its
// tokens.
func (r *reader) compact() error {
	value, err := r.json.ReadValue()
	if err != nil {
		return err
	}
	own := jsontext.Value(append(r.line[:0], value...))
	r.line = own
	if err := own.Compact(); err != nil {
		return err
	}
	r.tools += r.enc.CountBytes(own)
	return nil
}

func (r *reader) embeddingsMember(name []byte) error {
	if string(name) != "input" {
		return r.json.SkipValue()
	}
	if r.json.PeekKind() != '[' {
		return r.text(&r.messages)
	}
	return r.array(r.input)
}

// input is an element of input: a text, an array of tokens, or a token of the
// one input that there is.
func (r *reader) input() error {
	if r.json.PeekKind() == '0' {
		r.given++
		return r.json.SkipValue()
	}
	messages, given := r.messages, r.given
	err := r.oneInput()
	r.longest = max(r.longest, r.rule.scale(r.messages-messages)+r.given-given)
	return err
}

func (r *reader) oneInput() error {
	if r.json.PeekKind() != '[' {
		return r.text(&r.messages)
	}
	return r.array(func() error {
		r.given++
		return r.json.SkipValue()
	})
}

// object calls member with the name of each member of the object that comes
// next; member reads the value, and may use the name until then. What is no
// object is skipped.
func (r *reader) object(member func(name []byte) error) error {
	if r.json.PeekKind() != '{' {
		return r.json.SkipValue()
	}
	if _, err := r.json.ReadToken(); err != nil {
		return err
	}
	for r.json.PeekKind() == '"' {
		name, err := r.string()
		if err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
	}
	_, err := r.json.ReadToken()
	return err
}

// array calls element for each element of the array that comes next; element
// reads it. What is no array is skipped.
func (r *reader) array(element func() error) error {
	if r.json.PeekKind() != '[' {
		return r.json.SkipValue()
	}
	if _, err := r.json.ReadToken(); err != nil {
		return err
	}
	for {
		switch r.json.PeekKind() {
		case ']', 0: // the end, or an error that ReadToken returns
			_, err := r.json.ReadToken()
			return err
		}
		if err := element(); err != nil {
			return err
		}
	}
}

// text adds the tokens of the string that comes next to sum.
func (r *reader) text(sum *int) error {
	text, err := r.string()
	*sum += r.enc.CountBytes(text)
	return err
}

// string returns the string that comes next, until the next call; nil if it is
// something else, which is skipped.
func (r *reader) string() ([]byte, error) {
	if r.json.PeekKind() != '"' {
		return nil, r.json.SkipValue()
	}
	quoted, err := r.json.ReadValue()
	if err != nil {
		return nil, err
	}
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1], nil
	}
	r.buf, err = jsontext.AppendUnquote(r.buf[:0], quoted)
	return r.buf, err
}
