package template

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// maxReady bounds the templates that are kept ready; the least recently used
// goes first. With MaxDocument they need 64 MB for their texts at most.
const maxReady = 256

// Store holds templates. It is safe for concurrent use. An error means that it
// could not be asked.
type Store interface {
	// Resolve gives the revision that a name and a number mean now; 0 is the newest.
	Resolve(ctx context.Context, name string, number int) (revision int, found bool, err error)
	// Document gives the document of a revision that Resolve gave.
	Document(ctx context.Context, name string, number int) ([]byte, error)
	// Near gives names that are spelled much like a name.
	Near(name string) []string
}

// Renderer makes the messages of requests that name a template. It is safe for
// concurrent use.
type Renderer struct {
	store Store
	limit int
	ready *lru.Cache[Reference, *Template]
}

// NewRenderer makes a Renderer. No body that it makes has more than limit bytes.
func NewRenderer(store Store, limit int) *Renderer {
	ready, err := lru.New[Reference, *Template](maxReady)
	if err != nil {
		panic(err) // only a size below 1 is an error
	}
	return &Renderer{store, limit, ready}
}

const param = "processor.template"

// Render gives a request the messages of its template, before those of its own,
// and the template's settings where it has none of its own. The template and its
// variables leave the processor object then: the body says all there is to know. It
// decides requests whose template cannot be had or used.
func (s *Renderer) Render(ctx context.Context, r *stages.Request) (verdict stages.Verdict, decided bool) {
	asked := r.Asked()
	if asked.Template == "" {
		if len(asked.Variables) == 0 {
			return stages.Verdict{}, false
		}
		return stages.Reject(schemas.Invalid(schemas.CodeInvalidField, "processor.variables", "are for a template; name one in processor.template, or leave them out")), true
	}
	if r.Kind != schemas.Chat {
		return stages.Reject(schemas.Invalid(schemas.CodeInvalidField, param, "is for chat completions; embeddings have no messages")), true
	}
	t, reference, err := s.find(ctx, asked.Template)
	if err == nil {
		err = s.apply(t, r)
	}
	var wrong *schemas.Error
	switch {
	case errors.As(err, &wrong):
		return stages.Reject(wrong), true
	case err != nil:
		return stages.Retry(err, 0), true
	}
	if reference.Name != "" {
		r.Template = reference.String()
	}
	return stages.Verdict{}, false
}

// find gives the template that a request names, or holds itself. What is the
// request's fault is a *schemas.Error.
func (s *Renderer) find(ctx context.Context, asked string) (*Template, Reference, error) {
	reference, inline, err := ParseReference(asked)
	switch {
	case err != nil:
		return nil, reference, schemas.Invalid(schemas.CodeInvalidField, param, "%v", err)
	case inline && len(asked) > MaxDocument:
		return nil, reference, schemas.Invalid(schemas.CodeTooLarge, param, "the text has %d bytes, a template may have %d", len(asked), MaxDocument)
	case inline:
		t, err := Text(asked)
		if err != nil {
			return nil, reference, schemas.Invalid(schemas.CodeInvalidField, param, "%v", err)
		}
		return t, reference, nil
	}
	revision, found, err := s.store.Resolve(ctx, reference.Name, reference.Revision)
	if err != nil {
		return nil, reference, err
	}
	if !found {
		return nil, reference, s.notFound(ctx, reference)
	}
	reference.Revision = revision
	t, err := s.Stored(ctx, reference)
	return t, reference, err
}

// Stored gives a stored revision, which never changes.
func (s *Renderer) Stored(ctx context.Context, reference Reference) (*Template, error) {
	if t, ok := s.ready.Get(reference); ok {
		return t, nil
	}
	document, err := s.store.Document(ctx, reference.Name, reference.Revision)
	if err != nil {
		return nil, err
	}
	t, err := Parse(document)
	if err != nil { // put by a newer version, or by hand
		return nil, schemas.Invalid(schemas.CodeInvalidField, param, "the stored template %s cannot be used: %v", reference, err)
	}
	s.ready.Add(reference, t)
	return t, nil
}

