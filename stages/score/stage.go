package score

import (
	"context"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/structure"
)

// unfit are the flags of answers that must not be used for later requests.
var unfit = []string{Truncated, Empty, Refusal, Repetition, Language, Format, Schema, Echo, ToolCall}

// Deps is what the stage works with. All but Scorer may be left out.
type Deps struct {
	Scorer *Scorer
	// Rejected is told of each answer that is not to be used for later requests;
	// Won of one that is, although it is not the last or not good enough: it is
	// the best of all attempts.
	Rejected func(r *stages.Request)
	Won      func(r *stages.Request)
	// Scored is told of each score. paid says that the answer was bought for this
	// request; quality is the judge's grade where there is one.
	Scored func(r *stages.Request, quality float64, paid bool)
	// Better reports whether there is a better model than those in r.Tried. It
	// is asked before each attempt that goes to another model.
	Better func(r *stages.Request) bool
	// Answers are those of earlier rounds. Without it (nil) there is one attempt.
	Answers Answers
	// Earns decides where attempts at a better answer are worth their cost.
	Earns *Earnings
	// Switched is told when attempts are switched off or on for a route.
	Switched func(r *stages.Request, s Switch)
	// Judge is asked in doubt.
	Judge *Judge
}

// Answers are those of earlier rounds. It is safe for concurrent use.
type Answers interface {
	// Keep records an answer that was not bought for the request itself.
	Keep(ctx context.Context, r *stages.Request) error
	// Find gives the answer of a round.
	Find(ctx context.Context, r *stages.Request, round int) ([]byte, error)
}

// Stage is the score stage, the last one: it judges each answer and ends the
// request with it, or has a better one made. It is safe for concurrent use.
type Stage struct {
	cfg    Config
	deps   Deps
	judges chan struct{}
}

// judgesAtOnce bounds the verdicts that are waited for; what comes on top does without.
const judgesAtOnce = 16

// NewStage makes the stage.
func NewStage(cfg Config, deps Deps) *Stage {
	return &Stage{cfg, deps, make(chan struct{}, judgesAtOnce)}
}

// Run implements stages.Stage. What needs nobody else is decided at once; the
// rest when the judge has spoken or the best answer was found.
func (s *Stage) Run(ctx context.Context, requests []*stages.Request, decide stages.Decide) {
	for _, r := range requests {
		if verdict, later := s.score(r); later != nil {
			go func() { decide(r, later(ctx)) }()
		} else {
			decide(r, verdict)
		}
	}
}

// want is what a request wants of its answer.
type want struct {
	schemas.QualityOptions
	threshold float64
	attempts  int
}

// wants reads what a request wants. The errors are the request's fault.
func (s *Stage) wants(r *stages.Request) (want, error) {
	w := want{threshold: s.cfg.Threshold, attempts: s.cfg.MaxAttempts}
	asked := r.Asked().Quality
	if len(asked) == 0 || asked.Kind() != '{' {
		if len(asked) > 0 && strings.ContainsRune(`0"[`, rune(asked.Kind())) {
			return w, schemas.Invalid(schemas.CodeInvalidField, "processor.quality", `must be an object like {"threshold": 0.8, "max_attempts": 2}, or false`)
		}
		return w, nil
	}
	if json.Unmarshal(asked, &w.QualityOptions, json.RejectUnknownMembers(true)) != nil {
		return w, s.wrong(asked)
	}
	if err := known(w.Metrics); err != nil {
		return w, schemas.Invalid(schemas.CodeInvalidField, "processor.quality.metrics", "%v", err)
	}
	if t := w.Threshold; t != nil {
		if !(*t >= 0 && *t <= 1) {
			return w, schemas.Invalid(schemas.CodeInvalidField, "processor.quality.threshold", "is not within 0 and 1")
		}
		w.threshold = *t
	}
	if n := w.MaxAttempts; n != nil {
		if *n < 1 || *n > schemas.MaxRounds {
			return w, schemas.Invalid(schemas.CodeInvalidField, "processor.quality.max_attempts", "is not a whole number from 1 to %d", schemas.MaxRounds)
		}
		w.attempts = *n
	}
	return w, nil
}

// wrong finds which member of the quality object cannot be read.
func (s *Stage) wrong(asked jsontext.Value) error {
	param, what := "processor.quality", "cannot be read"
	schemas.Members(asked, func(name []byte, _, value schemas.Span) bool {
		var err error
		switch string(name) {
		case "metrics":
			err, what = json.Unmarshal(value.Of(asked), &[]string{}), "is not a list of relevance, coherence, groundedness"
		case "threshold":
			err, what = json.Unmarshal(value.Of(asked), new(float64)), "is not a number from 0 to 1"
		case "max_attempts":
			err, what = json.Unmarshal(value.Of(asked), new(int)), "is not a whole number from 1 to 10"
		case "required":
			err, what = json.Unmarshal(value.Of(asked), new(bool)), "is neither true nor false"
		default:
			param, what = "processor.quality", "has a member that is none of metrics, threshold, max_attempts, required"
			return false
		}
		if err != nil {
			param = "processor.quality." + string(name)
		}
		return err == nil
	})
	return schemas.Invalid(schemas.CodeInvalidField, param, "%s", what)
}

// Ask decides requests whose wishes cannot be read, before anything is paid.
func (s *Stage) Ask(_ context.Context, r *stages.Request) (verdict stages.Verdict, decided bool) {
	if len(r.Asked().Quality) == 0 {
		return stages.Verdict{}, false
	}
	if _, err := s.wants(r); err != nil {
		return stages.Reject(err), true
	}
	return stages.Verdict{}, false
}

