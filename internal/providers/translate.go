package providers

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"path"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// The types here are OpenAI's chat completions as far as the other providers can
// express them. They are what the translations, which are pure functions, read
// and write.

// chatRequest is the body of a chat completion.
type chatRequest struct {
	Model               string          `json:"model"`
	Messages            []chatMessage   `json:"messages"`
	MaxTokens           int             `json:"max_tokens"`
	MaxCompletionTokens int             `json:"max_completion_tokens"`
	Temperature         *float64        `json:"temperature"`
	TopP                *float64        `json:"top_p"`
	N                   int             `json:"n"`
	Stop                jsontext.Value  `json:"stop"`
	ResponseFormat      *responseFormat `json:"response_format"`
	Tools               []chatTool      `json:"tools"`
	ToolChoice          jsontext.Value  `json:"tool_choice"`
	ParallelToolCalls   *bool           `json:"parallel_tool_calls"`
	Logprobs            bool            `json:"logprobs"`
	TopLogprobs         int             `json:"top_logprobs"`
	FrequencyPenalty    *float64        `json:"frequency_penalty"`
	PresencePenalty     *float64        `json:"presence_penalty"`
	Seed                *int64          `json:"seed"`
	ReasoningEffort     string          `json:"reasoning_effort"`
	User                string          `json:"user"`
	SafetyIdentifier    string          `json:"safety_identifier"`

	ignored

	// Rest is what OpenAI's API does not know. It is meant for the provider, and
	// is passed on as it is.
	Rest jsontext.Value `json:",embed"`
}

// ignored members are dropped: the others have no equal, and none changes the
// form of the answer.
type ignored struct {
	Stream               jsontext.Value `json:"stream"`
	StreamOptions        jsontext.Value `json:"stream_options"`
	Processor            jsontext.Value `json:"processor"`
	LogitBias            jsontext.Value `json:"logit_bias"`
	Store                jsontext.Value `json:"store"`
	Metadata             jsontext.Value `json:"metadata"`
	ServiceTier          jsontext.Value `json:"service_tier"`
	PromptCacheKey       jsontext.Value `json:"prompt_cache_key"`
	PromptCacheRetention jsontext.Value `json:"prompt_cache_retention"`
	PromptCacheOptions   jsontext.Value `json:"prompt_cache_options"`
	Prediction           jsontext.Value `json:"prediction"`
	Verbosity            jsontext.Value `json:"verbosity"`
	Modalities           jsontext.Value `json:"modalities"`
	Audio                jsontext.Value `json:"audio"`
	WebSearchOptions     jsontext.Value `json:"web_search_options"`
	Moderation           jsontext.Value `json:"moderation"`
	Functions            jsontext.Value `json:"functions"`
	FunctionCall         jsontext.Value `json:"function_call"`
}

type chatMessage struct {
	Role       string         `json:"role"`
	Content    jsontext.Value `json:"content"` // a string, a list of parts, or null
	Refusal    string         `json:"refusal"`
	ToolCalls  []chatToolCall `json:"tool_calls"`
	ToolCallID string         `json:"tool_call_id"`
	Name       string         `json:"name"`
}

// chatToolCall is a tool call in a request, an answer and, with Index, a chunk.
type chatToolCall struct {
	Index    *int         `json:"index,omitzero"`
	ID       string       `json:"id,omitzero"`
	Type     string       `json:"type,omitzero"`
	Function chatFunction `json:"function"`
	// ExtraContent is where Google's own OpenAI layer keeps thought signatures.
	ExtraContent *extraContent `json:"extra_content,omitzero"`
}

type chatFunction struct {
	Name      string `json:"name,omitzero"`
	Arguments string `json:"arguments"`
}

type extraContent struct {
	Google struct {
		ThoughtSignature string `json:"thought_signature,omitzero"`
	} `json:"google"`
}

type chatTool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string         `json:"name"`
		Description string         `json:"description"`
		Parameters  jsontext.Value `json:"parameters"`
		Strict      *bool          `json:"strict"`
	} `json:"function"`
}

type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema struct {
		Schema jsontext.Value `json:"schema"`
	} `json:"json_schema"`
}

