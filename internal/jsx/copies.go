package jsx

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// copyTimeout bounds the wait for the copies of a stream that got more of them.
const copyTimeout = 10 * time.Minute

// Copies gives how many servers keep a stream; 0 where there is no such stream.
func Copies(ctx context.Context, js jetstream.JetStream, name string) (int, error) {
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("looking for stream %s: %w", name, err)
	}
	return stream.CachedInfo().Config.Replicas, nil
}

// AwaitCopies waits until every copy of a stream, and of its durable consumers,
// has all that it holds. Before that the server that had it alone must not go.
func AwaitCopies(ctx context.Context, js jetstream.JetStream, name string) error {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	defer cancel()
	for {
		missing := "no answer from its leader"
		if stream, err := js.Stream(ctx, name); err == nil {
			info := stream.CachedInfo()
			if missing = missingCopies(info.Cluster, info.Config.Replicas); missing == "" {
				missing = missingConsumers(ctx, stream, info.Config.Replicas)
			}
			if missing == "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("copying stream %s to more servers: %s after %v (no message is lost; provision again once all servers run): %w", name, missing, copyTimeout, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// missingCopies says what is missing of so many copies; nothing where all is there.
func missingCopies(c *jetstream.ClusterInfo, copies int) string {
	if c == nil || copies == 1 {
		return ""
	}
	if c.Leader == "" || len(c.Replicas) < copies-1 {
		return fmt.Sprintf("%d of %d copies", 1+len(c.Replicas), copies)
	}
	for _, r := range c.Replicas {
		if !r.Current || r.Offline {
			return fmt.Sprintf("the copy on %s is %d behind", r.Name, r.Lag)
		}
	}
	return ""
}

// missingConsumers says what is missing of a stream's durable consumers, which
// are copied after the stream.
func missingConsumers(ctx context.Context, stream jetstream.Stream, copies int) string {
	what := ""
	consumers := stream.ListConsumers(ctx)
	for c := range consumers.Info() { // to its end, or the listing never ends
		if missing := missingCopies(c.Cluster, copies); c.Config.Durable != "" && missing != "" {
			what = "consumer " + c.Name + ": " + missing
		}
	}
	if err := consumers.Err(); err != nil {
		return err.Error()
	}
	return what
}
