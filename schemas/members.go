package schemas

import (
	"bytes"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// Span is a range of bytes in a body: [Start, End).
type Span struct{ Start, End int }

// Of gives the bytes of the span.
func (s Span) Of(body []byte) []byte { return body[s.Start:s.End] }

// Empty reports whether the span covers nothing, as that of a missing member.
func (s Span) Empty() bool { return s.Start >= s.End }

// Members calls f with each member of a JSON object, in order, until f returns
// false. The object must be valid JSON, as everything is that passed Parse; on
// other input the spans mean nothing, but nothing is read out of bounds. It
// only skips over values, so that a hop does not parse a body again.
// The name is raw: a name written with escapes does not equal its plain form.
func Members(object []byte, f func(name []byte, member, value Span) bool) {
	i := skipSpace(object, 0)
	if i >= len(object) || object[i] != '{' {
		return
	}
	i = skipSpace(object, i+1)
	for i < len(object) && object[i] == '"' {
		start := i
		nameEnd := skipString(object, i)
		i = skipSpace(object, nameEnd)
		if i >= len(object) || object[i] != ':' {
			return
		}
		value := Span{Start: skipSpace(object, i+1)}
		value.End = skipValue(object, value.Start)
		name := object[min(start+1, nameEnd):max(start+1, nameEnd-1)]
		if !f(name, Span{start, value.End}, value) {
			return
		}
		i = skipSpace(object, value.End)
		if i >= len(object) || object[i] != ',' {
			return
		}
		i = skipSpace(object, i+1)
	}
}

// Elements calls f with each element of a valid JSON array, in order, until f
// returns false. On other input it is as Members.
func Elements(array []byte, f func(element Span) bool) {
	i := skipSpace(array, 0)
	if i >= len(array) || array[i] != '[' {
		return
	}
	i = skipSpace(array, i+1)
	for i < len(array) && array[i] != ']' {
		element := Span{i, skipValue(array, i)}
		if !f(element) {
			return
		}
		i = skipSpace(array, element.End)
		if i >= len(array) || array[i] != ',' {
			return
		}
		i = skipSpace(array, i+1)
	}
}

// Member finds the value of one member of a valid JSON object.
func Member(object []byte, name string) (value Span, found bool) {
	Members(object, func(n []byte, _, v Span) bool {
		if string(n) == name {
			value, found = v, true
		}
		return !found
	})
	return value, found
}

// SetMember returns the object with the member set to value, which must be
// valid JSON: replaced where it stands, else added at the end. The rest stays
// as it is, byte for byte. The input is not changed.
func SetMember(object []byte, name string, value []byte) []byte {
	if v, ok := Member(object, name); ok {
		out := make([]byte, 0, len(object)+len(value))
		out = append(out, object[:v.Start]...)
		out = append(out, value...)
		return append(out, object[v.End:]...)
	}
	end := bytes.LastIndexByte(object, '}')
	if end < 0 {
		return object
	}
	out := make([]byte, 0, len(object)+len(name)+len(value)+4)
	out = append(out, object[:end]...)
	if last := bytes.TrimRight(out, " \t\r\n"); len(last) > 0 && last[len(last)-1] != '{' {
		out = append(out, ',')
	}
	out = append(out, '"')
	out = append(out, name...)
	out = append(out, '"', ':')
	out = append(out, value...)
	return append(out, object[end:]...)
}

// DeleteMember returns the object without the member; without it in there, the
// object itself. The input is not changed.
func DeleteMember(object []byte, name string) []byte {
	var found, previous Span
	Members(object, func(n []byte, member, _ Span) bool {
		if string(n) == name {
			found = member
			return false
		}
		previous = member
		return true
	})
	if found.Empty() {
		return object
	}
	if !previous.Empty() { // take the comma before it
		found.Start = previous.End
	} else if next := skipSpace(object, found.End); next < len(object) && object[next] == ',' {
		found.End = skipSpace(object, next+1)
	}
	out := make([]byte, 0, len(object))
	out = append(out, object[:found.Start]...)
	return append(out, object[found.End:]...)
}

// Depth gives how deep arrays and objects are nested, without parsing.
func Depth(text []byte) int {
	depth, deepest := 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i = skipString(text, i) - 1
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	return deepest
}

// Unquote gives the text of a JSON string.
func Unquote(quoted []byte) (string, error) {
	text, err := jsontext.AppendUnquote(nil, quoted)
	if err != nil {
		return "", fmt.Errorf("reading a JSON string: %w", err)
	}
	return string(text), nil
}

// Quote gives text as a JSON string; invalid UTF-8 becomes U+FFFD.
func Quote(text string) []byte {
	quoted, err := jsontext.AppendQuote(nil, text)
	if err != nil {
		quoted, _ = jsontext.AppendQuote(nil, string(bytes.ToValidUTF8([]byte(text), []byte("\uFFFD"))))
	}
	return quoted
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString gives the index behind the string that starts at i.
func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		next := bytes.IndexByte(b[i:], '"')
		if next < 0 {
			return len(b)
		}
		i += next
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
	return len(b)
}

// skipValue gives the index behind the value that starts at i.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return len(b)
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for ; i < len(b); i++ {
			switch b[i] {
			case '"':
				i = skipString(b, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				depth--
				if depth == 0 {
					return i + 1
				}
			}
		}
		return len(b)
	}
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && skipSpace(b, i) == i {
		i++
	}
	return i
}
