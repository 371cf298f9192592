package schemas

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ErrHandoff is a hand-off that cannot be read.
var ErrHandoff = errors.New("the hand-off is damaged")

// ReadHandoff reads the first hand-off in data and returns what is behind it.
// The bodies share memory with data.
func ReadHandoff(data []byte) (h *Handoff, rest []byte, err error) {
	h = new(Handoff)
	if rest, err = h.Read(data); err != nil {
		return nil, nil, err
	}
	return h, rest, nil
}

// Read is ReadHandoff into a hand-off that is empty.
func (h *Handoff) Read(data []byte) (rest []byte, err error) {
	end := bytes.IndexByte(data, '\n')
	if end < 0 {
		return nil, fmt.Errorf("%w: it has no state line", ErrHandoff)
	}
	parts, err := readLine(data[:end], &h.State)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHandoff, err)
	}
	rest = data[end+1:]
	for _, part := range []struct {
		length int
		to     *[]byte
	}{{parts.Body, &h.Body}, {parts.Original, &h.Original}, {parts.Answer, &h.Answer}} {
		if part.length < 0 || part.length > len(rest) {
			return nil, fmt.Errorf("%w: a part is longer than the message", ErrHandoff)
		}
		if part.length > 0 {
			*part.to, rest = rest[:part.length:part.length], rest[part.length:]
		}
	}
	if !ValidName(h.Tenant) || !ValidName(h.ID) {
		return nil, fmt.Errorf("%w: its tenant or id is no valid name", ErrHandoff)
	}
	return rest, nil
}

// lengths says how the bytes behind a state line are divided.
type lengths struct {
	Body     int `json:"body"`
	Original int `json:"original,omitzero"`
	Answer   int `json:"answer,omitzero"`
}

type handoffLine struct {
	State
	Parts lengths `json:"parts"`
}

// readLine reads a state line into a state that is zero. A line that is not
// exactly as AppendHandoff writes it, say one of a newer version with more
// members, is read by the general decoder.
func readLine(line []byte, s *State) (lengths, error) {
	if parts, ok := readUsualLine(line, s); ok {
		return parts, nil
	}
	return readAnyLine(line, s)
}

func readAnyLine(line []byte, s *State) (lengths, error) {
	var full handoffLine
	if err := json.Unmarshal(line, &full); err != nil {
		return lengths{}, err
	}
	*s = full.State
	return full.Parts, nil
}

// readUsualLine reads the members that AppendHandoff writes, in the order in
// which it does; each may be absent. ok is false for any other line, also where
// that is valid; the state may be changed then.
func readUsualLine(line []byte, s *State) (parts lengths, ok bool) {
	r := stateReader{rest: line}
	r.take('{')
	r.state(s)
	if r.begin("parts") {
		r.int("body", &parts.Body)
		r.int("original", &parts.Original)
		r.int("answer", &parts.Answer)
		r.take('}')
	}
	r.take('}')
	return parts, !r.odd && len(r.rest) == 0
}

// state reads what the writer's state writes.
func (r *stateReader) state(s *State) {
	r.text("id", &s.ID)
	r.text("tenant", &s.Tenant)
	r.text("class", (*string)(&s.Class))
	if r.member("seq") {
		s.Sequence = r.digits()
	}
	r.millis("at", &s.Accepted)
	r.millis("deadline", &s.Deadline)
	r.text("trace", &s.Trace)
	r.text("kind", (*string)(&s.Kind))
	r.text("model", &s.Model)
	r.bool("stream", &s.Stream)
	r.raw("options", &s.Options)
	r.text("hash", &s.BodyHash)
	r.text("key", &s.Fingerprint)
	r.text("cache", &s.Cache)
	r.text("found", &s.Found)
	r.int("attempt", &s.Attempt)
	r.int("failures", &s.Failures)
	r.bool("retried", &s.Retried)
	r.millis("not_before", &s.NotBefore)
	r.bool("beyond", &s.Beyond)
	r.int("round", &s.Round)
	r.spent("earlier", &s.Earlier)
	r.text("template", &s.Template)
	r.texts("tried", &s.Tried)
	r.general("attempts", &s.Attempts)
	r.general("best", &s.Best)
	r.bool("fed", &s.Fed)
	r.bool("settled", &s.Settled)
	r.tokens("tokens", &s.Tokens)
	r.selected("selected", &s.Selected)
	r.raw("parameters", &s.Parameters)
	r.int("calls", &s.Calls)
	r.bool("answer_recorded", &s.AnswerRecorded)
	r.usage("usage", &s.Usage)
	r.float("cost", &s.CostUSD)
	r.raw("quality", &s.Quality)
	r.timings("stages", &s.Stages)
	r.raw("compress", &s.Compress)
	r.raw("structure", &s.Structure)
}

