package schemas

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// AppendHandoff writes a hand-off: a line of JSON that is its state, then the
// bodies as they are. So a body is never escaped or parsed on its way, and an
// operator can read the message. Several hand-offs in a row are a batch. Where
// the state has no form in JSON, dst is returned with an error.
func AppendHandoff(dst []byte, h *Handoff) ([]byte, error) {
	w := stateWriter{dst: dst}
	w.open()
	w.state(&h.State)
	w.begin("parts")
	w.number("body", int64(len(h.Body)))
	w.numberIf("original", int64(len(h.Original)))
	w.numberIf("answer", int64(len(h.Answer)))
	w.close()
	w.close()
	if w.err != nil {
		return dst, fmt.Errorf("encoding the state of request %s: %w", h.ID, w.err)
	}
	line := append(w.dst, '\n')
	line = append(line, h.Body...)
	line = append(line, h.Original...)
	return append(line, h.Answer...), nil
}

// state writes what the tags of State say, in the same order. A test holds that
// nothing is missing and that the general encoder writes the same.
func (w *stateWriter) state(s *State) {
	w.text("id", s.ID)
	w.text("tenant", s.Tenant)
	w.text("class", string(s.Class))
	w.unsigned("seq", s.Sequence)
	w.number("at", int64(s.Accepted))
	w.numberIf("deadline", int64(s.Deadline))
	w.textIf("trace", s.Trace)
	w.text("kind", string(s.Kind))
	w.text("model", s.Model)
	w.trueIf("stream", s.Stream)
	w.raw("options", s.Options)
	w.text("hash", s.BodyHash)
	w.textIf("key", s.Fingerprint)
	w.textIf("cache", s.Cache)
	w.textIf("found", s.Found)
	w.numberIf("attempt", int64(s.Attempt))
	w.numberIf("failures", int64(s.Failures))
	w.trueIf("retried", s.Retried)
	w.numberIf("not_before", int64(s.NotBefore))
	w.trueIf("beyond", s.Beyond)
	w.numberIf("round", int64(s.Round))
	w.spent("earlier", s.Earlier)
	w.textIf("template", s.Template)
	w.texts("tried", s.Tried)
	if s.Attempts != nil {
		w.general("attempts", s.Attempts)
	}
	if s.Best != nil {
		w.general("best", s.Best)
	}
	w.trueIf("fed", s.Fed)
	w.trueIf("settled", s.Settled)
	w.tokens("tokens", s.Tokens)
	w.selected("selected", &s.Selected)
	w.raw("parameters", s.Parameters)
	w.numberIf("calls", int64(s.Calls))
	w.trueIf("answer_recorded", s.AnswerRecorded)
	if s.Usage != (Usage{}) {
		w.usage("usage", s.Usage)
	}
	w.floatIf("cost", s.CostUSD)
	w.raw("quality", s.Quality)
	w.timings("stages", s.Stages)
	w.raw("compress", s.Compress)
	w.raw("structure", s.Structure)
}

func (w *stateWriter) tokens(name string, t Tokens) {
	if t == (Tokens{}) {
		return
	}
	w.begin(name)
	w.number("prompt_original", int64(t.PromptOriginal))
	w.number("prompt_sent", int64(t.PromptSent))
	w.number("saved", int64(t.Saved))
	w.close()
}

func (w *stateWriter) usage(name string, u Usage) {
	w.begin(name)
	w.number("prompt_tokens", int64(u.PromptTokens))
	w.number("completion_tokens", int64(u.CompletionTokens))
	w.number("total_tokens", int64(u.TotalTokens))
	w.numberIf("cached_tokens", int64(u.CachedTokens))
	w.numberIf("reasoning_tokens", int64(u.ReasoningTokens))
	w.close()
}

func (w *stateWriter) spent(name string, s Spent) {
	if s == (Spent{}) {
		return
	}
	w.begin(name)
	if s.Usage != (Usage{}) {
		w.usage("usage", s.Usage)
	}
	w.floatIf("cost", s.CostUSD)
	w.close()
}

