package providers

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

type contentRequest struct {
	SystemInstruction *geminiContent    `json:"systemInstruction,omitzero"`
	Contents          []geminiContent   `json:"contents"`
	Tools             []geminiTools     `json:"tools,omitzero"`
	ToolConfig        *geminiToolConfig `json:"toolConfig,omitzero"`
	GenerationConfig  generationConfig  `json:"generationConfig,omitzero"`
}

type geminiContent struct {
	Role  string       `json:"role,omitzero"`
	Parts []geminiPart `json:"parts"`
}

// geminiPart is a part of a content, of a request or an answer.
type geminiPart struct {
	Text             string          `json:"text,omitzero"`
	Thought          bool            `json:"thought,omitzero"`
	InlineData       *geminiBlob     `json:"inlineData,omitzero"`
	FileData         *geminiFile     `json:"fileData,omitzero"`
	FunctionCall     *functionCall   `json:"functionCall,omitzero"`
	FunctionResponse *functionResult `json:"functionResponse,omitzero"`
	ThoughtSignature string          `json:"thoughtSignature,omitzero"`
}

type geminiBlob struct {
	MIMEType string `json:"mimeType"`
	Data     string `json:"data"`
}

type geminiFile struct {
	MIMEType string `json:"mimeType,omitzero"`
	FileURI  string `json:"fileUri"`
}

type functionCall struct {
	ID   string         `json:"id,omitzero"`
	Name string         `json:"name"`
	Args jsontext.Value `json:"args,omitzero"`
}

type functionResult struct {
	ID       string         `json:"id,omitzero"`
	Name     string         `json:"name"`
	Response jsontext.Value `json:"response"`
}

type geminiTools struct {
	FunctionDeclarations []functionDeclaration `json:"functionDeclarations"`
}

type functionDeclaration struct {
	Name        string         `json:"name"`
	Description string         `json:"description,omitzero"`
	Parameters  jsontext.Value `json:"parametersJsonSchema,omitzero"`
}

type geminiToolConfig struct {
	FunctionCalling struct {
		Mode    string   `json:"mode"`
		Allowed []string `json:"allowedFunctionNames,omitzero"`
	} `json:"functionCallingConfig"`
}

type generationConfig struct {
	Temperature        *float64        `json:"temperature,omitzero"`
	TopP               *float64        `json:"topP,omitzero"`
	CandidateCount     int             `json:"candidateCount,omitzero"`
	MaxOutputTokens    int             `json:"maxOutputTokens,omitzero"`
	StopSequences      []string        `json:"stopSequences,omitzero"`
	Seed               *int64          `json:"seed,omitzero"`
	PresencePenalty    *float64        `json:"presencePenalty,omitzero"`
	FrequencyPenalty   *float64        `json:"frequencyPenalty,omitzero"`
	ResponseLogprobs   bool            `json:"responseLogprobs,omitzero"`
	Logprobs           int             `json:"logprobs,omitzero"`
	ResponseMIMEType   string          `json:"responseMimeType,omitzero"`
	ResponseJSONSchema jsontext.Value  `json:"responseJsonSchema,omitzero"`
	ThinkingConfig     *thinkingConfig `json:"thinkingConfig,omitzero"`
}

type thinkingConfig struct {
	Budget *int   `json:"thinkingBudget,omitzero"`
	Level  string `json:"thinkingLevel,omitzero"`
}

// geminiRequest translates a chat completion into a generateContent request.
func geminiRequest(body []byte, model string) ([]byte, error) {
	r, err := readChatRequest(body)
	if err != nil {
		return nil, err
	}
	out := contentRequest{GenerationConfig: geminiConfig(r, model)}
	if err := out.addMessages(r.Messages); err != nil {
		return nil, err
	}
	out.addTools(r)
	encoded, err := json.Marshal(&out, tolerant)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	return withRest(encoded, r.Rest), nil
}

func geminiConfig(r *chatRequest, model string) generationConfig {
	c := generationConfig{
		Temperature: r.Temperature, TopP: r.TopP, MaxOutputTokens: r.maxTokens(), StopSequences: r.stops(),
		Seed: r.Seed, PresencePenalty: r.PresencePenalty, FrequencyPenalty: r.FrequencyPenalty,
		ResponseLogprobs: r.Logprobs, ThinkingConfig: geminiThinking(r.ReasoningEffort, model),
	}
	if r.N > 1 {
		c.CandidateCount = r.N
	}
	if r.Logprobs {
		c.Logprobs = r.TopLogprobs
	}
	if f := r.ResponseFormat; f != nil && (f.Type == "json_object" || f.Type == "json_schema") {
		c.ResponseMIMEType = "application/json"
		if f.JSONSchema.Schema.Kind() == '{' {
			c.ResponseJSONSchema = f.JSONSchema.Schema
		}
	}
	return c
}

