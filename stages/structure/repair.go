package structure

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// The repairs, as a response names them.
const (
	Fence       = "code_fence"      // the value stood in a code fence
	Surrounding = "surrounding"     // there was text around the value
	Commas      = "trailing_commas" // a comma stood behind the last element
)

// maxOpenings bounds the brackets that are tried as the beginning of a value.
const maxOpenings = 64

// Repair gives the JSON value of a text in which only one can be meant, and what
// was done for it: the fence or the text around it removed, commas behind a last
// element removed. A text that is JSON is returned as it is; in doubt, too, and
// then repaired is nil: two values, or a bracket that nothing closes, may mean anything.
// Time grows linearly with the text, 64 times at most.
func Repair(text []byte) (value []byte, repaired []string) {
	trimmed := bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\ufeff")))
	if valid(text) {
		return text, nil
	}
	if value, commas, ok := withoutCommas(trimmed); ok {
		if commas == nil { // white space that is none in JSON, as the mark of a byte order
			commas = []string{Surrounding}
		}
		return value, commas
	}
	if inner, ok := fenced(trimmed); ok {
		if value, commas, ok := withoutCommas(inner); ok {
			return value, append([]string{Fence}, commas...)
		}
	}
	if value, commas, ok := only(trimmed); ok {
		return value, append([]string{Surrounding}, commas...)
	}
	return text, nil
}

func valid(text []byte) bool { return len(text) > 0 && jsontext.Value(text).IsValid() }

// fenced gives what a code fence around the whole text holds.
func fenced(text []byte) ([]byte, bool) {
	const fence = "```"
	inner, opened := bytes.CutPrefix(text, []byte(fence))
	inner, closed := bytes.CutSuffix(inner, []byte(fence))
	_, inner, hasLine := bytes.Cut(inner, []byte("\n")) // behind the language
	if !opened || !closed || !hasLine || bytes.Contains(inner, []byte(fence)) {
		return nil, false
	}
	return bytes.TrimSpace(inner), true
}

// only finds the one object or array of a text.
func only(text []byte) (value []byte, repaired []string, ok bool) {
	openings := 0
	for i := 0; i < len(text); i++ {
		if text[i] != '{' && text[i] != '[' {
			continue
		}
		end := closing(text, i)
		if openings++; end < 0 || openings > maxOpenings {
			return nil, nil, false
		}
		candidate, commas, isValue := withoutCommas(text[i:end])
		switch {
		case !isValue && bytes.ContainsAny(text[i:end], `":,`):
			return nil, nil, false // may be meant as JSON
		case isValue && ok:
			return nil, nil, false // a second one
		case isValue:
			value, repaired, ok = candidate, commas, true
		}
		i = end - 1
	}
	return value, repaired, ok
}

// closing gives the index behind the bracket that closes the one at i, or -1.
func closing(text []byte, i int) int {
	depth := 0
	for ; i < len(text); i++ {
		switch text[i] {
		case '"':
			if i = quoted(text, i) - 1; i < 0 {
				return -1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// quoted gives the index behind the string that begins at i, or 0.
func quoted(text []byte, i int) int {
	for i++; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// withoutCommas gives the text if it is a JSON value, or is one without the
// commas that stand behind a last element.
func withoutCommas(text []byte) (value []byte, repaired []string, ok bool) {
	if valid(text) {
		return text, nil, true
	}
	var out []byte
	done := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			end := quoted(text, i)
			if end == 0 {
				return nil, nil, false
			}
			i = end - 1
		case ',':
			next := bytes.TrimLeft(text[i+1:], " \t\r\n")
			before := bytes.TrimRight(text[:i], " \t\r\n")
			if len(next) > 0 && (next[0] == '}' || next[0] == ']') && len(before) > 0 && before[len(before)-1] != '[' && before[len(before)-1] != '{' {
				out = append(out, text[done:i]...)
				done = i + 1
			}
		}
	}
	if done == 0 {
		return nil, nil, false
	}
	if out = append(out, text[done:]...); !valid(out) {
		return nil, nil, false
	}
	return out, []string{Commas}, true
}
