// Package tune chooses parameters that requests leave open, such as the
// temperature: it tries settings on a share of the traffic, route by route and
// model by model, measures what comes of them and keeps to what does best.
package tune

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// What settings may be judged by.
const (
	Quality = "quality" // the score of the answer
	Cost    = "cost"    // what it cost; less is better
	Speed   = "speed"   // how long the call took; less is better
)

// Objectives lists them.
var Objectives = []string{Quality, Speed, Cost}

// Store keeps what was learnt, by key, and shares it. It is safe for concurrent use.
type Store interface {
	View(key string, f func(*Learner)) bool
	Observe(key string, f func(use, own *Learner)) bool
}

// Config is what the tuner needs to know.
type Config struct {
	Enabled    bool // where a request does not say
	Parameters []string
	Objective  string
	Ranges     map[string]Range
	Share      float64 // of the requests that settings are tried on, while none is found
	// Key names what is learnt of a model on a route; search tells one set of settings from another.
	Key func(tenant, route, model, search string) string
}

// Tuner chooses parameters. It is safe for concurrent use.
type Tuner struct {
	cfg   Config
	store Store

	mu      sync.Mutex
	refused map[string]bool // models that a provider does not let be tuned
}

// maxRefused bounds the models that are known not to be tuned.
const maxRefused = 10_000

// New makes a Tuner.
func New(cfg Config, store Store) *Tuner {
	return &Tuner{cfg: cfg, store: store, refused: map[string]bool{}}
}

// search is what is tried for one request.
type search struct {
	settings []Setting
	names    []string
	by       string // the objective
}

// wanted reads what a request says of tuning; nil where it is to be left alone.
// The errors are the request's fault.
func (t *Tuner) wanted(r *stages.Request) (*search, error) {
	s := search{names: t.cfg.Parameters, by: t.cfg.Objective}
	raw := bytes.TrimSpace(r.Asked().Tune)
	switch {
	case string(raw) == "false" || string(raw) == "null" || len(raw) == 0 && !t.cfg.Enabled || r.Kind != schemas.Chat:
		return nil, nil
	case len(raw) == 0 || string(raw) == "true":
	default:
		if err := t.read(raw, &s); err != nil {
			return nil, err
		}
	}
	s.settings = settings(s.names, t.cfg.Ranges)
	if len(s.settings) < 2 {
		return nil, nil
	}
	return &s, nil
}

func (t *Tuner) read(raw []byte, s *search) error {
	var asked struct {
		Parameters []string `json:"parameters"`
		Objective  string   `json:"objective"`
	}
	if json.Unmarshal(raw, &asked, json.RejectUnknownMembers(true)) != nil {
		return schemas.Invalid(schemas.CodeInvalidField, "processor.tune", `must be an object like {"parameters": ["temperature"], "objective": "quality"}, true or false`)
	}
	for _, name := range asked.Parameters {
		if _, ok := t.cfg.Ranges[name]; !ok || !ValidName(name) {
			return schemas.Invalid(schemas.CodeInvalidField, "processor.tune.parameters", "%.40q has no range in the configuration (tune.ranges)", name)
		}
	}
	if asked.Objective != "" && !slices.Contains(Objectives, asked.Objective) {
		return schemas.Invalid(schemas.CodeInvalidField, "processor.tune.objective", "%.40q is none of quality, speed, cost", asked.Objective)
	}
	if len(asked.Parameters) > 0 {
		slices.Sort(asked.Parameters)
		s.names = slices.Compact(asked.Parameters)
	}
	if asked.Objective != "" {
		s.by = asked.Objective
	}
	return nil
}

// Ask decides requests whose wishes cannot be read, before anything is paid.
func (t *Tuner) Ask(_ context.Context, r *stages.Request) (verdict stages.Verdict, decided bool) {
	if len(r.Asked().Tune) == 0 {
		return stages.Verdict{}, false
	}
	if _, err := t.wanted(r); err != nil {
		return stages.Reject(err), true
	}
	return stages.Verdict{}, false
}

