package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
)

// sentKey names what a provider is sent: the model, and everything of the body
// that can change the answer.
type sentKey [16]byte

func keyOf(model string, body []byte) sentKey {
	sum, _ := hex.DecodeString(schemas.CacheKey(schemas.SetMember(body, "model", schemas.Quote(model)), nil))
	return sentKey(sum)
}

func (k sentKey) String() string { return hex.EncodeToString(k[:]) }

func parseSentKey(text string) (k sentKey, ok bool) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(k) {
		return k, false
	}
	return sentKey(b), true
}

// recorded finds the recorded answers by what was sent: 24 bytes of memory each,
// the answers stay on the tape.
type recorded struct {
	entries []recordedAt
	tape    *tape
}

type recordedAt struct {
	key    sentKey
	offset int64
}

// newRecorded makes the index of a tape. Of several answers to the same the
// first counts.
func newRecorded(t *tape) (*recorded, error) {
	r := &recorded{tape: t}
	err := t.each(0, func(i int, offset int64, x *record) error {
		if key, ok := parseSentKey(x.Sent); ok {
			r.entries = append(r.entries, recordedAt{key, offset})
		}
		return nil
	})
	slices.SortStableFunc(r.entries, func(a, b recordedAt) int { return bytes.Compare(a.key[:], b.key[:]) })
	return r, err
}

// find gives the recorded response to what is sent, nil if there is none.
func (r *recorded) find(key sentKey) ([]byte, error) {
	at, found := slices.BinarySearchFunc(r.entries, key, func(e recordedAt, k sentKey) int { return bytes.Compare(e.key[:], k[:]) })
	if !found {
		return nil, nil
	}
	return r.tape.response(r.entries[at].offset)
}

// note is what the answer to one request took.
type note struct {
	Cassette  int             `json:"cassette,omitzero"`
	Simulated int             `json:"simulated,omitzero"`
	Forecast  evaluate.Amount `json:"forecast,omitzero"` // of calls that were not made yet
	Paid      evaluate.Amount `json:"paid,omitzero"`
	CallMS    float64         `json:"call_ms,omitzero"` // as recorded
	Charges   []charge        `json:"charges,omitzero"` // to budgets, of a side that pays nothing
}

func (n note) and(m note) note {
	return note{
		Cassette: n.Cassette + m.Cassette, Simulated: n.Simulated + m.Simulated, Forecast: n.Forecast.Add(m.Forecast), Paid: n.Paid.Add(m.Paid),
		CallMS: n.CallMS + m.CallMS, Charges: append(slices.Clip(n.Charges), m.Charges...),
	}
}

// cassette stands in the place of the providers: it answers what was asked
// before from the record. Of the rest, a dry one says what it would cost and
// another pays. It is safe for concurrent use.
type cassette struct {
	answers *recorded // nil without a cassette
	dry     bool
	cost    func(model string, usage schemas.Usage) float64
	count   *tokens.Counter
	now     func(index int) *record // a request under way
	sent    func(x *record) []byte  // what the baseline sends for it

	keep    func(index int, n note) // told of what a side that pays notes; nil for one that does not
	earlier map[int]note            // what an interrupted run had noted for requests without a result

	mu    sync.Mutex
	notes map[int]note // by the request's number
}

// stand takes the place of the providers of a pipeline.
func (c *cassette) stand(m *models, simulated map[string]bool) {
	c.notes = map[int]note{}
	for name, caller := range m.callers {
		m.callers[name] = replayCaller{cassette: c, real: caller, simulated: simulated[name], index: -1}
	}
}

// identify says for which request a route's calls are.
func (c *cassette) identify(r *stages.Request, route *generate.Route) {
	index, ok := indexOf(r.ID)
	if !ok {
		return
	}
	if caller, ok := route.Caller.(replayCaller); ok {
		caller.index = index
		route.Caller = caller
	}
	if len(route.Fallback) > 0 {
		route.Fallback = slices.Clone(route.Fallback)
		for i := range route.Fallback {
			c.identify(r, &route.Fallback[i])
		}
	}
}

// take gives the note of a request and forgets it. What an interrupted run paid
// for it was paid; what it played counts if the answer was on record now.
func (c *cassette) take(index int) note {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, before := c.notes[index], c.earlier[index]
	delete(c.notes, index)
	delete(c.earlier, index)
	n.Paid = n.Paid.Add(before.Paid)
	if n.Cassette == 0 && n.Simulated == 0 {
		n.Cassette, n.Simulated, n.CallMS = before.Cassette, before.Simulated, before.CallMS
	}
	return n
}

