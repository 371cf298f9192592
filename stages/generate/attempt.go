package generate

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"time"

	mathrand "math/rand/v2"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate/limit"
)

const (
	// maxRefusals is how often a request that a provider refuses for its limits
	// waits in memory for another place; then it goes back to the stream.
	maxRefusals = 8
	// retryFirst and retryMost bound the wait before a request that failed is
	// tried again: any time up to retryFirst, doubled with each failure (full
	// jitter: Brooker, "Exponential Backoff And Jitter", AWS 2015).
	retryFirst = 500 * time.Millisecond
	retryMost  = 30 * time.Second
	// maxTries is how often a request may be what tries whether a provider is
	// back, or be refused for the provider's limits. Neither is a failure of the
	// request, but it may be what the provider fails at, or refuses for ever.
	maxTries = 50
)

// attempt is a request on its way to an answer: through the limits of the
// provider and the budget of the tenant to a model, and to that model's
// fallbacks where it fails. Each call on the way is reserved and settled on its own.
type attempt struct {
	*Stage
	flight   *flight
	r        *stages.Request
	worker   bool      // it has one
	patience time.Time // until when it waits in memory

	left       []Route // models that may still be called, in order
	route      Route   // the model that is called now
	place      *limit.Place
	call       schemas.Call
	refusals   int
	downgrades int
	again      bool // the request failed before

	until time.Time // when the first call's timeout ends; zero is never
	tried []schemas.Tried
	spent schemas.Spent // on calls that failed
}

// work gets the leader of a flight its answer and has that recorded, or ends the
// flight. The worker, which it may have already, is free as soon as the call has
// ended: kept tells that the caller still has it.
func (s *Stage) work(ctx, call context.Context, f *flight, worker bool) (kept bool) {
	r := f.leader.request
	a := &attempt{Stage: s, flight: f, r: r, worker: worker, patience: time.Now().Add(maxPark), again: r.Retried}
	verdict, record := a.answer(call)
	if record != nil {
		s.recorder.add(&answered{context.WithoutCancel(ctx), f, r, *record})
	} else {
		a.dismiss()
		s.end(ctx, f, verdict)
	}
	return a.worker
}

// answer gives the record of the answer, or what becomes of a request without one.
func (a *attempt) answer(ctx context.Context) (verdict stages.Verdict, record *Record) {
	r := a.r
	route, err := a.deps.Router(r)
	if err != nil {
		return stages.Fail(err), nil
	}
	a.left, a.tried = append([]Route{route}, route.Fallback...), slices.Clone(route.Passed)
	ctx, cancel := untilDeadline(ctx, r)
	defer cancel()
	if ctx.Err() != nil { // cancelled while it waited for another
		return a.ended(ctx, ctx.Err()), nil
	}
	r.Calls += triesBefore(r)
	for {
		verdict, ready := a.prepare(ctx)
		if !ready {
			return verdict, nil
		}
		answer, err := a.run(ctx)
		if err == nil {
			return verdict, a.record(answer)
		}
		a.dismiss()
		if verdict, over := a.failed(ctx, err); over {
			return verdict, nil
		}
	}
}

func untilDeadline(ctx context.Context, r *stages.Request) (context.Context, context.CancelFunc) {
	if r.Deadline == 0 {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, r.Deadline.Time())
}

// triesBefore counts the deliveries before this one, which may have called; the
// one before its time of a request that had to wait did not.
func triesBefore(r *stages.Request) int {
	n := max(r.Deliveries, 1) - 1
	if r.NotBefore > 0 && n > 0 {
		n--
	}
	return n
}

// prepare gets the request a place with a provider, what it may cost and a
// worker, in this order: what waits for one of them holds none of the later.
func (a *attempt) prepare(ctx context.Context) (verdict stages.Verdict, ready bool) {
	for {
		if verdict, ok := a.enter(ctx); !ok {
			return verdict, false
		}
		a.call = schemas.Call{ID: rand.Text(), Model: a.route.Model, Body: a.r.Body, Embeddings: a.r.Kind == schemas.Embeddings}
		verdict, granted, over := a.reserve(ctx)
		if granted {
			break
		}
		if a.place != nil {
			a.leave()
		}
		if over {
			return verdict, false
		}
	}
	a.hire()
	a.Stage.prepare(a.r, a.route, &a.call)
	return stages.Verdict{}, true
}

// enter takes a place for the first of the models that are left which can be
// called soon. Where none can, it waits for the first.
func (a *attempt) enter(ctx context.Context) (verdict stages.Verdict, ok bool) {
	waitFor := 0
	for i, route := range a.left {
		place, busy := a.deps.Limits.TryEnter(a.ask(route))
		if place != nil {
			a.choose(i, place)
			break
		}
		if !busy.Long {
			waitFor = i
			break
		}
	}
	if a.place == nil {
		if verdict, ok = a.wait(ctx, waitFor); !ok {
			return verdict, false
		}
	}
	if a.late(a.route) {
		a.leave()
		return stages.Fail(noTimeLeft(a.r)), false
	}
	return stages.Verdict{}, true
}

