package providers

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// contentAnswer is the answer to generateContent, and each event of its stream.
type contentAnswer struct {
	Candidates     []candidate `json:"candidates"`
	PromptFeedback struct {
		BlockReason string `json:"blockReason"`
	} `json:"promptFeedback"`
	Usage        *geminiUsage   `json:"usageMetadata"`
	ModelVersion string         `json:"modelVersion"`
	ResponseID   string         `json:"responseId"`
	Error        jsontext.Value `json:"error"`
}

type candidate struct {
	Index        int             `json:"index"`
	Content      geminiContent   `json:"content"`
	FinishReason string          `json:"finishReason"`
	Logprobs     *geminiLogprobs `json:"logprobsResult"`
}

type geminiLogprobs struct {
	Chosen []geminiLogprob `json:"chosenCandidates"`
	Top    []struct {
		Candidates []geminiLogprob `json:"candidates"`
	} `json:"topCandidates"`
}

type geminiLogprob struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logProbability"`
}

type geminiUsage struct {
	Prompt     int `json:"promptTokenCount"`
	Candidates int `json:"candidatesTokenCount"`
	Thoughts   int `json:"thoughtsTokenCount"`
	ToolUse    int `json:"toolUsePromptTokenCount"`
	Cached     int `json:"cachedContentTokenCount"`
}

// openAI gives the usage in OpenAI's terms, where thoughts are a part of the
// completion. It is nil where nothing was said.
func (u *geminiUsage) openAI() *completionUsage {
	if u == nil {
		return nil
	}
	out := &completionUsage{PromptTokens: u.Prompt + u.ToolUse, CompletionTokens: u.Candidates + u.Thoughts}
	out.TotalTokens = out.PromptTokens + out.CompletionTokens
	out.PromptDetails.CachedTokens = u.Cached
	out.CompletionDetails.ReasoningTokens = u.Thoughts
	return out
}

// geminiAnswer translates the answer to generateContent into a chat completion
// that was made at the given Unix time.
func geminiAnswer(body []byte, created int64) (schemas.Answer, error) {
	in, err := readContent(body)
	if err != nil {
		return schemas.Answer{}, err
	}
	usage := in.Usage.openAI()
	out := completion{ID: in.ResponseID, Object: "chat.completion", Created: created, Model: in.ModelVersion, Usage: usage}
	for i := range in.Candidates {
		out.Choices = append(out.Choices, in.Candidates[i].choice(in.ResponseID))
	}
	if len(out.Choices) == 0 && in.PromptFeedback.BlockReason != "" {
		finish := "content_filter"
		out.Choices = []completionChoice{{
			Message:      &answerMessage{Role: "assistant", Refusal: blocked(in.PromptFeedback.BlockReason)},
			FinishReason: &finish,
		}}
	}
	if len(out.Choices) == 0 {
		return schemas.Answer{}, fmt.Errorf("it has no candidates")
	}
	return schemas.Answer{Body: out.encode(), Model: in.ModelVersion, Usage: usage.callUsage()}, nil
}

func readContent(body []byte) (*contentAnswer, error) {
	in := new(contentAnswer)
	if err := json.Unmarshal(bytes.TrimSpace(body), in, tolerant); err != nil {
		return nil, errNotObject
	}
	if in.Error.Kind() == '{' {
		return nil, errorInBody(in.Error, schemas.Usage{})
	}
	return in, nil
}

func blocked(reason string) *string {
	text := "The provider blocked the prompt: " + bounded(reason) + "."
	return &text
}

// choice translates one candidate; id is that of the response.
func (c *candidate) choice(id string) completionChoice {
	said := c.said(id, 0)
	message := &answerMessage{Role: "assistant", ReasoningContent: said.thoughts, ToolCalls: said.calls}
	finish := geminiFinish(c.FinishReason, len(said.calls) > 0)
	if finish == "content_filter" && said.text == "" {
		text := refusedText
		message.Refusal = &text
	}
	message.setText(said.text)
	for i := range message.ToolCalls {
		message.ToolCalls[i].Index = nil
	}
	return completionChoice{Index: c.Index, Message: message, Logprobs: c.Logprobs.openAI(), FinishReason: &finish}
}

// said is what the parts of a candidate say.
type said struct {
	text, thoughts string
	calls          []chatToolCall
}

// said reads the parts; calls is the number of tool calls that came before.
func (c *candidate) said(id string, calls int) (out said) {
	for i := range c.Content.Parts {
		switch p := &c.Content.Parts[i]; {
		case p.FunctionCall != nil:
			out.calls = append(out.calls, p.call(id, c.Index, calls+len(out.calls)))
		case p.Thought:
			out.thoughts += p.Text
		default:
			out.text += p.Text
		}
	}
	return out
}

// call translates a function call. Gemini may leave out the id that OpenAI's
// tools need, so one is made that no other call of the conversation has.
func (p *geminiPart) call(response string, choice, index int) chatToolCall {
	call := chatToolCall{
		Index: &index, ID: p.FunctionCall.ID, Type: "function",
		Function: chatFunction{Name: p.FunctionCall.Name, Arguments: inputText(p.FunctionCall.Args)},
	}
	if call.ID == "" {
		call.ID = fmt.Sprintf("call_%s_%d_%d", response, choice, index)
	}
	if p.ThoughtSignature != "" {
		call.ExtraContent = new(extraContent)
		call.ExtraContent.Google.ThoughtSignature = p.ThoughtSignature
	}
	return call
}

