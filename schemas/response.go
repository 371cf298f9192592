package schemas

import (
	"bytes"
	"fmt"
	"math"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// About is the processor object of a response: what was done for it.
type About struct {
	ID             string         `json:"id"`
	Tenant         string         `json:"tenant"`
	Conflict       bool           `json:"conflict,omitzero" jsonschema:"the id was used before with another body; this is the answer to that one"`
	ModelRequested string         `json:"model_requested"`
	Attempts       int            `json:"attempts" jsonschema:"calls to providers that were made for this request"`
	Answers        []Attempt      `json:"answers,omitzero" jsonschema:"the answers that were judged, where there was more than one"`
	Selected       *Selected      `json:"selected,omitzero"`
	Route          string         `json:"route,omitzero" jsonschema:"the name under which statistics are kept, as the request gave it"`
	Cache          string         `json:"cache" jsonschema:"miss, hit, shared, normalized or off"`
	Tokens         Tokens         `json:"tokens"`
	CostUSD        float64        `json:"cost_usd"`
	Quality        jsontext.Value `json:"quality,omitzero"`
	Parameters     jsontext.Value `json:"parameters,omitzero"`
	Compress       jsontext.Value `json:"compress,omitzero"`
	Template       string         `json:"template,omitzero" jsonschema:"the stored template that the messages were made from, as name@revision"`
	Structure      jsontext.Value `json:"structure,omitzero" jsonschema:"repaired: what was done to give the answer its form"`
	Stages         StageTimes     `json:"stages"`
}

// StageTimes writes timings as an object by stage.
type StageTimes Timings

// MarshalJSONTo writes {"compress": {"queued_ms": 0.2, "ran_ms": 0.4}, ...}; a
// stage that ran more than once shows the sum.
func (t StageTimes) MarshalJSONTo(enc *jsontext.Encoder) error {
	if err := enc.WriteToken(jsontext.BeginObject); err != nil {
		return err
	}
	for i, timing := range t {
		if t[:i].find(timing.Stage) {
			continue
		}
		for _, again := range t[i+1:] {
			if again.Stage == timing.Stage {
				timing.QueuedMS += again.QueuedMS
				timing.RanMS += again.RanMS
			}
		}
		for _, token := range []jsontext.Token{
			jsontext.String(timing.Stage), jsontext.BeginObject,
			jsontext.String("queued_ms"), jsontext.Float(round3(timing.QueuedMS)),
			jsontext.String("ran_ms"), jsontext.Float(round3(timing.RanMS)),
			jsontext.EndObject,
		} {
			if err := enc.WriteToken(token); err != nil {
				return err
			}
		}
	}
	return enc.WriteToken(jsontext.EndObject)
}

// UnmarshalJSONFrom reads what MarshalJSONTo writes.
func (t *StageTimes) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	var times map[string]struct {
		QueuedMS float64 `json:"queued_ms"`
		RanMS    float64 `json:"ran_ms"`
	}
	if err := json.UnmarshalDecode(dec, &times); err != nil {
		return err
	}
	for stage, timing := range times {
		*t = append(*t, Timing{stage, timing.QueuedMS, timing.RanMS})
	}
	return nil
}

func (t StageTimes) find(stage string) bool {
	for _, timing := range t {
		if timing.Stage == stage {
			return true
		}
	}
	return false
}

// USD rounds a sum of dollars to 12 decimals, far below any price: what is added and
// subtracted as floating point else shows as 0.00017999999999999998.
func USD(sum float64) float64 { return math.Round(sum*1e12) / 1e12 }

func round3(f float64) float64 { return math.Round(f*1000) / 1000 }

// ErrorBody is the body of an error response.
type ErrorBody struct {
	Error ErrorObject `json:"error"`
	About ErrorAbout  `json:"processor"`
}

// ErrorObject is OpenAI's error object.
type ErrorObject struct {
	Message string    `json:"message"`
	Type    ErrorType `json:"type"`
	Param   *string   `json:"param"`
	Code    Code      `json:"code"`
}

