package schemas

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"crypto/sha256"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is how deep a request's JSON may be nested. OpenAI's own schemas
// need fewer than 20 levels; the bound keeps every later pass over a body safe.
const MaxDepth = 256

// maxAnswers is how many answers a request may ask for (n). OpenAI takes 128.
const maxAnswers = 1000

// Kind is what a request asks for.
type Kind string

// The kinds of requests.
const (
	Chat       Kind = "chat"
	Embeddings Kind = "embeddings"
)

// Parsed is what a body says of itself, read once when a request is accepted.
type Parsed struct {
	Kind    Kind
	Model   string // "auto" where the body names none
	Stream  bool
	Options Options
}

// Options is the request's processor object: what it asks of the product.
type Options struct {
	Template  string         `json:"template,omitzero" jsonschema:"a stored template, as name or name@revision, or the template's text itself"`
	Variables map[string]any `json:"variables,omitzero" jsonschema:"values for the template's placeholders"`
	Structure *Structure     `json:"structure,omitzero" jsonschema:"the form that the answer must have"`
	Compress  jsontext.Value `json:"compress,omitzero" jsonschema:"how the prompt is compressed, or false"`
	Cache     *CacheOptions  `json:"cache,omitzero" jsonschema:"how the cache is used"`
	Quality   jsontext.Value `json:"quality,omitzero" jsonschema:"what the answer must reach, or false"`
	Select    jsontext.Value `json:"select,omitzero" jsonschema:"how a model is chosen with model auto or a group"`
	Route     string         `json:"route,omitzero" jsonschema:"the name under which statistics are kept"`
	Tune      jsontext.Value `json:"tune,omitzero" jsonschema:"which parameters may be tuned"`
	Priority  Class          `json:"priority,omitzero" jsonschema:"interactive (the default) or batch"`
	Deadline  time.Time      `json:"deadline,omitzero" jsonschema:"when the answer is of no use any more, RFC 3339"`
}

// Structure is the form that an answer must have.
type Structure struct {
	Format string         `json:"format,omitzero" jsonschema:"json"`
	Schema jsontext.Value `json:"schema,omitzero" jsonschema:"the JSON Schema that the answer must fit"`
}

// CacheOptions says how one request uses the cache.
type CacheOptions struct {
	Mode  string `json:"mode,omitzero" jsonschema:"on, off, or refresh: ask anew and store"`
	TTL   string `json:"ttl,omitzero" jsonschema:"how long the answer may be used, as in 1h"`
	Match string `json:"match,omitzero" jsonschema:"exact or normalized"`
	Scope string `json:"scope,omitzero" jsonschema:"tenant or shared"`
}

// QualityOptions says what an answer must reach.
type QualityOptions struct {
	Metrics     []string `json:"metrics,omitzero"`
	Threshold   *float64 `json:"threshold,omitzero"`
	MaxAttempts *int     `json:"max_attempts,omitzero"`
	// Required makes an answer below the threshold an error.
	Required bool `json:"required,omitzero"`
}

