package providers

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// simulated answers without a network and without a model: with the sentences of
// the prompt that an extractive summariser would choose. Equal requests get
// equal answers, in every process.
type simulated struct {
	cfg      Config
	statuses []int // of cfg.Simulated.Failures, sorted
	scratch  sync.Pool
}

var _ Provider = (*simulated)(nil)

func newSimulated(cfg Config) (Provider, error) {
	s := &simulated{cfg: cfg, statuses: slices.Sorted(maps.Keys(cfg.Simulated.Failures))}
	s.scratch.New = func() any { return new(scratch) }
	return s, nil
}

// Name implements Provider.
func (s *simulated) Name() string { return s.cfg.Name }

// Close implements Provider.
func (s *simulated) Close() error { return nil }

// Generate implements Provider.
func (s *simulated) Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	if err := ctx.Err(); err != nil {
		return schemas.Answer{}, interrupted(err, true)
	}
	if err := s.failure(&call); err != nil {
		return schemas.Answer{}, err
	}
	if call.Embeddings {
		return s.embed(&call)
	}
	x := s.scratch.Get().(*scratch)
	defer s.scratch.Put(x)
	x.read(call.Body)
	r := reply{
		id: hash(call.Body), model: modelName(call.Model), choices: x.request.n,
		calls: x.toolCall(), finish: "stop",
	}
	if r.calls == nil {
		r.text = x.answer()
		r.cutTo(x.request.stop, x.request.maxTokens, s.cfg.Simulated.TokenFactor)
	} else {
		r.finish = "tool_calls"
	}
	r.usage = s.usage(x.bytes, len(r.text)+len(r.calls), r.choices)
	if call.Delta != nil {
		if err := s.stream(ctx, &call, &r); err != nil {
			return schemas.Answer{}, err
		}
	} else if err := s.take(ctx, r.usage.CompletionTokens); err != nil {
		return schemas.Answer{}, err
	}
	return schemas.Answer{Body: r.whole(), Model: r.model, Usage: r.usage}, nil
}

// modelName says in the answer that no model gave it.
func modelName(asked string) string {
	if asked == "" || asked == KindSimulated {
		return KindSimulated
	}
	return KindSimulated + "/" + asked
}

// hash is a number for a text that is the same in every process (FNV-1a, eight
// bytes a step).
func hash(text []byte) uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	for ; len(text) >= 8; text = text[8:] {
		h = (h ^ binary.LittleEndian.Uint64(text)) * prime
		h ^= h >> 29
	}
	for _, b := range text {
		h = (h ^ uint64(b)) * prime
	}
	h ^= h >> 32
	return h * 0x9E3779B97F4A7C15
}

// failure gives the error that a call's lot is, if any: a share of all calls, by
// their ids, so that another attempt may succeed.
func (s *simulated) failure(call *schemas.Call) error {
	if len(s.statuses) == 0 {
		return nil
	}
	lot := call.Body
	if call.ID != "" {
		lot = []byte(call.ID)
	}
	dice := float64(hash(lot)>>11) / (1 << 53)
	for _, status := range s.statuses {
		if dice -= s.cfg.Simulated.Failures[status]; dice >= 0 {
			continue
		}
		if status == 0 {
			return &schemas.CallError{
				Code: schemas.CodeProviderUnavailable, Retryable: true,
				Message: "the simulated connection ended before the provider answered", Err: errors.New("simulated failure"),
			}
		}
		body := []byte(`{"error":{"message":"simulated failure"}}`)
		return statusError(status, http.Header{}, body, func(text string) string { return text })
	}
	return nil
}

// interrupted makes the error of a call that the caller gave up.
func interrupted(err error, unbilled bool) *schemas.CallError {
	e := &schemas.CallError{Code: schemas.CodeDeadlineExceeded, Message: "the request's deadline passed during the call", Unbilled: unbilled, Err: err}
	if errors.Is(err, context.Canceled) {
		e.Code, e.Message = schemas.CodeCancelled, "the call was cancelled"
	}
	return e
}

// take takes the time that a model would need for so many tokens.
func (s *simulated) take(ctx context.Context, tokens int) error {
	return s.sleep(ctx, s.cfg.Simulated.FirstToken+s.pace(tokens))
}

func (s *simulated) sleep(ctx context.Context, d time.Duration) error {
	if err := pause(ctx, d); err != nil {
		return interrupted(err, false)
	}
	return nil
}

// pace is the time that so many tokens take at the configured speed.
func (s *simulated) pace(tokens int) time.Duration {
	if s.cfg.Simulated.TokensPerSecond == 0 {
		return 0
	}
	return time.Duration(float64(tokens) / s.cfg.Simulated.TokensPerSecond * float64(time.Second))
}

