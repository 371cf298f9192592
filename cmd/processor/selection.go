package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/calibration"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/kv/stats"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/selection"
)

const (
	// shareFigures is how often what was observed of models is shared: what one
	// replica learns the others use within a second.
	shareFigures = 200 * time.Millisecond
	// shareSkills is the same for regressions, which are large and change slowly.
	shareSkills = 5 * time.Second
	// mostFigures and mostSkills bound what is kept, in memory and in the bucket:
	// a few hundred bytes for each model on each route, and up to 320 KB a model.
	mostFigures = 20_000
	mostSkills  = 64
	// maxRoute is how long a route's name may be to be kept as it is.
	maxRoute = 100
)

// learnt is what was learnt of models, in step with all replicas.
type learnt struct {
	figures *stats.Store[selection.Figures, *selection.Figures]
	skills  *stats.Store[selection.Skill, *selection.Skill]
}

var _ selection.Book = (*learnt)(nil)

// Keys of the bucket are <route>.<model>.selection.figures and
// =all.<model>.selection.skill, names escaped. Escaped names have = only before
// two hex digits, so none is like those of the routes below.
const (
	allRoutes     = "=all"
	figuresSuffix = ".selection.figures"
	skillSuffix   = ".selection.skill"
)

func openLearnt(ctx context.Context, js jetstream.JetStream, bucket string) (*learnt, error) {
	figures, err := stats.Open[selection.Figures](ctx, js, stats.Options{
		Bucket: bucket, Filter: "*.*" + figuresSuffix, Every: shareFigures, Most: mostFigures,
	})
	if err != nil {
		return nil, err
	}
	skills, err := stats.Open[selection.Skill](ctx, js, stats.Options{
		Bucket: bucket, Filter: "*.*" + skillSuffix, Every: shareSkills, Most: mostSkills,
	})
	if err != nil {
		figures.Close()
		return nil, err
	}
	return &learnt{figures, skills}, nil
}

func (l *learnt) close() {
	l.figures.Close()
	l.skills.Close()
}

func figuresKey(route, model string) string { return route + "." + model + figuresSuffix }

// Figures implements selection.Statistics. Routes and models are parts of keys.
func (l *learnt) Figures(route, model string) (f selection.Figures, known bool) {
	if route == selection.Everywhere {
		route = allRoutes
	}
	known = l.figures.View(figuresKey(route, model), func(v *selection.Figures) { f = *v })
	return f, known
}

// Shift implements selection.Statistics.
func (l *learnt) Shift(model string, f selection.Features) (shift float64) {
	l.skills.View(allRoutes+"."+model+skillSuffix, func(s *selection.Skill) { shift = s.Shift(f) })
	return shift
}

// Update implements selection.Book.
func (l *learnt) Update(route, model string, change func(*selection.Figures)) {
	if route == selection.Everywhere {
		route = allRoutes
	}
	l.figures.Observe(figuresKey(route, model), func(use, own *selection.Figures) {
		change(use)
		change(own)
	})
}

// Learn implements selection.Book.
func (l *learnt) Learn(model string, f selection.Features, usual, score float64) {
	l.skills.Observe(allRoutes+"."+model+skillSuffix, func(use, own *selection.Skill) { use.Learn(f, usual, score, own) })
}

// selector chooses models by what was learnt, within the limits of each request.
type selector struct {
	learnt  *learnt
	counter *tokens.Counter
	ledger  *budget.Ledger
	// open reports whether a model is not to be called for now. It may be nil.
	open func(provider, model string) bool
	use  atomic.Pointer[choosing]
}

// choosing is what the configuration says of choices. It is immutable.
type choosing struct {
	generate.SelectConfig
	known map[string]knownModel
}

// knownModel is what a choice needs of a model, made ready.
type knownModel struct {
	generate.Model
	key       string // of the bucket
	provider  string
	price     tokens.Price
	candidate selection.Candidate
}

