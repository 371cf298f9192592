// Package template makes the messages of requests from templates: text with
// placeholders for values, and no logic. Values are data: nothing in them is
// looked at, so that none can pass for a placeholder or for another message.
package template

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/stages/structure"
)

// Limits of a template.
const (
	MaxDocument  = 256 << 10 // bytes of a document
	maxMessages  = 256
	maxVariables = 256
	maxPieces    = 4096 // placeholders and the texts between them, over all messages
)

// Document is a template as it is stored: a text, which becomes one message of
// the user, or messages; and what belongs to them.
type Document struct {
	Description string         `json:"description,omitzero"`
	Text        string         `json:"text,omitzero"`
	Messages    []Message      `json:"messages,omitzero"`
	Variables   Variables      `json:"variables,omitzero"`
	Schema      jsontext.Value `json:"schema,omitzero"`   // a JSON Schema for the object of all variables
	Settings    jsontext.Value `json:"settings,omitzero"` // members of the request that it does not set itself, as model and temperature
}

// Message is one message of a template. Its content is text with placeholders.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Variables says what may stand for the placeholders, by name. In a document it
// is an object, or a list of names.
type Variables map[string]Variable

// Variable is one of them.
type Variable struct {
	Description string         `json:"description,omitzero"`
	Default     jsontext.Value `json:"default,omitzero"`  // without a value in the request
	Required    *bool          `json:"required,omitzero"` // default: true without a default
}

// UnmarshalJSONFrom reads an object of variables, or a list of their names.
func (v *Variables) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if dec.PeekKind() != '[' {
		return json.UnmarshalDecode(dec, (*map[string]Variable)(v))
	}
	var names []string
	if err := json.UnmarshalDecode(dec, &names); err != nil {
		return err
	}
	*v = make(Variables, len(names))
	for _, name := range names {
		(*v)[name] = Variable{}
	}
	return nil
}

var roles = []string{"system", "developer", "user", "assistant"}

// kept are members of a request that are not a template's to set.
var kept = []string{"messages", "processor", "input", "stream", "stream_options"}

// Parse reads a document, strictly, and makes it ready. Errors name the member
// and what would be right.
func Parse(document []byte) (*Template, error) {
	d, err := read(document)
	if err != nil {
		return nil, err
	}
	return compile(d)
}

func read(document []byte) (d Document, err error) {
	if len(document) > MaxDocument {
		return d, fmt.Errorf("the template has %d bytes, it may have %d", len(document), MaxDocument)
	}
	if err := json.Unmarshal(document, &d, json.RejectUnknownMembers(true)); err != nil {
		return d, documentError(err)
	}
	return d, nil
}

