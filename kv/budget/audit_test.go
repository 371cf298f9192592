package budget

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// seen is one call that was ever reserved.
type seen struct {
	id       string
	estimate int64
	recorded int64 // what the recorded answer says it was billed, if that is of this call
	spans    []span
	lost     bool // charged at its estimate
}

// findings is what an audit found, summed over the windows of the first limit.
type findings struct {
	answered, lost         int
	billed, settled, limit int64
}

// audit goes through every record that ever held, the upstream's bills and the
// recorded answers, and checks the promises of the ledger.
func (p *plant) audit() findings {
	records := p.history()
	h := &history{plant: p, answers: p.answers(), calls: map[string]*seen{}, unseen: map[span]int64{}}
	rules := compile(p.budgets)
	for i, r := range records {
		p.withinLimits(rules, r)
		for id, e := range r.open {
			if h.calls[e.call] == nil {
				h.calls[e.call] = &seen{id: id, estimate: e.estimate.Tokens, spans: spansOf(r, e)}
			}
		}
		if i > 0 {
			h.step(records[i-1], r)
		}
	}
	return h.account(records[len(records)-1], rules)
}

// history is what happened to every call that was ever reserved.
type history struct {
	*plant
	answers map[string]answer // by request
	calls   map[string]*seen  // by call
	// unseen is what was charged for calls that were reserved and lost in one
	// write, so that no record shows them open: two deliveries of a request met
	// in one process.
	unseen      map[span]int64
	unseenCalls int64
}

// withinLimits checks that what is settled and open never passes a limit.
func (p *plant) withinLimits(rules *rules, r *record) {
	for _, w := range r.windows {
		for _, l := range rules.limits {
			if rules.cuts[l.cut].scope != w.scope {
				continue
			}
			used := w.Settled.in(l.unit) + w.open.in(l.unit)
			require.LessOrEqual(p.t, used, l.max, "revision %d: %s of the %s limit", r.revision, l.unit, w.scope)
		}
	}
}

// step finds out what one write charged for the calls that it removed. One that
// no answer names was lost. One that an answer names settled at its bill, unless
// the answer came after another call had taken the request, or after the call
// was reaped: which those are must follow from what the record was charged.
func (h *history) step(before, now *record) {
	was, is := totalOf(before), totalOf(now)
	lost, lostCalls := is.Lost.Tokens-was.Lost.Tokens, is.Lost.Requests-was.Lost.Requests
	bills := is.Settled.Tokens - was.Settled.Tokens - lost // of what settled
	var named, gone []*seen
	for id, e := range before.open {
		if next := now.open[id]; next != nil && next.call == e.call || id == "drain" {
			continue
		}
		c := h.calls[e.call]
		if h.answers[id].Call != e.call {
			gone = append(gone, c)
			lost -= c.estimate
			lostCalls--
			continue
		}
		c.recorded = h.answers[id].Billed
		named = append(named, c)
		bills -= c.recorded
	}
	late, found := choose(named, int(lostCalls), lost, -bills)
	require.True(h.t, found, "revision %d: the charges are not those of the %d calls that were removed", now.revision, len(named)+len(gone))
	for _, c := range append(gone, late...) {
		c.lost = true
	}
	h.unseenCalls += lostCalls - int64(len(late))
	for _, w := range now.windows {
		h.unseen[w.span] += h.unseenIn(w, before, append(gone, late...))
	}
}

// unseenIn gives what a window was charged for lost calls beside the given ones.
func (h *history) unseenIn(w *window, before *record, lost []*seen) int64 {
	charged := w.Lost.Tokens
	if earlier := before.find(w.span); earlier != nil {
		charged -= earlier.Lost.Tokens
	}
	for _, c := range lost {
		if slices.Contains(c.spans, w.span) {
			charged -= c.estimate
		}
	}
	require.GreaterOrEqual(h.t, charged, int64(0))
	return charged
}

// choose finds the calls, at most count, whose recorded bills add up to bills
// and whose estimates to lost; if they are fewer, their estimates may be less.
func choose(calls []*seen, count int, lost, bills int64) (chosen []*seen, found bool) {
	switch {
	case count < 0 || lost < 0 || bills < 0:
		return nil, false
	case bills == 0 && (count == 0 && lost == 0 || count > 0 && lost > 0):
		return nil, true // the rest, if any, was lost unseen
	}
	for i, c := range calls {
		if rest, ok := choose(calls[i+1:], count-1, lost-c.estimate, bills-c.recorded); ok {
			return append(rest, c), true
		}
	}
	return nil, false
}

