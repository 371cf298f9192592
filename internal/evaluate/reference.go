package evaluate

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// How an answer is compared with what was expected.
const (
	MatchExact    = "exact"    // the same text, but for case and the blanks and stop around it
	MatchContains = "contains" // the expected text stands in the answer as whole words, case aside
	MatchNumber   = "number"   // the last number of the answer is the expected one
	MatchJSON     = "json"     // the same JSON value, in a code fence or not
)

// Reference is what is expected of the answer to a request. Any of several
// expected texts will do.
type Reference struct {
	ID       string
	Match    string
	Expected []string
}

// ParseReference reads a line like {"id": "r-1", "expected": "up", "match":
// "exact"}. expected may be a list, and any JSON value with match json; ideal
// and answer are other names of it. Without match the way is that of the
// expected value: json for objects and lists, number for numbers, else exact.
func ParseReference(line []byte) (Reference, error) {
	var fields struct {
		ID       string         `json:"id"`
		Match    string         `json:"match"`
		Expected jsontext.Value `json:"expected"`
		Ideal    jsontext.Value `json:"ideal"`
		Answer   jsontext.Value `json:"answer"`
	}
	if schemas.Depth(line) > schemas.MaxDepth {
		return Reference{}, errors.New("is nested too deep")
	}
	if err := json.Unmarshal(line, &fields); err != nil {
		return Reference{}, errors.New(`is no JSON object like {"id": "r-1", "expected": "up", "match": "exact"}`)
	}
	expected := fields.Expected
	for _, other := range []jsontext.Value{fields.Ideal, fields.Answer} {
		if len(expected) == 0 {
			expected = other
		}
	}
	r := Reference{ID: fields.ID, Match: fields.Match}
	switch {
	case r.ID == "":
		return r, errors.New("id is missing: the request's")
	case len(expected) == 0 || expected.Kind() == 'n':
		return r, errors.New("expected is missing: the answer that would be right")
	}
	return r, r.expect(expected)
}

// NewReference makes a reference of a value that is expected.
func NewReference(id, match string, expected []byte) (Reference, error) {
	r := Reference{ID: id, Match: match}
	return r, r.expect(expected)
}

func (r *Reference) expect(expected jsontext.Value) error {
	if r.Match == "" {
		switch expected.Kind() {
		case '0':
			r.Match = MatchNumber
		case '{':
			r.Match = MatchJSON
		default:
			r.Match = MatchExact
		}
	}
	switch r.Match {
	case MatchJSON:
		r.Expected = []string{string(schemas.AppendCanonical(nil, expected))}
		return nil
	case MatchExact, MatchContains, MatchNumber:
	default:
		return fmt.Errorf("match %.40q is none of exact, contains, number, json", r.Match)
	}
	values := []jsontext.Value{expected}
	if expected.Kind() == '[' {
		values = nil
		if err := json.Unmarshal(expected, &values); err != nil || len(values) == 0 {
			return errors.New("expected is an empty list; one of its texts would have to match")
		}
	}
	for _, v := range values {
		text := string(v)
		if v.Kind() == '"' {
			text, _ = schemas.Unquote(v)
		}
		if r.Match == MatchNumber {
			if _, ok := lastNumber(text); !ok {
				return fmt.Errorf("expected %.40q holds no number", text)
			}
		}
		if strings.TrimSpace(text) == "" {
			return errors.New("expected is empty; every answer would contain it")
		}
		r.Expected = append(r.Expected, text)
	}
	return nil
}

// Fits tells whether an answer is what was expected.
func (r *Reference) Fits(answer string) bool {
	for _, expected := range r.Expected {
		if fits(r.Match, answer, expected) {
			return true
		}
	}
	return false
}

func fits(match, answer, expected string) bool {
	switch match {
	case MatchExact:
		return plain(answer) == plain(expected)
	case MatchContains:
		return contains(strings.ToLower(answer), strings.ToLower(strings.TrimSpace(expected)))
	case MatchNumber:
		a, okA := lastNumber(answer)
		e, okE := lastNumber(expected)
		return okA && okE && math.Abs(a-e) <= 1e-9*max(1, math.Abs(e))
	case MatchJSON:
		value := jsontext.Value(unfenced(answer))
		return schemas.Depth(value) <= schemas.MaxDepth && value.IsValid() && string(schemas.AppendCanonical(nil, value)) == expected
	}
	return false
}

func plain(s string) string { return strings.ToLower(strings.Trim(s, " \t\r\n.!\"'`")) }

// contains reports whether words stand in a text, and not within longer ones.
func contains(text, words string) bool {
	for from := 0; ; {
		at := strings.Index(text[from:], words)
		if at < 0 || words == "" {
			return false
		}
		at += from
		end := at + len(words)
		if (at == 0 || !wordByte(text[at-1]) || !wordByte(words[0])) && (end == len(text) || !wordByte(text[end]) || !wordByte(words[len(words)-1])) {
			return true
		}
		from = at + 1
	}
}

func wordByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '_' || b >= 0x80
}

var numbers = regexp.MustCompile(`-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?`)

// lastNumber finds the last number of a text, with or without thousands.
func lastNumber(text string) (float64, bool) {
	found := numbers.FindAllString(text, -1)
	if len(found) == 0 {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(found[len(found)-1], ",", ""), 64)
	return f, err == nil
}

// unfenced gives the inside of a code fence that is the whole text.
func unfenced(s string) string {
	s = strings.TrimSpace(s)
	inside, ok := strings.CutPrefix(s, "```")
	if !ok {
		return s
	}
	inside, ok = strings.CutSuffix(inside, "```")
	if !ok {
		return s
	}
	return strings.TrimSpace(strings.TrimPrefix(inside, "json"))
}
