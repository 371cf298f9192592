package structure

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	messages "golang.org/x/text/message"
)

// Limits of a schema and of a check against it. A schema comes from whoever sends the
// request, and the validator has none of its own: references can make a schema of a few
// hundred bytes do an exponential amount of work.
const (
	maxSchemaBytes    = 64 << 10
	maxSchemaPatterns = 64      // regular expressions
	maxSchemas        = 256     // compiled schemas that are kept
	maxCheckWork      = 1 << 18 // steps of one check, each about a microsecond
	maxViolations     = 32      // that are listed
	maxLeaves         = 4096    // violations that are looked at, since the validator gives them in no order
	maxReason         = 300     // bytes of a violation's path or message
	enumsPerStep      = 64      // members of an enum that are compared in the time of a step
)

var (
	errSchemaBytes    = fmt.Errorf("schema is over %d bytes", maxSchemaBytes)
	errSchemaPatterns = fmt.Errorf("schema has over %d regular expressions", maxSchemaPatterns)
	errSchemaVocab    = errors.New("schema declares a vocabulary, which is not supported")
	errRemote         = errors.New("references to other documents are not followed")
	errWork           = errors.New("checking against the schema takes too long")
)

// Schemas keeps compiled schemas, at most 256; the least recently used goes first. It is
// safe for concurrent use.
type Schemas struct {
	seed maphash.Seed
	lru  *lru.Cache[uint64, *Schema]
}

// NewSchemas makes an empty cache.
func NewSchemas() *Schemas {
	cache, err := lru.New[uint64, *Schema](maxSchemas)
	if err != nil {
		panic(err) // only a size below 1 is an error
	}
	return &Schemas{maphash.MakeSeed(), cache}
}

// Get gives a schema compiled, now or before, or the error of Compile, which is kept too.
func (c *Schemas) Get(raw []byte) (*Schema, error) {
	key := maphash.Bytes(c.seed, raw)
	if s, ok := c.lru.Get(key); ok && s.raw == string(raw) {
		return s, s.err
	}
	s, err := Compile(raw)
	if err != nil {
		s = &Schema{err: err}
	}
	s.raw = string(raw)
	if len(raw) <= maxSchemaBytes {
		c.lru.Add(key, s)
	}
	return s, err
}

// Schema is a compiled JSON Schema. It is safe for concurrent use; checks with one schema
// run one after the other, as the count of steps lies within it.
type Schema struct {
	raw    string
	err    error // why it cannot be used
	value  any   // the schema itself
	bounds bounds

	mu       sync.Mutex
	work     int // steps left to the check that is running
	compiled *jsonschema.Schema
}

// bounds are what decides how much work one value can cause.
type bounds struct {
	enum     int // members of the longest enum
	branches int // members of the longest allOf, anyOf or oneOf
	patterns int // regular expressions
}

// Compile makes a JSON Schema ready for checks, or says why it cannot be used. Drafts 4 to
// 2020-12 are understood; without $schema it is 2020-12. It may have 64 KB, 64 levels and 64
// regular expressions (RE2), and references must stay within the document.
func Compile(raw []byte) (*Schema, error) {
	if len(raw) > maxSchemaBytes {
		return nil, errSchemaBytes
	}
	t, err := ParseTree(raw)
	if err != nil {
		return nil, fmt.Errorf("parsing the schema: %w", err)
	}
	s := &Schema{value: t.Value}
	if err := s.bounds.measure(t.Value); err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	c.RegisterVocabulary(&jsonschema.Vocabulary{URL: "urn:steps", Schema: anySchema, Compile: s.charge})
	c.AssertVocabs()
	if err := c.AddResource("urn:schema", t.Value); err != nil {
		return nil, fmt.Errorf("compiling the schema: %w", err)
	}
	if s.compiled, err = c.Compile("urn:schema"); err != nil {
		return nil, fmt.Errorf("compiling the schema: %s", clip(err.Error()))
	}
	return s, nil
}

// noLoader refuses to fetch anything: a schema must not make the process read files or call hosts.
type noLoader struct{}

func (noLoader) Load(string) (any, error) { return nil, errRemote }

// anySchema allows everything; the vocabulary that counts has no keywords of its own.
var anySchema = func() *jsonschema.Schema {
	c := jsonschema.NewCompiler()
	if err := c.AddResource("urn:any", map[string]any{}); err != nil {
		panic(err) // a constant schema
	}
	return c.MustCompile("urn:any")
}()

