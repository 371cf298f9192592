package streams

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

const (
	// payloadReserve is what a request must leave of a message's room, for the
	// state and headers of its hand-offs.
	payloadReserve = 64 << 10
	// inMemoryWait is the longest wait for which a message keeps its place
	// among the unacknowledged; what waits longer goes to the later stream.
	inMemoryWait = 30 * time.Second
	// publishFirst and publishMost bound the growing wait between attempts of a
	// publish that the server did not take.
	publishFirst = 20 * time.Millisecond
	publishMost  = 2 * time.Second
	// publishLinger is how long a publish waits for company while at least
	// lingerHeld other requests are being worked on.
	publishLinger = time.Millisecond
	lingerHeld    = 32
)

// drainTries is how often a publish is tried before a process that is to stop
// leaves the message to others.
const drainTries = 5

// MaxRequest is how many bytes the body of a request may have on a server with
// the given limit on messages.
func MaxRequest(maxPayload int) int { return maxPayload - payloadReserve }

// outcome is a verdict on its way to be carried out.
type outcome struct {
	item     *item
	verdict  stages.Verdict
	messages []*nats.Msg // what it has published, once that is known
	tries    int         // publishes that failed so far
	size     int         // of the requests, about, where they share a message
	alone    bool        // not to share a message

	mu      sync.Mutex
	unacked int   // messages whose fate is not known
	failure error // of one that was not stored, the worst
}

// publish carries out verdicts until ctx ends: it publishes what they ask for,
// as much at a time as is there, awaits the acknowledgements and settles the inputs.
func (r *Runner) publish(ctx context.Context) {
	failed := make(chan *outcome, asyncPending)
	var settling sync.WaitGroup
	settling.Go(func() { r.settleAcked(ctx, failed) })
	defer settling.Wait()
	var again []*outcome
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.decided.wake:
			if list := r.gather(ctx); len(list) > 0 {
				r.publishAll(ctx, list)
			}
		case o := <-failed:
			again = append(again, o)
			if retry == nil {
				retry = time.After(backoff(o.tries, publishFirst, publishMost))
			}
		case <-retry:
			r.publishAll(ctx, again)
			again, retry = nil, nil
		}
	}
}

// gather takes what has been decided by now, and while much is being worked on
// also what is decided within a moment: it shares messages.
func (r *Runner) gather(ctx context.Context) []*outcome {
	list := r.decided.take()
	if len(list) > 0 && r.busy(len(list)) {
		sleep(ctx, publishLinger)
		list = append(list, r.decided.take()...)
	}
	return list
}

// busy reports whether much more is being worked on than what was decided.
func (r *Runner) busy(decided int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held-decided >= lingerHeld
}

func (r *Runner) publishAll(ctx context.Context, list []*outcome) {
	stored := r.storedResponses(ctx, list)
	for _, o := range r.together(list) {
		switch {
		case o.tries > 0: // the same messages again
		case replies(o.verdict) && stored[r.responseSubject(o.item)]:
			o.verdict = stages.Done()
		default:
			o.messages = r.build(o)
		}
		r.send(o)
	}
}

// replies reports whether a verdict makes a new response.
func replies(v stages.Verdict) bool {
	return v.Action == stages.ActionAnswer || v.Action == stages.ActionFail || v.Action == stages.ActionReject
}

// storedResponses finds which of the replies that are not the first attempt at
// their request are stored already. A publish that the stream refuses would
// still reach plain subscribers, who would see two answers.
func (r *Runner) storedResponses(ctx context.Context, list []*outcome) map[string]bool {
	var subjects []string
	for _, o := range list {
		if replies(o.verdict) && o.item.request.Deliveries > 1 && o.tries == 0 {
			subjects = append(subjects, r.responseSubject(o.item))
		}
	}
	if len(subjects) == 0 {
		return nil
	}
	found, err := r.get.Last(ctx, r.names.Responses(), subjects)
	if err != nil {
		return nil // the compare-and-swap decides all the same
	}
	stored := make(map[string]bool, len(found))
	for subject := range found {
		stored[subject] = true
	}
	return stored
}

func (r *Runner) responseSubject(it *item) string {
	tenant := it.request.Tenant
	if it.answerAs != "" {
		tenant = it.answerAs
	}
	return r.names.Response(tenant, it.request.ID)
}