// geminiThinking gives the thinking for an effort. Models before Gemini 3 take a
// budget in tokens; the figures are those of Google's own OpenAI layer
// (https://ai.google.dev/gemini-api/docs/openai).
func geminiThinking(effort, model string) *thinkingConfig {
	if effort == "" {
		return nil
	}
	if strings.Contains(model, "gemini-2") {
		budget, ok := map[string]int{"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576}[effort]
		if !ok {
			return nil
		}
		return &thinkingConfig{Budget: &budget}
	}
	level, ok := map[string]string{"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH"}[effort]
	if !ok {
		return nil
	}
	return &thinkingConfig{Level: level}
}

// addMessages adds the conversation. Messages of one side that follow each other
// become one; what the system said goes to the front, wherever it stood.
func (out *contentRequest) addMessages(messages []chatMessage) error {
	names := map[string]string{} // of the called functions, by the call's id
	for i := range messages {
		m, param := &messages[i], fmt.Sprintf("messages[%d]", i)
		role := "user"
		var parts []geminiPart
		var err error
		switch m.Role {
		case "system", "developer":
			if err := out.addSystem(m, param); err != nil {
				return err
			}
			continue
		case "assistant":
			role = "model"
			parts, err = geminiAssistant(m, param, names)
		case "tool", "function":
			parts, err = geminiResult(m, param, names)
		default:
			parts, err = geminiParts(m, param)
		}
		if err != nil {
			return err
		}
		if last := len(out.Contents) - 1; last >= 0 && out.Contents[last].Role == role {
			out.Contents[last].Parts = append(out.Contents[last].Parts, parts...)
		} else if len(parts) > 0 {
			out.Contents = append(out.Contents, geminiContent{role, parts})
		}
	}
	if len(out.Contents) == 0 {
		return schemas.Invalid(schemas.CodeInvalidField, "messages", "Gemini needs at least one message of a user with content")
	}
	return nil
}

func (out *contentRequest) addSystem(m *chatMessage, param string) error {
	parts, err := geminiParts(m, param)
	if err != nil || len(parts) == 0 {
		return err
	}
	if out.SystemInstruction == nil {
		out.SystemInstruction = new(geminiContent)
	}
	out.SystemInstruction.Parts = append(out.SystemInstruction.Parts, parts...)
	return nil
}

func geminiParts(m *chatMessage, param string) ([]geminiPart, error) {
	parts, err := m.parts(param)
	if err != nil {
		return nil, err
	}
	var out []geminiPart
	for i, part := range parts {
		at := fmt.Sprintf("%s.content[%d]", param, i)
		var p geminiPart
		var err error
		switch part.Type {
		case "text", "refusal":
			if p.Text = part.Text + part.Refusal; p.Text == "" {
				continue
			}
		case "image_url":
			p, err = geminiData(part.ImageURL.URL, at+".image_url.url")
		case "input_audio":
			p.InlineData = &geminiBlob{"audio/" + part.InputAudio.Format, part.InputAudio.Data}
		case "file":
			p, err = geminiData(part.File.Data, at+".file.file_data")
		default:
			err = schemas.Invalid(schemas.CodeInvalidField, at+".type", "%.40q is not supported by Gemini; it must be text, image_url, input_audio or file", part.Type)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func geminiData(address, param string) (geminiPart, error) {
	b, err := readURL(address)
	if err != nil {
		return geminiPart{}, schemas.Invalid(schemas.CodeInvalidField, param, "%v", err)
	}
	if b.url != "" {
		return geminiPart{FileData: &geminiFile{b.mediaType, b.url}}, nil
	}
	return geminiPart{InlineData: &geminiBlob{b.mediaType, b.data}}, nil
}

// geminiAssistant gives what the model said before, and the functions it called.
func geminiAssistant(m *chatMessage, param string, names map[string]string) ([]geminiPart, error) {
	parts, err := geminiParts(m, param)
	if err != nil {
		return nil, err
	}
	if m.Refusal != "" {
		parts = append(parts, geminiPart{Text: m.Refusal})
	}
	for i, call := range m.ToolCalls {
		args, err := argumentsObject(call.Function.Arguments, fmt.Sprintf("%s.tool_calls[%d].function.arguments", param, i))
		if err != nil {
			return nil, err
		}
		names[call.ID] = call.Function.Name
		p := geminiPart{FunctionCall: &functionCall{ID: call.ID, Name: call.Function.Name, Args: args}}
		if call.ExtraContent != nil {
			p.ThoughtSignature = call.ExtraContent.Google.ThoughtSignature
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// geminiResult gives the result of a function, which must be an object: a text
// that is none becomes {"result": text}.
func geminiResult(m *chatMessage, param string, names map[string]string) ([]geminiPart, error) {
	name, known := names[m.ToolCallID]
	if !known {
		name = m.Name
	}
	if name == "" {
		return nil, schemas.Invalid(schemas.CodeInvalidField, param+".tool_call_id", "answers no tool call of the messages before")
	}
	text, err := m.text(param)
	if err != nil {
		return nil, err
	}
	response := jsontext.Value(strings.TrimSpace(text))
	if response.Kind() != '{' || !response.IsValid(tolerant) {
		response = fmt.Appendf(nil, `{"result":%s}`, schemas.Quote(text))
	}
	return []geminiPart{{FunctionResponse: &functionResult{ID: m.ToolCallID, Name: name, Response: response}}}, nil
}

func (out *contentRequest) addTools(r *chatRequest) {
	if len(r.Tools) == 0 {
		return
	}
	var declared []functionDeclaration
	for _, tool := range r.Tools {
		d := functionDeclaration{Name: tool.Function.Name, Description: tool.Function.Description}
		if tool.Function.Parameters.Kind() == '{' {
			d.Parameters = tool.Function.Parameters
		}
		declared = append(declared, d)
	}
	out.Tools = []geminiTools{{declared}}
	mode, names := r.toolChoice()
	if mode == "" {
		return
	}
	out.ToolConfig = new(geminiToolConfig)
	out.ToolConfig.FunctionCalling.Mode = map[string]string{"none": "NONE", "required": "ANY"}[mode]
	if out.ToolConfig.FunctionCalling.Mode == "" {
		out.ToolConfig.FunctionCalling.Mode = "AUTO"
	}
	if mode == "required" { // names are allowed with ANY alone
		out.ToolConfig.FunctionCalling.Allowed = names
	}
}

// geminiEmbedRequest translates an embeddings request into a batchEmbedContents.
func geminiEmbedRequest(body []byte, model string) ([]byte, error) {
	type request struct {
		Model      string        `json:"model"`
		Content    geminiContent `json:"content"`
		Dimensions int           `json:"outputDimensionality,omitzero"`
	}
	if format, ok := schemas.Member(body, "encoding_format"); ok && string(format.Of(body)) == `"base64"` {
		return nil, schemas.Invalid(schemas.CodeInvalidField, "encoding_format", "Gemini gives no base64; it must be float")
	}
	if !strings.Contains(model, "/") {
		model = "models/" + model
	}
	dimensions := 0
	if span, ok := schemas.Member(body, "dimensions"); ok {
		dimensions = smallInt(span.Of(body))
	}
	input, ok := schemas.Member(body, "input")
	if !ok {
		return nil, schemas.Invalid(schemas.CodeMissingField, "input", "is missing: a text or a list of texts")
	}
	texts, err := embedTexts(input.Of(body))
	if err != nil {
		return nil, err
	}
	var out struct {
		Requests []request `json:"requests"`
	}
	for _, text := range texts {
		out.Requests = append(out.Requests, request{model, geminiContent{Parts: []geminiPart{{Text: text}}}, dimensions})
	}
	encoded, err := json.Marshal(&out, tolerant)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	return encoded, nil
}

// embedTexts reads the input of an embeddings request, which must be text.
func embedTexts(input []byte) (texts []string, err error) {
	if input[0] == '"' {
		return []string{textOf(input)}, nil
	}
	elements(input, func(element []byte) bool {
		if element[0] != '"' || len(texts) == maxInputs {
			err = schemas.Invalid(schemas.CodeInvalidField, "input", "must be a text or a list of at most %d texts for Gemini", maxInputs)
			return false
		}
		texts = append(texts, textOf(element))
		return true
	})
	return texts, err
}
