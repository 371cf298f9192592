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
	answers := p.answers()
	calls := map[string]*seen{}
	rules := compile(p.budgets)
	for i, r := range records {
		p.withinLimits(rules, r.record)
		for id, e := range r.open {
			if calls[e.call] == nil {
				calls[e.call] = &seen{id: id, estimate: e.estimate.Tokens, spans: spansOf(r.record, e)}
			}
		}
		if i > 0 {
			markLost(calls, records[i-1].record, r, answers)
		}
	}
	return p.account(records[len(records)-1].record, rules, calls, answers)
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

// markLost marks the calls that left the record at their estimate: those that
// no answer names, those that another call replaced, and those that were reaped.
func markLost(calls map[string]*seen, before *record, now revision, answers map[string]answer) {
	for id, e := range before.open {
		next := now.open[id]
		if next != nil && next.call == e.call {
			continue
		}
		recorded := answers[id].Call == e.call
		calls[e.call].lost = !recorded || next != nil
	}
}

// account compares the final record with the bills.
func (p *plant) account(last *record, rules *rules, calls map[string]*seen, answers map[string]answer) (f findings) {
	t := p.t
	require.Empty(t, last.open)
	p.upstream.mu.Lock()
	defer p.upstream.mu.Unlock()
	for call := range p.upstream.bills {
		require.Contains(t, calls, call, "the upstream billed a call that was never reserved")
	}
	charged, billed := map[span]int64{}, map[span]int64{}
	for call, c := range calls {
		if c.id == "drain" {
			continue
		}
		charge := p.upstream.bills[call]
		require.LessOrEqual(t, charge, c.estimate, "a call was billed twice or above its estimate")
		if c.lost {
			charge = c.estimate
			f.lost++
		}
		for _, s := range c.spans {
			charged[s] += charge
			billed[s] += p.upstream.bills[call]
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
	f.answered = len(answers)
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
