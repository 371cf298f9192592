package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

// record is a request of the archive with what became of it: a line of a
// dataset, and of the tape that a replay works from.
type record struct {
	ID       string         `json:"id"`
	Tenant   string         `json:"tenant"`
	Time     time.Time      `json:"time" jsonschema:"when the request was published"`
	Input    jsontext.Value `json:"input,omitzero" jsonschema:"the messages, as evaluation tools read them"`
	Ideal    jsontext.Value `json:"ideal,omitzero" jsonschema:"the right answer, where feedback says it"`
	Output   *string        `json:"output,omitzero" jsonschema:"the text that was answered"`
	Priority string         `json:"priority,omitzero" jsonschema:"the header Llm-Priority"`
	Deadline string         `json:"deadline,omitzero" jsonschema:"the header Llm-Deadline"`
	Request  jsontext.Value `json:"request,omitzero" jsonschema:"the body"`
	Raw      []byte         `json:"raw,omitzero" jsonschema:"the body in base64, where it is no JSON"`
	Response jsontext.Value `json:"response,omitzero" jsonschema:"the stored response"`
	Feedback []opinion      `json:"feedback,omitzero" jsonschema:"what applications said of the answer"`
	Sent     string         `json:"sent,omitzero" jsonschema:"fingerprint of what the provider was sent, on a replay's tape"`
}

// opinion is one message of feedback.
type opinion struct {
	Score *float64       `json:"score,omitzero" jsonschema:"0 to 1"`
	Label string         `json:"label,omitzero"`
	Ideal jsontext.Value `json:"ideal,omitzero"`
}

func newRecord(r streams.Archived) *record {
	x := &record{
		ID: r.ID, Tenant: r.Tenant, Time: r.Published,
		Priority: r.Header.Get(streams.HeaderPriority), Deadline: r.Header.Get(streams.HeaderDeadline),
	}
	x.setBody(r.Body)
	return x
}

func (x *record) setBody(body []byte) {
	if value := jsontext.Value(body); schemas.Depth(body) <= schemas.MaxDepth && value.IsValid() {
		x.Request, x.Raw = value, nil
		return
	}
	x.Request, x.Raw = nil, body // is answered with an error, as it was
}

func (x *record) body() []byte {
	if x.Request != nil {
		return x.Request
	}
	return x.Raw
}

func (x *record) key() string { return x.Tenant + "." + x.ID }

// parseRecord reads a line of a dataset. A line of an evaluation set that has
// no request has one made of its input.
func parseRecord(line []byte, number int) (*record, error) {
	if schemas.Depth(line) > schemas.MaxDepth {
		return nil, errors.New("is nested too deep")
	}
	x := &record{}
	if err := json.Unmarshal(line, x); err != nil {
		return nil, fmt.Errorf(`is no line of a dataset like {"id": "r-1", "request": {...}, "response": {...}}: %w`, err)
	}
	if x.ID == "" {
		x.ID = "line-" + strconv.Itoa(number)
	}
	if x.Tenant == "" {
		x.Tenant = "default"
	}
	if x.Request == nil && x.Raw == nil {
		messages := x.Input
		if messages.Kind() == '"' {
			messages = fmt.Appendf(nil, `[{"role":"user","content":%s}]`, messages)
		}
		if messages.Kind() != '[' {
			return nil, errors.New("has neither a request nor an input of messages")
		}
		x.Request = fmt.Appendf(nil, `{"messages":%s}`, messages)
	}
	if !schemas.ValidName(x.ID) {
		return nil, fmt.Errorf("id %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", x.ID)
	}
	return x, nil
}

// storedResponse is what is read of a stored response.
type storedResponse struct {
	Model   string `json:"model"`
	Choices []struct {
		Message struct {
			Content   jsontext.Value `json:"content"`
			Refusal   string         `json:"refusal"`
			ToolCalls jsontext.Value `json:"tool_calls"`
		} `json:"message"`
	} `json:"choices"`
	Fingerprint string `json:"system_fingerprint"`
	Error       *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
	About struct {
		Cache      string         `json:"cache"`
		CostUSD    float64        `json:"cost_usd"`
		Parameters jsontext.Value `json:"parameters"`
		Selected   struct {
			Model    string `json:"model"`
			Provider string `json:"provider"`
		} `json:"selected"`
		Quality struct {
			Score *float64 `json:"score"`
		} `json:"quality"`
		Usage  *schemas.Usage     `json:"usage"` // of an error after a paid call
		Stages schemas.StageTimes `json:"stages"`
	} `json:"processor"`
}

