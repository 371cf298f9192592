package budget

import (
	"context"
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
	h := &history{plant: p, answers: p.answers(), calls: map[string]*seen{}}
	rules := compile(p.budgets)
	for i, r := range records {
		p.withinLimits(rules, r.record)
		for id, e := range r.open {
			if h.calls[e.call] == nil {
				h.calls[e.call] = &seen{id: id, estimate: e.estimate.Tokens, spans: spansOf(r.record, e)}
			}
		}
		if i > 0 {
			h.markLost(records[i-1], r)
		}
	}
	return h.account(records[len(records)-1].record, rules)
}

// history is what happened to every call that was ever reserved.
type history struct {
	*plant
	answers map[string]answer
	calls   map[string]*seen // by call
	// unseen is what was charged for calls that were reserved and lost in one
	// write, so that no record shows them open: two deliveries of a request that
	// waited in one process for a server that was away.
	unseen Amount
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

// markLost marks the calls that left the record at their estimate: those that no
// answer names, and of those whose answer came late, which another call replaced
// or which were reaped unless they settled in the same write, the ones that the
// record's own sum of lost calls shows.
func (h *history) markLost(before, now revision) {
	lost := totalOf(now.record).Lost.minus(totalOf(before.record).Lost)
	var late []*seen
	for id, e := range before.open {
		next := now.open[id]
		if next != nil && next.call == e.call || id == "drain" {
			continue
		}
		c := h.calls[e.call]
		switch {
		case h.answers[id].Call != e.call:
			c.lost = true
			lost = lost.minus(Amount{Tokens: c.estimate, Requests: 1})
		case next != nil || e.until < now.stored.UnixMilli():
			late = append(late, c)
		}
	}
	if lost.Requests == 0 {
		return
	}
	if int64(len(late)) > lost.Requests {
		late = pick(late, lost)
		require.NotNil(h.t, late, "revision %d: no choice of the late calls adds up to what was lost", now.revision)
	}
	for _, c := range late {
		c.lost = true
		lost = lost.minus(Amount{Tokens: c.estimate, Requests: 1})
	}
	h.unseen = h.unseen.plus(lost)
}

// pick chooses the calls whose number and estimates are those of an amount.
func pick(calls []*seen, sum Amount) []*seen {
	for set := range 1 << min(len(calls), 16) {
		var chosen []*seen
		var total Amount
		for i, c := range calls {
			if set>>i&1 == 1 {
				chosen = append(chosen, c)
				total = total.plus(Amount{Tokens: c.estimate, Requests: 1})
			}
		}
		if total.Tokens == sum.Tokens && total.Requests == sum.Requests {
			return chosen
		}
	}
	return nil
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
	charged, billed := map[span]int64{}, map[span]int64{}
	if h.unseen.Requests > 0 {
		charged[span{scope: Total}] = h.unseen.Tokens
		f.lost = int(h.unseen.Requests)
	}
	unseen := Amount{}
	for call, b := range p.upstream.bills {
		require.LessOrEqual(t, b.billed, b.estimate, "a call was billed twice or above its estimate")
		if calls[call] == nil {
			unseen = unseen.plus(Amount{Tokens: b.estimate, Requests: 1})
			billed[span{scope: Total}] += b.billed
		}
	}
	require.LessOrEqual(t, unseen.Tokens, h.unseen.Tokens, "the upstream billed calls that were never reserved")
	require.LessOrEqual(t, unseen.Requests, h.unseen.Requests)
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

// revision is one record that held.
type revision struct {
	*record
	stored time.Time
}

func (p *plant) history() (records []revision) {
	p.readAll("KV_llm_budget", "$KV.llm_budget.acme", func(m jetstream.Msg, sequence uint64, stored time.Time) {
		r, err := decodeRecord(m.Data(), sequence)
		require.NoError(p.t, err)
		records = append(records, revision{r, stored})
	})
	require.NotEmpty(p.t, records)
	require.True(p.t, slices.IsSortedFunc(records, func(a, b revision) int { return a.stored.Compare(b.stored) }))
	return records
}

func (p *plant) answers() map[string]answer {
	answers := map[string]answer{}
	p.readAll("ANSWERS", "ANSWERS.*", func(m jetstream.Msg, _ uint64, _ time.Time) {
		var a answer
		require.NoError(p.t, json.Unmarshal(m.Data(), &a))
		answers[strings.TrimPrefix(m.Subject(), "ANSWERS.")] = a
	})
	return answers
}

func (p *plant) readAll(stream, subject string, each func(jetstream.Msg, uint64, time.Time)) {
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
		each(m, meta.Sequence.Stream, meta.Timestamp)
		if meta.NumPending == 0 {
			return
		}
	}
}