// score judges an answer, or says what is to be done later for that.
func (s *Stage) score(r *stages.Request) (stages.Verdict, func(context.Context) stages.Verdict) {
	structure.AskedOnce(r)
	if r.Kind != schemas.Chat || string(r.Asked().Quality) == "false" {
		return stages.Answer(), nil
	}
	w, err := s.wants(r)
	if err != nil { // did not pass Ask
		w = want{threshold: s.cfg.Threshold, attempts: s.cfg.MaxAttempts}
	}
	if r.GivenUp() {
		return stages.Verdict{}, func(ctx context.Context) stages.Verdict { return s.end(ctx, r, w, r.Best.Ended) }
	}
	result, err := s.deps.Scorer.Score(promptOf(r), r.Answer, Options{Metrics: w.Metrics})
	if err != nil {
		if r.EndWithBest("the next answer was no chat completion") {
			return s.score(r)
		}
		return stages.Reject(unreadable(err)), nil
	}
	judged := s.deps.Judge != nil && s.deps.Judge.Wanted(result, r.ID, r.Selected.Model)
	if !judged && (result.Score >= w.threshold || r.Settled) {
		s.note(r, result, verdictOf(result))
		return stages.Answer(), nil
	}
	return stages.Verdict{}, func(ctx context.Context) stages.Verdict {
		v := verdictOf(result)
		if judged {
			v = s.judge(ctx, r, result)
		}
		s.note(r, result, v)
		if v.score >= w.threshold || r.Settled {
			return stages.Answer()
		}
		return s.below(ctx, r, w, result, v.score)
	}
}

// verdict is what an answer is worth: by the scorer, or by the judge where that was asked.
type verdict struct {
	score  float64
	judged bool
	grade  float64
	cost   float64
}

func verdictOf(r Result) verdict { return verdict{score: r.Score} }

// judge asks the judge. In doubt its grade is the score; that of a sample is
// shown beside it. Without a verdict the score stands.
func (s *Stage) judge(ctx context.Context, r *stages.Request, result Result) verdict {
	v := verdictOf(result)
	select {
	case s.judges <- struct{}{}:
		defer func() { <-s.judges }()
	default:
		return v
	}
	grade, cost, err := s.deps.Judge.Grade(stages.For(ctx, r), promptOf(r), r.Answer)
	v.cost = cost
	if err != nil {
		return v
	}
	v.judged, v.grade = true, grade
	if Doubtful(result.Score) {
		v.score = grade
	}
	return v
}

// note keeps what an answer is worth, and tells of it.
func (s *Stage) note(r *stages.Request, result Result, v verdict) {
	r.Quality = quality(result, v)
	paid := Paid(r)
	if s.deps.Scored != nil {
		value := v.score
		if v.judged {
			value = v.grade
		}
		s.deps.Scored(r, value, paid)
	}
	if len(r.Attempts) > 0 || r.Round > 0 {
		r.Attempts = append(r.Attempts, attempt(r, result, v.score))
		r.Attempts[len(r.Attempts)-1].Used = true // until another turns out to be better
	}
	if r.Best != nil && paid {
		s.earned(r, v.score)
	}
	if s.deps.Rejected != nil && slices.ContainsFunc(unfit, result.Has) {
		s.deps.Rejected(r)
	}
}

// Paid reports whether the answer of a request was bought for it.
func Paid(r *stages.Request) bool {
	return r.Calls > 0 && (r.Cache == cache.Miss || r.Cache == cache.Off || r.Cache == "")
}

func attempt(r *stages.Request, result Result, score float64) schemas.Attempt {
	return schemas.Attempt{
		Model: r.Selected.Model, Score: rounded(score), Flags: result.Flags,
		CostUSD: schemas.USD(r.CostUSD - r.Earlier.CostUSD), Usage: r.Usage.Minus(r.Earlier.Usage),
	}
}

// promptOf gives the body that an answer is judged by: as it was published, or
// as a template made it, where that brought all the messages.
func promptOf(r *stages.Request) []byte {
	if _, ok := schemas.Member(r.Published(), "messages"); ok {
		return r.Published()
	}
	return r.Body
}

func unreadable(err error) error {
	return &schemas.Error{
		Type: schemas.ServerError, Code: schemas.CodeProviderError,
		Message: "the provider's answer is no chat completion", Details: map[string]any{"reason": err.Error()},
	}
}

// quality writes the score, the metrics, the flags and the judge's verdict as one object.
func quality(r Result, v verdict) jsontext.Value {
	flags := r.Flags
	if flags == nil {
		flags = []string{}
	}
	out := append([]byte(`{"score":`), shortNumber(v.score)...)
	for _, m := range r.Metrics {
		out = append(append(append(append(out, ',', '"'), m.Name...), '"', ':'), shortNumber(m.Value)...)
	}
	if v.judged {
		out = append(append(out, `,"judge":`...), shortNumber(v.grade)...)
	}
	if v.cost > 0 {
		cost, _ := json.Marshal(v.cost)
		out = append(append(out, `,"judge_cost_usd":`...), cost...)
	}
	list, _ := json.Marshal(flags)
	out = append(append(out, `,"flags":`...), list...)
	return append(out, '}')
}

func rounded(f float64) float64 { return float64(int64(f*10000+0.5)) / 10000 }

func shortNumber(f float64) []byte {
	text, _ := json.Marshal(rounded(f))
	return text
}
