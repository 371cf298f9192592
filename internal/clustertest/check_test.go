package clustertest

import (
	"context"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// found is what the streams say after a test.
type found struct {
	responses, failed, calls, repeats, dead int
	billed, settled, lost, lostCalls        int
	rescued                                 int // requests that replicas worked again because they missed the answer
}

// check waits until all that was accepted is answered and reads what must hold:
//
//   - every accepted id has one response, stored once, and the archive has it;
//   - nothing waits in a stream, no lease is held and no reservation open;
//   - nothing was given up;
//   - where the tenant has a budget, what is settled is what was billed, with
//     the estimates of calls whose outcome is unknown, and not above the limit.
func (p *plant) check(ids []string) found {
	p.t.Helper()
	defer func() {
		if p.t.Failed() {
			p.tellMissing(ids)
		}
	}()
	p.awaitResponses(len(ids), 5*time.Minute)
	p.awaitNothingLeft()
	f := found{}
	responses := p.read("LLM_RESPONSES")
	answered := map[string]int{}
	for _, m := range responses {
		var body struct {
			Choices []json.RawMessage `json:"choices"`
		}
		require.NoError(p.t, json.Unmarshal(m.Data(), &body))
		if len(body.Choices) == 0 {
			f.failed++
			p.t.Logf("no answer: %s", m.Data())
		}
		answered[last(m.Subject())]++
	}
	var state jetstream.StreamState
	p.await(time.Minute, "the responses have no leader", func() bool {
		info, err := p.info("LLM_RESPONSES")
		if err == nil {
			state = info.State
		}
		return err == nil
	})
	var err error
	f.responses = len(responses)
	require.Equal(p.t, state.Msgs, state.LastSeq-state.FirstSeq+1, "a response was stored twice")
	p.requireEach(ids, answered, "responses")
	f.dead = int(p.messages("LLM_DEAD"))
	require.Zero(p.t, f.dead, "dead letters")
	require.Zero(p.t, f.failed, "errors instead of answers")
	p.checkArchive(ids)
	f.rescued = p.rescued()
	f.calls, f.repeats, _, _, err = p.upstream.UpstreamStats()
	require.NoError(p.t, err)
	p.checkBudget(&f)
	return f
}

var rescuedPattern = regexp.MustCompile(`lost in it are worked again" requests=(\d+)`)

// rescued counts what replicas worked again after trouble, as their logs say.
func (p *plant) rescued() (n int) {
	for _, r := range p.replicas {
		text, err := os.ReadFile(r.log.Name())
		require.NoError(p.t, err)
		for _, match := range rescuedPattern.FindAllSubmatch(text, -1) {
			requests, err := strconv.Atoi(string(match[1]))
			require.NoError(p.t, err)
			n += requests
		}
	}
	return n
}

func last(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

// requireEach requires that each id was found, and none more than once.
func (p *plant) requireEach(ids []string, times map[string]int, what string) {
	p.t.Helper()
	var missing, twice []string
	for _, id := range ids {
		switch times[id] {
		case 0:
			missing = append(missing, id)
		case 1:
		default:
			twice = append(twice, id)
		}
	}
	require.Empty(p.t, missing, "%s: %d of %d accepted ids are missing", what, len(missing), len(ids))
	require.Empty(p.t, twice, "%s: twice", what)
}

// checkArchive waits until the archive has every accepted id. Copying pauses for
// up to ten seconds when a server has restarted or a leader moved.
func (p *plant) checkArchive(ids []string) {
	p.t.Helper()
	missing := len(ids)
	defer func() {
		if p.t.Failed() {
			p.t.Logf("%d accepted ids are not in the archive", missing)
		}
	}()
	p.await(2*time.Minute, "the archive misses accepted requests", func() bool {
		if p.messages("LLM_ARCHIVE") < uint64(len(ids)) {
			return false
		}
		archived := map[string]bool{}
		for _, m := range p.read("LLM_ARCHIVE") {
			archived[m.Headers().Get("Llm-Id")] = true
		}
		missing = 0
		for _, id := range ids {
			if !archived[id] {
				missing++
			}
		}
		return missing == 0
	})
}

// stageStreams hold messages on their way.
var stageStreams = []string{"LLM_CACHE", "LLM_BATCH", "LLM_GENERATE", "LLM_SCORE", "LLM_LATER"}

// awaitNothingLeft waits until nothing is on its way and nothing is held.
func (p *plant) awaitNothingLeft() {
	p.t.Helper()
	left := ""
	defer func() {
		if p.t.Failed() {
			p.t.Logf("left behind: %s; %s", left, p.whereabouts())
		}
	}()
	p.await(2*time.Minute, "something is left behind", func() bool {
		left = p.leftBehind()
		return left == ""
	})
}

func (p *plant) leftBehind() string {
	for _, name := range stageStreams {
		info, err := p.info(name)
		if err != nil {
			return name + ": " + err.Error()
		}
		if info.State.Msgs > 0 {
			return "messages in " + name
		}
	}
	ctx, cancel := p.soon()
	defer cancel()
	c, err := p.js.Consumer(ctx, "LLM_REQUESTS", "compress")
	if err != nil {
		return err.Error()
	}
	if info := c.CachedInfo(); info.NumPending > 0 || info.NumAckPending > 0 {
		return "requests"
	}
	if os.Getenv("PROCESSOR_SLOW") == "" {
		return "" // the leases of answered calls take 15 s to run out
	}
	for _, m := range p.read("KV_llm_leases") {
		if len(m.Data()) > 0 {
			return "the lease " + m.Subject()
		}
	}
	return ""
}

// read gives what a stream holds now; nil where it cannot be read.
func (p *plant) read(stream string) (list []jetstream.Msg) {
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	consumer, err := p.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	if err != nil || consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil
		}
		list = append(list, m)
		if meta, err := m.Metadata(); err != nil || meta.NumPending == 0 {
			return list
		}
	}
}

