package budget

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// errDamaged is a record that cannot be read. Nothing is granted on it: an
// operator deletes it and has it rebuilt from the responses.
var errDamaged = errors.New("the budget record is damaged; delete it and run budget rebuild")

// decodeRecord reads what appendTo writes. Members that it does not know, which
// a newer replica wrote, are an error: writing the record would lose them.
func decodeRecord(data []byte, revision uint64) (*record, error) {
	d := decoder{dec: jsontext.NewDecoder(bytes.NewReader(data))}
	r := &record{revision: revision, open: map[string]*entry{}}
	d.object(func(name string) {
		switch name {
		case "next":
			r.next = int(d.number())
		case "settled":
			d.array(func() { r.windows = append(r.windows, d.window()) })
		case "open":
			d.object(func(id string) { r.open[id] = d.entry() })
		case "usage":
			d.array(func() { r.past = append(r.past, d.day()) })
		case "operation":
			r.operation = d.text()
		default:
			d.unknown(name)
		}
	})
	if d.err != nil {
		return nil, fmt.Errorf("%w (revision %d): %w", errDamaged, revision, d.err)
	}
	if n := len(r.past); n > 0 {
		r.today, r.past = r.past[n-1], r.past[:n-1]
	}
	r.sum()
	return r, nil
}

// decodeDay reads a day that was put aside.
func decodeDay(data []byte) (*day, error) {
	d := decoder{dec: jsontext.NewDecoder(bytes.NewReader(data))}
	u := d.day()
	return u, d.err
}

// sum fills in what is open by window, and the entries' size.
func (r *record) sum() {
	for id, e := range r.open {
		r.size += e.size(id)
		r.book(e, func(a *account) { a.open = a.open.plus(e.estimate) })
	}
}

// decoder reads JSON in order; after an error it reads nothing more.
type decoder struct {
	dec *jsontext.Decoder
	err error
	// windows is the last list of windows read: entries that were reserved
	// together share one.
	windows []int
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *decoder) unknown(name string) {
	d.fail("member %.40q is not known; is a newer version running?", name)
}

func (d *decoder) token(kind jsontext.Kind) (t jsontext.Token, ok bool) {
	if d.err != nil {
		return t, false
	}
	t, d.err = d.dec.ReadToken()
	if d.err == nil && t.Kind() != kind {
		d.fail("found %v at byte %d where %v belongs", t.Kind(), d.dec.InputOffset(), kind)
	}
	return t, d.err == nil
}

// more reports that the object or array goes on; at its end it reads past it.
func (d *decoder) more(end jsontext.Kind) bool {
	if d.err != nil {
		return false
	}
	if d.dec.PeekKind() != end {
		return true
	}
	d.token(end)
	return false
}

func (d *decoder) object(member func(name string)) {
	d.token('{')
	for d.more('}') {
		if t, ok := d.token('"'); ok {
			member(t.String())
		}
	}
}

func (d *decoder) array(element func()) {
	d.token('[')
	for d.more(']') {
		element()
	}
}

func (d *decoder) text() string {
	if t, ok := d.token('"'); ok {
		return t.String()
	}
	return ""
}

func (d *decoder) number() int64 {
	t, ok := d.token('0')
	if !ok {
		return 0
	}
	n, err := t.Int()
	if err != nil {
		d.fail("%v is no whole number: %w", t, err)
	}
	return n
}

func (d *decoder) window() *window {
	w := &window{}
	d.object(func(name string) {
		switch name {
		case "number":
			w.number = int(d.number())
		case "scope":
			w.scope = Scope(d.text())
		case "start":
			w.start = d.number()
		case "end":
			w.end = d.number()
		case "reset":
			w.resetAt = d.number()
		case "models":
			d.object(func(model string) { w.models = append(w.models, modelAccount{model, d.account()}) })
		case "warned":
			d.array(func() { w.warned = append(w.warned, d.warning()) })
		default:
			d.accountMember(&w.account, name)
		}
	})
	return w
}

func (d *decoder) account() (a account) {
	d.object(func(name string) { d.accountMember(&a, name) })
	return a
}

func (d *decoder) accountMember(a *account, name string) {
	if name == "lost" {
		d.object(func(name string) { d.amountMember(&a.Lost, name) })
		return
	}
	d.amountMember(&a.Settled, name)
}

func (d *decoder) amountMember(a *Amount, name string) {
	switch name {
	case "tokens":
		a.Tokens = bounded(d.number())
	case "nano_usd":
		a.Cost = USD(bounded(d.number()))
	case "requests":
		a.Requests = bounded(d.number())
	default:
		d.unknown(name)
	}
}

func (d *decoder) warning() (w warning) {
	d.object(func(name string) {
		switch name {
		case "unit":
			w.unit = Unit(d.text())
		case "limit":
			w.limit = d.number()
		case "percent":
			w.percent = int(d.number())
		default:
			d.unknown(name)
		}
	})
	return w
}

func (d *decoder) entry() *entry {
	e := &entry{}
	d.object(func(name string) {
		switch name {
		case "call":
			e.call = d.text()
		case "model":
			e.model = d.text()
		case "estimate":
			d.object(func(name string) { d.amountMember(&e.estimate, name) })
		case "windows":
			e.windows = d.numbers()
		case "until":
			e.until = d.number()
		default:
			d.unknown(name)
		}
	})
	return e
}

func (d *decoder) numbers() []int {
	var buffer [8]int
	list := buffer[:0]
	d.array(func() { list = append(list, int(d.number())) })
	if !slices.Equal(list, d.windows) {
		d.windows = slices.Clone(list)
	}
	return d.windows
}

func (d *decoder) day() *day {
	u := &day{models: map[string]account{}}
	d.object(func(name string) {
		switch name {
		case "date":
			u.date = d.text()
		case "models":
			d.object(func(model string) { u.models[model] = d.account() })
		default:
			d.unknown(name)
		}
	})
	return u
}
