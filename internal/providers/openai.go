package providers

import (
	"bytes"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/adpa/processor/schemas"
)

// openAI speaks OpenAI's API: bodies pass through it as they are, and only
// what must change is replaced.
type openAI struct {
	cfg                     Config
	base                    *url.URL
	chat, embeddings, model *url.URL
}

func newOpenAI(cfg Config) (Provider, error) {
	base, err := parseBase(cfg.BaseURL)
	if err != nil {
		return nil, err
	}
	d := &openAI{cfg: cfg, base: base}
	if d.azure() {
		d.model = base.JoinPath("openai", "models")
		d.model.RawQuery = url.Values{"api-version": {cfg.APIVersion}}.Encode()
	} else {
		d.chat, d.embeddings, d.model = base.JoinPath("chat/completions"), base.JoinPath("embeddings"), base.JoinPath("models")
	}
	return newRemote(cfg, d), nil
}

// azure tells whether the paths are those of Azure's deployments.
func (d *openAI) azure() bool { return d.cfg.APIVersion != "" }

func (d *openAI) header() http.Header {
	switch {
	case d.cfg.APIKey == "":
		return http.Header{}
	case d.azure():
		return http.Header{"Api-Key": {string(d.cfg.APIKey)}}
	}
	return http.Header{"Authorization": {"Bearer " + string(d.cfg.APIKey)}}
}

func (d *openAI) models() *url.URL { return d.model }

func (d *openAI) request(call *schemas.Call) (*url.URL, []byte, error) {
	target := d.chat
	switch {
	case d.azure():
		operation := "chat/completions"
		if call.Embeddings {
			operation = "embeddings"
		}
		target = d.base.JoinPath("openai", "deployments", url.PathEscape(call.Model), operation)
		target.RawQuery = d.model.RawQuery
	case call.Embeddings:
		target = d.embeddings
	}
	return target, openAIBody(call), nil
}

// openAIBody gives the body to send: the model is the call's, the processor
// object is gone, and stream is what the call wants. The rest stays byte for byte.
func openAIBody(call *schemas.Call) []byte {
	body := call.Body
	found := scanRequest(body)
	if found.escaped {
		body = plainNames(body)
		found = scanRequest(body)
	}
	if found.processor {
		body = schemas.DeleteMember(body, "processor")
	}
	switch {
	case call.Delta != nil:
		options := []byte(`{"include_usage":true}`)
		if span, ok := schemas.Member(body, "stream_options"); ok && body[span.Start] == '{' {
			options = schemas.SetMember(span.Of(body), "include_usage", []byte("true"))
		}
		body = schemas.SetMember(body, "stream", []byte("true"))
		body = schemas.SetMember(body, "stream_options", options)
	case found.stream:
		body = schemas.DeleteMember(schemas.DeleteMember(body, "stream"), "stream_options")
	}
	if call.Model == "" || call.Model == found.model {
		return body
	}
	return schemas.SetMember(body, "model", schemas.Quote(call.Model))
}

// requestScan is what the members of a request's body say about what must change.
type requestScan struct {
	model                      string
	processor, stream, escaped bool
}

func scanRequest(body []byte) (found requestScan) {
	schemas.Members(body, func(name []byte, _, value schemas.Span) bool {
		switch string(name) {
		case "model":
			found.model, _ = schemas.Unquote(value.Of(body))
		case "processor":
			found.processor = true
		case "stream", "stream_options":
			found.stream = true
		default:
			found.escaped = found.escaped || bytes.IndexByte(name, '\\') >= 0
		}
		return true
	})
	return found
}

// plainNames writes names with escapes in their plain form, so that "mod\u0065l"
// cannot pass for another member than model.
func plainNames(body []byte) []byte {
	out, done := make([]byte, 0, len(body)), 0
	schemas.Members(body, func(name []byte, member, _ schemas.Span) bool {
		if bytes.IndexByte(name, '\\') < 0 {
			return true
		}
		end := member.Start + len(name) + 2
		plain, err := schemas.Unquote(body[member.Start:end])
		if err != nil {
			return true
		}
		out = append(append(out, body[done:member.Start]...), schemas.Quote(plain)...)
		done = end
		return true
	})
	return append(out, body[done:]...)
}

func (d *openAI) answer(call *schemas.Call, body []byte) (schemas.Answer, error) {
	return readAnswer(body, call.Embeddings)
}

func (d *openAI) stream(*schemas.Call) events { return openAIEvents{} }

// openAIEvents reads events that are chunks already.
type openAIEvents struct{}

