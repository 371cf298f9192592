package schemas

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The URLs that a line of a batch file may name.
const (
	URLChat       = "/v1/chat/completions"
	URLEmbeddings = "/v1/embeddings"
)

// MaxCustomID bounds a custom_id, in bytes.
const MaxCustomID = 512

// BatchLine is a line of a batch file in OpenAI's format.
type BatchLine struct {
	CustomID string         `json:"custom_id" jsonschema:"names the line in the output; once in a file"`
	Method   string         `json:"method,omitzero" jsonschema:"POST"`
	URL      string         `json:"url" jsonschema:"/v1/chat/completions or /v1/embeddings"`
	Body     jsontext.Value `json:"body" jsonschema:"the request"`
}

// BatchResult is a line of a batch's output or error file in OpenAI's format.
type BatchResult struct {
	ID       string         `json:"id"`
	CustomID *string        `json:"custom_id" jsonschema:"null where the input line has none that can be read"`
	Response *BatchResponse `json:"response" jsonschema:"null where the line was never a request"`
	Error    *BatchError    `json:"error" jsonschema:"null where there is a response"`
}

// BatchResponse is the answer or the error response to a line.
type BatchResponse struct {
	StatusCode int            `json:"status_code" jsonschema:"200, or what OpenAI's API would answer the error with"`
	RequestID  string         `json:"request_id" jsonschema:"the request's id, under which its response is stored"`
	Body       jsontext.Value `json:"body"`
}

// BatchError says why a line was never a request.
type BatchError struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Line    int    `json:"line,omitzero" jsonschema:"of the input, from 1"`
}

// ParseBatchLine reads a line, strictly. Where it cannot be used it gives what
// was read of it beside the error, which is an *Error.
func ParseBatchLine(text []byte) (BatchLine, error) {
	var line BatchLine
	if Depth(text) > MaxDepth {
		return line, Invalid(CodeInvalidJSON, "", "the line is nested deeper than %d levels", MaxDepth)
	}
	if jsontext.Value(bytes.TrimSpace(text)).Kind() != '{' {
		return line, Invalid(CodeInvalidJSON, "", `the line is no JSON object like {"custom_id": "1", "url": %q, "body": {...}}`, URLChat)
	}
	if err := json.Unmarshal(text, &line); err != nil {
		return line, batchLineError(err)
	}
	return line, line.validate()
}

func batchLineError(err error) error {
	var semantic *json.SemanticError
	if errors.As(err, &semantic) && semantic.JSONPointer != "" {
		return Invalid(CodeInvalidField, clip(string(semantic.JSONPointer[1:])), "has the wrong type, it must be a string")
	}
	return syntaxError("", err)
}

func (l *BatchLine) validate() error {
	switch {
	case l.CustomID == "":
		return Invalid(CodeMissingField, "custom_id", "custom_id is missing: it names the line in the output")
	case len(l.CustomID) > MaxCustomID:
		return Invalid(CodeInvalidField, "custom_id", "custom_id has %d bytes, at most %d are allowed", len(l.CustomID), MaxCustomID)
	case l.Method != "" && l.Method != http.MethodPost:
		return Invalid(CodeInvalidField, "method", "method %.20q is not POST", l.Method)
	case l.URL == "":
		return Invalid(CodeMissingField, "url", "url is missing: %s or %s", URLChat, URLEmbeddings)
	case l.URL != URLChat && l.URL != URLEmbeddings:
		return Invalid(CodeInvalidField, "url", "url %.80q is not known: it must be %s or %s", l.URL, URLChat, URLEmbeddings)
	case len(l.Body) == 0:
		return Invalid(CodeMissingField, "body", "body is missing: the request that url takes")
	case l.Body.Kind() != '{':
		return Invalid(CodeInvalidField, "body", "body must be an object: the request that url takes")
	}
	_, messages := Member(l.Body, "messages")
	_, input := Member(l.Body, "input")
	if l.URL == URLEmbeddings && !input {
		return Invalid(CodeMissingField, "body.input", "input is missing, which %s takes", URLEmbeddings)
	}
	if l.URL == URLChat && input && !messages {
		return Invalid(CodeMissingField, "body.messages", "the body has input, which %s takes, in place of messages", URLEmbeddings)
	}
	return nil
}

// NewBatchResult makes the output line for a response.
func NewBatchResult(customID, id string, response []byte) (result BatchResult, failed bool) {
	result = BatchResult{ID: "batch_req_" + id, CustomID: &customID}
	result.Response = &BatchResponse{StatusCode: 200, RequestID: id, Body: response}
	span, ok := Member(response, "error")
	if !ok || string(span.Of(response)) == "null" {
		return result, false
	}
	var object ErrorObject
	_ = json.Unmarshal(span.Of(response), &object) // an error that cannot be read is a server error
	result.Response.StatusCode = (&Error{Type: object.Type, Code: object.Code}).HTTPStatus()
	return result, true
}

// NewBatchFailure makes the output line for a line that was never a request.
func NewBatchFailure(customID string, number int, err error) BatchResult {
	e := AsError(err)
	result := BatchResult{
		ID:    fmt.Sprintf("batch_req_line-%d", number),
		Error: &BatchError{Code: e.Code, Message: e.Text(), Line: number},
	}
	if customID != "" {
		result.CustomID = &customID
	}
	return result
}
