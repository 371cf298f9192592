// Package score judges answers of language models without a model: hard checks that
// find failures (cut off, empty, refused, going in circles, in the wrong language or
// format, repeating the prompt) and soft measures of how far an answer has to do with
// what was asked. It detects failures; it does not judge taste, truth or style.
package score

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/adpa/processor/stages/structure"
)

// The metrics that Config.Metrics may name. Each is a number in 0..1.
const (
	Relevance    = "relevance"    // 1 unless the words speak for the answer belonging to another question; see relevance
	Coherence    = "coherence"    // 1 for a text without loops and garbage; see coherence
	Groundedness = "groundedness" // the probability of being consistent with the context; absent without one
)

// The flags of a Result, in the order in which they are reported.
const (
	Truncated  = "truncated"  // stopped at the length limit, or cut off in the middle
	Empty      = "empty"      // no text and no tool call
	Refusal    = "refusal"    // the model declines, wholly or partly
	Repetition = "repetition" // goes in circles
	Language   = "language"   // in another language than was asked for
	Format     = "format"     // not the JSON value that was asked for
	Schema     = "schema"     // a JSON value that does not fit the schema
	Echo       = "echo"       // gives the prompt back
	ToolCall   = "tool_call"  // calls an unknown tool, or with arguments that do not fit its parameters
)

// penalty is what a flag leaves of the score. They are set, not measured: an answer that
// cannot be used scores lower than one that is merely incomplete, and several multiply.
var penalty = map[string]float64{
	Truncated: 0.5, Empty: 0, Refusal: 0.1, Repetition: 0.2, Language: 0.2,
	Format: 0.1, Schema: 0.3, Echo: 0.2, ToolCall: 0.2,
}

// Config is the section score: of the configuration.
type Config struct {
	// Metrics are the soft measures whose mean is the score of an answer without a flag.
	// Default: relevance and coherence.
	Metrics []string `yaml:"metrics" json:"metrics"`
	// Threshold is the least score, in 0..1, with which an answer goes out; below it the
	// request is tried again. Default 0: every answer goes out.
	Threshold float64 `yaml:"threshold" json:"threshold"`
	// MaxAttempts is how many answers a request may get at most, the first included. Default 2.
	MaxAttempts int `yaml:"max_attempts" json:"max_attempts"`
	// MinGain is what another attempt must add to the score on average on a route, by what
	// was measured there; where it adds less there are none but a few. Default 0.05.
	MinGain float64 `yaml:"min_gain" json:"min_gain"`
	// MinGainPerUSD is what it must add for each US dollar that it costs. Default 0: no matter
	// what it costs.
	MinGainPerUSD float64 `yaml:"min_gain_per_usd" json:"min_gain_per_usd"`
	// Judge is the model that is asked in doubtful cases; empty (the default) means none.
	Judge string `yaml:"judge" json:"judge"`
	// JudgeSample is the share of all answers, in 0..1, that is judged although their score is
	// plain. Default 0.
	JudgeSample float64 `yaml:"judge_sample" json:"judge_sample"`
	// JudgeLimit is how many tokens a day the judge may use up, over all tenants. It is the
	// daily_limit of the tenant _judge, for which budgets: may have entries instead. Default 1000000.
	JudgeLimit int64 `yaml:"judge_limit" json:"judge_limit"`
}

// DefaultConfig gives the defaults.
func DefaultConfig() Config {
	return Config{Metrics: []string{Relevance, Coherence}, MaxAttempts: 2, MinGain: 0.05, JudgeLimit: 1_000_000}
}

// Validate reports the first setting that cannot be used, and what would be right.
func (c Config) Validate() error {
	if len(c.Metrics) == 0 {
		return errors.New("metrics: give at least one of relevance, coherence, groundedness")
	}
	if err := known(c.Metrics); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if !(c.Threshold >= 0 && c.Threshold <= 1) { // written so that NaN fails
		return fmt.Errorf("threshold: %v is not within 0 and 1", c.Threshold)
	}
	if c.MaxAttempts < 1 || c.MaxAttempts > 10 {
		return fmt.Errorf("max_attempts: %d is not within 1 and 10", c.MaxAttempts)
	}
	if !(c.MinGain >= 0 && c.MinGain <= 1) {
		return fmt.Errorf("min_gain: %v is not within 0 and 1", c.MinGain)
	}
	if !(c.MinGainPerUSD >= 0 && c.MinGainPerUSD <= 1e9) {
		return fmt.Errorf("min_gain_per_usd: %v is not within 0 and 1000000000", c.MinGainPerUSD)
	}
	if !(c.JudgeSample >= 0 && c.JudgeSample <= 1) {
		return fmt.Errorf("judge_sample: %v is not within 0 and 1", c.JudgeSample)
	}
	if c.JudgeLimit < 0 {
		return fmt.Errorf("judge_limit: %d is negative", c.JudgeLimit)
	}
	return nil
}