func (a *attempt) ask(route Route) limit.Ask {
	ask := limit.Ask{Provider: route.Provider, Model: route.Model, Batch: a.r.Class == schemas.Batch, Retry: a.again, Embeddings: a.r.Kind == schemas.Embeddings}
	if a.deps.Tokens != nil {
		ask.Tokens = a.deps.Tokens(a.r, route)
	}
	return ask
}

// choose goes on with a model and passes over those before it.
func (a *attempt) choose(i int, place *limit.Place) {
	for _, passed := range a.left[:i] {
		a.tried = append(a.tried, schemas.Tried{Model: passed.Model, Provider: passed.Provider, Error: schemas.CodeProviderUnavailable})
	}
	a.route, a.left, a.place = a.left[i], a.left[i+1:], place
}

// wait waits for a place without a worker, as long as it may.
func (a *attempt) wait(ctx context.Context, i int) (verdict stages.Verdict, ok bool) {
	route := a.left[i]
	if a.late(route) {
		return stages.Fail(noTimeLeft(a.r)), false
	}
	a.dismiss()
	if !a.parking.Enter(a.r) {
		return stages.Wait(jittered(unpark)), false
	}
	defer a.parking.Leave(a.r)
	until := a.patience
	if latest := a.latest(route); !latest.IsZero() && latest.Before(until) {
		until = latest
	}
	waiting, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	defer context.AfterFunc(a.draining, cancel)()
	place, err := a.deps.Limits.Enter(waiting, a.ask(route))
	switch {
	case err == nil:
		a.choose(i, place)
		return stages.Verdict{}, true
	case ctx.Err() != nil:
		return a.ended(ctx, ctx.Err()), false
	case a.draining.Err() != nil:
		return handedBack, false
	case a.late(route):
		return stages.Fail(noTimeLeft(a.r)), false
	}
	return stages.Wait(jittered(unpark)), false
}

// leave gives up a place without a call.
func (a *attempt) leave() {
	a.place.Leave(limit.Outcome{Kind: limit.NotCalled})
	a.place = nil
}

// latest is when a call must begin for its answer to come in time; zero is any time.
func (a *attempt) latest(route Route) time.Time {
	if a.r.Deadline == 0 {
		return time.Time{}
	}
	return a.r.Deadline.Time().Add(-a.deps.Limits.Typical(route.Provider, route.Model))
}

func (a *attempt) late(route Route) bool {
	latest := a.latest(route)
	return !latest.IsZero() && !time.Now().Before(latest)
}

func (a *attempt) hire() {
	if !a.worker {
		a.workers.hire()
		a.worker = true
	}
}

func (a *attempt) dismiss() {
	if a.worker {
		a.worker = false
		a.workers.relieve()
	}
}

// run makes the call. The place is free when it has ended.
func (a *attempt) run(ctx context.Context) (schemas.Answer, error) {
	a.r.Calls++
	if a.r.Stream && a.deps.Deltas != nil {
		a.call.Delta = a.flight.turn.Streams(a.deps.Deltas(a.r))
	}
	a.flight.turn.Sent(time.Now())
	a.place.Begin()
	if a.until.IsZero() && a.deps.Timeout != nil {
		if timeout := a.deps.Timeout(a.route.Provider); timeout > 0 {
			a.until = time.Now().Add(timeout)
		}
	}
	answer, took, err := a.Stage.call(ctx, a.r, a.route, a.call)
	outcome := OutcomeOf(ctx, answer, err)
	outcome.Took = took
	if a.deps.Says != nil {
		outcome.Calls, outcome.AllTokens, outcome.Says = a.deps.Says(a.route)
	}
	a.place.Leave(outcome)
	return answer, err
}

// OutcomeOf says what a call tells of its provider.
func OutcomeOf(ctx context.Context, answer schemas.Answer, err error) limit.Outcome {
	if err == nil {
		return limit.Outcome{Kind: limit.Went, Tokens: answer.Usage.CompletionTokens, Used: answer.Usage.TotalTokens}
	}
	failure, ok := errors.AsType[*schemas.CallError](err)
	switch {
	case ctx.Err() != nil:
		return limit.Outcome{Kind: limit.Ended}
	case !ok:
		return limit.Outcome{Kind: limit.Failed}
	}
	o := limit.Outcome{Kind: limit.Failed, RetryAfter: failure.RetryAfter, Used: failure.Usage.TotalTokens}
	switch {
	case !failure.Retryable:
		o.Kind, o.RetryAfter = limit.Declined, 0
	case refusal(failure):
		o.Kind = limit.Refused
	case failure.Status == 504 || failure.Status == 408,
		failure.Status == 0 && errors.Is(err, context.DeadlineExceeded):
		o.Kind = limit.Stalled
	}
	return o
}

// statusOverloaded is Anthropic's.
const statusOverloaded = 529

func refusal(failure *schemas.CallError) bool {
	return failure.Status == 429 || failure.Status == statusOverloaded
}

