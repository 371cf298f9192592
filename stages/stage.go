// Package stages holds the contract of the pipeline's steps. A stage works on
// requests and says what happens next; it knows neither streams nor servers,
// and it never acknowledges anything.
package stages

import (
	"context"
	"fmt"
	"time"

	"github.com/adpa/processor/schemas"
)

// The names of the stages, in the order of the pipeline.
const (
	Compress = "compress"
	Cache    = "cache"
	Batch    = "batch"
	Generate = "generate"
	Score    = "score"
)

// Names lists the stages in the order of the pipeline.
var Names = []string{Compress, Cache, Batch, Generate, Score}

// Next gives the stage behind the named one; the last has none.
func Next(name string) (string, bool) {
	for i, n := range Names[:len(Names)-1] {
		if n == name {
			return Names[i+1], true
		}
	}
	return "", false
}

// Request is one request in a process. It belongs to the stage that was given
// it until the stage has decided; its bodies are read-only and may be replaced.
type Request struct {
	schemas.Handoff

	// Deliveries is how often the message that carries the request was
	// delivered: 1 the first time. More means that somebody may have worked on it.
	Deliveries int

	// Ticket belongs to the runner.
	Ticket any

	options *schemas.Options
}

// Asked gives the request's processor object, read when first asked for. It was
// validated when the request was accepted.
func (r *Request) Asked() *schemas.Options {
	if r.options == nil {
		r.options = new(schemas.Options)
		if len(r.Options) > 0 {
			if options, err := schemas.ParseOptions(r.Options); err == nil {
				*r.options = options
			}
		}
	}
	return r.options
}

// For gives a context that says for which request something is done.
func For(ctx context.Context, r *Request) context.Context {
	return context.WithValue(ctx, forRequest{}, r)
}

// RequestOf gives the request for which something is done, nil where ctx does not say.
func RequestOf(ctx context.Context) *Request {
	r, _ := ctx.Value(forRequest{}).(*Request)
	return r
}

type forRequest struct{}

// Decide tells the runner what happens next to a request. It is called exactly
// once for each (the others of a Together are decided with it), from any
// goroutine, in any order, also after Run has returned.
type Decide func(*Request, Verdict)

// Stage is one step of the pipeline.
type Stage interface {
	// Run works on a slice of requests and decides each, at once or later. It
	// blocks while the stage cannot take more. ctx ends only when the process
	// must stop at once: a drain finishes what was taken.
	Run(ctx context.Context, requests []*Request, decide Decide)
}

// Func is a stage that decides each request of a slice at once: verdicts[i]
// belongs to requests[i].
type Func func(ctx context.Context, requests []*Request) []Verdict

// Run implements Stage.
func (f Func) Run(ctx context.Context, requests []*Request, decide Decide) {
	for i, verdict := range f(ctx, requests) {
		decide(requests[i], verdict)
	}
}

// Before gives a stage that looks at each request first: what first decides is
// done with, the rest goes on to the stage.
func Before(first func(ctx context.Context, r *Request) (verdict Verdict, decided bool), next Stage) Stage {
	return before{first, next}
}

type before struct {
	first func(context.Context, *Request) (Verdict, bool)
	next  Stage
}

func (b before) Run(ctx context.Context, requests []*Request, decide Decide) {
	rest := make([]*Request, 0, len(requests))
	for _, r := range requests {
		if verdict, decided := b.first(ctx, r); decided {
			decide(r, verdict)
		} else {
			rest = append(rest, r)
		}
	}
	if len(rest) > 0 {
		b.next.Run(ctx, rest, decide)
	}
}

// Action is the kind of a verdict.
type Action int

// What may happen to a request next.
const (
	ActionContinue Action = iota // on to the next stage
	ActionSkip                   // on to the named stage
	ActionAnswer                 // done: the request's Answer is the response
	ActionFail                   // done: an error response, as one of the ordinary outcomes
	ActionReply                  // done: the given bytes are the response, as one that is stored already
	ActionRetry                  // failed; the same stage tries again later
	ActionWait                   // not its turn yet; the same stage tries again later, and that is no failure
	ActionReject                 // cannot be answered: an error response and a dead letter
	ActionTogether               // on to the next stage, in one message with others
	ActionDone                   // done before: nothing is published
)

// Verdict is what a stage decided.
type Verdict struct {
	Action   Action
	Stage    string        // of ActionSkip
	Response []byte        // of ActionReply
	Err      error         // of ActionFail, ActionRetry and ActionReject
	After    time.Duration // of ActionRetry and ActionWait; 0 leaves it to the runner
	With     []*Request    // of ActionTogether: the others
	Full     *Verdict      // of ActionSkip: what becomes of the request if the stage's stream takes no more; nil waits
}

// Continue sends the request on to the next stage.
func Continue() Verdict { return Verdict{Action: ActionContinue} }

// SkipTo sends the request to the named stage.
func SkipTo(stage string) Verdict { return Verdict{Action: ActionSkip, Stage: stage} }

// SkipBackTo sends the request to a stage before this one. Since that goes
// against the stream, it is not waited for room there: full happens instead.
func SkipBackTo(stage string, full Verdict) Verdict {
	return Verdict{Action: ActionSkip, Stage: stage, Full: &full}
}

// Answer ends the request with its Answer and what is known of it.
func Answer() Verdict { return Verdict{Action: ActionAnswer} }

// Fail ends the request with an error response. It leaves no dead letter: a
// deadline, a budget or a cancellation did what it is there for.
func Fail(err error) Verdict { return Verdict{Action: ActionFail, Err: err} }

// Reply ends the request with a response that is there already.
func Reply(response []byte) Verdict { return Verdict{Action: ActionReply, Response: response} }

// Done ends a request that was answered before: whoever asked has its answer.
func Done() Verdict { return Verdict{Action: ActionDone} }

// Retry has the same stage try again after the given time, or the runner's
// growing delay if that is 0. It counts as a failure: past max_deliver failures
// the request is rejected with err.
func Retry(err error, after time.Duration) Verdict {
	return Verdict{Action: ActionRetry, Err: err, After: after}
}

// Wait has the same stage look again after the given time. It is no failure.
func Wait(after time.Duration) Verdict { return Verdict{Action: ActionWait, After: after} }

// Reject ends the request with an error response and a dead letter.
func Reject(err error) Verdict { return Verdict{Action: ActionReject, Err: err} }

// Together sends the request on to the next stage in one message with others
// of the same tenant and class, which are decided by this too. They settle singly later.
func Together(others []*Request) Verdict { return Verdict{Action: ActionTogether, With: others} }

func (a Action) String() string {
	switch a {
	case ActionContinue:
		return "continue"
	case ActionSkip:
		return "skip"
	case ActionAnswer:
		return "answer"
	case ActionFail:
		return "fail"
	case ActionReply:
		return "reply"
	case ActionRetry:
		return "retry"
	case ActionWait:
		return "wait"
	case ActionReject:
		return "reject"
	case ActionTogether:
		return "continue"
	case ActionDone:
		return "done"
	}
	return fmt.Sprintf("action(%d)", int(a))
}
