package template

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/structure"
)

// Template is a template that is ready. It is safe for concurrent use.
type Template struct {
	pieces    []piece // of all messages, as the JSON of a list of messages
	fixed     int     // bytes of the pieces that are text
	variables []variable
	declared  bool // the document names its variables; else its placeholders do
	schema    *structure.Schema
	settings  []setting
	model     string
}

// piece is JSON to be copied, or the value of a variable, as the inside of a JSON string.
type piece struct {
	text     []byte
	variable int // -1: text
}

type variable struct {
	name     string
	fallback jsontext.Value
	required bool
	used     bool
}

type setting struct {
	name  string
	value jsontext.Value
}

// Variables gives the names of the variables in order, and whether each is required.
func (t *Template) Variables() (names []string, required []bool) {
	for _, v := range t.variables {
		names, required = append(names, v.name), append(required, v.required)
	}
	return names, required
}

// addMessage adds a message: {name} is a placeholder, {{ and }} are braces.
func (t *Template) addMessage(m Message) error {
	separator := ","
	if len(t.pieces) == 0 {
		separator = ""
	}
	t.addJSON(separator + `{"role":"` + m.Role + `","content":"`)
	text := m.Content
	for {
		at := strings.IndexAny(text, "{}")
		if at < 0 {
			break
		}
		t.addText(text[:at])
		if len(text) > at+1 && text[at+1] == text[at] {
			t.addText(text[at : at+1])
			text = text[at+2:]
			continue
		}
		name, rest, closed := strings.Cut(text[at+1:], "}")
		if text[at] == '}' || !closed || !validVariable(name) {
			return fmt.Errorf("%.40q: a placeholder is {name}, and a brace that is none is written twice, as {{ or }}", text[at:])
		}
		if err := t.addPlaceholder(name); err != nil {
			return err
		}
		text = rest
	}
	t.addText(text)
	t.addJSON(`"}`)
	if len(t.pieces) > maxPieces {
		return fmt.Errorf("there are more than %d placeholders and texts between them", maxPieces)
	}
	return nil
}

func (t *Template) addText(text string) {
	if quoted := schemas.Quote(text); text != "" {
		t.addJSON(string(quoted[1 : len(quoted)-1]))
	}
}

func (t *Template) addJSON(text string) {
	t.fixed += len(text)
	if last := len(t.pieces) - 1; last >= 0 && t.pieces[last].variable < 0 {
		t.pieces[last].text = append(t.pieces[last].text, text...)
		return
	}
	t.pieces = append(t.pieces, piece{[]byte(text), -1})
}

func (t *Template) addPlaceholder(name string) error {
	at := slices.IndexFunc(t.variables, func(v variable) bool { return v.name == name })
	switch {
	case at >= 0:
	case t.declared:
		return fmt.Errorf("{%s} is not among the variables", name)
	case len(t.variables) == maxVariables:
		return fmt.Errorf("there are more than %d variables", maxVariables)
	default:
		at = len(t.variables)
		t.variables = append(t.variables, variable{name: name, required: true})
	}
	t.variables[at].used = true
	t.pieces = append(t.pieces, piece{nil, at})
	return nil
}

// VariablesError is values that do not fit a template.
type VariablesError struct {
	Missing    []string              // required, without a value
	Surplus    []string              // with a value, but not in the template
	Violations []structure.Violation // of the template's schema
}

func (e *VariablesError) Error() string {
	var wrong []string
	if len(e.Missing) > 0 {
		wrong = append(wrong, "it needs "+list(e.Missing))
	}
	if len(e.Surplus) > 0 {
		wrong = append(wrong, "it has no "+list(e.Surplus))
	}
	for _, v := range e.Violations {
		wrong = append(wrong, v.String())
	}
	return "the variables do not fit the template: " + strings.Join(wrong, "; ")
}

// list writes names, the first few if there are many.
func list(names []string) string {
	const shown = 10
	if len(names) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
	}
	return strings.Join(names, ", ")
}

