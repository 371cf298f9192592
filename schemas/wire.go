// Package schemas holds what crosses the wire: requests, responses, errors, batch lines and what stages hand on.
package schemas

import "github.com/go-json-experiment/json/jsontext"

// Request is what a request's body holds of what the product reads. It is
// OpenAI's: other members are passed on to the provider as they are. The product
// itself reads bodies with Parse, which keeps them as they came; this type is
// for those who write them, and for the JSON Schema.
type Request struct {
	Model     string         `json:"model,omitzero" jsonschema:"a model, a group of models, or auto, which is also the default"`
	Messages  []Message      `json:"messages,omitzero" jsonschema:"of a chat completion; needed unless there is input or a template"`
	Input     jsontext.Value `json:"input,omitzero" jsonschema:"of an embeddings request: a text or a list"`
	Stream    bool           `json:"stream,omitzero" jsonschema:"publish the answer's chunks as they come; the whole answer is stored all the same"`
	Processor *Options       `json:"processor,omitzero" jsonschema:"what is asked of the product"`
}

// Message is one message of a chat.
type Message struct {
	Role    string         `json:"role" jsonschema:"system, developer, user, assistant, tool or function"`
	Content jsontext.Value `json:"content,omitzero" jsonschema:"a text, a list of parts, or null"`
}

// Response is what an answer's body holds: OpenAI's, with an object added. Other
// members are as the provider sent them.
type Response struct {
	ID        string         `json:"id,omitzero"`
	Object    string         `json:"object" jsonschema:"chat.completion, or list for embeddings"`
	Model     string         `json:"model,omitzero" jsonschema:"the model that answered"`
	Choices   jsontext.Value `json:"choices,omitzero" jsonschema:"of a chat completion"`
	Data      jsontext.Value `json:"data,omitzero" jsonschema:"of an embeddings request"`
	Usage     *Usage         `json:"usage,omitzero" jsonschema:"of the call that was paid; on a cached answer that of the original call"`
	Processor About          `json:"processor" jsonschema:"what was done for the request"`
}
