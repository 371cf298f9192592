package streams

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
)

// DeadLetter is a request that was given up.
type DeadLetter struct {
	Sequence   uint64       `json:"sequence"` // in the dead-letter stream
	Time       time.Time    `json:"time"`
	Tenant     string       `json:"tenant"`
	Stage      string       `json:"stage"`
	ID         string       `json:"id"`
	Class      string       `json:"class,omitempty"`
	Reason     schemas.Code `json:"reason"`
	Message    string       `json:"message"`
	Deliveries int          `json:"deliveries"`
	Subject    string       `json:"subject"`          // on which the request came
	Original   uint64       `json:"request_sequence"` // of the request when it was accepted
	Body       []byte       `json:"-"`                // what was published
}

// DeadLetters reads the requests that were given up. It needs the rights of an operator.
type DeadLetters struct {
	js    jetstream.JetStream
	names Names
}

// ErrNoDeadLetter is a sequence under which no dead letter is kept.
var ErrNoDeadLetter = errors.New("there is no dead letter under this sequence")

// NewDeadLetters makes a reader.
func NewDeadLetters(nc *nats.Conn, names Names) (*DeadLetters, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	return &DeadLetters{js, names}, nil
}

// Each calls f with the dead letters of a tenant, the oldest first, without
// their bodies, until f returns false.
func (d *DeadLetters) Each(ctx context.Context, tenant string, f func(DeadLetter) (more bool, err error)) error {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{d.names.DeadLetter("*", tenant)}, HeadersOnly: true}
	err := jsx.Each(ctx, d.js, d.names.Dead(), cfg, func(m jetstream.Msg, meta *jetstream.MsgMetadata) (bool, error) {
		return f(readDeadLetter(meta.Sequence.Stream, meta.Timestamp, m.Subject(), m.Headers(), nil))
	})
	if err != nil {
		return fmt.Errorf("reading dead letters: %w", missingStream(err))
	}
	return nil
}

// Get gives one dead letter with its body.
func (d *DeadLetters) Get(ctx context.Context, sequence uint64) (DeadLetter, error) {
	stream, err := d.js.Stream(ctx, d.names.Dead())
	if err != nil {
		return DeadLetter{}, fmt.Errorf("reading dead letters: %w", missingStream(err))
	}
	m, err := stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return DeadLetter{}, fmt.Errorf("%w: %d", ErrNoDeadLetter, sequence)
	}
	if err != nil {
		return DeadLetter{}, fmt.Errorf("reading dead letter %d: %w", sequence, err)
	}
	return readDeadLetter(m.Sequence, m.Time, m.Subject, m.Header, m.Data), nil
}

// RetryID is the id under which a dead letter is published again. Its own id
// has an error as its response; this one is made from the dead letter, so that
// to retry it twice asks once.
func (l DeadLetter) RetryID() string {
	id := "retry-" + strconv.FormatUint(l.Sequence, 10) + "-" + l.ID
	return id[:min(len(id), schemas.MaxNameLength)]
}

// Delete removes a dead letter.
func (d *DeadLetters) Delete(ctx context.Context, sequence uint64) error {
	stream, err := d.js.Stream(ctx, d.names.Dead())
	if err != nil {
		return fmt.Errorf("removing dead letter %d: %w", sequence, missingStream(err))
	}
	if err := stream.DeleteMsg(ctx, sequence); err != nil {
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return fmt.Errorf("%w: %d", ErrNoDeadLetter, sequence)
		}
		return fmt.Errorf("removing dead letter %d: %w", sequence, err)
	}
	return nil
}

func missingStream(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return ErrNoStreams
	}
	return err
}

func readDeadLetter(sequence uint64, at time.Time, subject string, h nats.Header, body []byte) DeadLetter {
	l := DeadLetter{
		Sequence: sequence, Time: at, Stage: h.Get(HeaderStage), ID: h.Get(HeaderID), Class: h.Get(HeaderPriority),
		Reason: schemas.Code(h.Get(HeaderReason)), Message: h.Get(HeaderMessage), Subject: h.Get(HeaderSubject), Body: body,
	}
	l.Tenant = subject[strings.LastIndexByte(subject, '.')+1:]
	l.Deliveries, _ = strconv.Atoi(h.Get(HeaderDeliveries))
	l.Original, _ = strconv.ParseUint(h.Get(HeaderSequence), 10, 64)
	return l
}
