// Package evaluate compares two configurations on the same requests: paired
// differences with intervals, tests that fit pairs, and a verdict that respects
// how many were made. It is pure: it reads no stream and calls nobody.
package evaluate

import (
	"hash/fnv"
	"unicode/utf8"
)

// Outcome is what became of a request under one configuration.
type Outcome struct {
	Error            string             `json:"error,omitzero"` // the code of an error response; empty is an answer
	Model            string             `json:"model,omitzero"` // that answered
	Hit              bool               `json:"hit,omitzero"`   // answered without a call of its own
	CostUSD          float64            `json:"cost_usd,omitzero"`
	PromptTokens     int                `json:"prompt_tokens,omitzero"`     // billed: 0 for a hit
	CompletionTokens int                `json:"completion_tokens,omitzero"` // billed: 0 for a hit
	Score            *float64           `json:"score,omitzero"`             // of the score stage, 0 to 1
	Correct          *bool              `json:"correct,omitzero"`           // by a reference
	Stages           map[string]float64 `json:"stages,omitzero"`            // milliseconds of work by stage
	Text             string             `json:"text,omitzero"`              // of the answer
}

// Pair is one request under both configurations.
type Pair struct {
	ID     string
	Tenant string
	Model  string // as requested
	Route  string
	Tokens int    // of the prompt, about
	Prompt string // for people to read
	// Body tells equal requests: they are no independent evidence, so that they
	// count as one cluster.
	Body      string
	Baseline  Outcome
	Candidate Outcome
	// Preference is the judge's: 1 for the candidate's answer, 0 for the baseline's, 0.5 for neither.
	Preference *float64
	// Rating is what people said of the baseline's answer, 0 to 1.
	Rating *float64
}

// metric is one number that is compared.
type metric struct {
	name, unit string
	better     string // higher, lower, or empty where neither is
	quality    bool
	boolean    bool
	// of gives the number under both configurations; ok is false where the
	// pair says nothing of it.
	of func(p *Pair) (baseline, candidate float64, ok bool)
}

// Names of the metrics.
const (
	Correct   = "correct"
	Judge     = "judge"
	Score     = "score"
	Failed    = "failed"
	Cost      = "cost_usd"
	TokensIn  = "tokens_in"
	TokensOut = "tokens_out"
	CacheHit  = "cache_hit"
	Latency   = "generate_ms"
)

// metrics are all that is compared, those of quality first: the first of them
// that has pairs is what a verdict on quality rests on.
var metrics = []metric{
	{Correct, "share", "higher", true, true, func(p *Pair) (float64, float64, bool) {
		if p.Baseline.Correct == nil && p.Candidate.Correct == nil || p.bothFailed() {
			return 0, 0, false
		}
		return isTrue(p.Baseline.Correct), isTrue(p.Candidate.Correct), true
	}},
	{Judge, "preference", "higher", true, false, func(p *Pair) (float64, float64, bool) {
		if p.Preference == nil {
			return 0, 0, false
		}
		return 1 - *p.Preference, *p.Preference, true
	}},
	{Score, "0 to 1", "higher", true, false, func(p *Pair) (float64, float64, bool) {
		b, okB := p.Baseline.score()
		c, okC := p.Candidate.score()
		return b, c, okB && okC && !p.bothFailed()
	}},
	{Failed, "share", "lower", false, true, func(p *Pair) (float64, float64, bool) {
		return number(p.Baseline.Error != ""), number(p.Candidate.Error != ""), true
	}},
	{Cost, "USD", "lower", false, false, func(p *Pair) (float64, float64, bool) {
		return p.Baseline.CostUSD, p.Candidate.CostUSD, true
	}},
	{TokensIn, "tokens", "lower", false, false, func(p *Pair) (float64, float64, bool) {
		return float64(p.Baseline.PromptTokens), float64(p.Candidate.PromptTokens), true
	}},
	{TokensOut, "tokens", "", false, false, func(p *Pair) (float64, float64, bool) {
		return float64(p.Baseline.CompletionTokens), float64(p.Candidate.CompletionTokens), true
	}},
	{CacheHit, "share", "higher", false, true, func(p *Pair) (float64, float64, bool) {
		return number(p.Baseline.Hit), number(p.Candidate.Hit), true
	}},
	{Latency, "ms", "lower", false, false, func(p *Pair) (float64, float64, bool) {
		b, okB := p.Baseline.Stages["generate"]
		c, okC := p.Candidate.Stages["generate"]
		return b, c, okB && okC
	}},
}

func (p *Pair) bothFailed() bool { return p.Baseline.Error != "" && p.Candidate.Error != "" }

// score gives the score of an answer; an error is worth nothing.
func (o *Outcome) score() (float64, bool) {
	if o.Error != "" {
		return 0, true
	}
	if o.Score == nil {
		return 0, false
	}
	return *o.Score, true
}

func isTrue(b *bool) float64 { return number(b != nil && *b) }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// cluster is the key of a pair's cluster.
func (p *Pair) cluster(seed uint64) uint64 {
	body := p.Body
	if body == "" {
		body = p.ID
	}
	return hash(seed, p.Tenant, body)
}

func hash(seed uint64, parts ...string) uint64 {
	h := fnv.New64a()
	for _, part := range parts {
		_, _ = h.Write([]byte(part))
		_, _ = h.Write([]byte{0})
	}
	return mix(h.Sum64() ^ mix(seed))
}

// mix spreads the bits of a number, so that what is near is far apart (the
// finalizer of splitmix64, Steele et al. 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// clip keeps a text short enough to be shown, and whole characters.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + " [...]"
}