func (s *Renderer) notFound(ctx context.Context, reference Reference) error {
	details := map[string]any{"template": reference.String()}
	message := fmt.Sprintf("there is no template %s", reference.Name)
	if newest, found, err := s.store.Resolve(ctx, reference.Name, 0); err == nil && found {
		details["newest"] = newest
		message = fmt.Sprintf("template %s has no revision %d that is kept; the newest is %d", reference.Name, reference.Revision, newest)
	} else if near := s.store.Near(reference.Name); len(near) > 0 {
		details["near"] = near
		message += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return &schemas.Error{Type: schemas.InvalidRequestError, Code: schemas.CodeTemplateNotFound, Param: param, Message: message, Details: details}
}

// apply renders a template into a request.
func (s *Renderer) apply(t *Template, r *stages.Request) error {
	var variables []byte
	if span, ok := schemas.Member(r.Options, "variables"); ok {
		variables = span.Of(r.Options)
	}
	messages, err := t.Messages(variables, s.limit)
	if err != nil {
		return requestError(err, s.limit)
	}
	options := withoutTemplate(r.Options)
	body := t.body(r.Body, options, messages)
	if len(body) > s.limit {
		return requestError(ErrTooLarge, s.limit)
	}
	if model, ok := schemas.Member(r.Body, "model"); t.model != "" && (!ok || unset(model.Of(r.Body))) {
		r.Model = t.model
	}
	r.Original, r.Body, r.Options = r.Published(), body, options
	return nil
}

// withoutTemplate gives the processor object without what has been used up; nil
// if nothing is left.
func withoutTemplate(options jsontext.Value) jsontext.Value {
	options = schemas.DeleteMember(schemas.DeleteMember(options, "template"), "variables")
	empty := true
	schemas.Members(options, func([]byte, schemas.Span, schemas.Span) bool {
		empty = false
		return false
	})
	if empty {
		return nil
	}
	return options
}

// body gives the request's body with the rendered messages and the settings.
func (t *Template) body(body, options, messages []byte) []byte {
	if options == nil {
		body = schemas.DeleteMember(body, "processor")
	} else {
		body = schemas.SetMember(body, "processor", options)
	}
	if own, ok := schemas.Member(body, "messages"); ok && body[own.Start] == '[' {
		messages = slices.Concat(messages[:len(messages)-1], []byte(","), bytes.TrimSpace(own.Of(body))[1:])
	}
	body = schemas.SetMember(body, "messages", messages)
	for _, setting := range t.settings {
		if !has(body, setting.name) {
			body = schemas.SetMember(body, setting.name, setting.value)
		}
	}
	return body
}

// has reports whether a body sets a member, under either name that it goes by.
func has(body []byte, name string) bool {
	value, ok := schemas.Member(body, name)
	set := ok && !(name == "model" && unset(value.Of(body)))
	switch name {
	case "max_tokens":
		_, ok = schemas.Member(body, "max_completion_tokens")
		return set || ok
	case "max_completion_tokens":
		_, ok = schemas.Member(body, "max_tokens")
		return set || ok
	}
	return set
}

// unset reports a model that leaves the choice to others without saying so.
func unset(model []byte) bool { return string(model) == "null" || string(model) == `""` }

func requestError(err error, limit int) error {
	if errors.Is(err, ErrTooLarge) {
		e := schemas.Invalid(schemas.CodeTooLarge, param, "with its variables, the template makes a request of more than %d bytes", limit)
		e.Details = map[string]any{"limit": limit}
		return e
	}
	var wrong *VariablesError
	if !errors.As(err, &wrong) {
		return schemas.Invalid(schemas.CodeInvalidField, "processor.variables", "%v", err)
	}
	details := map[string]any{"missing": orNone(wrong.Missing), "surplus": orNone(wrong.Surplus)}
	if len(wrong.Violations) > 0 {
		details["violations"] = wrong.Violations
	}
	return &schemas.Error{
		Type: schemas.InvalidRequestError, Code: schemas.CodeTemplateVariables, Param: "processor.variables",
		Message: wrong.Error(), Details: details,
	}
}

func orNone(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}
