package streams

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/adpa/processor/schemas"
)

// Top is the subject, on core NATS, on which every replica answers with its
// figures.
func (n Names) Top() string { return n.Prefix + ".top" }

// Lag is what waits in one consumer group.
type Lag struct {
	Stage    string
	Class    schemas.Class // that of requests, which show theirs only once they are read, is interactive
	Waiting  int64         // messages that nobody has taken
	InWork   int64         // messages that are taken and not settled
	Again    int64         // of them, that came more than once
	Replicas int64         // pulls that wait for messages, which idle replicas have open
}

// Lags asks every consumer group what waits for it, a few at a time. One that
// is missing is an error: the streams are not set up.
func Lags(ctx context.Context, js jetstream.JetStream, l Layout) ([]Lag, error) {
	groups := l.consumers()
	list := make([]Lag, len(groups))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(8)
	for i, g := range groups {
		work.Go(func() error {
			consumer, err := js.Consumer(ctx, g.stream, g.config.Durable)
			if err != nil {
				return fmt.Errorf("asking consumer %s of stream %s: %w", g.config.Durable, g.stream, explain(err))
			}
			info := consumer.CachedInfo()
			list[i] = Lag{g.stage, g.class, int64(info.NumPending), int64(info.NumAckPending), int64(info.NumRedelivered), int64(info.NumWaiting)}
			if g.class == "" {
				list[i].Class = schemas.Interactive
			}
			return nil
		})
	}
	return list, work.Wait()
}

// Holding is what a stream holds now.
type Holding struct {
	Stream   string    `json:"stream"`
	Messages uint64    `json:"messages"`
	Bytes    uint64    `json:"bytes"`
	MaxBytes int64     `json:"max_bytes"`
	Last     uint64    `json:"-"` // the last sequence: it grows by one a message
	Oldest   time.Time `json:"oldest,omitzero"`
}

// Holdings asks every stream of the layout what it holds, in the order of the
// pipeline.
func Holdings(ctx context.Context, js jetstream.JetStream, l Layout) ([]Holding, error) {
	var names []string
	for _, cfg := range l.streams() {
		names = append(names, cfg.Name)
	}
	if l.Archive {
		names = append(names, l.Names.Archive())
	}
	list := make([]Holding, len(names))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(8)
	for i, name := range names {
		work.Go(func() error {
			stream, err := js.Stream(ctx, name)
			if err != nil {
				return fmt.Errorf("asking stream %s: %w", name, explain(err))
			}
			info := stream.CachedInfo()
			list[i] = Holding{Stream: name, Messages: info.State.Msgs, Bytes: info.State.Bytes, MaxBytes: info.Config.MaxBytes, Last: info.State.LastSeq}
			if info.State.Msgs > 0 {
				list[i].Oldest = info.State.FirstTime
			}
			return nil
		})
	}
	return list, work.Wait()
}
