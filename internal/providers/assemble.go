package providers

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// assembler puts the chunks of a streamed completion together into the whole
// object that the same request would have brought without streaming. Texts stay
// in their escaped form, so that a character split between chunks is whole again.
type assembler struct {
	limit   int // bytes kept
	size    int
	members members   // of the completion, but choices, usage and object
	choices []*choice // by index
	billed  []byte    // the usage object, nil while unknown
}

// choice is one answer of a completion while it grows.
type choice struct {
	index    int
	message  members
	calls    []*toolCall // by index
	function *toolCall   // the function_call of older APIs
	logprobs members
	rest     members // finish_reason and what else there is
	finished bool
}

type toolCall struct {
	index     int
	members   members // id, type and what else there is
	function  members // but arguments
	arguments []byte  // escaped, without quotes
}

func newAssembler(limit int) *assembler { return &assembler{limit: limit} }

// members is an object's members in the order in which they came first.
type members []member

type member struct {
	name  string // escaped, without quotes
	value []byte // JSON
}

func (m members) get(name string) []byte {
	for i := range m {
		if m[i].name == name {
			return m[i].value
		}
	}
	return nil
}

// set replaces a value; null does not replace what is there. It gives how many
// bytes are kept more than before.
func (m *members) set(name, value []byte) int {
	null := string(value) == "null"
	for i := range *m {
		if (*m)[i].name != string(name) {
			continue
		}
		before := len((*m)[i].value)
		if !null && !bytes.Equal((*m)[i].value, value) {
			(*m)[i].value = append((*m)[i].value[:0], value...)
		}
		return len((*m)[i].value) - before
	}
	*m = append(*m, member{string(name), bytes.Clone(value)})
	return len(name) + len(value)
}

// join appends a text to a text or a list to a list, and else sets.
func (m *members) join(name, value []byte) int {
	for i := range *m {
		old := &(*m)[i]
		if old.name == string(name) && len(old.value) >= 2 && old.value[0] == value[0] && (value[0] == '"' || value[0] == '[') {
			before := len(old.value)
			old.value = joinValues(old.value, value)
			return len(old.value) - before
		}
	}
	return m.set(name, value)
}

// joinValues appends the inside of a text or list to that of another.
func joinValues(old, value []byte) []byte {
	last := old[len(old)-1]
	inside := value[1 : len(value)-1]
	old = old[:len(old)-1]
	if value[0] == '[' && len(bytes.TrimSpace(inside)) > 0 && len(bytes.TrimSpace(old)) > 1 {
		old = append(old, ',')
	}
	return append(append(old, inside...), last)
}

// add takes one chunk. It tells whether the chunk holds the usage and no
// choices. An error object in the place of a chunk is the error.
func (a *assembler) add(chunk []byte) (usageOnly bool, err error) {
	chunk = bytes.TrimSpace(chunk)
	if len(chunk) == 0 || chunk[0] != '{' || !jsontext.Value(chunk).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) {
		return false, errNotObject
	}
	var failure []byte
	choices, usage := false, false
	schemas.Members(chunk, func(name []byte, _, value schemas.Span) bool {
		switch v := value.Of(chunk); string(name) {
		case "choices":
			objects(v, func(element []byte) {
				choices = true
				a.size += a.choice(element)
			})
		case "usage":
			if v[0] == '{' {
				usage = true
				a.billed = append(a.billed[:0], v...)
			}
		case "error":
			failure = v
		case "object", "obfuscation": // chat.completion.chunk; padding
		default:
			a.size += a.members.set(name, v)
		}
		return a.size <= a.limit
	})
	if a.size > a.limit {
		return false, errTooLarge
	}
	if len(failure) > 0 && failure[0] == '{' {
		return false, errorInBody(failure, a.usage())
	}
	return usage && !choices, nil
}

// maxChoices bounds the choices of a completion, and the tool calls of one.
const maxChoices = 256

// choice adds the piece of a choice that a chunk brings, and gives how many
// bytes are kept of it.
func (a *assembler) choice(object []byte) (kept int) {
	c := a.at(indexOf(object, 0))
	if c == nil {
		return 0
	}
	schemas.Members(object, func(name []byte, _, value schemas.Span) bool {
		switch v := value.Of(object); string(name) {
		case "index":
		case "delta":
			kept += c.delta(v)
		case "logprobs":
			schemas.Members(v, func(name []byte, _, value schemas.Span) bool {
				kept += c.logprobs.join(name, value.Of(v))
				return true
			})
		case "finish_reason":
			c.finished = c.finished || v[0] == '"'
			kept += c.rest.set(name, v)
		default:
			kept += c.rest.set(name, v)
		}
		return true
	})
	return kept
}

