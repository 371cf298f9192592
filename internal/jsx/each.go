package jsx

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// eachIdle is after how long without a message Each asks whether any are left.
const eachIdle = time.Second

// Each calls f with each message that a stream holds now and cfg selects, the
// oldest first, until f returns false or an error. Messages that go while it
// reads (they expire, or are deleted) are left out and not waited for.
func Each(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.OrderedConsumerConfig,
	f func(jetstream.Msg, *jetstream.MsgMetadata) (more bool, err error), options ...jetstream.PullMessagesOpt,
) error {
	consumer, err := js.OrderedConsumer(ctx, stream, cfg)
	if err != nil {
		return err
	}
	left := consumer.CachedInfo().NumPending
	if left == 0 {
		return nil
	}
	messages, err := consumer.Messages(options...)
	if err != nil {
		return err
	}
	defer messages.Stop()
	for last := (*jetstream.MsgMetadata)(nil); left > 0 && ctx.Err() == nil; {
		m, err := within(ctx, messages)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			over, err := nothingLeft(ctx, consumer, last)
			if over || err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("a message of stream %s says nothing of itself: %w", stream, err)
		}
		more, err := f(m, meta)
		if err != nil || !more || meta.NumPending == 0 {
			return err
		}
		last = meta
		left--
	}
	return ctx.Err()
}

func within(ctx context.Context, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, eachIdle)
	defer cancel()
	return messages.Next(jetstream.NextContext(ctx))
}

// nothingLeft reports that a consumer has no more to deliver than what came, the
// last of which says last of itself; nil is that none came.
func nothingLeft(ctx context.Context, consumer jetstream.Consumer, last *jetstream.MsgMetadata) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*eachIdle)
	defer cancel()
	info, err := consumer.Info(ctx)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrOrderedConsumerNotCreated) {
		return false, nil // it is being made anew
	}
	if err != nil {
		return false, err
	}
	came := info.Delivered.Consumer == 0 || last != nil && last.Consumer == info.Name && last.Sequence.Consumer == info.Delivered.Consumer
	return info.NumPending == 0 && came, nil
}