func (openAIEvents) event(_ string, data []byte, emit func([]byte) error) (bool, error) {
	if string(bytes.TrimSpace(data)) == "[DONE]" {
		return true, nil
	}
	return false, emit(data)
}

var (
	errNotObject = errors.New("it is not a valid JSON object")
	errNoChoices = errors.New("it has no choices")
	errNoData    = errors.New("it has no data")
)

// readAnswer checks a whole answer of OpenAI's form and reads the model and usage.
// Repeated names are let pass, and invalid UTF-8 is replaced: the answer is paid.
func readAnswer(body []byte, embeddings bool) (schemas.Answer, error) {
	body = repaired(bytes.TrimSpace(body))
	if len(body) == 0 || body[0] != '{' {
		return schemas.Answer{}, errNotObject
	}
	answer := schemas.Answer{Body: body}
	var failure []byte
	choices, data := false, false
	schemas.Members(body, func(name []byte, _, value schemas.Span) bool {
		switch string(name) {
		case "model":
			answer.Model = textOf(value.Of(body))
		case "usage":
			answer.Usage = readUsage(value.Of(body))
		case "choices":
			choices = hasElements(value.Of(body))
		case "data":
			data = hasElements(value.Of(body))
		case "error":
			failure = value.Of(body)
		}
		return true
	})
	switch {
	case embeddings && data || !embeddings && choices:
		return answer, nil
	case len(failure) > 0 && failure[0] == '{':
		return schemas.Answer{}, errorInBody(failure, answer.Usage)
	case embeddings:
		return schemas.Answer{}, errNoData
	}
	return schemas.Answer{}, errNoChoices
}

func hasElements(list []byte) bool {
	return len(list) > 2 && list[0] == '[' && len(bytes.TrimSpace(list[1:len(list)-1])) > 0
}

// errorInBody makes the error of an answer with status 200 that holds an error
// object, as OpenRouter sends when a model fails after the headers are out, and
// of an error in the middle of a stream. What was billed is unknown.
func errorInBody(object []byte, usage schemas.Usage) *schemas.CallError {
	c := complaintOf(object)
	status, err := strconv.Atoi(c.code)
	if err != nil || status < 400 || status > 599 {
		status = statusOfKind(c)
	}
	e := &schemas.CallError{Status: status, Usage: usage, Param: bounded(c.param)}
	e.Code, e.Message, e.Retryable = meaning(status, c)
	if c.message != "" && status != http.StatusUnauthorized && status != http.StatusForbidden {
		e.Message += ": " + bounded(c.message)
	}
	return e
}

// statusOfKind gives the status that an error without one would have had.
func statusOfKind(c complaint) int {
	switch c.kind {
	case "invalid_request_error", "INVALID_ARGUMENT":
		return http.StatusBadRequest
	case "authentication_error", "UNAUTHENTICATED":
		return http.StatusUnauthorized
	case "permission_error", "PERMISSION_DENIED":
		return http.StatusForbidden
	case "rate_limit_error", "requests", "tokens", "RESOURCE_EXHAUSTED":
		return http.StatusTooManyRequests
	case "overloaded_error", "UNAVAILABLE":
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// readUsage reads a usage object of OpenAI's form, as schemas.ReadUsage does,
// without allocating. Numbers that make no sense count as 0.
func readUsage(object []byte) schemas.Usage {
	var u schemas.Usage
	schemas.Members(object, func(name []byte, _, value schemas.Span) bool {
		switch v := value.Of(object); string(name) {
		case "prompt_tokens":
			u.PromptTokens = tokenCount(v)
		case "completion_tokens":
			u.CompletionTokens = tokenCount(v)
		case "total_tokens":
			u.TotalTokens = tokenCount(v)
		case "prompt_tokens_details":
			if span, ok := schemas.Member(v, "cached_tokens"); ok {
				u.CachedTokens = tokenCount(span.Of(v))
			}
		case "completion_tokens_details":
			if span, ok := schemas.Member(v, "reasoning_tokens"); ok {
				u.ReasoningTokens = tokenCount(span.Of(v))
			}
		}
		return true
	})
	if u.TotalTokens == 0 {
		u.TotalTokens = u.PromptTokens + u.CompletionTokens
	}
	return u
}

// maxTokens is more than any call can have; what is above is a broken figure.
const maxTokens = 1 << 31

func tokenCount(number []byte) int {
	n, err := strconv.ParseFloat(string(number), 64)
	if err != nil || !(n > 0 && n < maxTokens) {
		return 0
	}
	return int(n)
}