// record is the proof of an answer.
func (a *attempt) record(answer schemas.Answer) *Record {
	a.r.Selected = schemas.Selected{Because: a.route.Because, Probability: a.route.Probability, Tried: a.tried}
	return &Record{
		Call: a.call.ID, Model: a.route.Model, Provider: a.route.Provider, Calls: a.r.Calls,
		Usage: answer.Usage, CostUSD: a.deps.Cost(a.route.Model, answer.Usage), Answer: answer.Body, Failed: a.spent,
	}
}

// failed says what becomes of a request whose call brought no answer; over is
// false where another call follows.
func (a *attempt) failed(ctx context.Context, err error) (verdict stages.Verdict, over bool) {
	a.settleFailed(context.WithoutCancel(ctx), a.r, a.call, a.route, err)
	try := a.place.Try
	a.place = nil
	failure, _ := errors.AsType[*schemas.CallError](err)
	if failure != nil {
		a.spent.Usage = a.spent.Usage.Add(failure.Usage)
		a.spent.CostUSD += a.deps.Cost(a.route.Model, failure.Usage)
	}
	a.tried = append(a.tried, schemas.Tried{Model: a.route.Model, Provider: a.route.Provider, Error: schemas.AsError(err).Code})
	switch {
	case ctx.Err() != nil:
		return a.ended(ctx, err), true
	case failure != nil && !failure.Retryable:
		return a.end(stages.Fail(err)), true
	case len(a.left) > 0 && (a.until.IsZero() || time.Now().Before(a.until)):
		a.again = false // it is new to the next model
		return stages.Verdict{}, false
	case failure != nil && refusal(failure) && a.r.Calls < maxTries:
		return a.refused(failure)
	}
	a.r.Earlier.Usage = a.r.Earlier.Usage.Add(a.spent.Usage)
	a.r.Earlier.CostUSD += a.spent.CostUSD
	a.r.Retried = true
	if try && a.r.Calls < maxTries {
		return stages.Wait(a.pause(failure)), true
	}
	return stages.Retry(a.withTried(err), a.pause(failure)), true
}

// refused has a request that came too soon wait for its turn: that is no failure.
func (a *attempt) refused(failure *schemas.CallError) (verdict stages.Verdict, over bool) {
	if a.refusals++; a.refusals >= maxRefusals || time.Now().Add(failure.RetryAfter).After(a.patience) {
		return stages.Wait(max(failure.RetryAfter, jittered(unpark))), true
	}
	if failure.RetryAfter >= unpark {
		return stages.Wait(failure.RetryAfter), true
	}
	a.tried = a.tried[:len(a.tried)-1]
	a.left = append([]Route{a.route}, a.left...)
	return stages.Verdict{}, false
}

// pause is how long a request that failed waits: as the provider asks, else any
// time up to a bound that grows.
func (a *attempt) pause(failure *schemas.CallError) time.Duration {
	if failure != nil && failure.RetryAfter > 0 {
		return failure.RetryAfter
	}
	failures := min(a.r.Failures+triesBefore(a.r), 6)
	return jittered(min(retryMost, retryFirst<<failures))
}

// jittered is any time up to most, and not none.
func jittered(most time.Duration) time.Duration {
	return time.Millisecond + time.Duration(mathrand.Int64N(int64(most)))
}

// ended says what becomes of a request that was cancelled or is out of time.
func (a *attempt) ended(ctx context.Context, err error) stages.Verdict {
	a.mu.Lock()
	cancelled := a.flight.cancelled
	a.mu.Unlock()
	switch {
	case cancelled:
		return a.end(stages.Fail(wasCancelled()))
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return a.end(stages.Fail(deadlinePassed()))
	}
	return stages.Retry(err, 0)
}

// end has the response show what failed calls cost.
func (a *attempt) end(verdict stages.Verdict) stages.Verdict {
	a.r.Usage = a.r.Usage.Add(a.spent.Usage)
	a.r.CostUSD += a.spent.CostUSD
	verdict.Err = a.withTried(verdict.Err)
	return verdict
}

// withTried adds to an error which models were tried, if there were several.
func (a *attempt) withTried(err error) error {
	if len(a.tried) < 2 {
		return err
	}
	shown := *schemas.AsError(err)
	shown.Details = maps.Clone(shown.Details)
	if shown.Details == nil {
		shown.Details = map[string]any{}
	}
	shown.Details["tried"] = a.tried
	return triedError{err, &shown}
}

// triedError is an error that is shown to the application with more details.
type triedError struct {
	error
	shown *schemas.Error
}

func (e triedError) Unwrap() []error { return []error{e.shown, e.error} }

func noTimeLeft(r *stages.Request) error {
	called := "nothing was called"
	if r.Calls > 0 {
		called = "it was not called again"
	}
	return &schemas.Error{
		Type: schemas.TimeoutError, Code: schemas.CodeDeadlineExceeded, Param: "processor.deadline",
		Message: "the model takes longer than is left until the deadline; " + called,
	}
}