// tellMissing tells what is known of accepted ids without a response: where on its
// way a request was lost, and when it came.
func (p *plant) tellMissing(ids []string) {
	answered := map[string]bool{}
	for _, m := range p.read("LLM_RESPONSES") {
		answered[last(m.Subject())] = true
	}
	for _, m := range p.read("LLM_DEAD") {
		p.t.Logf("given up: %s %v %.300s", m.Subject(), m.Headers(), m.Data())
	}
	told := 0
	for i, id := range ids {
		if answered[id] || told == 20 {
			continue
		}
		told++
		p.t.Logf("%s, accepted as number %d, behind %s, has no response", id, i, ids[max(0, i-1)])
		for _, line := range p.trail.of(id) {
			p.t.Logf("  %s", line)
		}
		p.tellStored("LLM_ARCHIVE", func(m jetstream.Msg) bool { return m.Headers().Get("Llm-Id") == id })
		p.tellStored("KV_llm_answers", func(m jetstream.Msg) bool { return strings.HasSuffix(m.Subject(), "."+id) })
	}
}

// tellStored tells which messages of a stream are of the kind that is looked for.
func (p *plant) tellStored(stream string, wanted func(jetstream.Msg) bool) {
	for _, m := range p.read(stream) {
		if meta, err := m.Metadata(); err == nil && wanted(m) {
			p.t.Logf("  %s has it as %d, of %s, %v, %.300s", stream, meta.Sequence.Stream, meta.Timestamp.Format(time.StampMilli), m.Headers(), m.Data())
		}
	}
	if info, err := p.info(stream); err == nil {
		p.t.Logf("  %s: messages %d, sequences %d to %d, %d deleted", stream, info.State.Msgs, info.State.FirstSeq, info.State.LastSeq, info.State.NumDeleted)
	}
}

// record is what the ledger keeps of a tenant, as far as it is looked at here.
type record struct {
	Settled []struct {
		Scope string `json:"scope"`
		usage
		Lost usage `json:"lost"`
	} `json:"settled"`
	Open map[string]struct {
		Estimate usage `json:"estimate"`
		Until    int64 `json:"until"`
	} `json:"open"`
}

type usage struct {
	Tokens   int `json:"tokens"`
	Requests int `json:"requests"`
}

func (p *plant) ledger() (r record, found bool) {
	ctx, cancel := p.soon()
	defer cancel()
	s, err := p.js.Stream(ctx, "KV_llm_budget")
	if err != nil {
		return r, false
	}
	m, err := s.GetLastMsgForSubject(ctx, "$KV.llm_budget."+tenant)
	if err != nil {
		return r, false
	}
	require.NoError(p.t, json.Unmarshal(m.Data, &r))
	return r, true
}

// checkBudget compares the ledger with the upstream's bill. A reservation that
// a killed process left for a request that others answered is charged when its
// time is over, by whoever writes next.
func (p *plant) checkBudget(f *found) {
	p.t.Helper()
	if !strings.Contains(p.set.more, "budgets:") {
		return
	}
	extra := 900_000
	p.await(6*time.Minute, "reservations are left open", func() bool {
		r, ok := p.ledger()
		if !ok {
			return false
		}
		late := int64(0)
		for _, e := range r.Open {
			late = max(late, e.Until)
		}
		if len(r.Open) > 0 && time.Now().UnixMilli() > late {
			before := p.messages("LLM_RESPONSES")
			p.publish(extra, 1)
			extra++
			p.awaitResponses(int(before)+1, time.Minute)
		}
		return len(r.Open) == 0
	})
	var err error
	f.billed, f.calls, err = p.upstream.UpstreamBill()
	require.NoError(p.t, err)
	r, _ := p.ledger()
	i := slices.IndexFunc(r.Settled, func(w struct {
		Scope string `json:"scope"`
		usage
		Lost usage `json:"lost"`
	}) bool {
		return w.Scope == "total"
	})
	require.GreaterOrEqual(p.t, i, 0, "the ledger has no total")
	w := r.Settled[i]
	f.settled, f.lost, f.lostCalls = w.Tokens, w.Lost.Tokens, w.Lost.Requests
	const bill = 30 // tokens that the fake bills for a call
	known := w.Requests - w.Lost.Requests
	require.Equal(p.t, known*bill, f.settled-f.lost, "what is settled for known calls is what they billed")
	require.LessOrEqual(p.t, known, f.calls, "calls were settled that the upstream did not see")
	require.LessOrEqual(p.t, f.calls, w.Requests, "the upstream saw calls that were charged to nobody")
	require.LessOrEqual(p.t, f.billed, f.settled, "more was billed than settled")
	require.LessOrEqual(p.t, f.settled, budgetLimit, "more was settled than the limit")
}

// budgetLimit is what the tenant may use in all, in tests with a budget.
const budgetLimit = 50_000_000

const budgetSection = `budgets: [{tenant: acme, total_limit: 50000000}]`
