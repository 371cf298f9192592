package generate_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
)

// ledger keeps records in memory, as the bucket does.
type ledger struct {
	mu        sync.Mutex
	records   map[string]generate.Record
	responses map[string][]byte
	failing   int // records that fail before one succeeds
}

func newLedger() *ledger {
	return &ledger{records: map[string]generate.Record{}, responses: map[string][]byte{}}
}

func (l *ledger) Look(_ context.Context, requests []*stages.Request) ([]generate.Past, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	past := make([]generate.Past, len(requests))
	for i, r := range requests {
		past[i].Response = l.responses[r.Key()]
		if record, ok := l.records[r.RecordKey()]; ok {
			past[i].Paid = &record
		}
	}
	return past, nil
}

func (l *ledger) Record(_ context.Context, requests []*stages.Request, records []generate.Record) []generate.Recorded {
	l.mu.Lock()
	defer l.mu.Unlock()
	recorded := make([]generate.Recorded, len(requests))
	for i, r := range requests {
		recorded[i] = l.record(r, records[i])
	}
	return recorded
}

func (l *ledger) record(r *stages.Request, record generate.Record) generate.Recorded {
	if l.failing > 0 {
		l.failing--
		return generate.Recorded{Err: errors.New("no server")}
	}
	if first, ok := l.records[r.RecordKey()]; ok {
		return generate.Recorded{Record: first, Err: generate.ErrRecorded}
	}
	l.records[r.RecordKey()] = record
	return generate.Recorded{Record: record}
}

// caller answers as told and counts the calls.
type caller struct {
	mu    sync.Mutex
	calls int
	most  int
	now   int
	do    func(ctx context.Context, call schemas.Call) (schemas.Answer, error)
}

func (c *caller) Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	c.mu.Lock()
	c.calls++
	c.now++
	c.most = max(c.most, c.now)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.now--
		c.mu.Unlock()
	}()
	if c.do != nil {
		return c.do(ctx, call)
	}
	return schemas.Answer{Body: []byte(`{"choices":[]}`), Usage: schemas.Usage{PromptTokens: 3, TotalTokens: 3}}, nil
}

func newStage(workers int, l *ledger, c *caller) *generate.Stage {
	return generate.New(workers, generate.Deps{
		Ledger: l,
		Router: func(r *stages.Request) (generate.Route, error) {
			if r.Model == "none" {
				return generate.Route{}, schemas.Invalid(schemas.CodeModelNotFound, "model", "no such model")
			}
			return generate.Route{Model: "m", Provider: "p", Caller: c}, nil
		},
		Cost: func(string, schemas.Usage) float64 { return 0.5 },
	})
}

// verdicts collects what a stage decides.
type verdicts struct {
	mu   sync.Mutex
	got  map[*stages.Request]stages.Verdict
	done sync.WaitGroup
}

func run(ctx context.Context, s stages.Stage, requests ...*stages.Request) *verdicts {
	v := &verdicts{got: map[*stages.Request]stages.Verdict{}}
	v.done.Add(len(requests))
	s.Run(ctx, requests, func(r *stages.Request, verdict stages.Verdict) {
		v.mu.Lock()
		v.got[r] = verdict
		v.mu.Unlock()
		v.done.Done()
	})
	return v
}

func (v *verdicts) of(r *stages.Request) stages.Verdict {
	v.done.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.got[r]
}

func newRequest(id string) *stages.Request {
	r := &stages.Request{Deliveries: 1}
	r.Tenant, r.ID, r.Model, r.Kind, r.Body = "acme", id, "m", schemas.Chat, []byte(`{}`)
	return r
}

func TestTheSameMessageTwiceIsPaidOnce(t *testing.T) {
	l, c := newLedger(), &caller{}
	s := newStage(4, l, c)
	first, twin := newRequest("a"), newRequest("a")
	both := run(t.Context(), s, first, twin)
	require.Equal(t, stages.ActionContinue, both.of(first).Action)
	require.Equal(t, stages.ActionContinue, both.of(twin).Action)
	require.Equal(t, first.Answer, twin.Answer)

	late := newRequest("a")
	late.Deliveries = 2
	require.Equal(t, stages.ActionContinue, run(t.Context(), s, late).of(late).Action)
	require.Equal(t, 1, c.calls)
	require.Equal(t, 0.5, late.CostUSD)
	require.Equal(t, 1, late.Calls)

	l.responses["acme.a"] = []byte("stored")
	later := newRequest("a")
	require.Equal(t, stages.Done(), run(t.Context(), s, later).of(later))
	require.Equal(t, 1, c.calls)
}

func TestAnswersAreRecordedBeforeTheyGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c := newLedger(), &caller{}
		l.failing = 3
		r := newRequest("a")
		v := run(t.Context(), newStage(1, l, c), r)
		require.Equal(t, stages.ActionContinue, v.of(r).Action)
		require.Equal(t, 1, c.calls, "a record that fails is tried again, not the call")
		require.Contains(t, l.records, "acme.a")
	})
}

func TestAnotherProcessRecordedFirst(t *testing.T) {
	l, c := newLedger(), &caller{}
	c.do = func(context.Context, schemas.Call) (schemas.Answer, error) {
		l.mu.Lock()
		l.records["acme.a"] = generate.Record{Call: "theirs", Answer: []byte("first")}
		l.mu.Unlock()
		return schemas.Answer{Body: []byte("second")}, nil
	}
	r := newRequest("a")
	require.Equal(t, stages.ActionContinue, run(t.Context(), newStage(1, l, c), r).of(r).Action)
	require.Equal(t, "first", string(r.Answer), "all replicas go on with the same answer")
}

func TestFailuresEndOrAreTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		action stages.Action
		least  time.Duration
		most   time.Duration
	}{
		"busy":        {&schemas.CallError{Status: 503, Retryable: true, RetryAfter: 7 * time.Second}, stages.ActionRetry, 7 * time.Second, 7 * time.Second},
		"broken":      {&schemas.CallError{Status: 500, Retryable: true}, stages.ActionRetry, time.Millisecond, 501 * time.Millisecond},
		"bad request": {&schemas.CallError{Status: 400}, stages.ActionFail, 0, 0},
		"unknown":     {errors.New("what"), stages.ActionRetry, time.Millisecond, 501 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := &caller{do: func(context.Context, schemas.Call) (schemas.Answer, error) { return schemas.Answer{}, c.err }}
			r := newRequest("a")
			v := run(t.Context(), newStage(1, newLedger(), upstream), r).of(r)
			require.Equal(t, c.action, v.Action)
			require.GreaterOrEqual(t, v.After, c.least)
			require.LessOrEqual(t, v.After, c.most)
			require.ErrorIs(t, v.Err, c.err)
		})
	}
	r := newRequest("a")
	r.Model = "none"
	v := run(t.Context(), newStage(1, newLedger(), &caller{}), r).of(r)
	require.Equal(t, stages.ActionFail, v.Action)
}

func TestDeadlineAndCancelEndTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := &caller{do: func(ctx context.Context, _ schemas.Call) (schemas.Answer, error) {
			<-ctx.Done()
			return schemas.Answer{}, &schemas.CallError{Message: "interrupted", Retryable: true}
		}}
		s := newStage(2, newLedger(), hang)
		late := newRequest("late")
		late.Deadline = schemas.ToMillis(time.Now().Add(time.Second))
		cancelled := newRequest("cancelled")
		v := run(t.Context(), s, late, cancelled)
		synctest.Wait()
		s.Cancel("acme.cancelled")
		s.Cancel("acme.unknown")
		require.Equal(t, schemas.CodeDeadlineExceeded, schemas.AsError(v.of(late).Err).Code)
		require.Equal(t, schemas.CodeCancelled, schemas.AsError(v.of(cancelled).Err).Code)
	})
}

func TestWorkersBoundTheCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &caller{do: func(context.Context, schemas.Call) (schemas.Answer, error) {
			time.Sleep(time.Second) //nolint:forbidigo // the clock of a bubble goes on when all sleep
			return schemas.Answer{Body: []byte("{}")}, nil
		}}
		s := newStage(3, newLedger(), slow)
		var requests []*stages.Request
		for i := range 12 {
			requests = append(requests, newRequest(fmt.Sprint("r", i)))
		}
		begin := time.Now()
		v := run(t.Context(), s, requests...)
		v.done.Wait()
		require.Equal(t, 3, slow.most)
		require.Equal(t, 4*time.Second, time.Since(begin), "a worker that is done takes the next")
	})
}