func (r *stateReader) tokens(name string, t *Tokens) {
	if r.begin(name) {
		r.int("prompt_original", &t.PromptOriginal)
		r.int("prompt_sent", &t.PromptSent)
		r.int("saved", &t.Saved)
		r.take('}')
	}
}

func (r *stateReader) usage(name string, u *Usage) {
	if r.begin(name) {
		r.int("prompt_tokens", &u.PromptTokens)
		r.int("completion_tokens", &u.CompletionTokens)
		r.int("total_tokens", &u.TotalTokens)
		r.int("cached_tokens", &u.CachedTokens)
		r.int("reasoning_tokens", &u.ReasoningTokens)
		r.take('}')
	}
}

func (r *stateReader) spent(name string, s *Spent) {
	if r.begin(name) {
		r.usage("usage", &s.Usage)
		r.float("cost", &s.CostUSD)
		r.take('}')
	}
}

func (r *stateReader) selected(name string, s *Selected) {
	if r.begin(name) {
		r.text("model", &s.Model)
		r.text("provider", &s.Provider)
		r.text("because", &s.Because)
		r.float("probability", &s.Probability)
		r.general("tried", &s.Tried)
		r.take('}')
	}
}

// timingsRoom is how many stages a request passes, most of the time.
const timingsRoom = 6

func (r *stateReader) timings(name string, list *Timings) {
	if !r.member(name) {
		return
	}
	*list = make(Timings, 0, timingsRoom)
	r.take('[')
	for !r.ends(']') {
		if len(*list) > 0 {
			r.take(',')
		}
		var t Timing
		r.take('{')
		r.text("s", &t.Stage)
		r.float("q", &t.QueuedMS)
		r.float("r", &t.RanMS)
		r.take('}')
		*list = append(*list, t)
	}
}

// stateReader reads JSON that is written as stateWriter does. Its methods leave
// absent members as they are. It stops at what is odd, that is anything else.
type stateReader struct {
	rest  []byte
	inner bool // a member of the present object was read: a comma comes before the next
	odd   bool
}

// take reads one byte, which must be this one.
func (r *stateReader) take(c byte) {
	if r.odd || len(r.rest) == 0 || r.rest[0] != c {
		r.odd = true
		return
	}
	r.rest = r.rest[1:]
	r.inner = c == '}' || c == ']' // what ends was a member itself
}

// ends reads the end of a list, if that is next. It is true also for what is odd.
func (r *stateReader) ends(c byte) bool {
	if !r.odd && len(r.rest) > 0 && r.rest[0] != c {
		return false
	}
	r.take(c)
	return true
}

// member reads the name of a member, with its colon, if it is next.
func (r *stateReader) member(name string) bool {
	rest := r.rest
	if r.inner {
		if len(rest) == 0 || rest[0] != ',' {
			return false
		}
		rest = rest[1:]
	}
	n := len(name)
	if r.odd || len(rest) < n+3 || rest[0] != '"' || string(rest[1:n+1]) != name || rest[n+1] != '"' || rest[n+2] != ':' {
		return false
	}
	r.rest, r.inner = rest[n+3:], true
	return true
}

// begin is member for one that is an object.
func (r *stateReader) begin(name string) bool {
	if !r.member(name) {
		return false
	}
	r.take('{')
	return true
}