// Fingerprint identifies a body as it was published: SHA-256 of its bytes, in hex, shortened to 32 digits.
func Fingerprint(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

var decoders = sync.Pool{New: func() any { return jsontext.NewDecoder(bytes.NewReader(nil)) }}

// Parse reads a request body once, strictly: a JSON object with no repeated
// member anywhere, valid UTF-8, nested at most MaxDepth deep, with messages
// (or a template, or the input of an embeddings request) that have roles.
// Errors name the field and what would be right.
func Parse(body []byte) (Parsed, error) {
	if Depth(body) > MaxDepth {
		return Parsed{}, Invalid(CodeInvalidJSON, "", "the body is nested deeper than %d levels", MaxDepth)
	}
	dec := decoders.Get().(*jsontext.Decoder)
	defer decoders.Put(dec)
	dec.Reset(bytes.NewBuffer(body))
	p := parser{dec: dec, out: Parsed{Kind: Chat, Model: "auto"}}
	if err := p.object("", p.member); err != nil {
		return Parsed{}, err
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return Parsed{}, Invalid(CodeInvalidJSON, "", "the body goes on behind its JSON object, at byte %d", dec.InputOffset())
	}
	return p.out, p.complete()
}

type parser struct {
	dec      *jsontext.Decoder
	out      Parsed
	messages bool
	input    bool
}

// complete checks what can only be told once all members are known.
func (p *parser) complete() error {
	switch {
	case p.messages && p.input:
		return Invalid(CodeInvalidField, "input", "a request has messages (a chat completion) or input (embeddings), not both")
	case p.input:
		p.out.Kind = Embeddings
	case !p.messages && p.out.Options.Template == "":
		return Invalid(CodeMissingField, "messages", `messages is missing: a list like [{"role": "user", "content": "..."}]`)
	}
	return nil
}

func (p *parser) member(name string) error {
	switch name {
	case "model":
		model, err := p.text("model")
		if err != nil {
			return err
		}
		if model != "" {
			p.out.Model = model
		}
		if len(model) > 256 {
			return Invalid(CodeInvalidField, "model", "the model's name is longer than 256 bytes")
		}
		return nil
	case "messages":
		p.messages = true
		return p.messageList()
	case "input":
		p.input = true
		if k := p.dec.PeekKind(); k != '"' && k != '[' {
			return p.wrong("input", "a string or a list")
		}
		return p.inputs()
	case "stream":
		switch p.dec.PeekKind() {
		case 't':
			p.out.Stream = true
		case 'f', 'n':
		default:
			return p.wrong("stream", "true or false")
		}
		return p.skip("stream")
	case "n":
		return p.answers()
	case "processor":
		return p.options()
	}
	return p.skip(name)
}

// answers checks how many answers a request asks for: what it may cost is
// multiplied by it, so it must not be left to a provider how to read it.
func (p *parser) answers() error {
	if kind := p.dec.PeekKind(); kind != '0' && kind != 'n' {
		return p.wrong("n", fmt.Sprintf("a whole number from 1 to %d", maxAnswers))
	}
	value, err := p.dec.ReadValue()
	if err != nil {
		return syntaxError("n", err)
	}
	n := 1.0
	if value.Kind() == '0' {
		n, err = strconv.ParseFloat(string(value), 64)
	}
	if err != nil || n < 1 || n > maxAnswers || n != math.Trunc(n) {
		return Invalid(CodeInvalidField, "n", "%.40s is not a whole number from 1 to %d", value, maxAnswers)
	}
	return nil
}

// inputs reads what an embeddings request asks for: a text, texts, or tokens.
func (p *parser) inputs() error {
	if p.dec.PeekKind() == '"' {
		return p.skip("input")
	}
	if err := p.token("input"); err != nil {
		return err
	}
	if p.dec.PeekKind() == ']' {
		return Invalid(CodeInvalidField, "input", "input is empty: it needs at least one text")
	}
	for p.dec.PeekKind() != ']' {
		if err := p.skip("input"); err != nil {
			return err
		}
	}
	return p.token("input")
}

func (p *parser) messageList() error {
	if p.dec.PeekKind() != '[' {
		return p.wrong("messages", "a list")
	}
	if err := p.token("messages"); err != nil {
		return err
	}
	n := 0
	for ; p.dec.PeekKind() != ']'; n++ {
		if p.dec.PeekKind() == 0 {
			return p.skip("messages") // reports what is wrong
		}
		if err := p.message(n); err != nil {
			return err
		}
	}
	if n == 0 {
		return Invalid(CodeInvalidField, "messages", "messages is empty: it needs at least one message")
	}
	return p.token("messages")
}

func (p *parser) message(n int) error {
	param := func(member string) string { return fmt.Sprintf("messages[%d]%s", n, member) }
	role := false
	if p.dec.PeekKind() != '{' {
		return p.wrong(param(""), `an object like {"role": "user", "content": "..."}`)
	}
	err := p.object(param(""), func(name string) error {
		switch name {
		case "role":
			role = true
			if p.dec.PeekKind() != '"' {
				return p.wrong(param(".role"), "a string")
			}
			value, err := p.text(param(".role"))
			if err == nil && !knownRole(value) {
				return Invalid(CodeInvalidField, param(".role"), "role %.40q is none of system, developer, user, assistant, tool, function", value)
			}
			return err
		case "content":
			switch p.dec.PeekKind() {
			case '"', '[', 'n':
			default:
				return p.wrong(param(".content"), "a string, a list of parts or null")
			}
		}
		return p.skip(param("." + clip(name)))
	})
	if err != nil {
		return err
	}
	if !role {
		return Invalid(CodeMissingField, param(".role"), "a message has no role: one of system, developer, user, assistant, tool")
	}
	return nil
}

func knownRole(role string) bool {
	switch role {
	case "system", "developer", "user", "assistant", "tool", "function":
		return true
	}
	return false
}

func (p *parser) options() error {
	switch p.dec.PeekKind() {
	case 'n':
		return p.skip("processor")
	case '{':
	default:
		return p.wrong("processor", "an object")
	}
	value, err := p.dec.ReadValue()
	if err != nil {
		return syntaxError("processor", err)
	}
	options, err := ParseOptions(value)
	if err != nil {
		return err
	}
	p.out.Options = options
	return nil
}

// ParseOptions reads a processor object. An unknown member is an error, since a
// typing error would else silently change what a request costs.
func ParseOptions(object []byte) (Options, error) {
	var options Options
	if err := json.Unmarshal(object, &options, json.RejectUnknownMembers(true)); err != nil {
		return Options{}, optionsError(err)
	}
	if _, err := ParseClass(string(options.Priority)); err != nil {
		return Options{}, Invalid(CodeInvalidField, "processor.priority", "%v", err)
	}
	if c := options.Cache; c != nil {
		if err := c.validate(); err != nil {
			return Options{}, err
		}
	}
	return options, nil
}

func (c *CacheOptions) validate() error {
	if err := oneOf("processor.cache.mode", c.Mode, "on", "off", "refresh"); err != nil {
		return err
	}
	if err := oneOf("processor.cache.match", c.Match, "exact", "normalized"); err != nil {
		return err
	}
	if err := oneOf("processor.cache.scope", c.Scope, "tenant", "shared"); err != nil {
		return err
	}
	if c.TTL == "" {
		return nil
	}
	if ttl, err := time.ParseDuration(c.TTL); err != nil || ttl < time.Second {
		return Invalid(CodeInvalidField, "processor.cache.ttl", "ttl %.40q is not a duration of at least one second like 30s, 10m or 1h", c.TTL)
	}
	return nil
}

func oneOf(param, value string, allowed ...string) error {
	if value == "" || slices.Contains(allowed, value) {
		return nil
	}
	return Invalid(CodeInvalidField, param, "%.40q is none of %s", value, strings.Join(allowed, ", "))
}

func optionsError(err error) error {
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		param := "processor" + dotted(semantic.JSONPointer)
		if errors.Is(err, json.ErrUnknownName) {
			object := "processor" + dotted(semantic.JSONPointer.Parent())
			return Invalid(CodeInvalidField, clip(param), "is not known; %s takes %s", clip(object), strings.Join(memberNames(semantic.GoType), ", "))
		}
		return Invalid(CodeInvalidField, clip(param), "has the wrong type or form; it must be %s", formOf(semantic.GoType))
	}
	return syntaxError("processor", err)
}