func (c *cassette) write(index int, n note) {
	if c.keep != nil {
		c.keep(index, n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes[index] = c.notes[index].and(n)
}

// replayCaller calls one provider for one request, or says what that would cost.
type replayCaller struct {
	*cassette
	real      generate.Caller
	simulated bool
	index     int  // of the request; -1 is nobody's
	aside     bool // it is a judge's, who is not asked what the request asks
}

// Generate implements generate.Caller.
func (c replayCaller) Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	if c.answers != nil {
		response, err := c.answers.find(keyOf(call.Model, call.Body))
		if err != nil {
			return schemas.Answer{}, &schemas.CallError{Message: err.Error(), Unbilled: true, Err: err}
		}
		if response != nil {
			return c.play(response)
		}
	}
	switch {
	case c.dry:
		return c.foresee(call)
	default:
		return c.pay(ctx, call)
	}
}

// play answers as the provider did then.
func (c replayCaller) play(stored []byte) (schemas.Answer, error) {
	response, err := readStored(stored)
	if err != nil {
		return schemas.Answer{}, &schemas.CallError{Message: err.Error(), Unbilled: true, Err: err}
	}
	played := note{Cassette: 1}
	for _, t := range response.About.Stages {
		if t.Stage == stages.Generate && response.About.Cache != "hit" {
			played.CallMS += t.RanMS
		}
	}
	c.write(c.index, played)
	return schemas.Answer{Body: schemas.DeleteMember(stored, "processor"), Model: response.Model, Usage: schemas.ReadUsage(stored)}, nil
}

// pay calls the provider.
func (c replayCaller) pay(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	answer, err := c.real.Generate(ctx, call)
	usage := answer.Usage
	if failure, ok := err.(*schemas.CallError); ok { //nolint:errorlint // it is what callers give
		usage = failure.Usage
	}
	took := note{Simulated: 1}
	if !c.simulated {
		took = note{Paid: c.amount(call.Model, usage)}
	}
	c.write(c.index, took)
	return answer, err
}

// amount is one call.
func (c *cassette) amount(model string, usage schemas.Usage) evaluate.Amount {
	return evaluate.Amount{Calls: 1, PromptTokens: usage.PromptTokens, CompletionTokens: usage.CompletionTokens, CostUSD: c.cost(model, usage)}
}

// placeholder marks an answer that nobody gave.
const placeholder = "processor-replay-placeholder"

// foresee says what a call would cost, and answers in its place with what the
// baseline answered to the same request, so that later stages go on as usual.
// The prompt's tokens are those that were billed for the recorded request, in
// the proportion in which the counts of both prompts stand; the answer's are
// those of the recorded answer.
func (c replayCaller) foresee(call schemas.Call) (schemas.Answer, error) {
	var x *record
	if c.index >= 0 && !c.aside {
		x = c.now(c.index)
	}
	body, usage, err := c.likely(x, call)
	if err != nil {
		return schemas.Answer{}, &schemas.CallError{Message: err.Error(), Unbilled: true, Err: err}
	}
	would := note{Simulated: 1}
	if !c.simulated {
		would = note{Forecast: c.amount(call.Model, usage)}
	}
	c.write(c.index, would)
	body = schemas.SetMember(body, "system_fingerprint", schemas.Quote(placeholder))
	return schemas.Answer{Body: body, Model: call.Model, Usage: usage}, nil
}

// likelyAnswer is how many tokens an answer is taken for where none is recorded
// and the request sets no bound.
const likelyAnswer = 256

func (c replayCaller) likely(x *record, call schemas.Call) (body []byte, usage schemas.Usage, err error) {
	prompt, err := c.tokensOf(call.Model, call.Body, call.Embeddings)
	if err != nil {
		return nil, usage, err
	}
	usage.PromptTokens, usage.CompletionTokens = prompt, likelyAnswer
	body = fmt.Appendf(nil, `{"id":%q,"object":"chat.completion","created":0,"model":%s,"choices":[{"index":0,"message":{"role":"assistant","content":"An answer that is not known yet."},"finish_reason":"stop"}]}`,
		placeholder, schemas.Quote(call.Model))
	if call.Embeddings {
		usage.CompletionTokens = 0
		body = fmt.Appendf(nil, `{"object":"list","model":%s,"data":[{"object":"embedding","index":0,"embedding":[0]}]}`, schemas.Quote(call.Model))
	}
	if x != nil && len(x.Response) > 0 {
		response, err := readStored(x.Response)
		if err == nil && response.Error == nil {
			billed := schemas.ReadUsage(x.Response)
			body, usage.CompletionTokens = schemas.DeleteMember(x.Response, "processor"), billed.CompletionTokens
			if sent := c.sent(x); sent != nil && billed.PromptTokens > 0 {
				before, err := c.tokensOf(response.About.Selected.Model, sent, call.Embeddings)
				if err == nil && before > 0 {
					usage.PromptTokens = (2*billed.PromptTokens*prompt + before) / (2 * before) // rounded
				}
			}
		}
	}
	for _, name := range []string{"max_completion_tokens", "max_tokens"} {
		if bound := number(call.Body, name); bound > 0 {
			usage.CompletionTokens = min(usage.CompletionTokens, bound)
		}
	}
	usage.TotalTokens = usage.PromptTokens + usage.CompletionTokens
	return schemas.SetMember(body, "usage", fmt.Appendf(nil, `{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`,
		usage.PromptTokens, usage.CompletionTokens, usage.TotalTokens)), usage, nil
}

func (c replayCaller) tokensOf(model string, body []byte, embeddings bool) (int, error) {
	count := c.count.Chat
	if embeddings {
		count = c.count.Embeddings
	}
	n, err := count(model, body)
	if err != nil {
		return 0, fmt.Errorf("counting tokens: %w", err)
	}
	return n.Total(), nil
}

// replayID is the id of a request of a replay, by its number on the tape.
func replayID(index int) string { return "q" + strconv.Itoa(index) }

func indexOf(id string) (int, bool) {
	if len(id) < 2 || id[0] != 'q' {
		return 0, false
	}
	n, err := strconv.Atoi(id[1:])
	return n, err == nil && n >= 0
}

// simulatedProviders names those that cost nothing.
func simulatedProviders(list []providers.Config) map[string]bool {
	simulated := map[string]bool{}
	for _, p := range list {
		if p.Kind == providers.KindSimulated {
			simulated[p.Name] = true
		}
	}
	return simulated
}

// replayClock is the time of the traffic that is replayed: that of the request
// which was fed last.
type replayClock struct {
	mu sync.Mutex
	at schemas.Millis
}

func (c *replayClock) set(t time.Time) {
	c.mu.Lock()
	c.at = schemas.ToMillis(t)
	c.mu.Unlock()
}

func (c *replayClock) now() schemas.Millis {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// marshalLine writes a value as a line.
func marshalLine(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding a line: %w", err)
	}
	return append(text, '\n'), nil
}
