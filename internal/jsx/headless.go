package jsx

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// headlessFor is how long a stream must have had no leader before it counts as
// lost: longer than any election.
const headlessFor = 20 * time.Second

// Headless removes a stream, if it is in memory, once no leader can be elected any
// more, so that it can be made anew. That happens to one with copies when a
// server restarts, which empties its copy, and another dies before that one is
// filled again: an empty copy elects nobody. It is not safe for concurrent use.
type Headless struct {
	stream string
	since  time.Time // when it was first found without a leader; zero while it has one
	looked time.Time
}

// NewHeadless looks after a stream.
func NewHeadless(stream string) *Headless { return &Headless{stream: stream} }

// Remove looks at the stream, and removes it if it has had no leader for so long
// at every look; looks that are far apart say nothing of the time between them.
// It reports whether the stream is there without a leader.
func (h *Headless) Remove(ctx context.Context, js jetstream.JetStream) (headless bool, err error) {
	now := time.Now()
	gap := now.Sub(h.looked)
	h.looked = now
	if !headlessNow(ctx, js, h.stream) {
		h.since = time.Time{}
		return false, nil
	}
	if h.since.IsZero() || gap > headlessFor/2 {
		h.since = now
	}
	if now.Sub(h.since) < headlessFor {
		return true, nil
	}
	h.since = time.Time{}
	if err := js.DeleteStream(ctx, h.stream); err != nil {
		return true, fmt.Errorf("removing stream %s, which has no leader: %w", h.stream, err)
	}
	return false, nil
}

// headlessNow reports that a stream is there, in memory, without a leader.
func headlessNow(ctx context.Context, js jetstream.JetStream, name string) bool {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return false
	}
	info := stream.CachedInfo()
	return info.Config.Storage == jetstream.MemoryStorage && info.Cluster != nil && info.Cluster.Leader == ""
}
