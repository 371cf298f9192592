package providers

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// defaultAnthropicTokens bounds an answer where the request does not, since the
// Messages API demands a bound.
const defaultAnthropicTokens = 8192

type messagesRequest struct {
	Model         string               `json:"model"`
	MaxTokens     int                  `json:"max_tokens"`
	System        []anthropicBlock     `json:"system,omitzero"`
	Messages      []anthropicMessage   `json:"messages"`
	Temperature   *float64             `json:"temperature,omitzero"`
	TopP          *float64             `json:"top_p,omitzero"`
	StopSequences []string             `json:"stop_sequences,omitzero"`
	Tools         []anthropicTool      `json:"tools,omitzero"`
	ToolChoice    *anthropicToolChoice `json:"tool_choice,omitzero"`
	OutputConfig  *outputConfig        `json:"output_config,omitzero"`
	Thinking      *anthropicThinking   `json:"thinking,omitzero"`
	Metadata      *anthropicMetadata   `json:"metadata,omitzero"`
	Stream        bool                 `json:"stream,omitzero"`
}

type anthropicMessage struct {
	Role    string           `json:"role"`
	Content []anthropicBlock `json:"content"`
}

// anthropicBlock is a content block, of a request or an answer.
type anthropicBlock struct {
	Type      string           `json:"type"`
	Text      string           `json:"text,omitzero"`
	Source    *anthropicSource `json:"source,omitzero"`      // image, document
	ID        string           `json:"id,omitzero"`          // tool_use
	Name      string           `json:"name,omitzero"`        // tool_use
	Input     jsontext.Value   `json:"input,omitzero"`       // tool_use
	ToolUseID string           `json:"tool_use_id,omitzero"` // tool_result
	Content   []anthropicBlock `json:"content,omitzero"`     // tool_result
	Thinking  string           `json:"thinking,omitzero"`    // of an answer
}

type anthropicSource struct {
	Type      string `json:"type"`
	MediaType string `json:"media_type,omitzero"`
	Data      string `json:"data,omitzero"`
	URL       string `json:"url,omitzero"`
	FileID    string `json:"file_id,omitzero"`
}

type anthropicTool struct {
	Name        string         `json:"name"`
	Description string         `json:"description,omitzero"`
	InputSchema jsontext.Value `json:"input_schema"`
	Strict      *bool          `json:"strict,omitzero"`
}

type anthropicToolChoice struct {
	Type            string `json:"type"`
	Name            string `json:"name,omitzero"`
	DisableParallel bool   `json:"disable_parallel_tool_use,omitzero"`
}

type outputConfig struct {
	Format *outputFormat `json:"format,omitzero"`
	Effort string        `json:"effort,omitzero"`
}

type outputFormat struct {
	Type   string         `json:"type"`
	Schema jsontext.Value `json:"schema"`
}

type anthropicThinking struct {
	Type string `json:"type"`
}

type anthropicMetadata struct {
	UserID string `json:"user_id"`
}

// anthropicRequest translates a chat completion into a Messages request. What
// Anthropic cannot express and the answer would lack (several choices, logprobs)
// is an error that names the field; what only steers style or storage is dropped.
func anthropicRequest(body []byte, model string, stream bool) ([]byte, error) {
	r, err := readChatRequest(body)
	if err != nil {
		return nil, err
	}
	switch {
	case r.N > 1:
		return nil, schemas.Invalid(schemas.CodeInvalidField, "n", "Anthropic gives one answer a request; n must be 1")
	case r.Logprobs:
		return nil, schemas.Invalid(schemas.CodeInvalidField, "logprobs", "Anthropic gives no logprobs; it must be false")
	}
	out := messagesRequest{
		Model: model, MaxTokens: r.maxTokens(), Temperature: r.Temperature, TopP: r.TopP,
		StopSequences: r.stops(), Stream: stream,
	}
	if out.MaxTokens <= 0 {
		out.MaxTokens = defaultAnthropicTokens
	}
	if out.Temperature != nil && *out.Temperature > 1 { // OpenAI's goes to 2
		one := 1.0
		out.Temperature = &one
	}
	if user := r.end(); user != "" {
		out.Metadata = &anthropicMetadata{user}
	}
	if err := out.addMessages(r.Messages); err != nil {
		return nil, err
	}
	out.addTools(r)
	out.addFormat(r)
	encoded, err := json.Marshal(&out, tolerant)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	return withRest(encoded, r.Rest), nil
}

// addMessages adds the conversation. Messages of one side that follow each other
// become one, as the results of parallel tool calls must; what the system said
// goes to the front, wherever it stood.
func (out *messagesRequest) addMessages(messages []chatMessage) error {
	for i := range messages {
		m, param := &messages[i], fmt.Sprintf("messages[%d]", i)
		role := "user"
		var blocks []anthropicBlock
		var err error
		switch m.Role {
		case "system", "developer":
			blocks, err = anthropicContent(m, param)
			out.System = append(out.System, blocks...)
			if err == nil {
				continue
			}
		case "assistant":
			role = "assistant"
			blocks, err = anthropicAssistant(m, param)
		case "tool", "function":
			blocks, err = anthropicResult(m, param)
		default:
			blocks, err = anthropicContent(m, param)
		}
		if err != nil {
			return err
		}
		if last := len(out.Messages) - 1; last >= 0 && out.Messages[last].Role == role {
			out.Messages[last].Content = append(out.Messages[last].Content, blocks...)
		} else if len(blocks) > 0 {
			out.Messages = append(out.Messages, anthropicMessage{role, blocks})
		}
	}
	if len(out.Messages) == 0 {
		return schemas.Invalid(schemas.CodeInvalidField, "messages", "Anthropic needs at least one message of a user with content")
	}
	return nil
}