// ErrTooLarge is messages that would be larger than a request may be.
var ErrTooLarge = errors.New("the rendered messages are larger than a request may be")

// Messages renders the messages, as the JSON of a list. variables is a valid JSON
// object, or nil: a string stands for its placeholder as it is, any other value as
// compact JSON; null is no value. The list has at most limit bytes, or the error is
// ErrTooLarge; values that do not fit are a *VariablesError, which names them all.
func (t *Template) Messages(variables []byte, limit int) ([]byte, error) {
	values, err := t.values(variables)
	if err != nil {
		return nil, err
	}
	size := t.fixed + 2
	for _, p := range t.pieces {
		if p.variable >= 0 {
			size += len(values[p.variable])
		}
		if size > limit {
			return nil, ErrTooLarge
		}
	}
	out := append(make([]byte, 0, size), '[')
	for _, p := range t.pieces {
		if p.variable >= 0 {
			out = append(out, values[p.variable]...)
		} else {
			out = append(out, p.text...)
		}
	}
	return append(out, ']'), nil
}

// Request renders a request's body: the messages and the template's settings.
// Variables, limit and errors are those of Messages.
func (t *Template) Request(variables []byte, limit int) ([]byte, error) {
	messages, err := t.Messages(variables, limit)
	if err != nil {
		return nil, err
	}
	return t.body([]byte("{}"), nil, messages), nil
}

// maxSurplus bounds the surplus variables that an error names.
const maxSurplus = 100

// values gives the values of all variables, as the inside of JSON strings.
func (t *Template) values(variables []byte) ([][]byte, error) {
	raw := make([]jsontext.Value, len(t.variables))
	var wrong VariablesError
	schemas.Members(variables, func(quoted []byte, _, value schemas.Span) bool {
		name, err := schemas.Unquote(slices.Concat([]byte{'"'}, quoted, []byte{'"'}))
		at := slices.IndexFunc(t.variables, func(v variable) bool { return v.name == name })
		switch {
		case err == nil && at >= 0:
			if v := value.Of(variables); string(v) != "null" {
				raw[at] = v
			}
		case len(wrong.Surplus) < maxSurplus:
			wrong.Surplus = append(wrong.Surplus, clip(name))
		}
		return true
	})
	for i, v := range t.variables {
		if raw[i] == nil {
			raw[i] = v.fallback
		}
		if raw[i] == nil && v.required {
			wrong.Missing = append(wrong.Missing, v.name)
		}
	}
	if len(wrong.Missing)+len(wrong.Surplus) == 0 && t.schema != nil {
		wrong.Violations = t.violations(raw)
	}
	if len(wrong.Missing)+len(wrong.Surplus)+len(wrong.Violations) > 0 {
		slices.Sort(wrong.Missing)
		return nil, &wrong
	}
	return inside(raw)
}

// violations checks the values, defaults included, against the template's schema.
func (t *Template) violations(raw []jsontext.Value) []structure.Violation {
	object := []byte{'{'}
	for i, v := range t.variables {
		if raw[i] == nil {
			continue
		}
		if len(object) > 1 {
			object = append(object, ',')
		}
		object = append(append(append(object, schemas.Quote(v.name)...), ':'), raw[i]...)
	}
	tree, err := structure.ParseTree(append(object, '}'))
	if err != nil {
		return []structure.Violation{{Message: err.Error()}}
	}
	return t.schema.Violations(tree)
}

// inside gives values as the inside of JSON strings.
func inside(raw []jsontext.Value) ([][]byte, error) {
	values := make([][]byte, len(raw))
	for i, v := range raw {
		switch v.Kind() {
		case '"':
			values[i] = bytes.TrimSpace(v)
		case 0: // optional, and not given
			values[i] = []byte(`""`)
		default:
			v = v.Clone()
			if err := v.Compact(); err != nil {
				return nil, fmt.Errorf("reading a variable: %w", err)
			}
			values[i] = schemas.Quote(string(v))
		}
		values[i] = values[i][1 : len(values[i])-1]
	}
	return values, nil
}

// clip keeps a name from the input short enough to be shown.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
