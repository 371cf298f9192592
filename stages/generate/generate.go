package generate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate/limit"
	"github.com/adpa/processor/stages/generate/prefix"
)

// Caller calls a model. Its errors are *schemas.CallError.
type Caller interface {
	Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error)
}

// Past is what is known of a request before anything is paid for it.
type Past struct {
	Response []byte  // stored: the request is done
	Paid     *Record // recorded: the answer is there, only not stored yet
}

// Record is the proof that a request was paid.
type Record struct {
	Call     string
	Model    string
	Provider string
	Calls    int // made for the request so far
	Usage    schemas.Usage
	CostUSD  float64
	Answer   []byte
	Failed   schemas.Spent // on calls before it that brought no answer
}

// ErrRecorded is a record that somebody else made first.
var ErrRecorded = errors.New("the request has a recorded answer")

// Ledger knows what was paid. It is safe for concurrent use.
type Ledger interface {
	// Look tells the past of each request, in a constant number of round trips.
	Look(ctx context.Context, requests []*stages.Request) ([]Past, error)
	// Record writes the proofs of requests, all at once, before anything else is
	// done with their answers, and tells what became of each.
	Record(ctx context.Context, requests []*stages.Request, records []Record) []Recorded
}

// Recorded is what became of a record. With ErrRecorded it is the one that was
// there first; after other errors the outcome is unknown, and it may be written again.
type Recorded struct {
	Record Record
	Err    error
}

// Route is the model that a request goes to.
type Route struct {
	Model    string // the provider's name of it
	Provider string
	Because  string
	// Probability is that with which the model was chosen, 0 where there was no choice.
	Probability float64
	Caller      Caller
	// Fallback are the models to take instead, in this order, while this one fails.
	Fallback []Route
	// Passed are the models that cannot take the request, and why; the response names them.
	Passed []schemas.Tried
}

// Router chooses a model. An error is the application's, as model_not_found.
type Router func(r *stages.Request) (Route, error)

// Deps is what the stage works with.
type Deps struct {
	Ledger Ledger
	Router Router
	// Cost gives the price of a call in US dollars.
	Cost func(model string, usage schemas.Usage) float64
	// Budget keeps tenants within what they may use up. May be nil.
	Budget Budget
	// Answered is told of each new answer once it is recorded, as for the cache.
	// It must not block; it calls kept once equal requests find the answer, or
	// when they never will. May be nil.
	Answered func(r *stages.Request, record Record, kept func())
	// Shared is told of each request that got the answer to an equal one. May be nil.
	Shared func()
	// Flights lets equal requests in all processes share a call. Without it
	// (nil) those of this process do.
	Flights Flights
	// Deltas begins a streamed answer: what it gives takes the chunks, in order.
	// May be nil.
	Deltas func(r *stages.Request) (send func(chunk []byte))
	// Prepare sets the parameters that the product chooses for a call: it gives
	// the body to send instead of the given one and an object of what it set, or
	// nil for both. May be nil.
	Prepare func(r *stages.Request, route Route, body []byte) (sent, parameters []byte)
	// Called is told how each call went. It must not block. May be nil.
	Called func(Called)
	// Prefixes has requests with a long common beginning follow the first of
	// them. Nil has nobody wait.
	Prefixes *prefix.Gate
	// Limits keep calls within what providers take. Nil is no limits.
	Limits *limit.Limiter
	// Tokens estimates what a call may use, for what a provider allows in a
	// minute. May be nil.
	Tokens func(r *stages.Request, route Route) int
	// Timeout is how long after its first call a request may go to fallbacks; 0
	// is for ever. May be nil.
	Timeout func(provider string) time.Duration
	// Says gives what the provider has last said of its limits. May be nil.
	Says func(route Route) (calls, tokens limit.Said, said bool)
}

// Called is how a call went.
type Called struct {
	Request *stages.Request // must not be kept
	Route   Route
	Took    time.Duration
	First   time.Duration // until the first chunk of a streamed answer; 0 if it was not streamed
	Answer  schemas.Answer
	Err     error // a *schemas.CallError, or that of the context
}

// Stage calls the models: each request on its own, no more at a time than
// there are workers. What is recorded is never paid again.
type Stage struct {
	deps     Deps
	workers  *workers
	recorder recorder

	draining context.Context // ends when no more calls are to be begun
	drain    context.CancelFunc

	parked atomic.Int64 // requests that wait for budget, without a worker

	parking *stages.Parking // of those that wait for equal ones

	mu      sync.Mutex
	flights map[string]*flight // by the key of the lease
	calls   map[string]*flight // those whose call is made here, by the key of the record to be
}