type chatPart struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Refusal  string `json:"refusal"`
	ImageURL struct {
		URL string `json:"url"`
	} `json:"image_url"`
	InputAudio struct {
		Data   string `json:"data"`
		Format string `json:"format"`
	} `json:"input_audio"`
	File struct {
		Data string `json:"file_data"`
		ID   string `json:"file_id"`
	} `json:"file"`
}

// tolerant is how JSON from outside is read: it was checked when it was accepted.
var tolerant = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// withRest adds the members that OpenAI's API does not know. One that stands in
// the translation already is replaced: the application asked for it by its own name.
func withRest(body []byte, rest jsontext.Value) []byte {
	schemas.Members(rest, func(name []byte, _, value schemas.Span) bool {
		body = schemas.SetMember(body, string(name), value.Of(rest))
		return true
	})
	return body
}

func readChatRequest(body []byte) (*chatRequest, error) {
	r := new(chatRequest)
	if err := json.Unmarshal(body, r, tolerant); err != nil {
		return nil, wrongType(err)
	}
	for i, tool := range r.Tools {
		if tool.Type != "function" && tool.Type != "" {
			return nil, schemas.Invalid(schemas.CodeInvalidField, fmt.Sprintf("tools[%d].type", i), "%.40q is not supported by this provider; it must be function", tool.Type)
		}
	}
	return r, nil
}

// wrongType names the field that has the wrong type.
func wrongType(err error) error {
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		param := strings.ReplaceAll(strings.TrimPrefix(string(semantic.JSONPointer), "/"), "/", ".")
		return schemas.Invalid(schemas.CodeInvalidField, bounded(param), "has the wrong type for a value of %s", semantic.GoType)
	}
	return schemas.Invalid(schemas.CodeInvalidJSON, "", "the body is not valid JSON")
}

// maxTokens is the bound on the answer that the request sets; 0 if none.
func (r *chatRequest) maxTokens() int {
	if r.MaxCompletionTokens > 0 {
		return r.MaxCompletionTokens
	}
	return r.MaxTokens
}

// stops gives the stop sequences.
func (r *chatRequest) stops() []string {
	if len(r.Stop) == 0 || r.Stop.Kind() == 'n' {
		return nil
	}
	return stopsOf(r.Stop)
}

// end is the user's name for the provider.
func (r *chatRequest) end() string {
	if r.SafetyIdentifier != "" {
		return r.SafetyIdentifier
	}
	return r.User
}

// toolChoice reads tool_choice: its mode (auto, none, required, or empty where
// nothing was said) and the names of the tools that may be called.
func (r *chatRequest) toolChoice() (mode string, names []string) {
	switch r.ToolChoice.Kind() {
	case '"':
		return textOf(r.ToolChoice), nil
	case '{':
		var choice struct {
			Type         string       `json:"type"`
			Function     chatFunction `json:"function"`
			AllowedTools struct {
				Mode  string     `json:"mode"`
				Tools []chatTool `json:"tools"`
			} `json:"allowed_tools"`
		}
		if json.Unmarshal(r.ToolChoice, &choice, tolerant) != nil {
			return "", nil
		}
		if choice.Type == "allowed_tools" {
			for _, tool := range choice.AllowedTools.Tools {
				names = append(names, tool.Function.Name)
			}
			return choice.AllowedTools.Mode, names
		}
		return "required", []string{choice.Function.Name}
	}
	return "", nil
}

// parts gives a message's content as parts; param names it in errors.
func (m *chatMessage) parts(param string) ([]chatPart, error) {
	switch m.Content.Kind() {
	case '"':
		if text := textOf(m.Content); text != "" {
			return []chatPart{{Type: "text", Text: text}}, nil
		}
	case '[':
		var parts []chatPart
		if err := json.Unmarshal(m.Content, &parts, tolerant); err != nil {
			return nil, schemas.Invalid(schemas.CodeInvalidField, param+".content", "has a part of the wrong form")
		}
		return parts, nil
	}
	return nil, nil
}

