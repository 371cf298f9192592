package budget

import (
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// The record is JSON, written and read by hand, since a busy tenant's is
// written thousands of times a second:
//
//	{"next": 3,
//	 "settled": [{"number": 3, "scope": "day", "start": 1795392000, "end": 1795478400, "reset": 1795400000000,
//	              "tokens": 1200, "nano_usd": 31000, "requests": 1, "lost": {...},
//	              "models": {"gpt-4o": {"tokens": ...}}, "warned": [{"unit": "tokens", "limit": 2000, "percent": 50}]}],
//	 "open": {"<id>": {"call": "...", "model": "gpt-4o", "estimate": {"tokens": 900, "nano_usd": 20000},
//	                   "windows": [3], "until": 1795400000000}},
//	 "usage": [{"date": "2026-11-23", "models": {"gpt-4o": {...}}}],
//	 "operation": "..."}
//
// The last of usage is the newest day; those before it wait to be put aside.

const (
	entryOverhead  = 160 // more than an entry takes beside its names
	largestEntry   = entryOverhead + 3*schemas.MaxNameLength + 2*maxModelLength + 8*maxWindows
	windowOverhead = 400
	modelOverhead  = 200
)

// size bounds what an entry takes encoded.
func (e *entry) size(id string) int {
	return entryOverhead + len(id) + 2*len(e.call) + 2*len(e.model) + 8*len(e.windows)
}

// full reports that the record may not grow by another entry, however large.
func (r *record) full(b bounds) bool {
	return len(r.open) >= b.open || r.bytes()+largestEntry > b.bytes
}

// bytes bounds what the record takes encoded.
func (r *record) bytes() int {
	n := r.size + windowOverhead
	for _, w := range r.windows {
		n += windowOverhead + modelOverhead*len(w.models)
	}
	for _, d := range r.past {
		n += d.bytes()
	}
	return n + r.today.bytes()
}

func (d *day) bytes() int {
	if d == nil {
		return 0
	}
	n := 0
	for model := range d.models {
		n += modelOverhead + 2*len(model)
	}
	return n
}

// appendTo writes the record.
func (r *record) appendTo(b []byte) []byte {
	b = append(b, `{"next":`...)
	b = strconv.AppendInt(b, int64(r.next), 10)
	b = append(b, `,"settled":[`...)
	for i, w := range r.windows {
		b = comma(b, i)
		b = w.appendTo(b)
	}
	b = append(b, `],"open":{`...)
	first := 0
	for id, e := range r.open {
		b = comma(b, first)
		first++
		b = quote(b, id)
		b = append(b, ':')
		b = e.appendTo(b)
	}
	b = append(b, `},"usage":[`...)
	for i, d := range r.past {
		b = comma(b, i)
		b = d.appendTo(b)
	}
	if r.today != nil {
		b = comma(b, len(r.past))
		b = r.today.appendTo(b)
	}
	b = append(b, ']')
	if r.operation != "" {
		b = append(b, `,"operation":`...)
		b = quote(b, r.operation)
	}
	return append(b, '}')
}

func (w *window) appendTo(b []byte) []byte {
	b = append(b, `{"number":`...)
	b = strconv.AppendInt(b, int64(w.number), 10)
	b = append(b, `,"scope":"`...)
	b = append(b, w.scope...)
	b = append(b, `","start":`...)
	b = strconv.AppendInt(b, w.start, 10)
	b = append(b, `,"end":`...)
	b = strconv.AppendInt(b, w.end, 10)
	b = append(b, ',')
	if w.resetAt != 0 {
		b = append(b, `"reset":`...)
		b = strconv.AppendInt(b, w.resetAt, 10)
		b = append(b, ',')
	}
	b = w.account.appendTo(b)
	if len(w.models) > 0 {
		b = append(b, `,"models":{`...)
		for i := range w.models {
			b = comma(b, i)
			b = appendModel(b, w.models[i].model, w.models[i].account)
		}
		b = append(b, '}')
	}
	if len(w.warned) > 0 {
		b = append(b, `,"warned":[`...)
		for i, x := range w.warned {
			b = comma(b, i)
			b = fmt.Appendf(b, `{"unit":%q,"limit":%d,"percent":%d}`, x.unit, x.limit, x.percent)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func (e *entry) appendTo(b []byte) []byte {
	b = append(b, `{"call":`...)
	b = quote(b, e.call)
	b = append(b, `,"model":`...)
	b = quote(b, e.model)
	b = append(b, `,"estimate":{`...)
	b = e.estimate.appendTo(b)
	b = append(b, `},"windows":[`...)
	for i, number := range e.windows {
		b = comma(b, i)
		b = strconv.AppendInt(b, int64(number), 10)
	}
	b = append(b, `],"until":`...)
	b = strconv.AppendInt(b, e.until, 10)
	return append(b, '}')
}

func (d *day) appendTo(b []byte) []byte {
	b = append(b, `{"date":`...)
	b = quote(b, d.date)
	b = append(b, `,"models":{`...)
	first := 0
	for model, used := range d.models {
		b = comma(b, first)
		first++
		b = appendModel(b, model, used)
	}
	return append(b, "}}"...)
}

func appendModel(b []byte, model string, a account) []byte {
	b = quote(b, model)
	b = append(b, ":{"...)
	b = a.appendTo(b)
	return append(b, '}')
}

// appendTo writes the members of an account; open is a sum and is not written.
func (a account) appendTo(b []byte) []byte {
	b = a.Settled.appendTo(b)
	if a.Lost != (Amount{}) {
		b = append(b, `,"lost":{`...)
		b = a.Lost.appendTo(b)
		b = append(b, '}')
	}
	return b
}

func (a Amount) appendTo(b []byte) []byte {
	b = append(b, `"tokens":`...)
	b = strconv.AppendInt(b, a.Tokens, 10)
	b = append(b, `,"nano_usd":`...)
	b = strconv.AppendInt(b, int64(a.Cost), 10)
	b = append(b, `,"requests":`...)
	return strconv.AppendInt(b, a.Requests, 10)
}

func comma(b []byte, i int) []byte {
	if i > 0 {
		return append(b, ',')
	}
	return b
}

// quote writes a JSON string; the names in a record are valid UTF-8.
func quote(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			b, _ = jsontext.AppendQuote(b, s)
			return b
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
