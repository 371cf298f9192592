package schemas

import (
	"fmt"
	"time"
)

// Call is one request to a provider.
type Call struct {
	ID    string // the call's own id, new for every attempt; sent to providers that take one
	Model string // the provider's name of the model
	Body  []byte // a valid OpenAI body without the processor object; read-only

	// Untuned is the body without the parameters that the product chose, for a
	// provider that takes none of them; nil where there are none.
	Untuned []byte

	// Embeddings says that Body is an embeddings request, else it is a chat completion.
	Embeddings bool
	// Requests is how many requests the call is for, where it is for more than
	// one: each may have an answer as large as the provider's bound.
	Requests int

	// Delta, if not nil, asks for a streamed answer: it is called in order, from
	// one goroutine, with each chat.completion.chunk object as it arrives.
	// The slice is valid during the call only.
	Delta func(chunk []byte)
}

// Answer is what a provider answered.
type Answer struct {
	Body  []byte // a whole chat.completion (or embeddings list) object, also when it was streamed
	Model string // the model that the provider says it used
	Usage Usage
}

// Usage is what a call was billed for, in tokens, in OpenAI's terms.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	CachedTokens     int `json:"cached_tokens,omitzero"`    // of the prompt, read from the provider's cache
	ReasoningTokens  int `json:"reasoning_tokens,omitzero"` // of the completion
}

// Add gives the sum of both.
func (u Usage) Add(v Usage) Usage {
	return Usage{
		PromptTokens:     u.PromptTokens + v.PromptTokens,
		CompletionTokens: u.CompletionTokens + v.CompletionTokens,
		TotalTokens:      u.TotalTokens + v.TotalTokens,
		CachedTokens:     u.CachedTokens + v.CachedTokens,
		ReasoningTokens:  u.ReasoningTokens + v.ReasoningTokens,
	}
}

// CallError is a call that brought no usable answer.
type CallError struct {
	Status     int           // HTTP status; 0 where none was received
	Code       Code          // the code that a response would carry
	Message    string        // for the application; never holds keys or the upstream's whole body
	Param      string        // the field that the provider named, if any
	Retryable  bool          // the same call may succeed later
	Unbilled   bool          // the provider certainly billed nothing (refused, not connected)
	RetryAfter time.Duration // what the provider asked for; 0 if it did not
	Usage      Usage         // what was billed all the same, where the provider said so
	Err        error         // the cause, for logs
}

func (e *CallError) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("provider answered %d: %s", e.Status, e.Message)
	}
	return "calling the provider: " + e.Message
}

func (e *CallError) Unwrap() error { return e.Err }

// Response is the error that the application gets to see.
func (e *CallError) Response() *Error {
	out := &Error{Type: ServerError, Code: e.Code, Message: e.Message, Param: e.Param, RetryAfter: e.RetryAfter}
	if out.Code == "" {
		out.Code = CodeProviderError
	}
	switch {
	case e.Status == 429:
		out.Type = RateLimitError
	case e.Status == 401 || e.Status == 403: // the operator's key, not the application's request
		out.Type = ServerError
	case e.Status == 408 || e.Code == CodeDeadlineExceeded:
		out.Type = TimeoutError
	case e.Status >= 400 && e.Status < 500 && !e.Retryable:
		out.Type = InvalidRequestError
	}
	if e.Status != 0 {
		out.Details = map[string]any{"provider_status": e.Status}
	}
	return out
}