func (r *stateReader) text(name string, to *string) {
	if r.member(name) {
		*to = r.string()
	}
}

func (r *stateReader) texts(name string, to *[]string) {
	if !r.member(name) {
		return
	}
	*to = []string{}
	r.take('[')
	for !r.ends(']') {
		if len(*to) > 0 {
			r.take(',')
		}
		*to = append(*to, r.string())
	}
}

// string reads a string without escapes.
func (r *stateReader) string() string {
	r.take('"')
	end := bytes.IndexByte(r.rest, '"')
	if r.odd || end < 0 {
		r.odd = true
		return ""
	}
	text := r.rest[:end]
	for _, c := range text {
		if c == '\\' || c < ' ' || c >= utf8.RuneSelf && !utf8.Valid(text) {
			r.odd = true
			return ""
		}
	}
	r.rest, r.inner = r.rest[end+1:], true
	return word(text)
}

// word gives text as a string, without memory of its own for what most lines hold.
func word(text []byte) string {
	switch string(text) {
	case string(Interactive):
		return string(Interactive)
	case string(Batch):
		return string(Batch)
	case string(Chat):
		return string(Chat)
	case "miss":
		return "miss"
	case "compress":
		return "compress"
	case "cache":
		return "cache"
	case "generate":
		return "generate"
	}
	return string(text)
}

// maxDigits is how many digits fit into an int64 in any case.
const maxDigits = 18

// digits reads a number that is neither negative nor fractional nor huge.
func (r *stateReader) digits() (value uint64) {
	n := r.run()
	if n == 0 || n > maxDigits || n > 1 && r.rest[0] == '0' {
		r.odd = true
		return 0
	}
	for _, c := range r.rest[:n] {
		value = 10*value + uint64(c-'0')
	}
	r.rest = r.rest[n:]
	return value
}

// run is how many digits are next.
func (r *stateReader) run() (n int) {
	for n < len(r.rest) && r.rest[n] >= '0' && r.rest[n] <= '9' {
		n++
	}
	return n
}

func (r *stateReader) int(name string, to *int) {
	if r.member(name) {
		*to = int(r.digits())
	}
}

func (r *stateReader) millis(name string, to *Millis) {
	if r.member(name) {
		*to = Millis(r.digits())
	}
}

// float reads a number that is neither negative nor has an exponent.
func (r *stateReader) float(name string, to *float64) {
	if !r.member(name) {
		return
	}
	text := r.rest
	r.digits()
	if !r.odd && len(r.rest) > 0 && r.rest[0] == '.' {
		r.rest = r.rest[1:]
		n := r.run()
		r.odd = n == 0
		r.rest = r.rest[n:]
	}
	value, err := strconv.ParseFloat(string(text[:len(text)-len(r.rest)]), 64)
	if err != nil {
		r.odd = true
	}
	*to = value
}

func (r *stateReader) bool(name string, to *bool) {
	if !r.member(name) {
		return
	}
	rest, ok := bytes.CutPrefix(r.rest, []byte("true"))
	if !ok {
		r.odd = true
		return
	}
	r.rest, *to = rest, true
}

func (r *stateReader) raw(name string, to *jsontext.Value) {
	if r.member(name) {
		*to = bytes.Clone(r.value())
	}
}

// general reads what is rare with the general decoder.
func (r *stateReader) general(name string, to any) {
	if r.member(name) {
		if err := json.Unmarshal(r.value(), to); err != nil {
			r.odd = true
		}
	}
}

// value gives the object or the list that is next, as it is.
func (r *stateReader) value() jsontext.Value {
	end := brackets(r.rest)
	value := jsontext.Value(r.rest[:end])
	if end == 0 || !value.IsValid() {
		r.odd = true
		return nil
	}
	r.rest = r.rest[end:]
	return value
}

// brackets gives the length of what begins with a bracket, up to the one that
// belongs to it; 0 where there is none.
func brackets(text []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"' && depth > 0:
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		if depth <= 0 {
			return 0
		}
	}
	return 0
}
