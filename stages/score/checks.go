package score

import (
	"bytes"
	"errors"
	"io"
	"unicode"
	"unicode/utf8"
)

// truncated tells whether an answer stops too early: the provider says so, or the text
// ends inside a code block, a JSON value or a sentence. Most cuts leave no trace but in
// running text, so that only some of those that no provider reports are seen.
func (x *scratch) truncated(c *choice) bool {
	if string(c.finish.of(x.output)) == "length" {
		return true
	}
	text := bytes.TrimSpace(c.text.of(x.output))
	if len(text) == 0 || len(c.calls) > 0 {
		return false
	}
	if openFence(text) || x.openValue(text) {
		return true
	}
	// Of a short answer one cannot say: "the" may answer a question about grammar.
	if len(x.answer.words) < minCutWords {
		return false
	}
	switch last, _ := utf8.DecodeLastRune(text); last {
	case '(', '[', '{', '、', '，', '（':
		return true
	case ',':
		return hasWords(lastLine(text), 4) // not "Best regards,"
	default:
		return unicode.IsLetter(last) && (danglingWords.has(x.answer.words[len(x.answer.words)-1].full) || openSentence(text))
	}
}

// openValue tells whether a text is a JSON value without its end.
func (x *scratch) openValue(text []byte) bool {
	if text[0] != '{' && text[0] != '[' {
		return false
	}
	return x.reader.reset(text) == nil && errors.Is(x.reader.dec.SkipValue(), io.ErrUnexpectedEOF)
}

// openSentence tells whether the last line holds whole sentences and the beginning of one
// more. A line without a whole sentence may be a title, a list item or a signature.
func openSentence(text []byte) bool {
	line := lastLine(text)
	end := bytes.LastIndexAny(line, ".!?")
	if end < 0 || end+2 >= len(line) || line[end+1] != ' ' || !unicode.IsUpper(rune(line[end+2])) {
		return false
	}
	before := line[:end]
	word := before[bytes.LastIndexByte(before, ' ')+1:]
	return len(word) >= 4 && bytes.IndexByte(word, '.') < 0 && hasWords(before, 4)
}

// hasWords tells whether a text has at least n words, by white space.
func hasWords(text []byte, n int) bool {
	for range bytes.FieldsSeq(text) {
		if n--; n == 0 {
			return true
		}
	}
	return false
}

func lastLine(text []byte) []byte { return text[bytes.LastIndexByte(text, '\n')+1:] }

// minCutWords is the length from which the last word of an answer tells whether it was cut.
const minCutWords = 12

// danglingWords end no English sentence. Words that may ("is", "for", "on") are left out.
var danglingWords = newWordSet(`a an and the or but because of my your our their its although
whereas unless if than from into such these during every between through whose while`)

// openFence tells whether a Markdown code block is opened and never closed.
func openFence(text []byte) bool {
	open, ticks := false, []byte("```")
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		if bytes.HasPrefix(bytes.TrimLeft(line, " \t>"), ticks) {
			open = !open
		}
	}
	return open
}

// Loops: what counts as going in circles.
const (
	loopWords   = 20  // a run of so many words ...
	loopTimes   = 4   // ... that occurs so often is a loop
	loopGram    = 4   // of all runs of so many words ...
	loopShare   = 0.6 // ... at most this share may have occurred before ...
	loopMinimum = 40  // ... in an answer of at least so many words
	loopRune    = 200 // one character so often in a row is a loop, if it is a letter or digit
)

// repeats tells whether an answer goes in circles.
func (x *scratch) repeats(c *choice) bool {
	words := x.answer.words
	if runOfOne(c.text.of(x.output)) {
		return true
	}
	if len(words) < loopWords+loopTimes-1 {
		return false
	}
	x.counts.reset(len(words))
	loop := false
	grams(words, loopWords, func(_ int, key uint64) {
		loop = x.counts.add(key) >= loopTimes || loop
	})
	return loop || len(words) >= loopMinimum && x.repeated() > loopShare
}

// repeated gives the share of the answer's runs of four words that occurred before in it.
func (x *scratch) repeated() float64 {
	n := len(x.answer.words) - loopGram + 1
	if n <= 0 {
		return 0
	}
	x.counts.reset(n)
	grams(x.answer.words, loopGram, func(_ int, key uint64) { x.counts.add(key) })
	return 1 - float64(x.counts.len)/float64(n)
}

// runOfOne tells whether one letter or digit is repeated without end.
// Rules and padding made of other characters are ordinary.
func runOfOne(text []byte) bool {
	run, last := 0, byte(0)
	for _, b := range text {
		if b != last {
			run, last = 0, b
		}
		run++
		if run >= loopRune && b < utf8.RuneSelf && (byteClass[b] == classLetter && b != '_' || byteClass[b] == classDigit) {
			return true
		}
	}
	return false
}

// Echoes: an answer that gives the prompt back opens as the prompt does, and little in it is new.
const (
	echoOpening = 8   // words of the opening that must agree, or all if there are fewer
	echoMinimum = 5   // words that a prompt must have: "hello" may be answered with "hello"
	echoGram    = 5   // of the answer's runs of so many words ...
	echoShare   = 0.8 // ... at least this share stands in the prompt
)

// echoes tells whether an answer is the prompt over again. Quoting, correcting or
// extracting from the prompt is no echo, as it does not open with the instruction.
func (x *scratch) echoes(*choice) bool {
	prompt, answer := x.query.words, x.answer.words
	n := min(echoOpening, len(prompt))
	if len(prompt) < echoMinimum || len(answer) < n {
		return false
	}
	for i := range n {
		if prompt[i].full != answer[i].full {
			return false
		}
	}
	x.counts.reset(len(prompt))
	grams(prompt, echoGram, func(_ int, key uint64) { x.counts.add(key) })
	known, total := 0, 0
	grams(answer, echoGram, func(_ int, key uint64) {
		total++
		if x.counts.count(key) > 0 {
			known++
		}
	})
	return float64(known) >= echoShare*float64(total)
}