func readStored(response []byte) (*storedResponse, error) {
	c := &storedResponse{}
	if err := json.Unmarshal(response, c); err != nil {
		return nil, fmt.Errorf("reading a response: %w", err)
	}
	return c, nil
}

// text gives the answer as people read it.
func (c *storedResponse) text() string {
	if len(c.Choices) == 0 {
		return ""
	}
	m := &c.Choices[0].Message
	text := m.Refusal
	switch m.Content.Kind() {
	case '"':
		text, _ = schemas.Unquote(m.Content)
	case '[':
		text = string(m.Content)
	}
	if k := m.ToolCalls.Kind(); k == '[' && len(m.ToolCalls) > 2 {
		text = strings.TrimSpace(text + "\n" + string(m.ToolCalls))
	}
	return text
}

// outcome gives what a response says of its request. Tokens and cost are what
// was billed for it: nothing for a hit.
func (c *storedResponse) outcome(response []byte) evaluate.Outcome {
	o := evaluate.Outcome{Model: c.About.Selected.Model, CostUSD: c.About.CostUSD, Score: c.About.Quality.Score}
	usage := schemas.ReadUsage(response)
	if c.Error != nil {
		o.Error = c.Error.Code
		if o.Error == "" {
			o.Error = "error"
		}
		if c.About.Usage != nil {
			usage = *c.About.Usage
		}
	} else {
		o.Text = c.text()
	}
	switch c.About.Cache {
	case "hit", "shared", "normalized":
		o.Hit = true
	default:
		o.PromptTokens, o.CompletionTokens = usage.PromptTokens, usage.CompletionTokens
	}
	for _, t := range c.About.Stages {
		if o.Stages == nil {
			o.Stages = map[string]float64{}
		}
		if t.Stage != "generate" || !o.Hit {
			o.Stages[t.Stage] = t.RanMS
		}
	}
	return o
}

// rating sums up what was said of an answer: the mean of the scores; the labels
// good and bad, and their like, are scores too.
func (x *record) rating() *float64 {
	sum, n := 0.0, 0
	for _, f := range x.Feedback {
		score := f.Score
		if score == nil {
			score = labelScore(f.Label)
		}
		if score != nil {
			sum, n = sum+*score, n+1
		}
	}
	if n == 0 {
		return nil
	}
	mean := sum / float64(n)
	return &mean
}

// labelScore gives what a label says of an answer, nil for one that says nothing.
func labelScore(label string) *float64 {
	text, err := json.Marshal(schemas.Feedback{ID: "x", Label: label})
	if err != nil {
		return nil
	}
	_, score, err := schemas.ParseFeedback(text)
	if err != nil {
		return nil
	}
	return &score
}

// ideal gives the answer that feedback says is right: an ideal, or a label that
// is no praise or blame.
func (x *record) ideal() jsontext.Value {
	if len(x.Ideal) > 0 && x.Ideal.Kind() != 'n' {
		return x.Ideal
	}
	for _, f := range x.Feedback {
		if len(f.Ideal) > 0 && f.Ideal.Kind() != 'n' {
			return f.Ideal
		}
		if f.Label != "" && labelScore(f.Label) == nil {
			return schemas.Quote(f.Label)
		}
	}
	return nil
}

// prompt gives a request's messages as people read them.
func promptText(body []byte) string {
	var b struct {
		Messages []struct {
			Role    string         `json:"role"`
			Content jsontext.Value `json:"content"`
		} `json:"messages"`
	}
	if json.Unmarshal(body, &b) != nil || len(b.Messages) == 0 {
		return strings.ToValidUTF8(string(body[:min(len(body), 4000)]), "\ufffd")
	}
	var text strings.Builder
	for i, m := range b.Messages {
		if i > 0 {
			text.WriteString("\n")
		}
		content := string(m.Content)
		if m.Content.Kind() == '"' {
			content, _ = schemas.Unquote(m.Content)
		}
		fmt.Fprintf(&text, "%s: %s", m.Role, content)
		if text.Len() > 8000 {
			break
		}
	}
	return text.String()
}
