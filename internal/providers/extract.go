package providers

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// scratch is what the simulated provider needs for one answer, used again for the next.
type scratch struct {
	request  simRequest
	text     []byte // what users and tools said, plain
	question int    // where the last user message begins in text
	bytes    int    // of all messages, for the count of tokens

	sentences []sentence
	words     []uint32 // hashes, in the order of the text
	terms     termTable
	chosen    []int
	out       []byte
}

// simRequest is what the simulated provider heeds of a request.
type simRequest struct {
	n         int
	maxTokens int
	stop      []string
	format    []byte // response_format
	tools     []byte
	choice    []byte // tool_choice
}

// sentence is a part of the text: bytes and words [start, end).
type sentence struct {
	start, end, wordStart, wordEnd int
	asks                           bool   // it is (a part of) the question
	words                          uint32 // a hash of all its words: two with the same say the same
	score                          float64
}

// perMessage is about what the frame of a message costs, in bytes.
const perMessage = 4 * bytesPerToken

// read takes a request in. The body is valid JSON.
func (x *scratch) read(body []byte) {
	x.request = simRequest{n: 1}
	x.text, x.question, x.bytes = x.text[:0], 0, 0
	schemas.Members(body, func(name []byte, _, value schemas.Span) bool {
		v := value.Of(body)
		switch string(name) {
		case "messages":
			objects(v, x.message)
		case "n":
			x.request.n = min(max(smallInt(v), 1), maxChoices)
		case "max_completion_tokens", "max_tokens":
			x.request.maxTokens = smallInt(v)
		case "stop":
			x.request.stop = stopsOf(v)
		case "response_format":
			x.request.format = v
		case "tools":
			x.request.tools = v
			x.bytes += len(v)
		case "tool_choice":
			x.request.choice = v
		}
		return true
	})
}

func smallInt(number []byte) int {
	n, err := strconv.Atoi(string(number))
	if err != nil {
		return 0
	}
	return n
}

func stopsOf(value []byte) (stops []string) {
	if value[0] == '"' {
		return []string{textOf(value)}
	}
	elements(value, func(element []byte) bool {
		stops = append(stops, textOf(element))
		return len(stops) < 16
	})
	return stops
}

// message adds the text of a message. What the system and the model said is
// counted, but it is no matter to answer from.
func (x *scratch) message(object []byte) {
	role, _ := schemas.Member(object, "role")
	content, ok := schemas.Member(object, "content")
	x.bytes += perMessage
	if !ok {
		return
	}
	before := len(x.text)
	x.content(content.Of(object))
	x.bytes += len(x.text) - before
	switch string(role.Of(object)) {
	case `"user"`:
		x.question = before
	case `"tool"`, `"function"`:
	default:
		x.text = x.text[:before]
	}
}

// content appends a message's content, a string or a list of parts, and ends the line.
func (x *scratch) content(value []byte) {
	switch value[0] {
	case '"':
		x.text, _ = jsontext.AppendUnquote(x.text, value) // what cannot be read becomes U+FFFD
		x.text = append(x.text, '\n')
	case '[':
		objects(value, func(part []byte) {
			if text, ok := schemas.Member(part, "text"); ok && part[text.Start] == '"' {
				x.text, _ = jsontext.AppendUnquote(x.text, text.Of(part))
				x.text = append(x.text, '\n')
			}
		})
	}
}

// answer gives the reply's text; it is valid until the next read.
func (x *scratch) answer() []byte {
	extract := x.extract()
	if len(x.request.format) == 0 {
		return extract
	}
	return x.formatted(extract)
}

// Limits of an extract.
const (
	maxExtract   = 3       // sentences
	maxBytes     = 4000    // of the extract, also where the text has no sentences
	maxSentences = 2000    // considered; what stands behind them is not
	maxMatter    = 1 << 18 // bytes considered
)

// extract chooses the sentences that have most to do with the question, and with
// what the text is about, in the order in which they stand. A text without
// anything but the question gives the question's own terms.
func (x *scratch) extract() []byte { return cutAtRune(x.chosenText(), maxBytes) }

func (x *scratch) chosenText() []byte {
	x.split()
	x.markQuestion()
	x.count()
	x.chosen = x.chosen[:0]
	for i := range x.sentences {
		s := &x.sentences[i]
		if s.asks || s.wordEnd-s.wordStart < 3 {
			continue
		}
		s.score, s.words = x.score(s), joined(x.words[s.wordStart:s.wordEnd])
		x.choose(i)
	}
	x.out = x.out[:0]
	if len(x.chosen) == 0 {
		return x.keywords()
	}
	slices.Sort(x.chosen)
	for _, i := range x.chosen {
		if len(x.out) > 0 {
			x.out = append(x.out, ' ')
		}
		x.out = append(x.out, bytes.TrimSpace(x.text[x.sentences[i].start:x.sentences[i].end])...)
	}
	return x.out
}

// choose keeps sentence i if it is among the best so far; of equals the first stays.
func (x *scratch) choose(i int) {
	for _, c := range x.chosen {
		if x.sentences[c].words == x.sentences[i].words {
			return
		}
	}
	if len(x.chosen) < maxExtract {
		x.chosen = append(x.chosen, i)
		return
	}
	worst := 0
	for k, c := range x.chosen {
		if x.sentences[c].score < x.sentences[x.chosen[worst]].score {
			worst = k
		}
	}
	if x.sentences[i].score > x.sentences[x.chosen[worst]].score {
		x.chosen[worst] = i
	}
}