func totalOf(r *record) *account {
	for _, w := range r.windows {
		if w.scope == Total {
			return &w.account
		}
	}
	return &account{}
}

// account compares the final record with the bills.
func (h *history) account(last *record, rules *rules) (f findings) {
	p, t, calls := h.plant, h.t, h.calls
	require.Empty(t, last.open)
	p.upstream.mu.Lock()
	defer p.upstream.mu.Unlock()
	charged, billed := maps.Clone(h.unseen), map[span]int64{}
	f.lost = int(h.unseenCalls)
	unseen := Amount{}
	for call, b := range p.upstream.bills {
		require.LessOrEqual(t, b.billed, b.estimate, "a call was billed twice or above its estimate")
		if calls[call] == nil {
			unseen = unseen.plus(Amount{Tokens: b.estimate, Requests: 1})
			billed[span{scope: Total}] += b.billed
		}
	}
	require.LessOrEqual(t, unseen.Tokens, h.unseen[span{scope: Total}], "the upstream billed calls that were never reserved")
	require.LessOrEqual(t, unseen.Requests, h.unseenCalls)
	for call, c := range calls {
		if c.id == "drain" {
			continue
		}
		bill := p.upstream.bills[call].billed
		charge := bill
		if c.lost {
			charge = c.estimate
			f.lost++
		}
		for _, s := range c.spans {
			charged[s] += charge
			billed[s] += bill
		}
	}
	for _, w := range last.windows {
		require.Equal(t, charged[w.span], w.Settled.Tokens, "settled is billed plus what the lost calls' estimates are above their bills (%s)", w.scope)
		require.Equal(t, USD(charged[w.span]), w.Settled.Cost)
	}
	first, used := &rules.limits[0], 0
	for _, w := range last.windows {
		if w.scope == rules.cuts[first.cut].scope {
			f.limit += first.max
			f.billed += billed[w.span]
			f.settled += w.Settled.Tokens
			if billed[w.span] > 0 {
				used++
			}
			require.LessOrEqual(t, billed[w.span], first.max)
			require.GreaterOrEqual(t, float64(w.Settled.Tokens), p.fills*float64(first.max))
		}
	}
	require.GreaterOrEqual(t, used, p.windows, "the work did not last past the end of a window")
	if p.kills+p.serverKills == 0 {
		require.Equal(t, f.billed, f.settled)
		require.Zero(t, f.lost)
	}
	f.answered = len(h.answers)
	return f
}

func spansOf(r *record, e *entry) (spans []span) {
	for _, number := range e.windows {
		spans = append(spans, r.numbered(number).span)
	}
	return spans
}

// history reads every record that held, in order.
func (p *plant) history() (records []*record) {
	p.readAll("KV_llm_budget", "$KV.llm_budget.acme", func(m jetstream.Msg, sequence uint64) {
		r, err := decodeRecord(m.Data(), sequence)
		require.NoError(p.t, err)
		records = append(records, r)
	})
	require.NotEmpty(p.t, records)
	return records
}

func (p *plant) answers() map[string]answer {
	answers := map[string]answer{}
	p.readAll("ANSWERS", "ANSWERS.*", func(m jetstream.Msg, _ uint64) {
		var a answer
		require.NoError(p.t, json.Unmarshal(m.Data(), &a))
		answers[strings.TrimPrefix(m.Subject(), "ANSWERS.")] = a
	})
	return answers
}

func (p *plant) readAll(stream, subject string, each func(jetstream.Msg, uint64)) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	consumer, err := p.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	require.NoError(p.t, err)
	if consumer.CachedInfo().NumPending == 0 {
		return
	}
	messages, err := consumer.Messages()
	require.NoError(p.t, err)
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		require.NoError(p.t, err)
		meta, err := m.Metadata()
		require.NoError(p.t, err)
		each(m, meta.Sequence.Stream)
		if meta.NumPending == 0 {
			return
		}
	}
}