// text gives the text of a message's content, its parts joined by line breaks.
func (m *chatMessage) text(param string) (string, error) {
	parts, err := m.parts(param)
	var texts []string
	for _, part := range parts {
		if part.Type == "text" && part.Text != "" {
			texts = append(texts, part.Text)
		}
	}
	return strings.Join(texts, "\n"), err
}

// blob is a file in a request, by value or by address.
type blob struct {
	mediaType, data, url string
}

// readURL reads an address, which may be a data: URL with base64.
func readURL(address string) (blob, error) {
	rest, isData := strings.CutPrefix(address, "data:")
	if !isData {
		if !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") && !strings.HasPrefix(address, "gs://") {
			return blob{}, fmt.Errorf("must be an http or data URL")
		}
		name, _, _ := strings.Cut(address, "?")
		return blob{url: address, mediaType: mime.TypeByExtension(path.Ext(name))}, nil
	}
	head, data, found := strings.Cut(rest, ",")
	mediaType, base64Coded := strings.CutSuffix(head, ";base64")
	if !found || !base64Coded || mediaType == "" {
		return blob{}, fmt.Errorf("must be like data:image/png;base64,iVBORw0KGgo=")
	}
	if _, err := base64.StdEncoding.DecodeString(data); err != nil {
		return blob{}, fmt.Errorf("is no valid base64")
	}
	return blob{mediaType: mediaType, data: data}, nil
}

// argumentsObject gives the arguments of a tool call as a JSON object.
func argumentsObject(arguments, param string) (jsontext.Value, error) {
	object := jsontext.Value(bytes.TrimSpace([]byte(arguments)))
	if len(object) == 0 {
		return jsontext.Value("{}"), nil
	}
	if object.Kind() != '{' || !object.IsValid(tolerant) {
		return nil, schemas.Invalid(schemas.CodeInvalidField, param, "must be a JSON object, as text")
	}
	return object, nil
}

// completion is a chat completion, whole or a chunk of it.
type completion struct {
	ID      string             `json:"id"`
	Object  string             `json:"object"`
	Created int64              `json:"created"`
	Model   string             `json:"model"`
	Choices []completionChoice `json:"choices"`
	Usage   *completionUsage   `json:"usage,omitzero"`
}

type completionChoice struct {
	Index        int             `json:"index"`
	Message      *answerMessage  `json:"message,omitzero"`
	Delta        *delta          `json:"delta,omitzero"`
	Logprobs     *choiceLogprobs `json:"logprobs"`
	FinishReason *string         `json:"finish_reason"`
}

type answerMessage struct {
	Role             string         `json:"role"`
	Content          *string        `json:"content"`
	Refusal          *string        `json:"refusal"`
	ReasoningContent string         `json:"reasoning_content,omitzero"`
	ToolCalls        []chatToolCall `json:"tool_calls,omitzero"`
}

type delta struct {
	Role             string         `json:"role,omitzero"`
	Content          *string        `json:"content,omitzero"`
	Refusal          *string        `json:"refusal,omitzero"`
	ReasoningContent string         `json:"reasoning_content,omitzero"`
	ToolCalls        []chatToolCall `json:"tool_calls,omitzero"`
}

type choiceLogprobs struct {
	Content []tokenLogprob `json:"content"`
}

type tokenLogprob struct {
	Token       string         `json:"token"`
	Logprob     float64        `json:"logprob"`
	Bytes       []int          `json:"bytes"`
	TopLogprobs []tokenLogprob `json:"top_logprobs,omitzero"`
}

type completionUsage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	PromptDetails    struct {
		CachedTokens     int `json:"cached_tokens"`
		CacheWriteTokens int `json:"cache_write_tokens,omitzero"`
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		ReasoningTokens int `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

func (c *completion) encode() []byte {
	out, err := json.Marshal(c, jsontext.AllowInvalidUTF8(true))
	if err != nil { // a logprob that JSON has no form for
		for i := range c.Choices {
			c.Choices[i].Logprobs = nil
		}
		out, _ = json.Marshal(c, jsontext.AllowInvalidUTF8(true))
	}
	return out
}

// setText sets a message's content, which is null where there is none.
func (m *answerMessage) setText(text string) {
	if text != "" || len(m.ToolCalls) == 0 && m.Refusal == nil {
		m.Content = &text
	}
}