// New makes the stage with the given number of workers.
func New(workers int, deps Deps) *Stage {
	if deps.Limits == nil {
		deps.Limits = limit.New(nil)
	}
	draining, drain := context.WithCancel(context.Background())
	s := &Stage{
		draining: draining, drain: drain,
		deps: deps, workers: newWorkers(draining, workers),
		parking: stages.NewParking(MaxFollowers, MaxFollowerBytes),
		flights: map[string]*flight{}, calls: map[string]*flight{},
	}
	s.recorder = recorder{ledger: deps.Ledger, crew: &s.workers.crew, done: s.recorded}
	return s
}

// Drain has calls that have begun end, and gives back what has not begun, for
// other processes to take. A request that comes after it is given back too.
func (s *Stage) Drain() {
	s.drain()
	s.workers.clear()
}

// handedBack is what becomes of a request whose call a draining process does not begin.
var handedBack = stages.Wait(time.Millisecond)

// Parking is where requests wait for the answers to equal ones.
func (s *Stage) Parking() *stages.Parking { return s.parking }

// Run implements stages.Stage. It blocks while all workers have a call.
func (s *Stage) Run(ctx context.Context, requests []*stages.Request, decide stages.Decide) {
	past, err := s.deps.Ledger.Look(ctx, requests)
	if err != nil { // nothing may be paid on a guess
		for _, r := range requests {
			decide(r, stages.Wait(time.Second))
		}
		return
	}
	fresh := make([]*stages.Request, 0, len(requests))
	for i, r := range requests {
		if !s.decidePast(ctx, r, past[i], decide) {
			fresh = append(fresh, r)
		}
	}
	s.begin(ctx, fresh, decide)
}

// decidePast decides a request that was answered before.
func (s *Stage) decidePast(ctx context.Context, r *stages.Request, past Past, decide stages.Decide) bool {
	switch {
	case past.Response != nil:
		decide(r, stages.Done())
	case past.Paid != nil:
		s.settle(ctx, r, *past.Paid) // whoever recorded it may have died before
		use(r, *past.Paid)
		decide(r, stages.Continue())
	default:
		return false
	}
	return true
}

// Idle reports whether a worker has nothing to do.
func (s *Stage) Idle() bool { return s.workers.idle() }

// prepare sets the parameters that the product chooses, beside those that the
// budget has set.
func (s *Stage) prepare(r *stages.Request, route Route, call *schemas.Call) {
	if s.deps.Prepare == nil {
		return
	}
	sent, parameters := s.deps.Prepare(r, route, call.Body)
	if sent == nil {
		return
	}
	call.Body, call.Untuned = sent, call.Body
	if len(r.Parameters) == 0 {
		r.Parameters = parameters
		return
	}
	schemas.Members(parameters, func(name []byte, _, value schemas.Span) bool {
		r.Parameters = schemas.SetMember(r.Parameters, string(name), value.Of(parameters))
		return true
	})
}

// call calls the model and tells how it went, and how long it took.
func (s *Stage) call(ctx context.Context, r *stages.Request, route Route, call schemas.Call) (answer schemas.Answer, took time.Duration, err error) {
	begun := time.Now()
	var first time.Duration
	if delta := call.Delta; delta != nil {
		call.Delta = func(chunk []byte) {
			if first == 0 {
				first = time.Since(begun)
			}
			delta(chunk)
		}
	}
	answer, err = route.Caller.Generate(ctx, call)
	took = time.Since(begun)
	if s.deps.Called != nil {
		s.deps.Called(Called{Request: r, Route: route, Took: took, First: first, Answer: answer, Err: err})
	}
	return answer, took, err
}

func wasCancelled() error {
	return &schemas.Error{Type: schemas.InvalidRequestError, Code: schemas.CodeCancelled, Message: "the request was cancelled while it ran"}
}

func deadlinePassed() error {
	return &schemas.Error{Type: schemas.TimeoutError, Code: schemas.CodeDeadlineExceeded, Param: "processor.deadline", Message: "the deadline passed while the model was working"}
}

// use gives a request its answer. What answers before it cost adds up, and the
// tokens stay those of the prompt as it was asked first.
func use(r *stages.Request, record Record) {
	r.Answer, r.Calls = record.Answer, record.Calls
	r.Usage = r.Earlier.Usage.Add(record.Failed.Usage).Add(record.Usage)
	r.CostUSD = r.Earlier.CostUSD + record.Failed.CostUSD + record.CostUSD
	r.Selected.Model, r.Selected.Provider = record.Model, record.Provider
	if r.Round == 0 {
		r.Tokens.Bill(record.Usage.PromptTokens)
	}
}
