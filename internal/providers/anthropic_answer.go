package providers

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// anthropicMessageAnswer is the answer to a Messages request.
type anthropicMessageAnswer struct {
	Type        string           `json:"type"`
	ID          string           `json:"id"`
	Model       string           `json:"model"`
	Content     []anthropicBlock `json:"content"`
	StopReason  string           `json:"stop_reason"`
	StopDetails *stopDetails     `json:"stop_details"`
	Usage       anthropicUsage   `json:"usage"`
	Error       jsontext.Value   `json:"error"`
}

type stopDetails struct {
	Explanation string `json:"explanation"`
}

type anthropicUsage struct {
	Input       int `json:"input_tokens"`
	Output      int `json:"output_tokens"`
	CacheWrites int `json:"cache_creation_input_tokens"`
	CacheReads  int `json:"cache_read_input_tokens"`
	Details     struct {
		Thinking int `json:"thinking_tokens"`
	} `json:"output_tokens_details"`
}

// openAI gives the usage in OpenAI's terms, where the prompt includes what was
// read from and written to the cache. It is nil where nothing was said.
func (u anthropicUsage) openAI() *completionUsage {
	if u == (anthropicUsage{}) {
		return nil
	}
	out := &completionUsage{PromptTokens: u.Input + u.CacheWrites + u.CacheReads, CompletionTokens: u.Output}
	out.TotalTokens = out.PromptTokens + out.CompletionTokens
	out.PromptDetails.CachedTokens, out.PromptDetails.CacheWriteTokens = u.CacheReads, u.CacheWrites
	out.CompletionDetails.ReasoningTokens = u.Details.Thinking
	return out
}

// update takes over what a later event says; figures that it leaves out stay.
func (u *anthropicUsage) update(later anthropicUsage) {
	u.Input = max(u.Input, later.Input)
	u.Output = max(u.Output, later.Output)
	u.CacheWrites = max(u.CacheWrites, later.CacheWrites)
	u.CacheReads = max(u.CacheReads, later.CacheReads)
	u.Details.Thinking = max(u.Details.Thinking, later.Details.Thinking)
}

// callUsage gives a usage as the product counts it; unknown is zero.
func (u *completionUsage) callUsage() schemas.Usage {
	if u == nil {
		return schemas.Usage{}
	}
	return schemas.Usage{
		PromptTokens: u.PromptTokens, CompletionTokens: u.CompletionTokens, TotalTokens: u.TotalTokens,
		CachedTokens: u.PromptDetails.CachedTokens, ReasoningTokens: u.CompletionDetails.ReasoningTokens,
	}
}

// refusedText stands where a provider refuses without saying why.
const refusedText = "The provider's safety rules ended the answer."

// anthropicAnswer translates the answer to a Messages request into a chat
// completion that was made at the given Unix time.
func anthropicAnswer(body []byte, created int64) (schemas.Answer, error) {
	var in anthropicMessageAnswer
	if err := json.Unmarshal(bytes.TrimSpace(body), &in, tolerant); err != nil {
		return schemas.Answer{}, errNotObject
	}
	if in.Error.Kind() == '{' {
		return schemas.Answer{}, errorInBody(in.Error, schemas.Usage{})
	}
	if in.Type != "message" {
		return schemas.Answer{}, fmt.Errorf("it is no message")
	}
	message := &answerMessage{Role: "assistant"}
	var text strings.Builder
	for _, block := range in.Content {
		switch block.Type {
		case "text":
			text.WriteString(block.Text)
		case "thinking":
			message.ReasoningContent += block.Thinking
		case "tool_use":
			message.ToolCalls = append(message.ToolCalls, chatToolCall{
				ID: block.ID, Type: "function",
				Function: chatFunction{Name: block.Name, Arguments: inputText(block.Input)},
			})
		}
	}
	finish := anthropicFinish(in.StopReason)
	if finish == "content_filter" {
		message.Refusal = in.StopDetails.text()
	}
	message.setText(text.String())
	usage := in.Usage.openAI()
	out := completion{
		ID: in.ID, Object: "chat.completion", Created: created, Model: in.Model, Usage: usage,
		Choices: []completionChoice{{Message: message, FinishReason: &finish}},
	}
	return schemas.Answer{Body: out.encode(), Model: in.Model, Usage: usage.callUsage()}, nil
}

func (d *stopDetails) text() *string {
	text := refusedText
	if d != nil && d.Explanation != "" {
		text = d.Explanation
	}
	return &text
}

// inputText gives a tool's input as OpenAI's arguments: compact JSON.
func inputText(input jsontext.Value) string {
	if input.Compact(tolerant) != nil || len(input) == 0 {
		return "{}"
	}
	return string(input)
}

