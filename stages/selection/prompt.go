package selection

import (
	"fmt"
	"hash/fnv"

	"github.com/adpa/processor/schemas"
)

// Need is what a request's body needs of a model.
type Need struct {
	Images, Tools, Schema, Logprobs bool
	// Bound is how many tokens the request lets an answer have; 0 is no bound.
	Bound int
	// Prompt is the text of the last message of the user, or of the input of an
	// embeddings request, as it stands in the JSON.
	Prompt []byte
	// Task is what the system or developer message says, or nothing.
	Task []byte
}

// The capabilities that a model may be said to have.
const (
	Images   = "images"
	Tools    = "tools"
	Schema   = "json_schema"
	Logprobs = "logprobs"
)

// Capabilities lists them.
var Capabilities = []string{Images, Tools, Schema, Logprobs}

// Read finds out what a body needs, in one pass over it.
func Read(body []byte) Need {
	var n Need
	schemas.Members(body, func(name []byte, _, value schemas.Span) bool {
		v := value.Of(body)
		switch string(name) {
		case "messages":
			n.messages(v)
		case "input":
			n.Prompt = v
		case "tools", "functions":
			n.Tools = len(v) > 2 && v[0] == '['
		case "response_format":
			kind, _ := schemas.Member(v, "type")
			n.Schema = string(kind.Of(v)) == `"json_schema"`
		case "logprobs":
			n.Logprobs = string(v) == "true"
		case "max_completion_tokens", "max_tokens":
			n.Bound = max(n.Bound, whole(v))
		}
		return true
	})
	return n
}

func (n *Need) messages(list []byte) {
	schemas.Elements(list, func(element schemas.Span) bool {
		message := element.Of(list)
		var role, content []byte
		schemas.Members(message, func(name []byte, _, value schemas.Span) bool {
			switch string(name) {
			case "role":
				role = value.Of(message)
			case "content":
				content = value.Of(message)
			}
			return true
		})
		text := n.content(content)
		switch string(role) {
		case `"user"`:
			n.Prompt = text
		case `"system"`, `"developer"`:
			if n.Task == nil {
				n.Task = text
			}
		}
		return true
	})
}

// content gives the text of a message: the last one, where it has several parts.
func (n *Need) content(content []byte) []byte {
	if len(content) == 0 || content[0] != '[' {
		return content
	}
	var text []byte
	schemas.Elements(content, func(element schemas.Span) bool {
		part := element.Of(content)
		schemas.Members(part, func(name []byte, _, value schemas.Span) bool {
			switch string(name) {
			case "text":
				text = value.Of(part)
			case "image_url":
				n.Images = true
			}
			return true
		})
		return true
	})
	return text
}

// whole reads a whole number; 0 where there is none.
func whole(text []byte) int {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' || n > 1e9 {
			return n
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// clusters is how many routes there are for requests that name none.
const clusters = 64

// clusterHead is what is read of a task: where two applications differ.
const clusterHead = 256

// Cluster names the route of a request that names none: one of 64, by its system
// message, which requests of one application have in common, or else by the
// shape of its prompt.
func Cluster(n *Need) string {
	h := fnv.New32a()
	if len(n.Task) > 0 {
		_, _ = h.Write(n.Task[:min(len(n.Task), clusterHead)])
	} else {
		d := describer{out: make(Features, 0, maxFeatures)}
		d.read(n.Prompt[:min(len(n.Prompt), headBytes)])
		_, _ = h.Write([]byte{size(len(n.Prompt)), size(d.digits), size(d.lines), size(d.symbols)})
	}
	return fmt.Sprintf("cluster-%02d", h.Sum32()%clusters)
}

// size sorts a number into four: none, few, some, many.
func size(n int) byte {
	switch {
	case n == 0:
		return 0
	case n <= 4:
		return 1
	case n <= 400:
		return 2
	}
	return 3
}
