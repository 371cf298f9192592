package structure

import (
	"fmt"
	"slices"
	"strings"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

const (
	inWords       = "Answer with one JSON value that fits the JSON Schema below and with nothing else: no text before or after it, no code fence.\n\nJSON Schema:\n"
	inWordsObject = "Answer with one JSON object and nothing else: no text before or after it, no code fence."
)

// ask gives the body that asks for the form: as response_format where the model
// takes one, else in words, in a message behind those of the system. A response_format
// of the request's own stays as it is, and is all that the model is told.
func (f *form) ask(body []byte, native bool) []byte {
	if span, ok := schemas.Member(body, "response_format"); ok && string(span.Of(body)) != "null" {
		return body
	}
	switch {
	case f.schema == nil && native:
		// OpenAI refuses json_object unless the messages speak of JSON.
		return withSystem(schemas.SetMember(body, "response_format", []byte(`{"type":"json_object"}`)), inWordsObject)
	case f.schema == nil:
		return withSystem(body, inWordsObject)
	case native && f.schema.Object(): // OpenAI takes no other root
		format := fmt.Appendf(nil, `{"type":"json_schema","json_schema":{"name":"answer","strict":%t,"schema":%s}}`, f.schema.Strict(), f.raw)
		return schemas.SetMember(body, "response_format", format)
	}
	return withSystem(body, inWords+string(f.raw))
}

// elements gives the elements of a body's messages, and where the list stands.
func elements(body []byte) (list []schemas.Span, whole schemas.Span) {
	whole, ok := schemas.Member(body, "messages")
	if !ok {
		return nil, schemas.Span{}
	}
	schemas.Elements(whole.Of(body), func(e schemas.Span) bool {
		list = append(list, schemas.Span{Start: whole.Start + e.Start, End: whole.Start + e.End})
		return true
	})
	return list, whole
}

// withSystem puts a system message behind those that the messages begin with.
func withSystem(body []byte, text string) []byte {
	list, whole := elements(body)
	if len(list) == 0 {
		return body
	}
	message := slices.Concat([]byte(`{"role":"system","content":`), schemas.Quote(text), []byte("}"))
	for i, e := range list {
		role, _ := schemas.Member(e.Of(body), "role")
		switch string(role.Of(e.Of(body))) {
		case `"system"`, `"developer"`:
			continue
		}
		return slices.Concat(body[:list[i].Start], message, []byte(","), body[list[i].Start:])
	}
	end := whole.End - 1 // the bracket: they are all of the system
	return slices.Concat(body[:end], []byte(","), message, body[end:])
}

// feedbackMessages is what AskAgain adds.
const feedbackMessages = 2

// maxAnswerSent bounds the answer that a model is shown again, in bytes.
const maxAnswerSent = 64 << 10

// withFeedback gives the body that asks again: with the answer and what is wrong with it.
func withFeedback(body []byte, wrong result) []byte {
	list := make([]string, len(wrong.violations))
	for i, v := range wrong.violations {
		list[i] = v.String()
	}
	return appendFeedback(body, wrong.text, list, "Give the whole answer again, corrected, as one JSON value that fits the schema and with nothing else.")
}

// AskAgain has a request's messages ask again: with the text of the first choice
// of its answer, what is wrong with it, and what is wished for instead. It keeps
// what was published, and notes that the messages say more.
func AskAgain(r *stages.Request, wrong []string, wish string) {
	text := ""
	if list := choices(r.Answer); len(list) > 0 && !list[0].content.Empty() {
		text, _ = schemas.Unquote(list[0].content.Of(r.Answer))
	}
	feed(r, appendFeedback(r.Body, text, wrong, wish))
}

func feed(r *stages.Request, body []byte) {
	if len(body) != len(r.Body) {
		r.Original, r.Body, r.Fed = r.Published(), body, true
	}
}

// AskedOnce undoes AskAgain: what is scored is the question as it was asked.
func AskedOnce(r *stages.Request) {
	if r.Fed {
		r.Body, r.Fed = withoutFeedback(r.Body), false
	}
}

func appendFeedback(body []byte, text string, wrong []string, wish string) []byte {
	_, whole := elements(body)
	if whole.Empty() {
		return body
	}
	answer, _ := clipText(text, maxAnswerSent)
	var b strings.Builder
	b.WriteString("That answer cannot be used:\n")
	for _, v := range wrong {
		fmt.Fprintf(&b, "- %s\n", v)
	}
	b.WriteString(wish)
	end := whole.End - 1
	return slices.Concat(body[:end],
		[]byte(`,{"role":"assistant","content":`), schemas.Quote(answer),
		[]byte(`},{"role":"user","content":`), schemas.Quote(b.String()), []byte("}"), body[end:])
}

// withoutFeedback undoes appendFeedback.
func withoutFeedback(body []byte) []byte {
	list, whole := elements(body)
	if len(list) <= feedbackMessages {
		return body
	}
	last := list[len(list)-feedbackMessages-1]
	return slices.Concat(body[:last.End], body[whole.End-1:])
}

// clipText cuts a text to a number of bytes, on a character.
func clipText(text string, most int) (short string, cut bool) {
	if len(text) <= most {
		return text, false
	}
	return strings.ToValidUTF8(text[:most], ""), true
}