// anthropicFinish gives the finish reason for a stop reason.
func anthropicFinish(reason string) string {
	switch reason {
	case "max_tokens", "model_context_window_exceeded":
		return "length"
	case "tool_use":
		return "tool_calls"
	case "refusal":
		return "content_filter"
	}
	return "stop" // end_turn, stop_sequence, pause_turn, and what is to come
}

// anthropicEvents translates the events of one streamed message.
type anthropicEvents struct {
	created   int64
	id, model string
	usage     anthropicUsage
	calls     int  // tools called so far
	inputOpen bool // the last of them has no arguments so far
}

type anthropicEvent struct {
	Type         string                 `json:"type"`
	Message      anthropicMessageAnswer `json:"message"`
	ContentBlock anthropicBlock         `json:"content_block"`
	Delta        struct {
		Type        string       `json:"type"`
		Text        string       `json:"text"`
		PartialJSON string       `json:"partial_json"`
		Thinking    string       `json:"thinking"`
		StopReason  string       `json:"stop_reason"`
		StopDetails *stopDetails `json:"stop_details"`
	} `json:"delta"`
	Usage anthropicUsage `json:"usage"`
	Error jsontext.Value `json:"error"`
}

func (s *anthropicEvents) event(_ string, data []byte, emit func([]byte) error) (bool, error) {
	var e anthropicEvent
	if err := json.Unmarshal(data, &e, tolerant); err != nil {
		return false, errNotObject
	}
	switch e.Type {
	case "message_start":
		s.id, s.model, s.usage = e.Message.ID, e.Message.Model, e.Message.Usage
		empty := ""
		return false, emit(s.chunk(&delta{Role: "assistant", Content: &empty}, nil))
	case "content_block_start":
		return false, s.begin(&e.ContentBlock, emit)
	case "content_block_delta":
		return false, s.delta(&e, emit)
	case "content_block_stop":
		return false, s.closeInput(emit)
	case "message_delta":
		s.usage.update(e.Usage)
		if e.Delta.StopReason != "" {
			return false, s.end(anthropicFinish(e.Delta.StopReason), e.Delta.StopDetails, emit)
		}
	case "message_stop":
		return true, nil
	case "error":
		return false, errorInBody(e.Error, schemas.Usage{})
	}
	return false, nil // ping, and what is to come
}

func (s *anthropicEvents) begin(block *anthropicBlock, emit func([]byte) error) error {
	switch block.Type {
	case "tool_use":
		index := s.calls
		s.calls++
		s.inputOpen = true
		return emit(s.chunk(&delta{ToolCalls: []chatToolCall{{Index: &index, ID: block.ID, Type: "function", Function: chatFunction{Name: block.Name}}}}, nil))
	case "text":
		if block.Text != "" {
			return emit(s.chunk(&delta{Content: &block.Text}, nil))
		}
	}
	return nil
}

func (s *anthropicEvents) delta(e *anthropicEvent, emit func([]byte) error) error {
	switch e.Delta.Type {
	case "text_delta":
		return emit(s.chunk(&delta{Content: &e.Delta.Text}, nil))
	case "thinking_delta":
		return emit(s.chunk(&delta{ReasoningContent: e.Delta.Thinking}, nil))
	case "input_json_delta":
		s.inputOpen = s.inputOpen && e.Delta.PartialJSON == ""
		return emit(s.arguments(e.Delta.PartialJSON))
	}
	return nil
}

func (s *anthropicEvents) arguments(text string) []byte {
	index := max(s.calls-1, 0)
	return s.chunk(&delta{ToolCalls: []chatToolCall{{Index: &index, Function: chatFunction{Arguments: text}}}}, nil)
}

// closeInput gives a tool call without input the empty object that it has in
// OpenAI's API.
func (s *anthropicEvents) closeInput(emit func([]byte) error) error {
	if !s.inputOpen {
		return nil
	}
	s.inputOpen = false
	return emit(s.arguments("{}"))
}

// end emits the finish reason and the usage.
func (s *anthropicEvents) end(finish string, details *stopDetails, emit func([]byte) error) error {
	last := new(delta)
	if finish == "content_filter" {
		last.Refusal = details.text()
	}
	if err := emit(s.chunk(last, &finish)); err != nil {
		return err
	}
	usage := s.usage.openAI()
	if usage == nil {
		return nil
	}
	c := s.completion()
	c.Choices, c.Usage = []completionChoice{}, usage
	return emit(c.encode())
}

func (s *anthropicEvents) completion() completion {
	return completion{ID: s.id, Object: "chat.completion.chunk", Created: s.created, Model: s.model}
}

func (s *anthropicEvents) chunk(d *delta, finish *string) []byte {
	c := s.completion()
	c.Choices = []completionChoice{{Delta: d, FinishReason: finish}}
	return c.encode()
}
