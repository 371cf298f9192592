package score

import (
	"bytes"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"
)

// scratch is the memory of one scoring, kept between them.
type scratch struct {
	reader  reader
	prompt  []byte // the text of all messages
	names   []byte // the names of tools
	output  []byte // the texts of the answers
	asked   asked
	choices []choice

	query   wordList // the words of the last user message
	given   wordList // the words of the context to keep to, if any
	answer  wordList // the words of the answer at hand
	spare   wordList // for words that are needed but once
	wanted  tongue   // the language that the answer should be in, or unknown
	counts  counter
	counts2 counter
}

// maxKept bounds the memory that a scratch may hold on to between two scorings.
const maxKept = 1 << 20

func (x *scratch) reset() {
	x.prompt, x.names, x.output = x.prompt[:0], x.names[:0], x.output[:0]
	x.asked = asked{messages: x.asked.messages[:0], tools: x.asked.tools[:0]}
	x.choices = x.choices[:0]
}

// release gives a scratch back, unless an unusual input has made it large.
// References to the caller's bytes are dropped.
func (s *Scorer) release(x *scratch) {
	clear(x.asked.tools)
	x.asked.schema = nil
	x.reader.body = nil
	x.reader.buf = bytes.Buffer{}
	words := cap(x.query.words) + cap(x.given.words) + cap(x.answer.words) + cap(x.spare.words)
	slots := len(x.counts.slots) + len(x.counts2.slots)
	if cap(x.prompt)+cap(x.output)+cap(x.names)+12*words+16*slots <= maxKept {
		s.pool.Put(x)
	}
}

// read takes in a request and a completion, so that the checks can run.
// There is at least one choice afterwards.
func (x *scratch) read(request, completion []byte, opts Options) error {
	x.reset()
	if err := x.readRequest(request); err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	if err := x.readCompletion(completion); err != nil {
		return fmt.Errorf("reading the completion: %w", err)
	}
	if opts.Schema != nil {
		x.asked.schema, x.asked.json = opts.Schema, true
	}
	if len(x.choices) == 0 {
		x.choices = append(x.choices, choice{})
	}
	x.query.read(x.question().of(x.prompt))
	x.readWanted()
	return nil
}

// question gives the text of the last user message.
func (x *scratch) question() span {
	for _, m := range slices.Backward(x.asked.messages) {
		if m.role == roleUser && !m.text.empty() {
			return m.text
		}
	}
	return span{}
}

// readContext takes in what the answer must keep to: what the caller gave, or else all
// messages, if they are long enough to be more than a question.
func (x *scratch) readContext(context []byte) {
	if context != nil {
		x.given.read(context)
		return
	}
	x.given.read(x.prompt)
	if len(x.given.words) < contextMinimum {
		x.given.words = x.given.words[:0]
	}
}

// blank tells whether an answer has no visible character.
func (x *scratch) blank(c *choice) bool {
	return bytes.IndexFunc(c.text.of(x.output), func(r rune) bool {
		return unicode.IsGraphic(r) && !unicode.IsSpace(r) && r != utf8.RuneError
	}) < 0
}