// openSelection opens what models are chosen by.
func (d *deps) openSelection(ctx context.Context) error {
	learnt, err := openLearnt(ctx, d.js, bucketLayout(d.cfg).Bucket(kv.BucketModels))
	if err != nil {
		return err
	}
	d.closers = append(d.closers, learnt.close)
	d.models.selector = newSelector(d.cfg.Select, d.models, learnt, d.counter, d.budgets.ledger)
	return nil
}

// called is told how each call of the generate stage went.
func (d *deps) called(c generate.Called) {
	d.models.selector.called(c, d.models.cost(c.Route.Model, c.Answer.Usage))
}

func newSelector(cfg generate.SelectConfig, m *models, l *learnt, counter *tokens.Counter, ledger *budget.Ledger) *selector {
	s := &selector{learnt: l, counter: counter, ledger: ledger}
	s.use.Store(newChoosing(cfg, m.table.Load(), m.only))
	return s
}

func newChoosing(cfg generate.SelectConfig, t *modelTable, only string) *choosing {
	c := &choosing{cfg, map[string]knownModel{}}
	for _, entry := range t.list {
		price, _ := t.prices.Lookup(entry.Name)
		k := knownModel{Model: entry, key: calibration.EscapeName(entry.Name), provider: entry.Provider, price: price}
		if k.provider == "" {
			k.provider = only
		}
		k.candidate = selection.Candidate{Model: k.key, Quality: entry.Quality, OutputUSD: price.Output / 1e6}
		c.known[entry.Name] = k
	}
	return c
}

// wanted is what a request wants of the choice.
type wanted struct {
	r      *stages.Request
	use    *choosing
	need   selection.Need
	ask    selection.Ask
	tokens int // of the prompt, about
}

func (s *selector) want(r *stages.Request) (*wanted, error) {
	options, err := selection.ParseOptions(r.Asked().Select)
	if err != nil {
		return nil, err
	}
	use := s.use.Load()
	w := &wanted{r: r, use: use, need: selection.Read(r.Body), tokens: len(r.Body) / bytesPerToken}
	w.ask = selection.Ask{
		Route: routeKey(r, &w.need), Dice: dice(r), Now: time.Now(),
		Weights:    selection.Weights{Quality: use.Criteria["quality"], Speed: use.Criteria["speed"], Cost: use.Criteria["cost"]},
		MaxCostUSD: use.MaxCostUSD, MinQuality: use.MinQuality, Explore: use.Explore, Deterministic: use.Deterministic,
	}
	options.Apply(&w.ask)
	w.ask.Features = selection.Describe(make(selection.Features, 0, 256), w.need.Prompt)
	if r.Deadline != 0 {
		w.ask.Left = max(time.Until(r.Deadline.Time()), 1)
	}
	return w, nil
}

// bytesPerToken is about how many bytes of a body are a token.
const bytesPerToken = 4

