package streams

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// delivery is one message that the runner took. It is acknowledged once all
// the requests in it are settled.
type delivery struct {
	msg       jetstream.Msg
	lane      int
	taken     time.Time
	delivered int    // how often, this time included
	requests  int    // that it holds
	open      int    // of these, not settled; only the acknowledging goroutine touches it
	sequence  uint64 // in its stream
	nak       time.Duration
	term      string // why it is ended for good, if it is
	abandoned bool   // left to other replicas
}

// receive decodes a message and puts its requests into the queue of the step
// that the source feeds. What cannot be worked is decided here.
func (r *Runner) receive(s *source, msg jetstream.Msg) int {
	meta, err := msg.Metadata()
	if err != nil {
		return 0 // no JetStream message: nothing to acknowledge
	}
	if s.durable.stream == r.names.Requests() {
		r.crowding.behind.Store(int64(meta.NumPending))
		if r.overtaker.passed(meta.Sequence.Stream) {
			_ = msg.Ack() // a lost one means a redelivery, which ends here too
			return 1
		}
	}
	d := &delivery{msg: msg, lane: s.lane, taken: time.Now(), delivered: int(meta.NumDelivered), sequence: meta.Sequence.Stream, requests: 1, open: 1}
	if s.durable.stream == r.names.Requests() {
		r.receiveRequest(s, d, meta)
	} else {
		r.receiveHandoffs(s, d, meta)
	}
	return d.requests
}

// receiveRequest takes what an application published.
func (r *Runner) receiveRequest(s *source, d *delivery, meta *jetstream.MsgMetadata) {
	it := &item{from: d, step: s.step, entered: meta.Timestamp, started: d.taken}
	it.request.Ticket, it.request.Deliveries = it, d.delivered
	err := r.admit(&it.request, d.msg, meta)
	r.hold(d, 1)
	r.cfg.Metrics.delivered(s.durable.stage, d.delivered)
	switch {
	case err != nil:
		r.decided.add(&outcome{item: it, verdict: stages.Reject(err)})
	case r.cancelled(&it.request):
		r.decided.add(&outcome{item: it, verdict: stages.Fail(cancelledError())})
	case d.delivered > r.cfg.MaxDeliver:
		r.decided.add(&outcome{item: it, verdict: stages.Reject(tooOften(d.delivered))})
	default:
		r.steps[s.step].queue.push(it)
	}
}

// admit reads a request from its message: who asks, under which id, and what.
// The state is filled as far as it can be even where an error is returned, so
// that the error reaches the application.
func (r *Runner) admit(request *stages.Request, msg jetstream.Msg, meta *jetstream.MsgMetadata) error {
	request.Body = msg.Data()
	request.State = schemas.State{
		ID: schemas.SequenceID(meta.Sequence.Stream), Tenant: schemas.NoTenant, Class: schemas.Interactive,
		Sequence: meta.Sequence.Stream, Accepted: schemas.ToMillis(meta.Timestamp), Kind: schemas.Chat,
	}
	tenant, err := r.names.TenantOf(msg.Subject())
	if err != nil || !schemas.ValidName(tenant) {
		request.Ticket.(*item).answerAs = tenant
		return schemas.Invalid(schemas.CodeInvalidField, "tenant", "the tenant in subject %.120q is not 1 to %d characters of A-Z a-z 0-9 _ -", msg.Subject(), schemas.MaxNameLength)
	}
	request.Tenant = tenant
	header := msg.Headers()
	if err := admitID(request, header); err != nil {
		return err
	}
	request.BodyHash = schemas.Fingerprint(request.Body)
	if limit := MaxRequest(r.cfg.MaxPayload); len(request.Body) > limit {
		return schemas.Invalid(schemas.CodeTooLarge, "", "the body has %d bytes, a request may have %d", len(request.Body), limit)
	}
	parsed, err := schemas.Parse(request.Body)
	if err != nil {
		return err
	}
	request.Kind, request.Model, request.Stream = parsed.Kind, parsed.Model, parsed.Stream
	if span, ok := schemas.Member(request.Body, "processor"); ok {
		request.Options = span.Of(request.Body)
	}
	return admitUrgency(request, &parsed.Options, header)
}

func admitID(request *stages.Request, header nats.Header) error {
	given := header.Get(HeaderID)
	if given == "" {
		return nil
	}
	if !schemas.ValidID(given) {
		e := schemas.Invalid(schemas.CodeInvalidField, HeaderID, "the id is not 1 to %d characters of A-Z a-z 0-9 _ - with at least one that is no digit; the answer is under the message's sequence", schemas.MaxNameLength)
		e.Details = map[string]any{"given_id": clipText(given, 200)}
		return e
	}
	request.ID = given
	return nil
}

// admitUrgency reads class, deadline and trace; where body and headers both
// say something, the body wins.
func admitUrgency(request *stages.Request, options *schemas.Options, header nats.Header) error {
	if trace := header.Get(HeaderTrace); len(trace) <= 128 && printable(trace) {
		request.Trace = trace
	}
	class, err := schemas.ParseClass(header.Get(HeaderPriority))
	if options.Priority != "" {
		class, err = options.Priority, nil
	}
	if err != nil {
		return schemas.Invalid(schemas.CodeInvalidField, HeaderPriority, "%v", err)
	}
	request.Class = class
	request.Deadline = schemas.ToMillis(options.Deadline)
	if text := header.Get(HeaderDeadline); text != "" && options.Deadline.IsZero() {
		deadline, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return schemas.Invalid(schemas.CodeInvalidField, HeaderDeadline, "%.60q is no time like 2026-12-01T00:00:00Z (RFC 3339)", text)
		}
		request.Deadline = schemas.ToMillis(deadline)
	}
	if request.Expired(time.Now()) {
		return deadlinePassed(&request.State)
	}
	return nil
}

