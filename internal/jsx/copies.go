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

// AwaitCopies waits until every copy of a stream has all that it holds. Before
// that the server that had it alone must not go.
func AwaitCopies(ctx context.Context, js jetstream.JetStream, name string) error {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	defer cancel()
	for {
		missing := "no answer from its leader"
		if stream, err := js.Stream(ctx, name); err == nil {
			if missing = missingCopies(stream.CachedInfo()); missing == "" {
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

// missingCopies says what is missing; nothing where all is there.
func missingCopies(info *jetstream.StreamInfo) string {
	c := info.Cluster
	if c == nil || info.Config.Replicas == 1 {
		return ""
	}
	if c.Leader == "" || len(c.Replicas) < info.Config.Replicas-1 {
		return fmt.Sprintf("%d of %d copies", 1+len(c.Replicas), info.Config.Replicas)
	}
	for _, r := range c.Replicas {
		if !r.Current || r.Offline {
			return fmt.Sprintf("the copy on %s is %d behind", r.Name, r.Lag)
		}
	}
	return ""
}