// at gives the choice with an index, made if need be; nil past the bound.
func (a *assembler) at(index int) *choice {
	i, found := slices.BinarySearchFunc(a.choices, index, func(c *choice, index int) int { return c.index - index })
	if !found {
		if len(a.choices) >= maxChoices {
			return nil
		}
		a.choices = slices.Insert(a.choices, i, &choice{index: index})
	}
	return a.choices[i]
}

func indexOf(object []byte, missing int) int {
	span, ok := schemas.Member(object, "index")
	if !ok {
		return missing
	}
	n, err := strconv.Atoi(string(span.Of(object)))
	if err != nil {
		return missing
	}
	return n
}

func (c *choice) delta(object []byte) (kept int) {
	schemas.Members(object, func(name []byte, _, value schemas.Span) bool {
		switch v := value.Of(object); string(name) {
		case "role":
			if string(v) != `""` {
				kept += c.message.set(name, v)
			}
		case "tool_calls":
			objects(v, func(piece []byte) { kept += c.toolCall(piece) })
		case "function_call":
			if v[0] == '{' {
				if c.function == nil {
					c.function = new(toolCall)
				}
				kept += c.function.addFunction(v)
			}
		default:
			kept += c.message.join(name, v)
		}
		return true
	})
	return kept
}

// toolCall adds a piece of a tool call. Where a server leaves out the index, a
// piece with an id begins a call and one without goes on with the last.
func (c *choice) toolCall(object []byte) (kept int) {
	next := len(c.calls)
	if id, ok := schemas.Member(object, "id"); !ok || len(id.Of(object)) <= 2 || string(id.Of(object)) == "null" {
		next = max(next-1, 0)
	}
	index := indexOf(object, next)
	i, found := slices.BinarySearchFunc(c.calls, index, func(t *toolCall, index int) int { return t.index - index })
	if !found {
		if len(c.calls) >= maxChoices {
			return 0
		}
		c.calls = slices.Insert(c.calls, i, &toolCall{index: index})
	}
	t := c.calls[i]
	schemas.Members(object, func(name []byte, _, value schemas.Span) bool {
		switch v := value.Of(object); string(name) {
		case "index":
		case "function":
			kept += t.addFunction(v)
		default:
			if string(v) != `""` {
				kept += t.members.set(name, v)
			}
		}
		return true
	})
	return kept
}

func (t *toolCall) addFunction(object []byte) (kept int) {
	schemas.Members(object, func(name []byte, _, value schemas.Span) bool {
		v := value.Of(object)
		switch {
		case string(name) != "arguments":
			if string(v) != `""` {
				kept += t.function.set(name, v)
			}
		case v[0] == '"':
			t.arguments = append(t.arguments, v[1:len(v)-1]...)
			kept += len(v)
		case v[0] == '{': // a server that sends the object itself
			quoted := schemas.Quote(string(v))
			t.arguments = append(t.arguments, quoted[1:len(quoted)-1]...)
			kept += len(quoted)
		}
		return true
	})
	return kept
}

// finished gives how many choices have their finish reason; 0 if any began and has not.
func (a *assembler) finished() int {
	for _, c := range a.choices {
		if !c.finished {
			return 0
		}
	}
	return len(a.choices)
}

func (a *assembler) usage() schemas.Usage { return readUsage(a.billed) }

// answer gives the whole.
func (a *assembler) answer() schemas.Answer {
	out := []byte(`{`)
	seen := false
	for _, m := range a.members {
		out = appendMember(out, m.name, m.value)
		if !seen && m.name == "id" {
			out, seen = append(out, `,"object":"chat.completion"`...), true
		}
	}
	if !seen {
		out = appendMember(out, "object", []byte(`"chat.completion"`))
	}
	out = appendName(out, "choices")
	out = append(out, '[')
	for i, c := range a.choices {
		if i > 0 {
			out = append(out, ',')
		}
		out = c.append(out)
	}
	out = append(out, ']')
	if a.billed != nil {
		out = appendMember(out, "usage", a.billed)
	}
	out = append(out, '}')
	return schemas.Answer{Body: repaired(out), Model: textOf(a.members.get("model")), Usage: a.usage()}
}