// dotted writes a JSON pointer as a path: .a.0.b
func dotted(p jsontext.Pointer) string { return strings.ReplaceAll(string(p), "/", ".") }

// memberNames are the names that an object read into t may have.
func memberNames(t reflect.Type) (names []string) {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// formOf says in JSON's words what is read into t.
func formOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "a time like 2026-12-01T00:00:00Z (RFC 3339)"
	case t != nil && t.Kind() == reflect.String:
		return "a string"
	case t != nil && t.Kind() == reflect.Struct && t != reflect.TypeFor[Options]():
		return "an object with " + strings.Join(memberNames(t), ", ")
	}
	return "an object"
}

// object reads an object and calls member for each name with the decoder at the value.
func (p *parser) object(param string, member func(name string) error) error {
	if p.dec.PeekKind() != '{' {
		if p.dec.PeekKind() == 0 {
			return p.skip(param)
		}
		return p.wrong(param, "a JSON object")
	}
	if err := p.token(param); err != nil {
		return err
	}
	for p.dec.PeekKind() != '}' {
		name, err := p.dec.ReadValue()
		if err != nil {
			return syntaxError(param, err)
		}
		text, err := plainName(name)
		if err != nil {
			return syntaxError(param, err)
		}
		if err := member(text); err != nil {
			return err
		}
	}
	return p.token(param)
}