// known reports the first of the soft measures that there is not, or that is named again.
func known(metrics []string) error {
	for i, m := range metrics {
		if m != Relevance && m != Coherence && m != Groundedness {
			return fmt.Errorf("%.64q is not one of relevance, coherence, groundedness", m)
		}
		if slices.Contains(metrics[:i], m) {
			return fmt.Errorf("%s is named twice", m)
		}
	}
	return nil
}

// Options are what a caller knows of one request beyond its body. The zero value is right for most.
type Options struct {
	// Schema is a JSON Schema that the answer must fit; it goes before the request's own.
	Schema []byte
	// Context is the text that the answer must keep to. Without it, groundedness is measured
	// against the prompt, if that is long enough to be one.
	Context []byte
	// Metrics replaces Config.Metrics for this answer, if not empty. Unknown names are ignored.
	Metrics []string
}

// Metric is one measure of an answer.
type Metric struct {
	Name  string
	Value float64
}

// Result is what is known of an answer. With several choices it is that of the worst.
type Result struct {
	Score   float64  // 0..1: the mean of the metrics, times what the flags leave of it
	Metrics []Metric // in the order of the configuration; one that does not apply is left out
	Flags   []string // what is wrong, in a fixed order; nil if nothing is
	// Reason says what does not fit, for the flags format, schema and tool_call: something to
	// tell the model when it tries again. Without these flags it says why a schema was not
	// checked, if it could not be. At most a few hundred bytes; it may quote the answer.
	Reason string
}

// Metric gives a measure by name.
func (r Result) Metric(name string) (float64, bool) {
	for _, m := range r.Metrics {
		if m.Name == name {
			return m.Value, true
		}
	}
	return 0, false
}

// Has tells whether a flag is set.
func (r Result) Has(flag string) bool { return slices.Contains(r.Flags, flag) }

// Scorer scores answers. It may be used by any number of goroutines at once and keeps
// nothing of what it has scored but compiled schemas. Equal input gives equal results.
type Scorer struct {
	metrics []string
	schemas *structure.Schemas
	pool    sync.Pool // of *scratch
}

// New makes a Scorer. The configuration must have passed Validate.
func New(cfg Config) *Scorer {
	s := &Scorer{metrics: slices.Clone(cfg.Metrics), schemas: structure.NewSchemas()}
	s.pool.New = func() any { return new(scratch) }
	return s
}

// Score judges a completion, the body of an OpenAI chat completion, as the answer to a
// request, the body of an OpenAI chat completion request. An error means that one of them
// is not such a body; what is wrong with an answer is in the Result and never an error.
// Time and memory grow linearly with the input and stop growing at maxWords words a text.
// What it returns holds no reference to its arguments.
func (s *Scorer) Score(request, completion []byte, opts Options) (Result, error) {
	x := s.pool.Get().(*scratch)
	defer s.release(x)
	if err := x.read(request, completion, opts); err != nil {
		return Result{}, err
	}
	metrics := s.metrics
	if len(opts.Metrics) > 0 {
		metrics = opts.Metrics
	}
	if slices.Contains(metrics, Groundedness) {
		x.readContext(opts.Context)
	}
	var worst Result
	for i := range x.choices {
		r := s.choice(x, &x.choices[i], metrics)
		if i == 0 || r.Score < worst.Score {
			worst = r
		}
	}
	return worst, nil
}

// choice scores one answer.
func (s *Scorer) choice(x *scratch, c *choice, metrics []string) Result {
	x.answer.read(c.text.of(x.output))
	var r Result
	s.flag(x, c, &r)
	r.Metrics = make([]Metric, 0, len(metrics))
	sum := 0.0
	for _, name := range metrics {
		if v, ok := x.measure(name, c); ok {
			r.Metrics = append(r.Metrics, Metric{name, v})
			sum += v
		}
	}
	r.Score = 1
	if len(r.Metrics) > 0 {
		r.Score = sum / float64(len(r.Metrics))
	}
	for _, f := range r.Flags {
		r.Score *= penalty[f]
	}
	return r
}

// flag runs the hard checks.
func (s *Scorer) flag(x *scratch, c *choice, r *Result) {
	set := func(flag string, on bool) {
		if on {
			r.Flags = append(r.Flags, flag)
		}
	}
	broken, reason, cut := s.structure(x, c)
	r.Reason = reason
	set(Truncated, cut || x.truncated(c))
	if len(c.calls) == 0 && c.refusal.empty() && x.blank(c) {
		set(Empty, true)
		return
	}
	set(Refusal, x.refused(c))
	set(Repetition, x.repeats(c))
	set(Language, x.wrongLanguage(c))
	set(Format, broken == Format)
	set(Schema, broken == Schema)
	set(Echo, x.echoes(c))
	if reason := s.toolCalls(x, c); reason != "" {
		set(ToolCall, true)
		r.Reason = reason
	}
}

// measure gives a metric, and whether it applies to this answer.
func (x *scratch) measure(name string, c *choice) (float64, bool) {
	if c.text.empty() && len(c.calls) > 0 {
		return 0, false // nothing but tool calls: no text to measure
	}
	switch name {
	case Relevance:
		return x.relevance(), true
	case Coherence:
		return x.coherence(), true
	case Groundedness:
		return x.groundedness()
	}
	return 0, false
}
