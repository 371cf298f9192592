// Package structure holds answers to the form that was asked for: JSON that fits
// a schema. It asks for the form before a model is called, and checks, repairs
// and asks again behind it.
package structure

import (
	"context"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
)

// Config is what the package needs to know of the world.
type Config struct {
	// MaxAttempts is how many answers a request may get, the first included,
	// where it says nothing itself.
	MaxAttempts int
	// Native reports whether every model that a request may go to takes a schema
	// as response_format. The others are told it in words.
	Native func(r *stages.Request) bool
	// Rejected is told of an answer that must not be used for later requests. May be nil.
	Rejected func(r *stages.Request)
}

// Forms asks for and checks the form of answers. It is safe for concurrent use.
type Forms struct {
	cfg     Config
	schemas *Schemas
}

// New makes Forms.
func New(cfg Config) *Forms { return &Forms{cfg, NewSchemas()} }

// form is what one request asks for.
type form struct {
	raw    jsontext.Value // the schema, compact; nil: any JSON object
	schema *Schema
}

const param = "processor.structure"

// of reads what a request asks for; nil where it asks for nothing. The errors
// are the request's fault.
func (f *Forms) of(r *stages.Request) (*form, error) {
	asked := r.Asked().Structure
	switch {
	case asked == nil:
		return nil, nil
	case r.Kind != schemas.Chat:
		return nil, schemas.Invalid(schemas.CodeInvalidField, param, "is for chat completions; embeddings have no structure")
	case asked.Format != "" && asked.Format != "json":
		return nil, schemas.Invalid(schemas.CodeInvalidField, param+".format", "%.40q is not json", asked.Format)
	case len(asked.Schema) == 0:
		return &form{}, nil
	}
	schema, err := f.schemas.Get(asked.Schema)
	if err != nil {
		return nil, schemas.Invalid(schemas.CodeInvalidField, param+".schema", "%v", err)
	}
	raw := asked.Schema.Clone()
	if err := raw.Compact(); err != nil {
		return nil, schemas.Invalid(schemas.CodeInvalidField, param+".schema", "%v", err)
	}
	return &form{raw, schema}, nil
}

// Ask has the request's messages ask for its form, before anything is paid. A
// form that cannot be used is decided here.
func (f *Forms) Ask(_ context.Context, r *stages.Request) (verdict stages.Verdict, decided bool) {
	form, err := f.of(r)
	if err == nil && form != nil {
		_, err = f.attempts(r)
	}
	if err != nil {
		return stages.Reject(err), true
	}
	if form == nil {
		return stages.Verdict{}, false
	}
	if body := form.ask(r.Body, f.cfg.Native(r)); len(body) != len(r.Body) {
		r.Original, r.Body = r.Published(), body
	}
	return stages.Verdict{}, false
}

// attempts gives how many answers a request may get.
func (f *Forms) attempts(r *stages.Request) (int, error) {
	var asked struct {
		MaxAttempts *int `json:"max_attempts"`
	}
	quality := r.Asked().Quality
	if len(quality) == 0 || quality.Kind() != '{' || json.Unmarshal(quality, &asked) == nil && asked.MaxAttempts == nil {
		return f.cfg.MaxAttempts, nil
	}
	if asked.MaxAttempts == nil || *asked.MaxAttempts < 1 || *asked.MaxAttempts > schemas.MaxRounds {
		return f.cfg.MaxAttempts, schemas.Invalid(schemas.CodeInvalidField, "processor.quality.max_attempts", "is not a whole number from 1 to %d", schemas.MaxRounds)
	}
	return *asked.MaxAttempts, nil
}

// maxAnswerShown bounds the answer in the error response, in bytes.
const maxAnswerShown = 128 << 10

// Check looks at an answer: one that fits goes on, repaired if need be. Another
// is asked for, with what was wrong, while attempts are left; then the request
// ends with an error that carries the last answer and its violations.
func (f *Forms) Check(_ context.Context, r *stages.Request) (verdict stages.Verdict, decided bool) {
	form, err := f.of(r)
	if form == nil || err != nil || r.GivenUp() { // unusable ones did not pass Ask
		return stages.Verdict{}, false
	}
	result := form.check(r.Answer)
	AskedOnce(r)
	if len(result.violations) == 0 {
		if len(result.repaired) > 0 {
			r.Answer = result.answer
			r.Structure, _ = json.Marshal(map[string]any{"repaired": result.repaired})
		}
		return stages.Verdict{}, false
	}
	if f.cfg.Rejected != nil {
		f.cfg.Rejected(r)
	}
	most, _ := f.attempts(r)
	failed := stages.Fail(violated(r, result))
	r.Attempts = append(r.Attempts, schemas.Attempt{
		Model: r.Selected.Model, Flags: []string{"schema"},
		CostUSD: r.CostUSD - r.Earlier.CostUSD, Usage: r.Usage.Minus(r.Earlier.Usage),
	})
	if r.EndWithBest("the next answer did not have the form that was asked for") {
		return stages.Verdict{}, false
	}
	switch {
	case r.Calls == 0: // the answer to an equal request: at least one is asked for on this one's behalf
		r.Cache, r.Usage = cache.Miss, schemas.Usage{}
	case r.Round+1 >= most:
		return failed, true
	}
	r.Again()
	feed(r, withFeedback(r.Body, result))
	r.Answer, r.AnswerRecorded = nil, false
	return stages.SkipBackTo(stages.Generate, failed), true
}

// Repaired gives an answer of a request that was read from its record the form
// that Check had given it.
func (f *Forms) Repaired(r *stages.Request, answer []byte) []byte {
	form, err := f.of(r)
	if form == nil || err != nil {
		return answer
	}
	return form.check(answer).answer
}

func violated(r *stages.Request, result result) error {
	shown, cut := clipText(result.text, maxAnswerShown)
	details := map[string]any{"answer": shown, "violations": result.violations, "attempts": r.Calls}
	if cut {
		details["answer_cut"] = true
	}
	return schemas.Typed(&schemas.Error{
		Type: schemas.QualityType, Code: schemas.CodeSchemaViolation, Param: param,
		Message: fmt.Sprintf("the answer does not have the form that was asked for: %s; it is in the details", result.violations[0]),
		Details: details,
	})
}