func (w *stateWriter) selected(name string, s *Selected) {
	if s.Model == "" && s.Provider == "" && s.Because == "" && s.Probability == 0 && s.Tried == nil {
		return
	}
	w.begin(name)
	w.text("model", s.Model)
	w.textIf("provider", s.Provider)
	w.textIf("because", s.Because)
	w.floatIf("probability", s.Probability)
	if len(s.Tried) > 0 {
		w.general("tried", s.Tried)
	}
	w.close()
}

func (w *stateWriter) timings(name string, list Timings) {
	if list == nil {
		return
	}
	w.name(name)
	w.dst = append(w.dst, '[')
	for i, t := range list {
		if i > 0 {
			w.dst = append(w.dst, ',')
		}
		w.open()
		w.text("s", t.Stage)
		w.float("q", t.QueuedMS)
		w.float("r", t.RanMS)
		w.close()
	}
	w.dst = append(w.dst, ']')
}

// stateWriter appends JSON. The methods whose names end in If leave out a zero
// value. It goes on after an error, which is looked at in the end.
type stateWriter struct {
	dst []byte
	err error
}

func (w *stateWriter) open()  { w.dst = append(w.dst, '{') }
func (w *stateWriter) close() { w.dst = append(w.dst, '}') }

// name begins a member of the object that was opened last. Names need no quoting.
func (w *stateWriter) name(name string) {
	if w.dst[len(w.dst)-1] != '{' {
		w.dst = append(w.dst, ',')
	}
	w.dst = append(w.dst, '"')
	w.dst = append(w.dst, name...)
	w.dst = append(w.dst, '"', ':')
}

func (w *stateWriter) begin(name string) {
	w.name(name)
	w.open()
}

func (w *stateWriter) text(name, value string) {
	w.name(name)
	w.string(value)
}

func (w *stateWriter) textIf(name, value string) {
	if value != "" {
		w.text(name, value)
	}
}

func (w *stateWriter) texts(name string, list []string) {
	if list == nil {
		return
	}
	w.name(name)
	w.dst = append(w.dst, '[')
	for i, value := range list {
		if i > 0 {
			w.dst = append(w.dst, ',')
		}
		w.string(value)
	}
	w.dst = append(w.dst, ']')
}

func (w *stateWriter) string(value string) {
	for i := range len(value) {
		if !standsForItself(value[i]) {
			var err error
			if w.dst, err = jsontext.AppendQuote(w.dst, value); err != nil {
				w.err = err
			}
			return
		}
	}
	w.dst = append(w.dst, '"')
	w.dst = append(w.dst, value...)
	w.dst = append(w.dst, '"')
}

// standsForItself reports that a byte needs no escape in a JSON string and is no
// part of a longer character.
func standsForItself(c byte) bool { return c >= ' ' && c <= '~' && c != '"' && c != '\\' }

func (w *stateWriter) number(name string, value int64) {
	w.name(name)
	w.dst = strconv.AppendInt(w.dst, value, 10)
}

func (w *stateWriter) numberIf(name string, value int64) {
	if value != 0 {
		w.number(name, value)
	}
}

func (w *stateWriter) unsigned(name string, value uint64) {
	w.name(name)
	w.dst = strconv.AppendUint(w.dst, value, 10)
}

var errNoNumber = errors.New("JSON has no form for infinite and undefined numbers")

func (w *stateWriter) float(name string, value float64) {
	if math.IsInf(value, 0) || math.IsNaN(value) {
		w.err = errNoNumber
		return
	}
	w.name(name)
	w.dst = jsontext.AppendFloat(w.dst, value, 64)
}

func (w *stateWriter) floatIf(name string, value float64) {
	if value != 0 {
		w.float(name, value)
	}
}

func (w *stateWriter) trueIf(name string, value bool) {
	if value {
		w.name(name)
		w.dst = append(w.dst, "true"...)
	}
}

// raw writes a value that is JSON already. It is checked and made compact: a
// line break in it would end the line.
func (w *stateWriter) raw(name string, value jsontext.Value) {
	if value == nil {
		return
	}
	w.name(name)
	var err error
	if w.dst, err = jsontext.AppendFormat(w.dst, value); err != nil {
		w.err = err
	}
}

// general writes what is rare with the general encoder.
func (w *stateWriter) general(name string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		w.err = err
		return
	}
	w.name(name)
	w.dst = append(w.dst, text...)
}
