package streams

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/schemas"
)

const (
	feedbackDurable = "feedback"
	// feedbackSlice is how many messages are handled at a time, with one look-up.
	feedbackSlice = 64
	// feedbackPull is how long the server may hold a pull that finds nothing.
	feedbackPull = 5 * time.Second
	// feedbackAgain is when feedback that could not be handled is delivered
	// again, up to feedbackTries times in all.
	feedbackAgain = 2 * time.Second
	feedbackTries = 10
)

// Told is what an application says of an answer.
type Told struct {
	Tenant string
	ID     string
	Value  float64 // 0 is bad, 1 is good
}

// Key names the request: tenant.id.
func (t *Told) Key() string { return t.Tenant + "." + t.ID }

// FeedbackHandler is told of feedback, a slice at a time. After an error the
// slice comes again later.
type FeedbackHandler interface {
	Handle(ctx context.Context, list []Told) error
	// Malformed is told of a message that cannot be read. It does not come again.
	Malformed(err error)
}

// FollowFeedback hands out what applications say of answers, each message to
// one process of all, until stop is called, which waits for the handler. A
// message that was being handled by a process that died comes again.
func FollowFeedback(ctx context.Context, js jetstream.JetStream, l Layout, h FeedbackHandler) (stop func(), err error) {
	consumer, err := js.CreateOrUpdateConsumer(ctx, l.Names.Feedback(), jetstream.ConsumerConfig{
		Durable: feedbackDurable, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
		AckWait: l.ackWait(), MaxDeliver: feedbackTries, MaxAckPending: 16 * feedbackSlice,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up consumer %s of stream %s: %w", feedbackDurable, l.Names.Feedback(), explain(err))
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f := feedback{consumer, h, l.Names.FeedbackOn("")}
		for background.Err() == nil {
			if err := f.pull(background); err != nil && background.Err() == nil {
				slog.Debug("pulling feedback failed, trying again", "error", err)
				sleep(background, feedbackAgain)
			}
		}
	}()
	return func() { cancel(); <-done }, nil
}

type feedback struct {
	consumer jetstream.Consumer
	handler  FeedbackHandler
	prefix   string // of the subjects
}

// pull waits for a message and handles it with what else there is.
func (f *feedback) pull(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, feedbackPull)
	defer cancel()
	first, err := f.consumer.Fetch(1, jetstream.FetchContext(waiting))
	if err != nil {
		return err
	}
	list, messages := f.take(first, nil, nil)
	if len(messages) > 0 {
		if more, err := f.consumer.FetchNoWait(feedbackSlice - 1); err == nil {
			list, messages = f.take(more, list, messages)
		}
		f.handle(context.WithoutCancel(ctx), list, messages)
	}
	if err := first.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// take reads messages; what cannot be read is done with.
func (f *feedback) take(batch jetstream.MessageBatch, list []Told, messages []jetstream.Msg) ([]Told, []jetstream.Msg) {
	for m := range batch.Messages() {
		told, err := f.read(m)
		if err != nil {
			f.handler.Malformed(err)
			_ = m.TermWithReason("malformed")
			continue
		}
		list, messages = append(list, told), append(messages, m)
	}
	return list, messages
}

func (f *feedback) read(m jetstream.Msg) (Told, error) {
	tenant := strings.TrimPrefix(m.Subject(), f.prefix)
	if !schemas.ValidName(tenant) {
		return Told{}, schemas.Invalid(schemas.CodeInvalidField, "tenant", "the tenant in subject %.120q is not valid", m.Subject())
	}
	told, value, err := schemas.ParseFeedback(m.Data())
	return Told{Tenant: tenant, ID: told.ID, Value: value}, err
}

func (f *feedback) handle(ctx context.Context, list []Told, messages []jetstream.Msg) {
	ctx, cancel := context.WithTimeout(ctx, 2*lookupTimeout)
	defer cancel()
	err := f.handler.Handle(ctx, list)
	for _, m := range messages {
		if err != nil {
			_ = m.NakWithDelay(feedbackAgain)
		} else {
			_ = m.Ack() // a lost one means that it counts twice
		}
	}
}
