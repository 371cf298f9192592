package providers

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// maxMessage bounds what is repeated of a provider's own words.
const maxMessage = 300

// failed makes the error of a call that got no response.
func (x *exchange) failed(err error) *schemas.CallError {
	out := &schemas.CallError{
		Code: schemas.CodeProviderUnavailable, Retryable: true, Unbilled: !x.sent.Load(),
		Err: fmt.Errorf("calling provider %s: %w", x.remote.cfg.Name, err),
	}
	switch host := x.remote.dialect.models().Host; {
	case x.ended(out):
	case isCertificate(err):
		out.Retryable = false
		out.Message = fmt.Sprintf("the certificate of %s is not trusted", host)
	case isDNS(err):
		out.Message = fmt.Sprintf("the host of %s was not found", host)
	case isDial(err):
		out.Message = fmt.Sprintf("no connection to %s", host)
	default:
		out.Message = "the connection ended before the provider answered"
	}
	return out
}

// cutOff makes the error of a response that ended in its middle.
func (x *exchange) cutOff(err error) *schemas.CallError {
	out := &schemas.CallError{
		Code: schemas.CodeProviderUnavailable, Retryable: true,
		Message: "the connection ended in the middle of the provider's answer",
		Err:     fmt.Errorf("reading the answer of provider %s: %w", x.remote.cfg.Name, err),
	}
	x.ended(out)
	return out
}

// ended fills in the error of a call that was given up, and tells whether it was:
// by the caller, who cancelled or whose deadline passed, or by the provider's timeout.
func (x *exchange) ended(out *schemas.CallError) bool {
	switch {
	case errors.Is(x.parent.Err(), context.Canceled):
		out.Code, out.Retryable, out.Message = schemas.CodeCancelled, false, "the call was cancelled"
	case x.parent.Err() != nil:
		out.Code, out.Retryable, out.Message = schemas.CodeDeadlineExceeded, false, "the request's deadline passed during the call"
	case x.ctx.Err() != nil:
		out.Code = schemas.CodeProviderUnavailable
		out.Message = fmt.Sprintf("the provider did not answer within %v (timeout)", x.remote.cfg.AttemptTimeout)
	default:
		return false
	}
	return true
}

func (x *exchange) tooLarge(status int) *schemas.CallError {
	return &schemas.CallError{
		Status: status, Code: schemas.CodeProviderError,
		Message: fmt.Sprintf("the provider's answer is larger than %d bytes (max_response)", x.remote.cfg.MaxResponse),
		Err:     errTooLarge,
	}
}

// untranslatable makes the error of a request that a provider's API cannot express.
func untranslatable(err error) *schemas.CallError {
	var e *schemas.Error
	if !errors.As(err, &e) {
		return &schemas.CallError{Status: 400, Code: schemas.CodeInvalidField, Message: "the request cannot be sent to this provider", Unbilled: true, Err: err}
	}
	return &schemas.CallError{Status: 400, Code: e.Code, Message: e.Message, Param: e.Param, Unbilled: true, Err: err}
}

// unreadable makes the error of a 2xx answer that is none. Gateways send pages
// like this while they restart, so it may be tried again; what the call cost is unknown.
func (x *exchange) unreadable(response *http.Response, body []byte, err error) *schemas.CallError {
	if said, ok := errors.AsType[*schemas.CallError](err); ok { // the answer is an error object
		said.Message = x.remote.redact(said.Message)
		return said
	}
	out := &schemas.CallError{Status: response.StatusCode, Code: schemas.CodeProviderError, Retryable: true, Err: err}
	contentType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		out.Message = "the answer is empty"
	case contentType == "text/html":
		out.Message = "the answer is a web page, not JSON; is base_url right?"
	case !isJSON(contentType):
		out.Message = fmt.Sprintf("the answer is %.64q, not JSON; is base_url right?", contentType)
	default:
		out.Message = "the answer is no completion: " + bounded(err.Error())
	}
	return out
}

func isJSON(contentType string) bool {
	return contentType == "application/json" || strings.HasSuffix(contentType, "+json")
}

func isEventStream(header http.Header) bool {
	contentType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	return contentType == "text/event-stream"
}

// refused makes the error of a response whose status is not 2xx.
func (x *exchange) refused(response *http.Response) *schemas.CallError {
	body, err := readBounded(response.Body, response.ContentLength, min(x.remote.cfg.MaxResponse, 64<<10))
	if err != nil {
		body = nil // the status alone says enough
	}
	return statusError(response.StatusCode, response.Header, body, x.remote.redact)
}

// redact takes the key out of a provider's own words.
func (r *remote) redact(text string) string {
	if key := string(r.cfg.APIKey); len(key) >= 8 {
		text = strings.ReplaceAll(text, key, hidden)
	}
	for _, value := range r.cfg.Headers {
		if len(value) >= 8 {
			text = strings.ReplaceAll(text, string(value), hidden)
		}
	}
	return text
}

// complaint is what a provider's error body says, in any of the dialects:
// OpenAI {"error": {message, type, param, code}}, Anthropic {"error": {type,
// message}}, Gemini {"error": {code, message, status}}, others {"error": "text"},
// {"message": "text"} or {"detail": "text"}.
type complaint struct {
	message, kind, param, code string
	retryDelay                 time.Duration // Gemini's google.rpc.RetryInfo
}