func anthropicContent(m *chatMessage, param string) ([]anthropicBlock, error) {
	parts, err := m.parts(param)
	if err != nil {
		return nil, err
	}
	var blocks []anthropicBlock
	for i, part := range parts {
		at := fmt.Sprintf("%s.content[%d]", param, i)
		switch part.Type {
		case "text", "refusal":
			if text := part.Text + part.Refusal; text != "" { // empty blocks are refused
				blocks = append(blocks, anthropicBlock{Type: "text", Text: text})
			}
		case "image_url":
			block, err := anthropicFile("image", part.ImageURL.URL, at+".image_url.url")
			if err != nil {
				return nil, err
			}
			blocks = append(blocks, block)
		case "file":
			block := anthropicBlock{Type: "document", Source: &anthropicSource{Type: "file", FileID: part.File.ID}}
			if part.File.ID == "" {
				if block, err = anthropicFile("document", part.File.Data, at+".file.file_data"); err != nil {
					return nil, err
				}
			}
			blocks = append(blocks, block)
		default:
			return nil, schemas.Invalid(schemas.CodeInvalidField, at+".type", "%.40q is not supported by Anthropic; it must be text, image_url or file", part.Type)
		}
	}
	return blocks, nil
}

func anthropicFile(kind, address, param string) (anthropicBlock, error) {
	b, err := readURL(address)
	if err != nil {
		return anthropicBlock{}, schemas.Invalid(schemas.CodeInvalidField, param, "%v", err)
	}
	if b.url != "" {
		return anthropicBlock{Type: kind, Source: &anthropicSource{Type: "url", URL: b.url}}, nil
	}
	return anthropicBlock{Type: kind, Source: &anthropicSource{Type: "base64", MediaType: b.mediaType, Data: b.data}}, nil
}

// anthropicAssistant gives what the model said before, and the tools it called.
func anthropicAssistant(m *chatMessage, param string) ([]anthropicBlock, error) {
	blocks, err := anthropicContent(m, param)
	if err != nil {
		return nil, err
	}
	if m.Refusal != "" {
		blocks = append(blocks, anthropicBlock{Type: "text", Text: m.Refusal})
	}
	for i, call := range m.ToolCalls {
		input, err := argumentsObject(call.Function.Arguments, fmt.Sprintf("%s.tool_calls[%d].function.arguments", param, i))
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, anthropicBlock{Type: "tool_use", ID: call.ID, Name: call.Function.Name, Input: input})
	}
	return blocks, nil
}

func anthropicResult(m *chatMessage, param string) ([]anthropicBlock, error) {
	if m.ToolCallID == "" {
		return nil, schemas.Invalid(schemas.CodeMissingField, param+".tool_call_id", "a tool's message must name the call that it answers")
	}
	content, err := anthropicContent(m, param)
	return []anthropicBlock{{Type: "tool_result", ToolUseID: m.ToolCallID, Content: content}}, err
}

func (out *messagesRequest) addTools(r *chatRequest) {
	for _, tool := range r.Tools {
		schema := tool.Function.Parameters
		if schema.Kind() != '{' {
			schema = jsontext.Value(`{"type":"object","properties":{}}`)
		}
		out.Tools = append(out.Tools, anthropicTool{tool.Function.Name, tool.Function.Description, schema, tool.Function.Strict})
	}
	mode, names := r.toolChoice()
	choice := anthropicToolChoice{Type: map[string]string{"required": "any", "none": "none"}[mode]}
	switch {
	case len(names) == 1 && mode == "required":
		choice.Type, choice.Name = "tool", names[0]
	case choice.Type == "":
		choice.Type = "auto"
	}
	choice.DisableParallel = r.ParallelToolCalls != nil && !*r.ParallelToolCalls && choice.Type != "none"
	if len(out.Tools) > 0 && (mode != "" || choice.DisableParallel) {
		out.ToolChoice = &choice
	}
}

// addFormat asks for JSON and for an effort. There is no mode for any JSON
// object, so that is asked for in words.
func (out *messagesRequest) addFormat(r *chatRequest) {
	config := outputConfig{}
	if f := r.ResponseFormat; f != nil && f.Type == "json_schema" && f.JSONSchema.Schema.Kind() == '{' {
		config.Format = &outputFormat{"json_schema", f.JSONSchema.Schema}
	} else if f != nil && f.Type == "json_object" {
		out.System = append(out.System, anthropicBlock{Type: "text", Text: "Answer with one JSON object and nothing else."})
	}
	switch effort := strings.ToLower(r.ReasoningEffort); effort {
	case "":
	case "none":
		out.Thinking = &anthropicThinking{"disabled"}
	case "minimal":
		config.Effort = "low"
	default:
		config.Effort = effort
	}
	if config != (outputConfig{}) {
		out.OutputConfig = &config
	}
}