// plainName gives a member's name; the known ones cost no allocation.
func plainName(quoted []byte) (string, error) {
	if len(quoted) >= 2 && bytes.IndexByte(quoted, '\\') < 0 {
		for _, known := range knownNames {
			if string(quoted[1:len(quoted)-1]) == known {
				return known, nil
			}
		}
	}
	return Unquote(quoted)
}

var knownNames = []string{"model", "n", "messages", "role", "content", "input", "stream", "processor", "temperature", "max_completion_tokens", "max_tokens", "top_p", "tools", "name"}

func (p *parser) text(param string) (string, error) {
	switch p.dec.PeekKind() {
	case '"':
		value, err := p.dec.ReadValue()
		if err != nil {
			return "", syntaxError(param, err)
		}
		return Unquote(value)
	case 'n':
		return "", p.skip(param)
	}
	return "", p.wrong(param, "a string")
}

func (p *parser) skip(param string) error {
	if err := p.dec.SkipValue(); err != nil {
		return syntaxError(param, err)
	}
	return nil
}

func (p *parser) token(param string) error {
	if _, err := p.dec.ReadToken(); err != nil {
		return syntaxError(param, err)
	}
	return nil
}

// wrong says that the value under the decoder should be something else; bad
// syntax in it is the better message, so that is looked for first.
func (p *parser) wrong(param, want string) error {
	kind := p.dec.PeekKind()
	if err := p.skip(param); err != nil {
		return err
	}
	if param == "" {
		return Invalid(CodeInvalidJSON, "", "the body is %s, it must be %s", kindName(kind), want)
	}
	return Invalid(CodeInvalidField, param, "is %s, it must be %s", kindName(kind), want)
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '[':
		return "a list"
	case '{':
		return "an object"
	}
	return "no JSON"
}

func syntaxError(param string, err error) error {
	s, ok := errors.AsType[*jsontext.SyntacticError](err)
	if errors.Is(err, jsontext.ErrDuplicateName) {
		name := param
		if ok {
			name = strings.TrimPrefix(dotted(s.JSONPointer), ".")
		}
		return Invalid(CodeDuplicateMember, clip(name), "the member stands more than once in its object")
	}
	if ok {
		return Invalid(CodeInvalidJSON, clip(param), "the body is not valid JSON at byte %d: %v", s.ByteOffset, s.Err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return Invalid(CodeInvalidJSON, clip(param), "the body ends before its JSON does")
	}
	return Invalid(CodeInvalidJSON, clip(param), "the body is not valid JSON")
}

// clip keeps a name from the input short enough to be shown.
func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return strings.ToValidUTF8(s[:80], "") + "..."
}