// openAI gives the logprobs in OpenAI's form; nil if there are none.
func (l *geminiLogprobs) openAI() *choiceLogprobs {
	if l == nil || len(l.Chosen) == 0 {
		return nil
	}
	out := &choiceLogprobs{}
	for i, chosen := range l.Chosen {
		entry := chosen.openAI()
		entry.TopLogprobs = []tokenLogprob{}
		if i < len(l.Top) {
			for _, top := range l.Top[i].Candidates {
				entry.TopLogprobs = append(entry.TopLogprobs, top.openAI())
			}
		}
		out.Content = append(out.Content, entry)
	}
	return out
}

func (l geminiLogprob) openAI() tokenLogprob {
	out := tokenLogprob{Token: l.Token, Logprob: l.Logprob, Bytes: []int{}}
	for _, b := range []byte(l.Token) {
		out.Bytes = append(out.Bytes, int(b))
	}
	return out
}

// geminiFinish gives the finish reason. A candidate that calls tools ends with STOP.
func geminiFinish(reason string, calls bool) string {
	switch reason {
	case "MAX_TOKENS":
		return "length"
	case "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII":
		return "content_filter"
	}
	switch {
	case strings.HasPrefix(reason, "IMAGE_"):
		return "content_filter"
	case calls:
		return "tool_calls"
	}
	return "stop"
}

// geminiEvents translates the events of one stream.
type geminiEvents struct {
	created    int64
	candidates map[int]progress // by index; nil until the first event
}

// progress is what a candidate has said so far.
type progress struct {
	calls int  // of tools
	spoke bool // there was text
}

func (s *geminiEvents) event(_ string, data []byte, emit func([]byte) error) (bool, error) {
	in, err := readContent(data)
	if err != nil {
		return false, err
	}
	if s.candidates == nil {
		s.candidates = map[int]progress{}
	}
	out := completion{ID: in.ResponseID, Object: "chat.completion.chunk", Created: s.created, Model: in.ModelVersion}
	finished := false
	for i := range in.Candidates {
		choice := s.choice(&in.Candidates[i], in.ResponseID)
		finished = finished || choice.FinishReason != nil
		out.Choices = append(out.Choices, choice)
	}
	if len(in.Candidates) == 0 && in.PromptFeedback.BlockReason != "" {
		finish := "content_filter"
		finished = true
		out.Choices = []completionChoice{{Delta: &delta{Role: "assistant", Refusal: blocked(in.PromptFeedback.BlockReason)}, FinishReason: &finish}}
	}
	if len(out.Choices) > 0 {
		if err := emit(out.encode()); err != nil {
			return false, err
		}
	}
	// Each event says what was used so far; OpenAI's streams say it once, at the end.
	if out.Usage = in.Usage.openAI(); out.Usage == nil || !finished && len(out.Choices) > 0 {
		return false, nil
	}
	out.Choices = []completionChoice{}
	return false, emit(out.encode())
}

func (s *geminiEvents) choice(c *candidate, id string) completionChoice {
	so, known := s.candidates[c.Index]
	said := c.said(id, so.calls)
	so.calls += len(said.calls)
	so.spoke = so.spoke || said.text != ""
	if known || len(s.candidates) < maxChoices {
		s.candidates[c.Index] = so
	}
	d := &delta{ReasoningContent: said.thoughts, ToolCalls: said.calls}
	if !known {
		d.Role = "assistant"
	}
	if said.text != "" || !known {
		d.Content = &said.text
	}
	out := completionChoice{Index: c.Index, Delta: d, Logprobs: c.Logprobs.openAI()}
	if c.FinishReason != "" {
		finish := geminiFinish(c.FinishReason, so.calls > 0)
		if out.FinishReason = &finish; finish == "content_filter" && !so.spoke {
			text := refusedText
			d.Refusal = &text
		}
	}
	return out
}

// geminiEmbedAnswer translates the answer to batchEmbedContents. Gemini does not
// say what it billed, so the usage is unknown.
func geminiEmbedAnswer(body []byte, model string) (schemas.Answer, error) {
	var in struct {
		Embeddings []struct {
			Values jsontext.Value `json:"values"`
		} `json:"embeddings"`
		Error jsontext.Value `json:"error"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(body), &in, tolerant); err != nil {
		return schemas.Answer{}, errNotObject
	}
	if in.Error.Kind() == '{' {
		return schemas.Answer{}, errorInBody(in.Error, schemas.Usage{})
	}
	if len(in.Embeddings) == 0 {
		return schemas.Answer{}, errNoData
	}
	type embedding struct {
		Object    string         `json:"object"`
		Index     int            `json:"index"`
		Embedding jsontext.Value `json:"embedding"`
	}
	out := struct {
		Object string      `json:"object"`
		Data   []embedding `json:"data"`
		Model  string      `json:"model"`
	}{Object: "list", Model: model}
	for i, e := range in.Embeddings {
		out.Data = append(out.Data, embedding{"embedding", i, e.Values})
	}
	encoded, err := json.Marshal(&out, tolerant)
	if err != nil {
		return schemas.Answer{}, fmt.Errorf("encoding the answer: %w", err)
	}
	return schemas.Answer{Body: encoded, Model: model}, nil
}