func (s *simulated) usage(prompt, completion, choices int) schemas.Usage {
	u := schemas.Usage{
		PromptTokens:     tokensOf(prompt, s.cfg.Simulated.TokenFactor),
		CompletionTokens: tokensOf(completion, s.cfg.Simulated.TokenFactor) * choices,
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

// bytesPerToken is about what English text has in the vocabularies of OpenAI.
const bytesPerToken = 4

func tokensOf(bytes int, factor float64) int {
	return int(math.Ceil(float64(bytes) / bytesPerToken * factor))
}

// stream hands the reply on a word at a time, at the configured speed.
func (s *simulated) stream(ctx context.Context, call *schemas.Call, r *reply) error {
	if err := s.sleep(ctx, s.cfg.Simulated.FirstToken); err != nil {
		return err
	}
	// Each pause lasts until the time at which the piece is due, so that
	// timers that fire late do not add up.
	begun, sent := time.Now(), 0
	for index := range r.choices {
		call.Delta(r.chunk(index, `{"role":"assistant","content":"","refusal":null}`, "null"))
		if r.calls != nil {
			call.Delta(r.chunk(index, string(indexedCalls([]byte(`{"tool_calls":`+string(r.calls)+`}`))), "null"))
		}
		for text := r.text; len(text) > 0; {
			n := nextWord(text)
			sent += n
			if err := s.sleep(ctx, time.Until(begun.Add(s.pace(tokensOf(sent, 1))))); err != nil {
				return err
			}
			call.Delta(r.chunk(index, `{"content":`+string(schemas.Quote(string(text[:n])))+`}`, "null"))
			text = text[n:]
		}
		call.Delta(r.chunk(index, "{}", `"`+r.finish+`"`))
	}
	if UsageAsked(call.Body) {
		call.Delta(append(r.head(nil, "chat.completion.chunk"), `,"choices":[],"usage":`+string(r.appendUsage(nil))+`}`...))
	}
	return nil
}

// nextWord gives how long the first word of a text is, with the spaces behind it.
func nextWord(text []byte) int {
	n := 0
	for n < len(text) && text[n] != ' ' && text[n] != '\n' {
		n++
	}
	for n < len(text) && (text[n] == ' ' || text[n] == '\n') {
		n++
	}
	return n
}

// reply is what a completion of the simulated provider says.
type reply struct {
	id      uint64
	model   string
	text    []byte
	calls   []byte // the tool_calls list, nil if there are none
	finish  string
	choices int
	usage   schemas.Usage
}

// cutTo ends the text where a stop sequence or the limit on tokens says so.
func (r *reply) cutTo(stop []string, maxTokens int, factor float64) {
	r.text = cutAtStop(r.text, stop)
	if maxTokens <= 0 || tokensOf(len(r.text), factor) <= maxTokens {
		return
	}
	r.text = cutAtRune(r.text, int(float64(maxTokens)*bytesPerToken/factor))
	r.finish = "length"
}

// head begins a completion or a chunk.
func (r *reply) head(out []byte, object string) []byte {
	out = append(out, `{"id":"chatcmpl-simulated-`...)
	out = strconv.AppendUint(out, r.id, 36)
	out = append(out, `","object":"`...)
	out = append(out, object...)
	// The time is left at zero: equal requests get equal answers.
	out = append(out, `","created":0,"model":`...)
	out, _ = jsontext.AppendQuote(out, r.model)
	return append(out, `,"system_fingerprint":"simulated"`...)
}

func (r *reply) chunk(index int, delta, finish string) []byte {
	out := r.head(make([]byte, 0, 256+len(delta)), "chat.completion.chunk")
	out = append(out, `,"choices":[{"index":`...)
	out = strconv.AppendInt(out, int64(index), 10)
	out = append(append(out, `,"delta":`...), delta...)
	out = append(append(out, `,"logprobs":null,"finish_reason":`...), finish...)
	return append(out, `}]}`...)
}

// whole gives the completion.
func (r *reply) whole() []byte {
	text := schemas.Quote(string(r.text))
	out := r.head(make([]byte, 0, 384+len(r.model)+r.choices*(len(text)+len(r.calls)+128)), "chat.completion")
	out = append(out, `,"choices":[`...)
	for index := range r.choices {
		if index > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"index":`...)
		out = strconv.AppendInt(out, int64(index), 10)
		out = append(out, `,"message":{"role":"assistant","content":`...)
		if r.calls != nil {
			out = append(append(out, `null,"refusal":null,"tool_calls":`...), r.calls...)
		} else {
			out = append(append(out, text...), `,"refusal":null`...)
		}
		out = append(append(out, `},"logprobs":null,"finish_reason":"`...), r.finish...)
		out = append(out, `"}`...)
	}
	out = append(out, `],"usage":`...)
	return append(r.appendUsage(out), '}')
}

func (r *reply) appendUsage(out []byte) []byte {
	out = append(out, `{"prompt_tokens":`...)
	out = strconv.AppendInt(out, int64(r.usage.PromptTokens), 10)
	out = append(out, `,"completion_tokens":`...)
	out = strconv.AppendInt(out, int64(r.usage.CompletionTokens), 10)
	out = append(out, `,"total_tokens":`...)
	out = strconv.AppendInt(out, int64(r.usage.TotalTokens), 10)
	return append(out, '}')
}