func deadlinePassed(s *schemas.State) *schemas.Error {
	return &schemas.Error{
		Type: schemas.TimeoutError, Code: schemas.CodeDeadlineExceeded, Param: "processor.deadline",
		Message: fmt.Sprintf("the deadline %s has passed; nothing was called", s.Deadline.Time().Format(time.RFC3339)),
		Details: map[string]any{"deadline": s.Deadline.Time().Format(time.RFC3339)},
	}
}

func tooOften(delivered int) *schemas.Error {
	return &schemas.Error{
		Type: schemas.ServerError, Code: schemas.CodeMaxDeliveries,
		Message: "the request was given up: whoever worked on it died or failed every time",
		Details: map[string]any{"deliveries": delivered},
	}
}

// errNewer is a hand-off of a version that this process cannot read.
var errNewer = errors.New("the hand-off is of a newer version")

// receiveHandoffs takes what another stage published: one request, or a batch.
func (r *Runner) receiveHandoffs(s *source, d *delivery, meta *jetstream.MsgMetadata) {
	items, err := readHandoffs(d.msg)
	if errors.Is(err, errNewer) {
		r.leaveToNewer(s, d)
		return
	}
	if err != nil {
		r.rejectDamaged(s, d, err)
		return
	}
	d.requests, d.open = len(items), len(items)
	r.hold(d, d.requests)
	work := items[:0]
	for _, it := range items {
		it.from, it.step, it.entered, it.started = d, s.step, meta.Timestamp, d.taken
		it.request.Deliveries, it.request.Ticket = d.delivered, it
		if verdict, final := r.screen(it, s.durable.stage); final {
			r.decided.add(&outcome{item: it, verdict: verdict})
			continue
		}
		work = append(work, it)
	}
	r.cfg.Metrics.delivered(s.durable.stage, d.delivered)
	r.steps[s.step].queue.push(work...)
}

// screen decides what needs no work: requests that came too often, too late,
// or before their time.
func (r *Runner) screen(it *item, stage string) (verdict stages.Verdict, final bool) {
	request := &it.request
	now := time.Now()
	switch {
	case failures(request) >= r.cfg.MaxDeliver:
		return stages.Reject(tooOften(failures(request))), true
	case request.NotBefore.Time().After(now):
		return stages.Wait(request.NotBefore.Time().Sub(now)), true
	case request.Answer == nil && request.AnswerRecorded:
		if err := r.fetchAnswer(request); err != nil {
			return stages.Retry(err, 0), true
		}
	case r.cancelled(request):
		return stages.Fail(cancelledError()), true
	case request.Expired(now) && stage != stages.Score:
		return stages.Fail(deadlinePassed(&request.State)), true
	}
	return stages.Verdict{}, false
}

func (r *Runner) cancelled(request *stages.Request) bool {
	return r.cfg.Cancelled != nil && r.cfg.Cancelled(request.Key())
}

func cancelledError() *schemas.Error {
	return &schemas.Error{Type: schemas.InvalidRequestError, Code: schemas.CodeCancelled, Message: "the request was cancelled before it was answered"}
}

// failures counts the times that a request failed: as its state says, and the
// deliveries that nobody acknowledged. The first delivery is none, nor is the
// one before its time of a request that had to wait.
func failures(request *stages.Request) int {
	n := request.Failures + request.Deliveries - 1
	if request.NotBefore > 0 && request.Deliveries > 1 {
		n--
	}
	return n
}

// recordedTimeout bounds the read of one recorded answer.
const recordedTimeout = 5 * time.Second

func (r *Runner) fetchAnswer(request *stages.Request) error {
	if r.cfg.Recorded == nil {
		return fmt.Errorf("the answer of request %s travels apart and there is no record of it", request.ID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordedTimeout)
	defer cancel()
	answer, err := r.cfg.Recorded(ctx, request.RecordKey())
	if err != nil {
		return fmt.Errorf("reading the recorded answer: %w", err)
	}
	request.Answer = answer
	return nil
}

// rejectDamaged gives up a hand-off that cannot be read. There is no request
// to answer, so only a dead letter is left.
func (r *Runner) rejectDamaged(s *source, d *delivery, err error) {
	it := &item{from: d, step: s.step, entered: d.taken, started: d.taken}
	it.request.State = schemas.State{Tenant: schemas.NoTenant, Class: schemas.Interactive}
	it.request.Body, it.request.Ticket = d.msg.Data(), it
	r.hold(d, 1)
	r.decided.add(&outcome{item: it, verdict: stages.Reject(&schemas.Error{
		Type: schemas.ServerError, Code: schemas.CodeInvalidJSON, Message: err.Error(),
	})})
}

// readHandoffs decodes a message: at least one hand-off.
func readHandoffs(msg jetstream.Msg) ([]*item, error) {
	if version, err := strconv.Atoi(msg.Headers().Get(HeaderVersion)); err != nil || version < 1 {
		return nil, fmt.Errorf("%w: it has no %s header", schemas.ErrHandoff, HeaderVersion)
	} else if version > schemas.HandoffVersion {
		return nil, errNewer
	}
	var items []*item
	for rest := msg.Data(); len(rest) > 0; {
		it := new(item)
		behind, err := it.request.Read(rest)
		if err != nil {
			return nil, err
		}
		items, rest = append(items, it), behind
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("%w: it is empty", schemas.ErrHandoff)
	}
	return items, nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// clipText keeps text from outside short enough to be carried along.
func clipText(s string, most int) string {
	if len(s) > most {
		return s[:most]
	}
	return s
}