// searchFor gives what is tried for a request, or nil: one that sets any of the
// parameters itself is left alone, and so is one that is asked again.
func (t *Tuner) searchFor(r *stages.Request, body []byte) *search {
	s, err := t.wanted(r)
	if err != nil || s == nil || r.Round > 0 {
		return nil
	}
	for _, name := range s.names {
		if _, set := schemas.Member(body, name); set {
			return nil
		}
	}
	// Of these two, one that is set is as good as both.
	for _, name := range []string{"temperature", "top_p"} {
		if _, set := schemas.Member(body, name); set {
			return nil
		}
	}
	return s
}

func (t *Tuner) key(r *stages.Request, model string, s *search) string {
	return t.cfg.Key(r.Tenant, r.Asked().Route, model, named(s.settings, s.by))
}

// Prepare sets a parameter of a call: it gives the body to send and an object of
// what was set, or nil where the request is to be sent as it is. The same
// request gets the same choice as long as nothing new was learnt.
func (t *Tuner) Prepare(r *stages.Request, model string, body []byte) (sent, parameters []byte) {
	s := t.searchFor(r, body)
	if s == nil || t.isRefused(model) {
		return nil, nil
	}
	dice := diceOf(r)
	tried := dice.Float64() < t.cfg.Share
	arm := 0
	choose := func(l *Learner) {
		if l.Frozen || tried {
			arm = l.Choose(len(s.settings), dice.Float64)
		}
	}
	if !t.store.View(t.key(r, model, s), choose) {
		choose(new(Learner))
	}
	if arm == 0 {
		return nil, nil
	}
	set := s.settings[arm]
	return schemas.SetMember(body, set.Parameter, []byte(set.Value)), fmt.Appendf(nil, `{"%s":%s}`, set.Parameter, set.Value)
}

// diceOf gives the dice of a request: always the same.
func diceOf(r *stages.Request) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(r.Tenant))
	h.Write([]byte{'.'})
	h.Write([]byte(r.ID))
	return rand.New(rand.NewPCG(h.Sum64(), 1)) //nolint:gosec // no secret
}

// Observe takes in how good the answer to a request is thought to be. It must
// have been bought for it. body is what was asked, as Prepare was given it.
func (t *Tuner) Observe(r *stages.Request, body []byte, quality float64) {
	s := t.searchFor(r, body)
	if s == nil || r.Selected.Model == "" || t.isRefused(r.Selected.Model) {
		return
	}
	reward, ok := s.reward(r, quality)
	arm := s.used(r)
	if !ok || arm < 0 {
		return
	}
	t.store.Observe(t.key(r, r.Selected.Model, s), func(use, own *Learner) {
		Observe(use, own, len(s.settings), arm, reward)
	})
}

// reward is what the objective makes of an answer.
func (s *search) reward(r *stages.Request, quality float64) (float64, bool) {
	switch s.by {
	case Cost:
		return -(r.CostUSD - r.Earlier.CostUSD), true
	case Speed:
		for i := len(r.Stages) - 1; i >= 0; i-- {
			if r.Stages[i].Stage == stages.Generate {
				return -r.Stages[i].RanMS, true
			}
		}
		return 0, false
	}
	return quality, true
}

// used finds the setting that a request was sent with; -1 if it is none of these.
func (s *search) used(r *stages.Request) int {
	for _, name := range s.names {
		span, set := schemas.Member(r.Parameters, name)
		if !set {
			continue
		}
		return slices.Index(s.settings, Setting{name, string(span.Of(r.Parameters))})
	}
	return 0
}

// Refused notes that a model's provider refuses a parameter that was set for it:
// its requests are left alone from now on.
func (t *Tuner) Refused(model string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.refused) < maxRefused {
		t.refused[model] = true
	}
}

func (t *Tuner) isRefused(model string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused[model]
}
