package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/streams"
)

type budgetRebuildCmd struct{ jsonFlag }

// Help is shown by --help.
func (*budgetRebuildCmd) Help() string {
	return "Each difference is shown, and corrected where that is safe: sums are raised at any time, and lowered only if the responses reach back to the window's begin " +
		"and nothing was under way. What is charged for lost calls stays. A window that was reset is counted from then on. Past that, processor budget reset sets a window to zero."
}

// Run reads all stored responses and prints the differences.
func (c *budgetRebuildCmd) Run(a *app) error {
	b, err := a.budgetBook()
	if err != nil {
		return err
	}
	defer b.close()
	stored := &storedSpend{js: b.js, names: b.names}
	from, err := stored.completeSince(a.ctx)
	if err != nil {
		return err
	}
	differences, err := b.Rebuild(a.ctx, from, stored.read(a.ctx))
	if c.JSON {
		return errors.Join(printJSON(a.stdout, differences), err)
	}
	return errors.Join(c.print(a, stored, differences), err)
}

func (c *budgetRebuildCmd) print(a *app, stored *storedSpend, differences []budget.Difference) error {
	if stored.partial != "" {
		fmt.Fprintf(a.stderr, "sums are only raised: %s\n", stored.partial)
	}
	if len(differences) == 0 {
		_, err := fmt.Fprintf(a.stdout, "no differences: the ledger agrees with %s\n", plural(stored.count, "response"))
		return err
	}
	var rows [][]string
	applied := 0
	for _, d := range differences {
		done := "no"
		if d.Applied {
			done = "yes"
			applied++
		}
		rows = append(rows, []string{d.Tenant, string(d.Window), local(d.Start), d.Model, amount(d.Recorded), amount(d.Rebuilt), done})
	}
	if err := writeTable(a.stdout, []string{"tenant", "window", "since", "model", "recorded", "rebuilt", "corrected"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "%s from %s, %d corrected\n", plural(len(differences), "difference"), plural(stored.count, "response"), applied)
	return err
}

func amount(m budget.Amount) string {
	return fmt.Sprintf("%s, $%s, %s", plural(int(m.Tokens), "token"), m.Cost, plural(int(m.Requests), "request"))
}

// storedSpend reads what was paid from the stored responses.
type storedSpend struct {
	js      jetstream.JetStream
	names   streams.Names
	count   int    // responses that were read
	partial string // why the responses are not the whole of what was paid; empty if they are
}

// completeSince gives the time from which on the responses show all that was
// paid: zero if they do for as long as there has been a ledger, and now if they
// cannot be relied on, so that nothing is lowered.
func (s *storedSpend) completeSince(ctx context.Context) (time.Time, error) {
	now := time.Now()
	first, err := s.first(ctx)
	if err != nil {
		return time.Time{}, err
	}
	waiting, err := s.underWay(ctx)
	if err != nil {
		return time.Time{}, err
	}
	if waiting > 0 {
		s.partial = fmt.Sprintf("%s under way may be paid already", plural(int(waiting), "request"))
		return now, nil
	}
	responses, err := s.stream(ctx, s.names.Responses())
	if err != nil {
		return time.Time{}, err
	}
	ledger, err := s.stream(ctx, "KV_"+s.names.Bucket("budget"))
	if err != nil {
		return time.Time{}, err
	}
	state := responses.State
	switch {
	case state.NumDeleted > 0 || state.Msgs == 0 && state.LastSeq > 0:
		s.partial = "responses were deleted"
		return now, nil
	case state.FirstSeq > 1:
		return state.FirstTime, nil
	case responses.Created.After(first.Created) || responses.Created.Sub(ledger.Created) > provisioning:
		return responses.Created, nil // they were made anew
	}
	return time.Time{}, nil
}

// provisioning is how long it takes at most to set up everything. The consumer
// of requests comes last, so that nothing is charged before there are responses.
const provisioning = time.Minute

// noStreams says of a stream or consumer that is missing that nothing was set up.
func noStreams(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
		return streams.ErrNoStreams
	}
	return err
}

// underWay counts the requests without a stored response: what they have paid
// for may be in the ledger already. Those that the first stage took stay in
// their stream until the archive has them, so there it is the consumer that counts.
func (s *storedSpend) underWay(ctx context.Context) (n uint64, err error) {
	list := []string{s.names.Later()}
	for _, stage := range stages.Names[1:] {
		list = append(list, s.names.Stage(stage))
	}
	for _, name := range list {
		info, err := s.stream(ctx, name)
		if err != nil {
			return 0, err
		}
		n += info.State.Msgs
	}
	first, err := s.first(ctx)
	if err != nil {
		return 0, err
	}
	return n + first.NumPending + uint64(first.NumAckPending), nil
}

// first gives the state of the consumer of requests.
func (s *storedSpend) first(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	consumer, err := s.js.Consumer(ctx, s.names.Requests(), stages.Compress)
	if err != nil {
		return nil, fmt.Errorf("reading what waits for %s: %w", stages.Compress, noStreams(err))
	}
	return consumer.CachedInfo(), nil
}

func (s *storedSpend) stream(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	stream, err := s.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("reading stream %s: %w", name, noStreams(err))
	}
	return stream.CachedInfo(), nil
}

// responsesAhead bounds the bytes of responses that are fetched ahead.
const responsesAhead = 16 << 20

// read gives what was paid for each stored response, the oldest first, up to
// those that were stored when it began.
func (s *storedSpend) read(ctx context.Context) iter.Seq2[budget.Spend, error] {
	return func(yield func(budget.Spend, error) bool) {
		if err := s.each(ctx, yield); err != nil {
			yield(budget.Spend{}, err)
		}
	}
}

func (s *storedSpend) each(ctx context.Context, yield func(budget.Spend, error) bool) error {
	return jsx.Each(ctx, s.js, s.names.Responses(), jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg, meta *jetstream.MsgMetadata) (bool, error) {
		spend, paid, err := s.spend(m, meta)
		if err != nil {
			return false, err
		}
		s.count++
		return !paid || yield(spend, nil), nil
	}, jetstream.PullMaxBytes(responsesAhead))
}

func (s *storedSpend) spend(m jetstream.Msg, meta *jetstream.MsgMetadata) (budget.Spend, bool, error) {
	tenant := strings.Split(m.Subject(), ".")[2] // as Names.Response makes them
	spend, paid, err := budget.ReadSpend(tenant, meta.Timestamp, m.Data())
	if err != nil {
		return budget.Spend{}, false, fmt.Errorf("%s: %w", m.Subject(), err)
	}
	return spend, paid, nil
}
