package score

import (
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"
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
	maxReason         = 300     // bytes of a violation's description
	enumsPerStep      = 64      // members of an enum that are compared in the time of a step
)

var (
	errSchemaBytes    = fmt.Errorf("schema is over %d bytes", maxSchemaBytes)
	errSchemaPatterns = fmt.Errorf("schema has over %d regular expressions", maxSchemaPatterns)
	errSchemaVocab    = errors.New("schema declares a vocabulary, which is not supported")
	errRemote         = errors.New("references to other documents are not followed")
	errWork           = errors.New("checking against the schema takes too long")
)

// CheckSchema reports why a JSON Schema cannot be used to check answers, or nil.
// Drafts 4 to 2020-12 are understood; without $schema it is 2020-12. References must stay
// within the document.
func CheckSchema(raw []byte) error {
	_, err := compileSchema(raw)
	return err
}

// schemaCache keeps compiled schemas, the least recently used goes first.
type schemaCache struct {
	seed maphash.Seed
	lru  *lru.Cache[uint64, *schema]
}

func newSchemaCache() *schemaCache {
	cache, err := lru.New[uint64, *schema](maxSchemas)
	if err != nil {
		panic(err) // only a size below 1 is an error
	}
	return &schemaCache{maphash.MakeSeed(), cache}
}

// get gives a schema compiled, now or before. An unusable one is kept too, as its error.
func (c *schemaCache) get(raw []byte) *schema {
	key := maphash.Bytes(c.seed, raw)
	if s, ok := c.lru.Get(key); ok && s.raw == string(raw) {
		return s
	}
	s, err := compileSchema(raw)
	if err != nil {
		s = &schema{err: err}
	}
	s.raw = string(raw)
	if len(raw) <= maxSchemaBytes {
		c.lru.Add(key, s)
	}
	return s
}

// schema is a compiled JSON Schema. Checks with one schema run one after the other, as
// the count of steps lies within it.
type schema struct {
	raw    string
	err    error // why it cannot be used
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

func compileSchema(raw []byte) (*schema, error) {
	if len(raw) > maxSchemaBytes {
		return nil, errSchemaBytes
	}
	t, err := parseTree(raw)
	if err != nil {
		return nil, fmt.Errorf("parsing the schema: %w", err)
	}
	s := &schema{}
	if err := s.bounds.measure(t.value); err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	c.RegisterVocabulary(&jsonschema.Vocabulary{URL: "urn:steps", Schema: anySchema, Compile: s.charge})
	c.AssertVocabs()
	if err := c.AddResource("urn:schema", t.value); err != nil {
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
func (s *schema) charge(_ *jsonschema.CompilerContext, object map[string]any) (jsonschema.SchemaExt, error) {
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
	schema *schema
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

// violation says how a value fails the schema, or "" if it fits.
func (s *schema) violation(t tree) (reason string) {
	// What one level of the schema can cost before its meter runs.
	if t.nodes*(1+s.bounds.enum/enumsPerStep+s.bounds.branches) > maxCheckWork {
		return errWork.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if r := recover(); r == errWork {
			reason = errWork.Error()
		} else if r != nil {
			panic(r)
		}
	}()
	s.work = maxCheckWork
	var invalid *jsonschema.ValidationError
	if err := s.compiled.Validate(t.value); errors.As(err, &invalid) {
		return describe(invalid)
	}
	return ""
}

var printer = messages.NewPrinter(language.English)

// describe gives the first violation: where, and what is expected.
func describe(e *jsonschema.ValidationError) string {
	for len(e.Causes) > 0 {
		e = e.Causes[0]
	}
	where := "/" + strings.Join(e.InstanceLocation, "/")
	return clip(fmt.Sprintf("%s: %s", where, e.ErrorKind.LocalizedString(printer)))
}

// clip bounds a description.
func clip(s string) string {
	if len(s) > maxReason {
		return strings.ToValidUTF8(s[:maxReason], "") + "..."
	}
	return s
}