func joined(words []uint32) uint32 {
	h := uint32(0)
	for _, w := range words {
		h = (h ^ w) * 16777619
	}
	return h
}

// split finds sentences and words in one pass.
func (x *scratch) split() {
	text := x.text[:min(len(x.text), maxMatter)]
	x.sentences, x.words = x.sentences[:0], x.words[:0]
	start, wordStart, h, length := 0, 0, uint32(0), 0
	word := func() {
		if length > 3 { // shorter ones are mostly articles and the like
			x.words = append(x.words, h|1)
		}
		h, length = 0, 0
	}
	for i, b := range text {
		if c := folded[b]; c != 0 {
			h = h*16777619 ^ uint32(c)
			length++
			continue
		}
		word()
		if b != '\n' && !(sentenceEnd(b) && (i+1 == len(text) || text[i+1] == ' ' || text[i+1] == '\n')) {
			continue
		}
		if len(bytes.TrimSpace(text[start:i+1])) > 0 && len(x.sentences) < maxSentences {
			x.sentences = append(x.sentences, sentence{start: start, end: i + 1, wordStart: wordStart, wordEnd: len(x.words)})
		}
		start, wordStart = i+1, len(x.words)
	}
}

func sentenceEnd(b byte) bool { return b == '.' || b == '!' || b == '?' }

// folded maps the bytes of words to lower case, and all others to 0. Bytes above
// ASCII belong to words.
var folded = func() (t [256]byte) {
	for i := range t {
		switch b := byte(i); {
		case b >= 'a' && b <= 'z', b >= '0' && b <= '9', b >= utf8.RuneSelf:
			t[i] = b
		case b >= 'A' && b <= 'Z':
			t[i] = b + 'a' - 'A'
		}
	}
	return t
}()

// markQuestion finds what of the last user message asks: its sentences with a
// question mark; without any, its first one, where an instruction stands.
func (x *scratch) markQuestion() {
	first, asked := -1, false
	for i := range x.sentences {
		s := &x.sentences[i]
		s.asks = false
		if s.start < x.question {
			continue
		}
		if first < 0 {
			first = i
		}
		if x.text[s.end-1] == '?' {
			s.asks, asked = true, true
		}
	}
	if !asked && first >= 0 {
		x.sentences[first].asks = true
	}
}

// count notes how often each word occurs, and which ones the question has.
func (x *scratch) count() {
	x.terms.reset(len(x.words))
	for i := range x.sentences {
		s := &x.sentences[i]
		for _, w := range x.words[s.wordStart:s.wordEnd] {
			t := x.terms.at(w)
			t.count++
			t.asked = t.asked || s.asks
		}
	}
}

// Weights of a word in a sentence: one of the question counts as much as several
// that are merely frequent.
const (
	weightAsked    = 4
	weightFrequent = 1
)

// score is the weight of a sentence's words, damped by its length so that long
// sentences do not always win.
func (x *scratch) score(s *sentence) float64 {
	sum := 0.0
	for _, w := range x.words[s.wordStart:s.wordEnd] {
		t := x.terms.at(w)
		if t.asked {
			sum += weightAsked
		}
		if t.count > 1 {
			sum += weightFrequent
		}
	}
	return sum / math.Sqrt(float64(s.wordEnd-s.wordStart)+4)
}

// keywords gives the longer words of the question, each once, as a list.
func (x *scratch) keywords() []byte {
	const most = 12
	x.terms.reset(len(x.words))
	n := 0
	for _, word := range bytes.FieldsFunc(x.text[:min(len(x.text), maxMatter)], func(r rune) bool {
		return r < utf8.RuneSelf && folded[byte(r)] == 0
	}) {
		if len(word) <= 3 || n == most {
			continue
		}
		h := uint32(hash(bytes.ToLower(word))) | 1
		if t := x.terms.at(h); t.count == 0 {
			t.count = 1
			if n++; n > 1 {
				x.out = append(x.out, ", "...)
			}
			x.out = append(x.out, word...)
		}
	}
	if n == 0 {
		return append(x.out, "Simulated answer."...)
	}
	return append(x.out, '.')
}

// cutAtStop ends a text before the first stop sequence in it.
func cutAtStop(text []byte, stops []string) []byte {
	for _, stop := range stops {
		if i := bytes.Index(text, []byte(stop)); i >= 0 && stop != "" {
			text = text[:i]
		}
	}
	return text
}

// cutAtRune shortens a text to at most n bytes, not within a character.
func cutAtRune(text []byte, n int) []byte {
	if n >= len(text) {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// termTable counts words, by open addressing; it is emptied in constant time.
type termTable struct {
	slots      []term
	generation uint32
}

type term struct {
	word, generation, count uint32
	asked                   bool
}

// reset empties the table and makes room for n words.
func (t *termTable) reset(n int) {
	size := 256
	for size < 2*n {
		size *= 2
	}
	if t.generation++; len(t.slots) < size || t.generation == 0 {
		t.slots, t.generation = make([]term, size), 1
	}
}

// at gives a word's entry, made if need be.
func (t *termTable) at(word uint32) *term {
	mask := uint32(len(t.slots) - 1)
	i := word * 2654435761 >> 7 & mask
	for t.slots[i].generation == t.generation && t.slots[i].word != word {
		i = (i + 1) & mask
	}
	if t.slots[i].generation != t.generation {
		t.slots[i] = term{word: word, generation: t.generation}
	}
	return &t.slots[i]
}
