package schemas

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// HandoffVersion is the version of hand-offs that this code writes. It reads
// this and older ones; a replica that meets a newer one leaves it to others.
const HandoffVersion = 1

// State is what a request carries from stage to stage besides its bodies.
type State struct {
	ID       string `json:"id"`
	Tenant   string `json:"tenant"`
	Class    Class  `json:"class"`
	Sequence uint64 `json:"seq"` // of the message in the requests stream
	Accepted Millis `json:"at"`  // when the requests stream stored it
	Deadline Millis `json:"deadline,omitzero"`
	Trace    string `json:"trace,omitzero"` // the traceparent header

	Kind    Kind           `json:"kind"`
	Model   string         `json:"model"` // as requested
	Stream  bool           `json:"stream,omitzero"`
	Options jsontext.Value `json:"options,omitzero"` // the processor object, raw

	BodyHash    string `json:"hash"`             // Fingerprint of the body as published
	Fingerprint string `json:"key,omitzero"`     // the cache key, once known
	Cache       string `json:"cache,omitzero"`   // miss, hit, shared, normalized, off
	Found       string `json:"found,omitzero"`   // the cache key that had the answer, where that is not the request's own
	Attempt     int    `json:"attempt,omitzero"` // distinguishes hand-offs of one request to the same stage
	Failures    int    `json:"failures,omitzero"`
	Retried     bool   `json:"retried,omitzero"`    // a call for it failed, and it is to be tried again
	NotBefore   Millis `json:"not_before,omitzero"` // when the request is to be worked at the earliest
	Beyond      bool   `json:"beyond,omitzero"`     // sent beyond its tenant's share: it goes beside the tenant's shard

	Round    int    `json:"round,omitzero"`    // answers that were asked for before this one and did not do
	Earlier  Spent  `json:"earlier,omitzero"`  // what those cost
	Template string `json:"template,omitzero"` // that the messages were made from, as name@revision

	// Tried are the models whose answers were judged not good enough, in order:
	// the next round goes to a better one than these.
	Tried []string `json:"tried,omitzero"`

	Attempts []Attempt `json:"attempts,omitzero"` // the answers that were judged, in order
	Best     *Best     `json:"best,omitzero"`     // of those that were not good enough
	Fed      bool      `json:"fed,omitzero"`      // the last messages of the body say what was wrong with an answer
	Settled  bool      `json:"settled,omitzero"`  // the answer is the best of all that were asked for, as the cache knows

	Tokens         Tokens         `json:"tokens,omitzero"`
	Selected       Selected       `json:"selected,omitzero"`
	Parameters     jsontext.Value `json:"parameters,omitzero"`      // that the product set or changed
	Calls          int            `json:"calls,omitzero"`           // calls made for this request
	AnswerRecorded bool           `json:"answer_recorded,omitzero"` // too large to travel along: read it from the record
	Usage          Usage          `json:"usage,omitzero"`
	CostUSD        float64        `json:"cost,omitzero"`
	Quality        jsontext.Value `json:"quality,omitzero"`
	Stages         Timings        `json:"stages,omitzero"`
	Compress       jsontext.Value `json:"compress,omitzero"`  // the compress stage's report
	Structure      jsontext.Value `json:"structure,omitzero"` // what was done to give the answer its form
}

// Millis is a time in milliseconds since 1970; 0 is none.
type Millis int64

// ToMillis gives t in milliseconds; the zero time is 0.
func ToMillis(t time.Time) Millis {
	if t.IsZero() {
		return 0
	}
	return Millis(t.UnixMilli())
}

// Time gives the time, in UTC; of 0 the zero time.
func (m Millis) Time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(m)).UTC()
}

// Tokens says what compression did to the prompt.
type Tokens struct {
	PromptOriginal int `json:"prompt_original"`
	PromptSent     int `json:"prompt_sent"`
	Saved          int `json:"saved"`
}

// Bill sets the tokens of the prompt to what a provider billed for it; what
// compression saved comes on top of what was asked for.
func (t *Tokens) Bill(prompt int) {
	t.PromptOriginal, t.PromptSent = prompt+t.Saved, prompt
}

// Spent is what answers cost.
type Spent struct {
	Usage   Usage   `json:"usage,omitzero"`
	CostUSD float64 `json:"cost,omitzero"`
}

// Selected says which model was called and why.
type Selected struct {
	Model       string  `json:"model"`
	Provider    string  `json:"provider,omitzero"`
	Because     string  `json:"because,omitzero"`
	Probability float64 `json:"probability,omitzero"`
	Tried       []Tried `json:"tried,omitempty" jsonschema:"the models that were tried before this one, or passed over since they fail or cannot take the request"`
}

// Tried is a model that brought no answer, and why.
type Tried struct {
	Model    string `json:"model"`
	Provider string `json:"provider,omitzero"`
	Error    Code   `json:"error"`
}

// Timings is how long a request waited for and ran in each stage, in order.
type Timings []Timing

// Timing is one stage's part.
type Timing struct {
	Stage    string  `json:"s"`
	QueuedMS float64 `json:"q"`
	RanMS    float64 `json:"r"`
}

// Handoff is one request on its way from a stage to the next, or back from a
// dead letter: its state and its bodies.
type Handoff struct {
	State
	Body     []byte // what the provider is to be sent, with the processor object still in it
	Original []byte // what the application published; nil where Body is that
	Answer   []byte // the provider's answer, once there is one
}

// Published gives the body as the application published it.
func (h *Handoff) Published() []byte {
	if h.Original != nil {
		return h.Original
	}
	return h.Body
}

// Key names the request over all tenants, as in buckets: tenant.id.
func (s *State) Key() string { return s.Tenant + "." + s.ID }

// RecordKey names the record of the answer that is asked for now: that of the
// first is under tenant.id, those of later rounds under tenant.id.a1, tenant.id.a2, ...
func (s *State) RecordKey() string { return RecordKey(s.Key(), s.Round) }

// RecordKey names the record of a round's answer to the request with this key (tenant.id).
func RecordKey(key string, round int) string {
	if round == 0 {
		return key
	}
	return key + ".a" + strconv.Itoa(round)
}

// MaxRounds bounds the answers that are asked for on behalf of one request.
const MaxRounds = 10

// Again begins another round: what the answers so far cost is kept, and the
// next one is asked for and recorded as one of its own.
func (s *State) Again() {
	s.Round++
	s.Retried = false
	s.Earlier = Spent{Usage: s.Usage, CostUSD: s.CostUSD}
}

// Expired reports whether the request's deadline has passed.
func (s *State) Expired(now time.Time) bool {
	return s.Deadline != 0 && now.UnixMilli() > int64(s.Deadline)
}
