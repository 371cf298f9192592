package fakellm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/adpa/processor/schemas"
)

// dialect is one API as the fake speaks it.
type dialect struct {
	streams func(*Call) bool
	whole   func(*answers, *Call) []byte
	events  func(*answers) []string
	failure func(status int) string
}

// answers holds the usual answers, made once: at zero latency the fake must
// cost next to nothing.
type answers struct {
	cfg                                 Config
	chat, message, content              []byte
	chatEvents, messageEvents, contents []string
}

func newAnswers(cfg Config) answers {
	a := answers{cfg: cfg}
	text := quote(cfg.Text)
	usage := fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}`,
		cfg.Prompt, cfg.Completion, cfg.Prompt+cfg.Completion)
	a.chat = fmt.Appendf(nil, `{"id":"chatcmpl-fake","object":"chat.completion","created":1700000000,"model":"fake","choices":[{"index":0,"message":{"role":"assistant","content":%s,"refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":%s,"system_fingerprint":"fp_fake"}`, text, usage)
	a.message = fmt.Appendf(nil, `{"id":"msg_fake","type":"message","role":"assistant","model":"fake","content":[{"type":"text","text":%s}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":%d,"output_tokens":%d}}`, text, cfg.Prompt, cfg.Completion)
	a.content = fmt.Appendf(nil, `{"candidates":[{"content":{"role":"model","parts":[{"text":%s}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":%d,"candidatesTokenCount":%d,"totalTokenCount":%d},"modelVersion":"fake","responseId":"fake"}`,
		text, cfg.Prompt, cfg.Completion, cfg.Prompt+cfg.Completion)
	a.chatEvents = chatEvents(cfg, usage)
	a.messageEvents = messageEvents(cfg)
	a.contents = contentEvents(cfg)
	return a
}

func quote(text string) string {
	quoted, _ := json.Marshal(text) // a string always can be
	return string(quoted)
}

func chatEvents(cfg Config, usage string) []string {
	const frame = `data: {"id":"chatcmpl-fake","object":"chat.completion.chunk","created":1700000000,"model":"fake","system_fingerprint":"fp_fake","choices":[%s],"usage":%s}`
	events := []string{fmt.Sprintf(frame, `{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}`, "null")}
	for _, word := range strings.SplitAfter(cfg.Text, " ") {
		events = append(events, fmt.Sprintf(frame, `{"index":0,"delta":{"content":`+quote(word)+`},"logprobs":null,"finish_reason":null}`, "null"))
	}
	return append(events,
		fmt.Sprintf(frame, `{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}`, "null"),
		fmt.Sprintf(frame, "", usage),
		"data: [DONE]")
}

func messageEvents(cfg Config) []string {
	event := func(name, data string) string { return "event: " + name + "\ndata: " + data }
	events := []string{
		event("message_start", fmt.Sprintf(`{"type":"message_start","message":{"id":"msg_fake","type":"message","role":"assistant","model":"fake","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":%d,"output_tokens":1}}}`, cfg.Prompt)),
		event("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`),
		event("ping", `{"type":"ping"}`),
	}
	for _, word := range strings.SplitAfter(cfg.Text, " ") {
		events = append(events, event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":`+quote(word)+`}}`))
	}
	return append(events,
		event("content_block_stop", `{"type":"content_block_stop","index":0}`),
		event("message_delta", fmt.Sprintf(`{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":%d}}`, cfg.Completion)),
		event("message_stop", `{"type":"message_stop"}`))
}

func contentEvents(cfg Config) []string {
	words := strings.SplitAfter(cfg.Text, " ")
	events := make([]string, len(words))
	for i, word := range words {
		finish := ""
		if i == len(words)-1 {
			finish = `"finishReason":"STOP",`
		}
		events[i] = fmt.Sprintf(`data: {"candidates":[{"content":{"role":"model","parts":[{"text":%s}]},%s"index":0}],"usageMetadata":{"promptTokenCount":%d,"candidatesTokenCount":%d,"totalTokenCount":%d},"modelVersion":"fake","responseId":"fake"}`,
			quote(word), finish, cfg.Prompt, cfg.Completion, cfg.Prompt+cfg.Completion)
	}
	return events
}

var (
	chat = &dialect{
		streams: bodyStreams,
		whole:   func(a *answers, _ *Call) []byte { return a.chat },
		events:  func(a *answers) []string { return a.chatEvents },
		failure: openAIFailure,
	}
	embeddings = &dialect{
		streams: func(*Call) bool { return false },
		whole:   (*answers).embeddings,
		events:  func(*answers) []string { return nil },
		failure: openAIFailure,
	}
	anthropic = &dialect{
		streams: bodyStreams,
		whole:   func(a *answers, _ *Call) []byte { return a.message },
		events:  func(a *answers) []string { return a.messageEvents },
		failure: func(status int) string {
			return fmt.Sprintf(`{"type":"error","error":{"type":%s,"message":"the fake fails with %d"},"request_id":"req_fake"}`, quote(anthropicKind(status)), status)
		},
	}
	gemini = &dialect{
		streams: func(c *Call) bool { return strings.HasSuffix(c.Path, ":streamGenerateContent") },
		whole:   func(a *answers, _ *Call) []byte { return a.content },
		events:  func(a *answers) []string { return a.contents },
		failure: func(status int) string {
			return fmt.Sprintf(`{"error":{"code":%d,"message":"the fake fails with %d","status":"FAKE"}}`, status, status)
		},
	}
	geminiEmbeddings = &dialect{
		streams: func(*Call) bool { return false },
		whole:   (*answers).batchEmbeddings,
		events:  func(*answers) []string { return nil },
		failure: gemini.failure,
	}
)

// dialectOf finds the API that a path belongs to; nil if none.
func dialectOf(path string) *dialect {
	switch {
	case strings.HasSuffix(path, "/chat/completions"):
		return chat
	case strings.HasSuffix(path, "/embeddings"):
		return embeddings
	case strings.HasSuffix(path, "/messages"):
		return anthropic
	case strings.HasSuffix(path, ":generateContent"), strings.HasSuffix(path, ":streamGenerateContent"):
		return gemini
	case strings.HasSuffix(path, ":batchEmbedContents"):
		return geminiEmbeddings
	}
	return nil
}

// bodyStreams tells whether "stream" is true; it reads the JSON only if the word
// is there.
func bodyStreams(c *Call) bool {
	if !bytes.Contains(c.Body, []byte(`"stream"`)) {
		return false
	}
	span, ok := schemas.Member(c.Body, "stream")
	return ok && string(span.Of(c.Body)) == "true"
}

func openAIFailure(status int) string {
	kind, code := "server_error", "null"
	switch {
	case status == http.StatusTooManyRequests:
		kind, code = "requests", `"rate_limit_exceeded"`
	case status < 500:
		kind = "invalid_request_error"
	}
	return fmt.Sprintf(`{"error":{"message":"the fake fails with %d","type":%q,"param":null,"code":%s}}`, status, kind, code)
}

func anthropicKind(status int) string {
	switch status {
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case 529:
		return "overloaded_error"
	}
	if status < 500 {
		return "invalid_request_error"
	}
	return "api_error"
}

// embeddings answers with one vector for each input; its numbers count up from
// the input's own bytes, so that a vector can be told to belong to its input.
func (a *answers) embeddings(c *Call) []byte {
	var request struct {
		Input json.RawMessage `json:"input"`
	}
	if json.Unmarshal(c.Body, &request) != nil {
		return []byte(`{"object":"list","data":[]}`)
	}
	inputs := []json.RawMessage{request.Input}
	if bytes.HasPrefix(bytes.TrimSpace(request.Input), []byte("[")) {
		_ = json.Unmarshal(request.Input, &inputs)
	}
	data := make([]map[string]any, len(inputs))
	for i, input := range inputs {
		data[i] = map[string]any{"object": "embedding", "index": i, "embedding": a.vector(input)}
	}
	body, _ := json.Marshal(map[string]any{
		"object": "list", "data": data, "model": "fake",
		"usage": map[string]int{"prompt_tokens": a.cfg.Prompt, "total_tokens": a.cfg.Prompt},
	})
	return body
}

func (a *answers) batchEmbeddings(c *Call) []byte {
	var request struct {
		Requests []json.RawMessage `json:"requests"`
	}
	_ = json.Unmarshal(c.Body, &request)
	data := make([]map[string]any, len(request.Requests))
	for i, input := range request.Requests {
		data[i] = map[string]any{"values": a.vector(input)}
	}
	body, _ := json.Marshal(map[string]any{"embeddings": data})
	return body
}

func (a *answers) vector(input []byte) []int {
	sum := 0
	for _, b := range input {
		sum += int(b)
	}
	vector := make([]int, a.cfg.Dimensions)
	for i := range vector {
		vector[i] = sum + i
	}
	return vector
}

// StreamEvents gives how many events the usual stream of an API has: openai,
// anthropic or gemini.
func (f *Fake) StreamEvents(api string) int {
	switch api {
	case "anthropic":
		return len(f.answers.messageEvents)
	case "gemini":
		return len(f.answers.contents)
	}
	return len(f.answers.chatEvents)
}
