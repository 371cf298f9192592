package score

import (
	"bytes"
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
	rest    wordList // the words of all other messages
	given   wordList // the words of the context to keep to, if any
	answer  wordList // the words of the answer at hand
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
	words := cap(x.query.words) + cap(x.rest.words) + cap(x.given.words) + cap(x.answer.words)
	slots := len(x.counts.slots) + len(x.counts2.slots)
	if cap(x.prompt)+cap(x.output)+cap(x.names)+12*words+16*slots <= maxKept {
		s.pool.Put(x)
	}
}

// prepare splits the prompt into what was asked last and the rest, in words.
func (x *scratch) prepare(context []byte) {
	last := -1
	for i, m := range x.asked.messages {
		if m.role == roleUser && !m.text.empty() {
			last = i
		}
	}
	x.query.read(nil)
	if last >= 0 {
		x.query.read(x.asked.messages[last].text.of(x.prompt))
	}
	x.rest.read(nil)
	x.given.read(context)
}

// blank tells whether an answer has no visible character.
func (x *scratch) blank(c *choice) bool {
	return bytes.IndexFunc(c.text.of(x.output), func(r rune) bool {
		return unicode.IsGraphic(r) && !unicode.IsSpace(r) && r != utf8.RuneError
	}) < 0
}