// Normal gives a document in the form in which it is stored: the members in one
// order, the variables as an object. It is an error if the document is no
// template that can be used.
func Normal(document []byte) ([]byte, error) {
	d, err := read(document)
	if err == nil {
		_, err = compile(d)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(&d, json.Deterministic(true))
}

func documentError(err error) error {
	var semantic *json.SemanticError
	if !errors.As(err, &semantic) {
		return fmt.Errorf("reading the template: %w", err)
	}
	at := strings.ReplaceAll(strings.TrimPrefix(string(semantic.JSONPointer), "/"), "/", ".")
	if errors.Is(err, json.ErrUnknownName) {
		return fmt.Errorf("%.80s: is not known; a template has description, text or messages, variables, schema and settings", at)
	}
	if at == "" {
		return errors.New("is no template: an object with description, text or messages, variables, schema and settings")
	}
	return fmt.Errorf("%.80s: has the wrong type or form", at)
}

// Text makes a template of a text alone; its placeholders are its variables, and all required.
func Text(text string) (*Template, error) { return compile(Document{Text: text}) }

func compile(d Document) (*Template, error) {
	if (d.Text == "") == (len(d.Messages) == 0) {
		return nil, errors.New("a template has either text or messages")
	}
	if d.Text != "" {
		d.Messages = []Message{{"user", d.Text}}
	}
	switch {
	case len(d.Messages) > maxMessages:
		return nil, fmt.Errorf("messages: there are %d, there may be %d", len(d.Messages), maxMessages)
	case len(d.Variables) > maxVariables:
		return nil, fmt.Errorf("variables: there are %d, there may be %d", len(d.Variables), maxVariables)
	}
	t := &Template{}
	if err := t.declare(d.Variables); err != nil {
		return nil, err
	}
	if err := t.addMessages(d); err != nil {
		return nil, err
	}
	return t, t.complete(d)
}

// declare takes over the variables that a document names, in the order of their names.
func (t *Template) declare(variables Variables) error {
	for name, v := range variables {
		if !validVariable(name) {
			return fmt.Errorf("variables: %.80q is no name: 1 to 64 characters of A-Z a-z 0-9 _, the first no digit", name)
		}
		if v.Default.Kind() == 'n' {
			v.Default = nil
		}
		required := len(v.Default) == 0
		if v.Required != nil {
			if *v.Required && len(v.Default) > 0 {
				return fmt.Errorf("variables.%s: is required and has a default; leave one of them out", name)
			}
			required = *v.Required
		}
		t.variables = append(t.variables, variable{name: name, fallback: v.Default, required: required})
	}
	slices.SortFunc(t.variables, func(x, y variable) int { return strings.Compare(x.name, y.name) })
	t.declared = variables != nil
	return nil
}

func (t *Template) addMessages(d Document) error {
	for i, m := range d.Messages {
		if !slices.Contains(roles, m.Role) {
			return fmt.Errorf("messages[%d].role: %.40q is none of %s", i, m.Role, strings.Join(roles, ", "))
		}
		if err := t.addMessage(m); err != nil {
			if d.Text != "" {
				return fmt.Errorf("text: %w", err)
			}
			return fmt.Errorf("messages[%d].content: %w", i, err)
		}
	}
	return nil
}

// complete checks what concerns the document as a whole.
func (t *Template) complete(d Document) error {
	for _, v := range t.variables {
		if !v.used {
			return fmt.Errorf("variables.%s: stands nowhere in the template as {%s}", v.name, v.name)
		}
	}
	if d.Schema.Kind() == 'n' {
		d.Schema = nil
	}
	if len(d.Schema) > 0 {
		schema, err := structure.Compile(d.Schema)
		if err != nil {
			return fmt.Errorf("schema: %w", err)
		}
		t.schema = schema
	}
	return t.addSettings(d.Settings)
}

func (t *Template) addSettings(settings jsontext.Value) error {
	if len(settings) == 0 || settings.Kind() == 'n' {
		return nil
	}
	var members map[string]jsontext.Value
	if err := json.Unmarshal(settings, &members); err != nil {
		return errors.New("settings: must be an object like {\"model\": \"gpt-4o\", \"temperature\": 0.2}")
	}
	for name, value := range members {
		if slices.Contains(kept, name) {
			return fmt.Errorf("settings.%s: is the request's own and not a template's to set", name)
		}
		if err := value.Compact(); err != nil {
			return fmt.Errorf("settings.%.80s: %w", name, err)
		}
		t.settings = append(t.settings, setting{name, value})
	}
	slices.SortFunc(t.settings, func(x, y setting) int { return strings.Compare(x.name, y.name) })
	return t.readModel()
}

// readModel checks the model of the settings, which decides where a request goes.
func (t *Template) readModel() error {
	for _, s := range t.settings {
		if s.name == "model" && (json.Unmarshal(s.value, &t.model) != nil || t.model == "" || len(t.model) > 256) {
			return errors.New("settings.model: must be a name of 1 to 256 bytes")
		}
	}
	return nil
}

func validVariable(name string) bool {
	if len(name) == 0 || len(name) > MaxNameLength || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	for i := range len(name) {
		if !nameByte(name[i]) {
			return false
		}
	}
	return true
}