// send publishes the messages of an outcome. Once the fate of all is known, the
// outcome is among the acked.
func (r *Runner) send(o *outcome) {
	if len(o.messages) == 0 {
		r.acked.add(o)
		return
	}
	o.unacked, o.failure = len(o.messages), nil
	told := func(_ jsx.Ack, err error) { r.told(o, err) }
	for _, m := range o.messages {
		if r.cfg.Local.publish(r, m) {
			told(jsx.Ack{}, nil)
		} else if err := r.publisher.Publish(m, told); err != nil {
			told(jsx.Ack{}, err) // it did not even leave
		}
	}
}

// told notes the fate of one message of an outcome.
func (r *Runner) told(o *outcome, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil && !jsx.IsWrongLastSequence(err) && (o.failure == nil || final(err)) { // else it was stored before: done
		o.failure = err
	}
	if o.unacked--; o.unacked == 0 {
		r.acked.add(o)
	}
}

// settleAcked settles outcomes whose messages are stored, and has those whose
// messages are not published again, until ctx ends.
func (r *Runner) settleAcked(ctx context.Context, failed chan<- *outcome) {
	for {
		select {
		case <-r.acked.wake:
			for _, o := range r.acked.take() {
				if o.failure == nil {
					r.settle(o)
				} else {
					r.failed(ctx, o, failed)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// failed has an outcome published again, changed where the same messages cannot
// be stored.
func (r *Runner) failed(ctx context.Context, o *outcome, failed chan<- *outcome) {
	switch {
	case final(o.failure):
		r.shrink(o)
	case o.verdict.Full != nil && full(o.failure):
		o.verdict = *o.verdict.Full
		o.messages = r.build(o)
	}
	o.tries++
	r.cfg.Metrics.publishFailed(stageName(r.steps[o.item.step].Name))
	if r.draining.Load() && o.tries >= drainTries {
		r.abandon(o)
		return
	}
	select {
	case failed <- o:
	case <-ctx.Done():
	}
}

// final reports whether publishing the same message again cannot succeed.
func final(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, nats.ErrMaxPayload) || errors.As(err, &api) && api.ErrorCode == 10054
}

// full reports that a stream takes no more for now.
func full(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeStoreFailed
}

// shrink replaces an outcome whose message is too large by what fits: requests
// that shared it go singly, and one alone gets an error that says so.
func (r *Runner) shrink(o *outcome) {
	if len(o.verdict.With) > 0 {
		r.part(o)
		o.messages = r.build(o)
		return
	}
	request := &o.item.request
	request.Answer, request.Original = nil, nil
	o.verdict = stages.Reject(schemas.Typed(&schemas.Error{
		Type: schemas.ResourceOptimizationType, Code: schemas.CodeTooLarge,
		Message: "the request and its answer together are larger than a message may be",
		Details: map[string]any{"limit": r.cfg.MaxPayload},
	}))
	o.messages = r.build(o)
}

// part leaves an outcome one request. The others are published as outcomes of
// their own.
func (r *Runner) part(o *outcome) {
	others := o.verdict.With
	o.verdict.With = nil
	if o.verdict.Action == stages.ActionSkip && o.verdict.Stage == stages.Compress {
		o.verdict = stages.Wait(0) // as before it was put aside
	}
	for _, other := range others {
		r.decided.add(&outcome{item: other.Ticket.(*item), verdict: o.verdict, alone: true})
	}
}

// build makes what a verdict has published: a hand-off, a response, or a dead
// letter beside its error response.
func (r *Runner) build(o *outcome) []*nats.Msg {
	it := o.item
	stage := r.steps[it.step].Name
	salvage(o, stage)
	v := o.verdict
	switch v.Action {
	case stages.ActionContinue, stages.ActionTogether:
		next, _ := stages.Next(stage)
		return r.handoff(o, next)
	case stages.ActionSkip:
		if v.Stage == stages.Generate { // back against the stream: another attempt
			it.request.Attempt++
		}
		return r.handoff(o, v.Stage)
	case stages.ActionAnswer:
		return r.answer(o)
	case stages.ActionFail:
		return []*nats.Msg{r.errorResponse(it, v.Err)}
	case stages.ActionReply:
		return []*nats.Msg{r.response(it, v.Response)}
	case stages.ActionReject:
		if it.request.ID == "" { // a hand-off that nobody can read: there is no one to answer
			return []*nats.Msg{r.deadLetter(it, v.Err)}
		}
		return []*nats.Msg{r.deadLetter(it, v.Err), r.errorResponse(it, v.Err)}
	case stages.ActionRetry:
		return r.retry(o, stage)
	case stages.ActionWait:
		switch {
		case stage != doorStep:
			return r.wait(o, stage)
		case v.After == 0:
			return r.putAside(o)
		}
		return r.paced(o)
	}
	return nil
}

// salvage has a request that was asked for a better answer end with the best so
// far where there is none to be had: that is no failure of the request.
func salvage(o *outcome, stage string) {
	request := &o.item.request
	if request.Best == nil || request.GivenUp() || stage == stages.Score {
		return
	}
	var why string
	switch v := o.verdict; v.Action {
	case stages.ActionFail, stages.ActionReject:
		if why = string(schemas.AsError(v.Err).Code); why == string(schemas.CodeCancelled) {
			return
		}
	case stages.ActionWait:
		if v.After <= inMemoryWait {
			return
		}
		why = "a wait of more than " + inMemoryWait.String()
	default:
		return
	}
	request.EndWithBest(why)
	o.verdict = stages.SkipTo(stages.Score)
}

// stageName is the stage that an application is told; the door is part of compress.
func stageName(step string) string {
	if step == doorStep {
		return stages.Compress
	}
	return step
}

// retry has the stage try again: a request that came alone, was not called and has cost nothing
// keeps its place and is delivered again; one that came in a batch, or from
// there, or whose state must be kept, goes on as a batch of one. Past the last attempt it is rejected with what went wrong.
func (r *Runner) retry(o *outcome, stage string) []*nats.Msg {
	it := o.item
	if failures(&it.request)+1 >= r.cfg.MaxDeliver {
		o.verdict = stages.Reject(o.verdict.Err)
		return r.build(o)
	}
	after := o.verdict.After
	if after <= 0 {
		after = backoff(failures(&it.request)+1, 500*time.Millisecond, inMemoryWait)
	}
	if stageName(stage) == stages.Compress || it.from.requests == 1 && it.request.NotBefore == 0 && !it.request.Retried && it.request.Earlier == (schemas.Spent{}) && after <= inMemoryWait {
		o.verdict.After = min(after, inMemoryWait)
		return nil // settled with a delayed negative acknowledgement
	}
	it.request.Failures = failures(&it.request) + 1
	return r.again(o, stage, after)
}

// wait has the stage look again later. It counts as no failure, so the request
// is published anew: its deliveries begin at one again.
func (r *Runner) wait(o *outcome, stage string) []*nats.Msg {
	request := &o.item.request
	after := max(o.verdict.After, time.Millisecond)
	if stageName(stage) == stages.Compress || request.NotBefore.Time().After(time.Now()) && after <= inMemoryWait && o.item.from.requests == 1 {
		o.verdict = stages.Verdict{Action: stages.ActionRetry, After: after} // came before its time: its place is kept
		return nil
	}
	request.Failures = failures(request)
	return r.again(o, stage, after)
}

// again publishes the request anew to its own stage, not to be worked before
// the given time has passed.
func (r *Runner) again(o *outcome, stage string, after time.Duration) []*nats.Msg {
	request := &o.item.request
	request.Attempt++
	o.verdict = stages.SkipTo(stage)
	due := time.Now().Add(after)
	if after > inMemoryWait && r.cfg.LaterFull != nil && r.cfg.LaterFull() {
		after, due = inMemoryWait, time.Now().Add(inMemoryWait)
	}
	if after > inMemoryWait {
		request.NotBefore = 0
		return r.later(o, stage, due)
	}
	request.NotBefore = schemas.ToMillis(due)
	return r.handoffTo(o, r.names.handoffOf(stage, &request.State), stage)
}

// putAside publishes the requests of a flood to where they come back from when
// there is time for them.
func (r *Runner) putAside(o *outcome) []*nats.Msg {
	request := &o.item.request
	o.verdict = stages.Verdict{Action: stages.ActionSkip, Stage: stages.Compress, With: o.verdict.With}
	return r.handoffTo(o, r.names.LaterDue(stages.Compress, request.Class, request.Tenant), "aside")
}

// handoff makes the message to the next stage: one request, or the batch that
// the verdict names.
func (r *Runner) handoff(o *outcome, stage string) []*nats.Msg {
	request := &o.item.request
	request.NotBefore, request.Failures = 0, 0
	for _, other := range o.verdict.With {
		other.NotBefore, other.Failures = 0, 0
	}
	return r.handoffTo(o, r.names.handoffOf(stage, &request.State), stage)
}

func (r *Runner) handoffTo(o *outcome, subject, stage string) []*nats.Msg {
	m := &nats.Msg{Subject: subject, Header: nats.Header{
		HeaderVersion:         handoffVersion,
		jetstream.MsgIDHeader: []string{handoffID(stage, o)},
	}}
	data, err := r.encode(make([]byte, 0, r.sizeOf(o)), &o.item.request)
	for _, other := range o.verdict.With {
		if err == nil {
			data, err = r.encode(data, other)
		}
	}
	if err != nil { // a state that JSON has no form for
		r.part(o)
		o.verdict = stages.Reject(err)
		return r.build(o)
	}
	m.Data = data
	return []*nats.Msg{m}
}

var handoffVersion = []string{strconv.Itoa(schemas.HandoffVersion)}

// handoffID is what makes the server drop a hand-off that was published before.
func handoffID(stage string, o *outcome) string {
	request := &o.item.request
	id := stage + "/" + request.Tenant + "/" + request.ID + "/" + strconv.Itoa(request.Attempt)
	if len(o.verdict.With) == 0 {
		return id
	}
	members := fnv.New64a()
	for _, other := range o.verdict.With {
		_, _ = members.Write([]byte(other.ID))
		_, _ = members.Write([]byte{'/', byte(other.Attempt)})
	}
	return id + "+" + strconv.FormatUint(members.Sum64(), 36)
}

func (r *Runner) sizeOf(o *outcome) int {
	size := requestSize(&o.item.request)
	for _, other := range o.verdict.With {
		size += requestSize(other)
	}
	return size
}

// stateSize and attemptSize are what the state line of a hand-off may need.
const (
	stateSize   = 1024
	attemptSize = 256
)

func requestSize(request *stages.Request) int {
	return len(request.Body) + len(request.Original) + len(request.Answer) + len(request.Options) + stateSizeOf(request)
}

func stateSizeOf(request *stages.Request) int {
	return stateSize + len(request.Attempts)*attemptSize
}

// encode appends a request. One that has grown too large leaves behind what
// can be had elsewhere: the original body, then the answer, which is recorded.
func (r *Runner) encode(data []byte, request *stages.Request) ([]byte, error) {
	h := request.Handoff
	if requestSize(request) > r.cfg.MaxPayload {
		h.Original = nil
	}
	if len(h.Body)+len(h.Answer)+stateSizeOf(request) > r.cfg.MaxPayload && h.Answer != nil {
		h.Answer, h.AnswerRecorded = nil, true
	}
	return schemas.AppendHandoff(data, &h)
}

func (r *Runner) answer(o *outcome) []*nats.Msg {
	body, err := schemas.AnswerResponse(&o.item.request.Handoff)
	if err != nil {
		o.verdict = stages.Reject(err)
		return r.build(o)
	}
	return []*nats.Msg{r.response(o.item, body)}
}

func (r *Runner) errorResponse(it *item, err error) *nats.Msg {
	return r.response(it, schemas.ErrorResponse(&it.request.State, stageName(r.steps[it.step].Name), err))
}

// response makes the one response to a request: stored only if none is.
func (r *Runner) response(it *item, body []byte) *nats.Msg {
	m := &nats.Msg{Subject: r.responseSubject(it), Data: body, Header: nats.Header{
		jetstream.ExpectedLastSubjSeqHeader: []string{"0"},
		HeaderBody:                          []string{it.request.BodyHash},
		HeaderSequence:                      []string{strconv.FormatUint(it.request.Sequence, 10)},
	}}
	if key := cmp.Or(it.request.Found, it.request.Fingerprint); key != "" {
		m.Header[HeaderKey] = []string{key}
	}
	return m
}
