package main

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/streams"
)

// ledger knows what was answered and what was paid, from the responses stream
// and the bucket of recorded answers.
type ledger struct {
	answers   *kv.Answers
	responses *streams.Responses
}

// Look implements generate.Ledger: two reads for a slice, at the same time. A
// request that was delivered before is read from the leader, since somebody may
// have answered it a moment ago.
func (l *ledger) Look(ctx context.Context, requests []*stages.Request) ([]generate.Past, error) {
	past := make([]generate.Past, len(requests))
	keys, recordKeys := make([]string, len(requests)), make([]string, len(requests))
	for i, r := range requests {
		keys[i], recordKeys[i] = r.Key(), r.RecordKey()
	}
	var responses map[string][]byte
	var records map[string]kv.Record
	reads, readCtx := errgroup.WithContext(ctx)
	reads.Go(func() (err error) {
		responses, err = l.responses.Find(readCtx, keys)
		return err
	})
	reads.Go(func() (err error) {
		records, err = l.answers.Find(readCtx, recordKeys)
		return err
	})
	if err := reads.Wait(); err != nil {
		return nil, err
	}
	for i, r := range requests {
		past[i].Response = responses[keys[i]]
		record, found := records[recordKeys[i]]
		if !found && past[i].Response == nil && r.Deliveries > 1 {
			var err error
			if record, found, err = l.answers.FindNow(ctx, recordKeys[i]); err != nil {
				return nil, err
			}
		}
		if found {
			paid := fromRecord(record)
			past[i].Paid = &paid
		}
	}
	return past, nil
}

// Record implements generate.Ledger: one round trip for all.
func (l *ledger) Record(ctx context.Context, requests []*stages.Request, records []generate.Record) []generate.Recorded {
	keys, proofs := make([]string, len(requests)), make([]kv.Record, len(requests))
	for i, record := range records {
		keys[i], proofs[i] = requests[i].RecordKey(), kv.Record{
			Call: record.Call, Model: record.Model, Provider: record.Provider, Calls: record.Calls,
			Usage: record.Usage, CostUSD: record.CostUSD, Failed: record.Failed, Answer: record.Answer,
		}
	}
	recorded := make([]generate.Recorded, len(requests))
	for i, err := range l.answers.CreateAll(ctx, keys, proofs) {
		if recorded[i].Err = err; errors.Is(err, kv.ErrRecorded) {
			recorded[i] = l.first(ctx, keys[i], records[i].Call)
		}
	}
	return recorded
}

// first gives the record that another call made before, unless that is the call
// itself, in an attempt whose outcome was unknown.
func (l *ledger) first(ctx context.Context, key, call string) generate.Recorded {
	first, found, err := l.answers.FindNow(ctx, key)
	if err != nil || !found || first.Call == call {
		return generate.Recorded{Err: err}
	}
	return generate.Recorded{Record: fromRecord(first), Err: generate.ErrRecorded}
}

func fromRecord(r kv.Record) generate.Record {
	return generate.Record{
		Call: r.Call, Model: r.Model, Provider: r.Provider, Calls: r.Calls,
		Usage: r.Usage, CostUSD: r.CostUSD, Failed: r.Failed, Answer: r.Answer,
	}
}
