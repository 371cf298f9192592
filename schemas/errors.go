package schemas

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// ErrorType is the class of an error: OpenAI's where one fits, else the product's own.
type ErrorType string

// The error types that a response may carry.
const (
	InvalidRequestError      ErrorType = "invalid_request_error"
	InsufficientQuotaError   ErrorType = "insufficient_quota"
	RateLimitError           ErrorType = "rate_limit_error"
	ServerError              ErrorType = "server_error"
	TimeoutError             ErrorType = "timeout_error"
	TokenOptimizationType    ErrorType = "token_optimization_error"
	CacheOptimizationType    ErrorType = "cache_optimization_error"
	ResourceOptimizationType ErrorType = "resource_optimization_error"
	QualityType              ErrorType = "quality_error"
)

// Code says what exactly was wrong.
type Code string

// The codes that a response may carry.
const (
	CodeInvalidJSON           Code = "invalid_json"
	CodeMissingField          Code = "missing_field"
	CodeInvalidField          Code = "invalid_field"
	CodeDuplicateMember       Code = "duplicate_member"
	CodeTooLarge              Code = "too_large"
	CodeModelNotFound         Code = "model_not_found"
	CodeContextLengthExceeded Code = "context_length_exceeded"
	CodePerRequestLimit       Code = "per_request_limit"
	CodeInsufficientQuota     Code = "insufficient_quota"
	CodeRateLimitExceeded     Code = "rate_limit_exceeded"
	CodeDeadlineExceeded      Code = "deadline_exceeded"
	CodeCancelled             Code = "cancelled"
	CodeTemplateNotFound      Code = "template_not_found"
	CodeTemplateVariables     Code = "template_variables"
	CodeSchemaViolation       Code = "schema_violation"
	CodeQualityBelowThreshold Code = "quality_below_threshold"
	CodeProviderError         Code = "provider_error"
	CodeProviderUnavailable   Code = "provider_unavailable"
	CodeMaxDeliveries         Code = "max_deliveries"
)

// Error is what went wrong with one request, as its response shows it.
// It is found in a chain with errors.As.
type Error struct {
	Type    ErrorType
	Code    Code
	Message string         // what was wrong and what would be right; never a secret
	Param   string         // the field at fault, as in messages[2].role; may be empty
	Details map[string]any // figures for programs: limit, used, resets_at, ...

	RetryAfter time.Duration // how long to wait before the same request may succeed; 0 unknown
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Text() }

// Text is the message for people: it begins with the field at fault where it does not name it.
func (e *Error) Text() string {
	if e.Param == "" || names(e.Message, e.Param) {
		return e.Message
	}
	return e.Param + ": " + e.Message
}

// names reports whether a text has a name in it that is no part of a longer word.
func names(text, name string) bool {
	for from := 0; ; {
		at := strings.Index(text[from:], name)
		if at < 0 {
			return false
		}
		begin, end := from+at, from+at+len(name)
		if (begin == 0 || !partOfName(text[begin-1])) && (end == len(text) || !partOfName(text[end])) {
			return true
		}
		from = begin + 1
	}
}

func partOfName(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// Invalid makes the error for a field that is not what it should be.
func Invalid(code Code, param, format string, args ...any) *Error {
	return &Error{Type: InvalidRequestError, Code: code, Param: param, Message: fmt.Sprintf(format, args...)}
}

// failure is the part that the typed errors share: their Details, Code and Error().
type failure = Error

// TokenOptimizationError is a request that its token budgets or limits do not allow.
type TokenOptimizationError struct{ *failure }

// CacheOptimizationError is a failure of the cache that the application should know of.
type CacheOptimizationError struct{ *failure }

// ResourceOptimizationError is a limit on memory, connections or size that cannot be kept.
type ResourceOptimizationError struct{ *failure }

// QualityError is an answer that stayed below the asked quality.
type QualityError struct{ *failure }

// Unwrap gives the plain error, so that errors.As finds it too.
func (e TokenOptimizationError) Unwrap() error { return e.failure }

// Unwrap gives the plain error, so that errors.As finds it too.
func (e CacheOptimizationError) Unwrap() error { return e.failure }

// Unwrap gives the plain error, so that errors.As finds it too.
func (e ResourceOptimizationError) Unwrap() error { return e.failure }

// Unwrap gives the plain error, so that errors.As finds it too.
func (e QualityError) Unwrap() error { return e.failure }

// Typed wraps e in the Go type that belongs to its Type; a type without one of
// its own is returned as it is.
func Typed(e *Error) error {
	switch e.Type {
	case TokenOptimizationType:
		return TokenOptimizationError{e}
	case CacheOptimizationType:
		return CacheOptimizationError{e}
	case ResourceOptimizationType:
		return ResourceOptimizationError{e}
	case QualityType:
		return QualityError{e}
	}
	return e
}

// AsError finds the Error in a chain; any other error becomes a server error
// that does not repeat its text, which may hold addresses or bodies.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if call, ok := errors.AsType[*CallError](err); ok {
		return call.Response()
	}
	return &Error{Type: ServerError, Code: CodeProviderError, Message: "an internal error ended the request"}
}

// HTTPStatus is the status that OpenAI's API would answer with.
func (e *Error) HTTPStatus() int {
	switch e.Type {
	case InvalidRequestError:
		switch e.Code {
		case CodeTooLarge:
			return http.StatusRequestEntityTooLarge
		case CodeModelNotFound, CodeTemplateNotFound:
			return http.StatusNotFound
		}
		return http.StatusBadRequest
	case InsufficientQuotaError, RateLimitError, TokenOptimizationType:
		return http.StatusTooManyRequests
	case TimeoutError:
		return http.StatusRequestTimeout
	case QualityType:
		return http.StatusUnprocessableEntity
	}
	switch e.Code {
	case CodeProviderError:
		return http.StatusBadGateway
	case CodeProviderUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