func readComplaint(body []byte) complaint {
	if list := bytes.TrimSpace(body); len(list) > 1 && list[0] == '[' && list[len(list)-1] == ']' {
		body = list[1 : len(list)-1] // Gemini wraps a stream's only error in a list
	}
	var envelope struct {
		Error   jsontext.Value `json:"error"`
		Message jsontext.Value `json:"message"`
		Detail  jsontext.Value `json:"detail"`
	}
	if json.Unmarshal(body, &envelope, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil {
		return complaint{}
	}
	if envelope.Error.Kind() == '{' {
		return complaintOf(envelope.Error)
	}
	for _, v := range []jsontext.Value{envelope.Error, envelope.Message, envelope.Detail} {
		if text := textOf(v); text != "" {
			return complaint{message: text}
		}
	}
	return complaint{}
}

// complaintOf reads the error object itself.
func complaintOf(object jsontext.Value) complaint {
	var e struct {
		Message jsontext.Value `json:"message"`
		Type    jsontext.Value `json:"type"`
		Status  jsontext.Value `json:"status"`
		Param   jsontext.Value `json:"param"`
		Code    jsontext.Value `json:"code"`
		Details jsontext.Value `json:"details"`
	}
	if json.Unmarshal(object, &e, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil {
		return complaint{}
	}
	c := complaint{message: textOf(e.Message), kind: textOf(e.Type), param: textOf(e.Param), code: textOf(e.Code)}
	if c.kind == "" {
		c.kind = textOf(e.Status)
	}
	objects(e.Details, func(detail []byte) {
		if span, ok := schemas.Member(detail, "retryDelay"); ok {
			delay, _ := time.ParseDuration(textOf(span.Of(detail)))
			c.retryDelay = clampWait(float64(delay))
		}
	})
	return c
}

// textOf gives the text of a JSON string, and that of a number as it stands.
func textOf(v jsontext.Value) string {
	switch v.Kind() {
	case '"':
		text, _ := jsontext.AppendUnquote(nil, v)
		return string(text)
	case '0':
		return string(v)
	}
	return ""
}

// statusError makes the error of a status and what came with it.
//
// Everything below 500 was refused before a model ran, so nothing was billed.
// Behind a 5xx a gateway may hide a call that ran; of those only 529 (overloaded)
// is a refusal. 408, 409 (a lock), 429 and most 5xx pass by themselves; the
// header x-should-retry, which OpenAI and Anthropic send, decides where it stands.
func statusError(status int, header http.Header, body []byte, redact func(string) string) *schemas.CallError {
	c := readComplaint(body)
	e := &schemas.CallError{
		Status: status, Param: bounded(redact(c.param)),
		Unbilled:   status < 500 || status == 529,
		RetryAfter: retryAfter(status, header),
	}
	if e.RetryAfter == 0 {
		e.RetryAfter = c.retryDelay
	}
	e.Code, e.Message, e.Retryable = meaning(status, c)
	// What is said about a wrong key tends to repeat a part of it.
	if c.message != "" && status != http.StatusUnauthorized && status != http.StatusForbidden {
		e.Message += ": " + bounded(redact(c.message))
	}
	switch header.Get("X-Should-Retry") {
	case "true":
		e.Retryable = true
	case "false":
		e.Retryable = false
	}
	return e
}

// meaning gives the code, the beginning of the message and whether the same
// call may succeed later.
func meaning(status int, c complaint) (schemas.Code, string, bool) {
	switch {
	case c.tooLong():
		return schemas.CodeContextLengthExceeded, "the prompt is longer than the model's context", false
	case c.code == "insufficient_quota":
		return schemas.CodeInsufficientQuota, "the provider's quota is used up", false
	case c.code == "model_not_found" || status == http.StatusNotFound && strings.Contains(c.message, "model"):
		return schemas.CodeModelNotFound, "the provider does not know the model", false
	}
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return schemas.CodeInvalidField, "the provider refused the request", false
	case http.StatusUnauthorized, http.StatusForbidden:
		return schemas.CodeProviderError, "the provider refused the configured key (api_key)", false
	case http.StatusPaymentRequired:
		return schemas.CodeInsufficientQuota, "the provider asks for payment", false
	case http.StatusNotFound:
		return schemas.CodeProviderError, "the provider does not know the address; is base_url right?", false
	case http.StatusRequestTimeout, http.StatusConflict:
		return schemas.CodeProviderUnavailable, "the provider could not take the request now", true
	case http.StatusRequestEntityTooLarge:
		return schemas.CodeTooLarge, "the request is larger than the provider takes", false
	case http.StatusTooManyRequests:
		return schemas.CodeRateLimitExceeded, "the provider's rate limit is reached", true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return schemas.CodeProviderError, "the provider cannot do this", false
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, 529:
		return schemas.CodeProviderUnavailable, "the provider is not available", true
	}
	switch status / 100 {
	case 3:
		return schemas.CodeProviderError, "the provider sends the request elsewhere; base_url must be the final address", false
	case 4:
		return schemas.CodeProviderError, "the provider refused the request", false
	}
	return schemas.CodeProviderError, "the provider failed", true
}

// tooLong tells whether the prompt did not fit: by OpenAI's code, or in the words
// of vLLM, Anthropic, Gemini and llama.cpp, which have no code for it.
func (c *complaint) tooLong() bool {
	if c.code == "context_length_exceeded" || c.kind == "exceed_context_size_error" {
		return true
	}
	for _, words := range []string{"maximum context length", "prompt is too long", "exceeds the maximum number of tokens"} {
		if strings.Contains(c.message, words) {
			return true
		}
	}
	return false
}

// bounded shortens a text of others to what a message may hold, on one line.
func bounded(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text[:min(len(text), 4*maxMessage)], ""))
	if runes := []rune(text); len(runes) > maxMessage {
		return string(runes[:maxMessage]) + "..."
	}
	return text
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func isDNS(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns)
}

func isCertificate(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
		host         x509.HostnameError
	)
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host)
}
