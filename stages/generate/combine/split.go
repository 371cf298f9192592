package combine

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/adpa/processor/schemas"
)

// input is what an embeddings request asks about.
type input struct {
	elements [][]byte // each a JSON string, or a JSON array of tokens
	alike    string   // equal for requests that may share a call
	user     string   // the raw member, "" without one
}

// maxAlike bounds what is compared; requests with more parameters are sent alone.
const maxAlike = 2048

// readInput reads an embeddings request; false if it must be sent as it is:
// because it is unusual, or because the provider will refuse it and with it all
// that it shares a call with.
func readInput(body []byte) (in input, ok bool) {
	var alike strings.Builder
	plain := true
	schemas.Members(body, func(name []byte, member, value schemas.Span) bool {
		switch string(name) {
		case "input":
			in.elements, ok = elementsOf(value.Of(body))
		case "user":
			in.user = string(value.Of(body))
		case "model", "processor": // the call says which model
		default:
			plain = plain && bytes.IndexByte(name, '\\') < 0 && alike.Len()+member.End-member.Start < maxAlike
			if plain {
				alike.Write(member.Of(body))
				alike.WriteByte(',')
			}
		}
		return plain
	})
	if !ok || !plain {
		return input{}, false
	}
	alike.WriteByte(in.elements[0][0]) // texts and tokens do not mix
	in.alike = alike.String()
	return in, true
}

// elementsOf gives the elements of an input: a text, a list of texts, a list of
// tokens or a list of those. False if it is none of them or holds an empty one.
func elementsOf(value []byte) (elements [][]byte, ok bool) {
	if len(value) == 0 {
		return nil, false
	}
	if value[0] == '"' {
		return [][]byte{value}, len(value) > 2
	}
	var kind byte
	ok = true
	schemas.Elements(value, func(span schemas.Span) bool {
		element := span.Of(value)
		if len(element) == 0 {
			ok = false
			return false
		}
		k := element[0]
		if k >= '0' && k <= '9' {
			k = '0'
		}
		if kind == 0 {
			kind = k
		}
		ok = k == kind && filled(element)
		elements = append(elements, element)
		return ok
	})
	switch {
	case !ok || len(elements) == 0:
		return nil, false
	case kind == '0':
		return [][]byte{value}, true
	case kind == '"' || kind == '[':
		return elements, true
	}
	return nil, false
}

// filled tells whether an element is neither an empty text nor an empty list.
func filled(element []byte) bool {
	switch element[0] {
	case '"':
		return len(element) > 2
	case '[':
		return len(bytes.TrimSpace(element[1:len(element)-1])) > 0
	}
	return true
}

// combined gives the body of a call for all parts: that of the first, with the
// inputs of all. Which user asks is said only where it is one.
func combined(parts []*part) []byte {
	size, oneUser := 2, true
	for _, p := range parts {
		oneUser = oneUser && p.input.user == parts[0].input.user
		for _, element := range p.input.elements {
			size += len(element) + 1
		}
	}
	array := append(make([]byte, 0, size), '[')
	for _, p := range parts {
		for _, element := range p.input.elements {
			if len(array) > 1 {
				array = append(array, ',')
			}
			array = append(array, element...)
		}
	}
	array = append(array, ']')
	body := schemas.DeleteMember(parts[0].call.Body, "processor")
	if !oneUser {
		body = schemas.DeleteMember(body, "user")
	}
	return schemas.SetMember(body, "input", array)
}

// split gives each part its own answer, with the indexes counted from 0 again.
// Of the rest of the answer only the model is handed on: what else a provider
// says is about all of them.
func split(answer schemas.Answer, parts []*part, bill []schemas.Usage) ([]schemas.Answer, error) {
	inputs := 0
	for _, p := range parts {
		inputs += len(p.input.elements)
	}
	var model []byte
	var entries []entry
	var err error
	billed := false
	schemas.Members(answer.Body, func(name []byte, _, value schemas.Span) bool {
		switch v := value.Of(answer.Body); string(name) {
		case "model":
			model = v
		case "usage":
			billed = true
		case "data":
			entries, err = readEntries(v, inputs)
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	if len(entries) != inputs {
		return nil, fmt.Errorf("the answer has %d vectors for %d inputs", len(entries), inputs)
	}
	answers := make([]schemas.Answer, len(parts))
	for i, p := range parts {
		n := len(p.input.elements)
		body := appendList(entries[:n], model)
		if billed {
			body = fmt.Appendf(body, `,"usage":{"prompt_tokens":%d,"total_tokens":%d}`, bill[i].PromptTokens, bill[i].TotalTokens)
		}
		answers[i] = schemas.Answer{Body: append(body, '}'), Model: answer.Model, Usage: bill[i].Add(p.billed)}
		entries = entries[n:]
	}
	return answers, nil
}

// entry is one vector of an answer: the object around it, and where in it the
// index stands (nowhere if it has none).
type entry struct {
	object []byte
	index  schemas.Span
}

// readEntries gives the vectors of an answer in the order of the inputs.
func readEntries(data []byte, inputs int) ([]entry, error) {
	entries := make([]entry, inputs)
	n := 0
	var err error
	schemas.Elements(data, func(span schemas.Span) bool {
		e := entry{object: span.Of(data)}
		at := n
		if found, ok := schemas.Member(e.object, "index"); ok {
			e.index = found
			if at, err = strconv.Atoi(string(found.Of(e.object))); err != nil {
				err = fmt.Errorf("vector %d has no valid index", n)
				return false
			}
		}
		if at < 0 || at >= inputs || entries[at].object != nil || len(e.object) == 0 || e.object[0] != '{' {
			err = fmt.Errorf("vector %d has the index %d, for %d inputs", n, at, inputs)
			return false
		}
		entries[at] = e
		n++
		return true
	})
	if err != nil {
		return nil, err
	}
	return entries[:n:n], nil
}

// appendList writes the beginning of an answer with some vectors, up to its model.
func appendList(entries []entry, model []byte) []byte {
	size := 128 + len(model)
	for _, e := range entries {
		size += len(e.object) + 4
	}
	out := append(make([]byte, 0, size), `{"object":"list","data":[`...)
	for i, e := range entries {
		if i > 0 {
			out = append(out, ',')
		}
		if e.index.Empty() {
			out = append(out, e.object...)
			continue
		}
		out = append(out, e.object[:e.index.Start]...)
		out = strconv.AppendInt(out, int64(i), 10)
		out = append(out, e.object[e.index.End:]...)
	}
	out = append(out, ']')
	if len(model) > 0 {
		out = append(append(out, `,"model":`...), model...)
	}
	return out
}

// shares divides a bill by the counted tokens of the parts. The shares add up to
// it, and each is within one token of what is due.
func shares(total schemas.Usage, parts []*part) []schemas.Usage {
	weight := func(p *part) int64 { return int64(max(p.tokens, 1)) }
	var all, before int64
	for _, p := range parts {
		all += weight(p)
	}
	list := make([]schemas.Usage, len(parts))
	for i, p := range parts {
		after := before + weight(p)
		share := func(n int) int { return int(int64(n)*after/all - int64(n)*before/all) }
		list[i] = schemas.Usage{
			PromptTokens: share(total.PromptTokens), CompletionTokens: share(total.CompletionTokens),
			TotalTokens: share(total.TotalTokens), CachedTokens: share(total.CachedTokens), ReasoningTokens: share(total.ReasoningTokens),
		}
		before = after
	}
	return list
}