// ErrorAbout is the processor object of an error response.
type ErrorAbout struct {
	ID           string         `json:"id"`
	Tenant       string         `json:"tenant"`
	Conflict     bool           `json:"conflict,omitzero"`
	Stage        string         `json:"stage"`
	Details      map[string]any `json:"details"`
	RetryAfterMS int64          `json:"retry_after_ms"`
	Attempts     int            `json:"attempts,omitzero"`
	CostUSD      float64        `json:"cost_usd,omitzero"`
	Usage        *Usage         `json:"usage,omitzero"`
}

// AnswerResponse makes the response to a request from the provider's answer:
// the answer as it came, with the processor object added. Where answers before
// it were asked for too, or calls failed, its usage is that of them all.
func AnswerResponse(h *Handoff) ([]byte, error) {
	about := About{
		ID: h.ID, Tenant: h.Tenant, ModelRequested: h.Model, Attempts: h.Calls,
		Cache: h.Cache, Tokens: h.Tokens, CostUSD: USD(h.CostUSD),
		Quality: h.Quality, Parameters: h.Parameters, Compress: h.Compress,
		Template: h.Template, Structure: h.Structure, Stages: StageTimes(h.Stages),
	}
	if route, ok := Member(h.Options, "route"); ok {
		about.Route, _ = Unquote(route.Of(h.Options))
	}
	if len(h.Attempts) > 1 {
		about.Answers = h.Attempts
	}
	if h.Selected.Model != "" {
		about.Selected = &h.Selected
	}
	object, err := json.Marshal(&about)
	if err != nil {
		return nil, fmt.Errorf("encoding the processor object: %w", err)
	}
	answer := bytes.TrimSpace(h.Answer)
	if h.Round > 0 || len(h.Selected.Tried) > 0 || h.Earlier != (Spent{}) {
		answer = SetMember(answer, "usage", usageObject(h.Usage))
	}
	return SetMember(answer, "processor", object), nil
}

// usageObject writes what several calls were billed as one usage object of OpenAI's form.
func usageObject(u Usage) []byte {
	return fmt.Appendf(nil, `{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d},"completion_tokens_details":{"reasoning_tokens":%d}}`,
		u.PromptTokens, u.CompletionTokens, u.TotalTokens, u.CachedTokens, u.ReasoningTokens)
}

// ErrorResponse makes the error response to a request.
func ErrorResponse(s *State, stage string, err error) []byte {
	e := AsError(err)
	body := ErrorBody{
		Error: ErrorObject{Message: e.Text(), Type: e.Type, Code: e.Code},
		About: ErrorAbout{
			ID: s.ID, Tenant: s.Tenant, Stage: stage, Details: e.Details,
			RetryAfterMS: int64(e.RetryAfter / time.Millisecond), Attempts: s.Calls, CostUSD: USD(s.CostUSD),
		},
	}
	if e.Param != "" {
		body.Error.Param = &e.Param
	}
	if body.About.Details == nil {
		body.About.Details = map[string]any{}
	}
	if s.Usage != (Usage{}) {
		body.About.Usage = &s.Usage
	}
	text, marshalErr := json.Marshal(&body, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if marshalErr != nil { // a detail that JSON has no form for
		body.About.Details = map[string]any{}
		text, _ = json.Marshal(&body, jsontext.AllowInvalidUTF8(true))
	}
	return text
}

// WithConflict marks a stored response as that of another body under the same id.
func WithConflict(response []byte) []byte {
	about, ok := Member(response, "processor")
	if !ok {
		return response
	}
	return SetMember(response, "processor", SetMember(about.Of(response), "conflict", []byte("true")))
}

// ReadUsage finds the usage in an answer of OpenAI's shape. A missing or
// malformed usage is the zero Usage.
func ReadUsage(answer []byte) Usage {
	var body struct {
		Usage struct {
			Usage
			Prompt struct {
				Cached int `json:"cached_tokens"`
			} `json:"prompt_tokens_details"`
			Completion struct {
				Reasoning int `json:"reasoning_tokens"`
			} `json:"completion_tokens_details"`
		} `json:"usage"`
	}
	span, ok := Member(answer, "usage")
	if !ok || json.Unmarshal(span.Of(answer), &body.Usage) != nil {
		return Usage{}
	}
	usage := body.Usage.Usage
	usage.CachedTokens = max(usage.CachedTokens, body.Usage.Prompt.Cached)
	usage.ReasoningTokens = max(usage.ReasoningTokens, body.Usage.Completion.Reasoning)
	return usage
}