// measure walks a schema for its bounds. It takes any member of such a name for the
// keyword, which can only make the bounds too high.
func (b *bounds) measure(v any) error {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if err := b.measure(e); err != nil {
				return err
			}
		}
	case map[string]any:
		for name, e := range v {
			if err := b.keyword(name, e); err != nil {
				return err
			}
			if err := b.measure(e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bounds) keyword(name string, v any) error {
	list, _ := v.([]any)
	switch name {
	case "enum":
		b.enum = max(b.enum, len(list))
	case "allOf", "anyOf", "oneOf":
		b.branches = max(b.branches, len(list))
	case "pattern":
		b.patterns++
	case "patternProperties":
		object, _ := v.(map[string]any)
		b.patterns += len(object)
	case "$vocabulary":
		return errSchemaVocab
	}
	if b.patterns > maxSchemaPatterns {
		return errSchemaPatterns
	}
	return nil
}

// charge makes the counter of one subschema.
func (s *Schema) charge(_ *jsonschema.CompilerContext, object map[string]any) (jsonschema.SchemaExt, error) {
	branches := 0
	for _, keyword := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := object[keyword].([]any)
		branches += len(list)
	}
	return &meter{s, 1 + branches*(1+s.bounds.enum/enumsPerStep)}, nil
}

// meter takes the steps of one visit of a subschema from what is left, and ends the
// check by a panic when nothing is: the validator knows no other way out.
type meter struct {
	schema *Schema
	fixed  int
}

func (m *meter) Validate(_ *jsonschema.ValidatorContext, v any) {
	steps := m.fixed
	switch v := v.(type) {
	case string:
		steps += len(v) / 64 * m.schema.bounds.patterns
	case []any:
		steps += m.fixed + len(v)*(1+m.schema.bounds.enum/enumsPerStep)
	case map[string]any:
		steps += m.fixed + len(v)*(1+m.schema.bounds.enum/enumsPerStep)
	}
	if m.schema.work -= steps; m.schema.work < 0 {
		panic(errWork)
	}
}

// Violation is one way in which a value fails a schema.
type Violation struct {
	Path    string `json:"path"`    // a JSON Pointer into the value; empty is the value itself
	Message string `json:"message"` // what is there and what is expected; may quote the value
}

func (v Violation) String() string { return cmp.Or(v.Path, "/") + ": " + v.Message }

// Violations lists how a value fails the schema, by path, each once and at most 32; none if
// it fits. Of alternatives it lists how each fails.
func (s *Schema) Violations(t Tree) (list []Violation) {
	// What one level of the schema can cost before its meter runs.
	if t.nodes*(1+s.bounds.enum/enumsPerStep+s.bounds.branches) > maxCheckWork {
		return []Violation{{Message: errWork.Error()}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		r := recover()
		if err, ok := r.(error); ok && errors.Is(err, errWork) {
			list = []Violation{{Message: errWork.Error()}}
		} else if r != nil {
			panic(r)
		}
	}()
	s.work = maxCheckWork
	var invalid *jsonschema.ValidationError
	if err := s.compiled.Validate(t.Value); errors.As(err, &invalid) {
		list = leaves(nil, invalid)
		slices.SortFunc(list, func(x, y Violation) int {
			return cmp.Or(strings.Compare(x.Path, y.Path), strings.Compare(x.Message, y.Message))
		})
		list = slices.Compact(list)
	}
	return list[:min(len(list), maxViolations)]
}

var printer = messages.NewPrinter(language.English)

// leaves adds what has no further cause.
func leaves(list []Violation, e *jsonschema.ValidationError) []Violation {
	for _, cause := range e.Causes {
		if len(list) == maxLeaves {
			return list
		}
		list = leaves(list, cause)
	}
	if len(e.Causes) > 0 {
		return list
	}
	if surplus, ok := e.ErrorKind.(*kind.AdditionalProperties); ok {
		slices.Sort(surplus.Properties) // the library has them in any order
	}
	return append(list, Violation{Path: clip(pointer(e.InstanceLocation)), Message: clip(e.ErrorKind.LocalizedString(printer))})
}

var escaper = strings.NewReplacer("~", "~0", "/", "~1")

// pointer writes a path as a JSON Pointer (RFC 6901).
func pointer(path []string) string {
	var b strings.Builder
	for _, name := range path {
		b.WriteByte('/')
		b.WriteString(escaper.Replace(name))
	}
	return b.String()
}

// clip bounds a description.
func clip(s string) string {
	if len(s) > maxReason {
		return strings.ToValidUTF8(s[:maxReason], "") + "..."
	}
	return s
}