// routeKey is the part of the key that stands for the request's route: its name,
// or else that of a cluster of prompts.
func routeKey(r *stages.Request, need *selection.Need) string {
	name := r.Asked().Route
	switch {
	case name == "":
		return "=" + selection.Cluster(need)
	case len(name) <= maxRoute:
		return calibration.EscapeName(name)
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	return "=long-" + hex.EncodeToString(h.Sum(nil))
}

// dice is thrown by the request's id: who works the request again chooses alike.
func dice(r *stages.Request) float64 {
	h := fnv.New64a()
	h.Write([]byte(r.Key()))
	x := h.Sum64()
	x = (x ^ x>>32) * 0x9E3779B97F4A7C15
	return float64((x^x>>29)>>11) / (1 << 53)
}

// choose takes one of the models for a request.
func (s *selector) choose(r *stages.Request, list []string) (model, because string, probability float64, err error) {
	w, err := s.want(r)
	if err != nil {
		return "", "", 0, err
	}
	fit, candidates, err := s.fitting(w, list)
	if err != nil {
		return "", "", 0, err
	}
	choice := selection.Choose(s.learnt, &w.ask, candidates)
	if choice.Index < 0 {
		return "", "", 0, tooDear(w.ask.MaxCostUSD, choice.Estimate.CostUSD)
	}
	return fit[choice.Index], choice.Because, choice.Probability, nil
}

// better gives the model that is expected to answer best of those that are
// expected to be better than all that were tried.
func (s *selector) better(r *stages.Request, list []string) (model, because string, found bool) {
	w, err := s.want(r)
	if err != nil {
		return "", "", false
	}
	fit, candidates, err := s.fitting(w, list)
	if err != nil {
		return "", "", false
	}
	tried := make([]string, 0, len(r.Tried))
	for _, name := range r.Tried {
		tried = append(tried, calibration.EscapeName(name))
	}
	choice := selection.Better(s.learnt, &w.ask, candidates, tried)
	if choice.Index < 0 {
		return "", "", false
	}
	return fit[choice.Index], choice.Because, true
}

func tooDear(most, cheapest float64) error {
	return schemas.Typed(&schemas.Error{
		Type: schemas.TokenOptimizationType, Code: schemas.CodePerRequestLimit, Param: "processor.select.max_cost_usd",
		Message: fmt.Sprintf("no model is expected to cost at most $%.4g; the cheapest one costs about $%.4g", most, cheapest),
		Details: map[string]any{"max_cost_usd": most, "cheapest_usd": cheapest},
	})
}

// fitting gives the models that can take a request. What a model cannot take is
// left out; a budget or a breaker in the way leaves a model out only while
// there is another.
func (s *selector) fitting(w *wanted, list []string) (fit []string, candidates []selection.Candidate, err error) {
	var cannot []string
	code := schemas.CodeContextLengthExceeded
	able := make([]string, 0, len(list))
	for _, name := range list {
		m, known := w.use.known[name]
		if !known { // the models were changed a moment ago
			continue
		}
		why, long, err := s.unable(w, &m)
		switch {
		case err != nil:
			return nil, nil, err
		case why == "":
			able = append(able, name)
			continue
		case !long:
			code = schemas.CodeInvalidField
		}
		cannot = append(cannot, name+" "+why)
	}
	if len(able) == 0 {
		return nil, nil, schemas.Invalid(code, "model", "no model of %.80q takes this request: %s", w.r.Model, strings.Join(cannot, "; "))
	}
	able = unless(able, func(name string) bool { return s.refused(w, name) })
	if s.open != nil {
		able = unless(able, func(name string) bool { return s.open(w.use.known[name].provider, name) })
	}
	for _, name := range able {
		m := w.use.known[name]
		c := m.candidate
		c.PromptUSD = float64(w.tokens) * m.price.Input / 1e6
		c.MaxOutput = m.MaxOutput
		if b := w.need.Bound; b > 0 && (c.MaxOutput == 0 || b < c.MaxOutput) {
			c.MaxOutput = b
		}
		candidates = append(candidates, c)
	}
	return able, candidates, nil
}

// unless leaves out what is bad, unless all are.
func unless(list []string, bad func(string) bool) []string {
	if good := slices.DeleteFunc(slices.Clone(list), bad); len(good) > 0 {
		return good
	}
	return list
}

// unable says why a model cannot take a request, or "".
func (s *selector) unable(w *wanted, m *knownModel) (why string, long bool, err error) {
	for _, c := range []struct {
		needed bool
		name   string
	}{
		{w.need.Images, selection.Images}, {w.need.Tools, selection.Tools},
		{w.need.Schema, selection.Schema}, {w.need.Logprobs, selection.Logprobs},
	} {
		if c.needed && m.Capabilities != nil && !slices.Contains(m.Capabilities, c.name) {
			return "does not take " + c.name, false, nil
		}
	}
	if m.MaxOutput > 0 && w.need.Bound > m.MaxOutput {
		return fmt.Sprintf("gives answers of at most %d tokens", m.MaxOutput), true, nil
	}
	needed, err := s.needed(w.r, &w.need, m)
	if err != nil || needed == 0 {
		return "", false, err
	}
	return fmt.Sprintf("has a context of %d tokens, and %d are needed", m.Context, needed), true, nil
}

// needed counts what the prompt and the answer, or the longest text to embed,
// need of a model's context; 0 where they fit.
func (s *selector) needed(r *stages.Request, need *selection.Need, m *knownModel) (int, error) {
	// A token has at least a byte, so most requests need not be counted.
	if m.Context == 0 || !need.Images && len(r.Body)+need.Bound <= m.Context {
		return 0, nil
	}
	var n tokens.Count
	var total int
	var err error
	if r.Kind == schemas.Embeddings {
		n, err = s.counter.Embeddings(m.Name, r.Body)
		total = n.Longest
	} else {
		n, err = s.counter.Chat(m.Name, r.Body)
		total = n.Total() + need.Bound
	}
	if err != nil {
		return 0, fmt.Errorf("counting the tokens of request %s: %w", r.ID, err)
	}
	if total > m.Context {
		return total, nil
	}
	return 0, nil
}

// holds reports a request that does not fit into the context of a model that it
// names, or of a fallback: nothing is paid to be told so.
func (s *selector) holds(r *stages.Request, name string) error {
	m, known := s.use.Load().known[name]
	if !known || m.Context == 0 {
		return nil
	}
	need := selection.Read(r.Body)
	needed, err := s.needed(r, &need, &m)
	if err != nil || needed == 0 {
		return err
	}
	e := schemas.Invalid(schemas.CodeContextLengthExceeded, "messages",
		"%.80s has a context of %d tokens, and messages and answer need %d; shorten the prompt, lower max_completion_tokens, or ask for another model", name, m.Context, needed)
	if r.Kind == schemas.Embeddings {
		e = schemas.Invalid(schemas.CodeContextLengthExceeded, "input",
			"%.80s has a context of %d tokens, and the longest text of input has %d; shorten it, or ask for another model", name, m.Context, needed)
	}
	e.Details = map[string]any{"context": m.Context, "needed": needed}
	return e
}

// refused reports whether the tenant's budget surely has nothing left for a
// call: even a short one. What is left is found out by the reservation.
func (s *selector) refused(w *wanted, name string) bool {
	if !s.ledger.Limited(w.r.Tenant) {
		return false
	}
	m := w.use.known[name]
	least := budget.Amount{Tokens: int64(w.tokens) + 1, Cost: budget.FromDollars(m.price.Cost(w.tokens, 0, 1))}
	return s.ledger.Check(w.r.Tenant, name, least) == budget.Denied
}

// called takes in how a call went.
func (s *selector) called(c generate.Called, costUSD float64) {
	model := calibration.EscapeName(c.Route.Model)
	need := selection.Read(c.Request.Body)
	call := selection.Call{Took: c.Took, First: c.First, Output: c.Answer.Usage.CompletionTokens, CostUSD: costUSD}
	if c.Err != nil {
		failure, ok := errors.AsType[*schemas.CallError](c.Err)
		if !ok || !failure.Retryable || failure.Status == 429 {
			return // the request's fault, its end, or too many of them
		}
		call.Failed = true
	}
	selection.Record(s.learnt, time.Now(), routeKey(c.Request, &need), model, call)
}

// scored takes in the quality, 0 to 1, of a model's answer to a request.
func (s *selector) scored(r *stages.Request, model string, quality float64) {
	need := selection.Read(r.Body)
	features := selection.Describe(make(selection.Features, 0, 256), need.Prompt)
	selection.Score(s.learnt, time.Now(), routeKey(r, &need), calibration.EscapeName(model), s.use.Load().known[model].Quality, features, quality)
}