func (c *choice) append(out []byte) []byte {
	out = append(out, `{"index":`...)
	out = strconv.AppendInt(out, int64(c.index), 10)
	out = append(out, `,"message":{`...)
	if c.message.get("role") == nil {
		out = appendMember(out, "role", []byte(`"assistant"`))
	}
	for _, m := range c.message {
		value := m.value
		if m.name == "content" && string(value) == `""` && c.saysOtherwise() {
			value = []byte("null")
		}
		out = appendMember(out, m.name, value)
	}
	if c.message.get("content") == nil {
		out = appendMember(out, "content", []byte("null"))
	}
	if c.message.get("refusal") == nil {
		out = appendMember(out, "refusal", []byte("null"))
	}
	if len(c.calls) > 0 {
		out = append(appendName(out, "tool_calls"), '[')
		for i, t := range c.calls {
			if i > 0 {
				out = append(out, ',')
			}
			out = t.append(out)
		}
		out = append(out, ']')
	}
	if c.function != nil {
		out = c.function.appendFunction(appendName(out, "function_call"))
	}
	out = append(out, '}')
	out = c.appendLogprobs(out)
	for _, m := range c.rest {
		out = appendMember(out, m.name, m.value)
	}
	return append(out, '}')
}

// saysOtherwise tells whether the choice is a refusal or calls tools: then its
// content is null, not the empty text with which a stream may begin.
func (c *choice) saysOtherwise() bool {
	refusal := c.message.get("refusal")
	return len(c.calls) > 0 || c.function != nil || len(refusal) > 2 && refusal[0] == '"'
}

func (c *choice) appendLogprobs(out []byte) []byte {
	out = appendName(out, "logprobs")
	if len(c.logprobs) == 0 {
		return append(out, "null"...)
	}
	out = append(out, '{')
	for _, m := range c.logprobs {
		out = appendMember(out, m.name, m.value)
	}
	return append(out, '}')
}

func (t *toolCall) append(out []byte) []byte {
	out = append(out, '{')
	for _, m := range t.members {
		out = appendMember(out, m.name, m.value)
	}
	if t.members.get("type") == nil {
		out = appendMember(out, "type", []byte(`"function"`))
	}
	return append(t.appendFunction(appendName(out, "function")), '}')
}

func (t *toolCall) appendFunction(out []byte) []byte {
	out = append(out, '{')
	for _, m := range t.function {
		out = appendMember(out, m.name, m.value)
	}
	out = append(appendName(out, "arguments"), '"')
	out = append(out, t.arguments...)
	return append(out, '"', '}')
}

func appendMember(out []byte, name string, value []byte) []byte {
	return append(appendName(out, name), value...)
}

// appendName begins a member, with a comma unless it is the first.
func appendName(out []byte, name string) []byte {
	if last := out[len(out)-1]; last != '{' {
		out = append(out, ',')
	}
	out = append(append(out, '"'), name...)
	return append(out, '"', ':')
}

// repaired gives JSON whose texts are valid Unicode: what is not (bytes that are
// no UTF-8, halves of surrogate pairs) becomes U+FFFD. Other invalid JSON is nil.
func repaired(body []byte) []byte {
	v := jsontext.Value(body)
	if v.IsValid(jsontext.AllowDuplicateNames(true)) {
		return body
	}
	if v.Format(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil {
		return nil
	}
	return v
}

// WholeChunk makes the one chat.completion.chunk that a whole completion is when
// it is streamed, as from a cache. The completion must be valid JSON.
func WholeChunk(completion []byte) []byte {
	out := schemas.SetMember(completion, "object", []byte(`"chat.completion.chunk"`))
	span, ok := schemas.Member(out, "choices")
	if !ok {
		return out
	}
	list := []byte{'['}
	objects(span.Of(out), func(choice []byte) {
		if len(list) > 1 {
			list = append(list, ',')
		}
		if message, ok := schemas.Member(choice, "message"); ok {
			choice = schemas.SetMember(schemas.DeleteMember(choice, "message"), "delta", indexedCalls(message.Of(choice)))
		}
		list = append(list, choice...)
	})
	return schemas.SetMember(out, "choices", append(list, ']'))
}

// indexedCalls numbers the tool calls of a message, as a delta must have them.
func indexedCalls(message []byte) []byte {
	span, ok := schemas.Member(message, "tool_calls")
	if !ok {
		return message
	}
	list, n := []byte{'['}, 0
	objects(span.Of(message), func(call []byte) {
		if n > 0 {
			list = append(list, ',')
		}
		list = append(list, schemas.SetMember(call, "index", strconv.AppendInt(nil, int64(n), 10))...)
		n++
	})
	return schemas.SetMember(message, "tool_calls", append(list, ']'))
}
