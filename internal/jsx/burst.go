package jsx

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"
)

// Outcome is the fate of a message, as Publish tells it.
type Outcome struct {
	Ack Ack
	Err error
}

// burst is messages that are published together, by somebody who waits for all.
type burst struct {
	known chan struct{} // closed once all fates are

	mu       sync.Mutex
	outcomes []Outcome
	open     []bool
	left     int
}

// PublishAll publishes messages and waits until the fate of all is known, with one
// wait for all of them. Where ctx ends first, the others have its error.
func (p *Publisher) PublishAll(ctx context.Context, messages []*nats.Msg) []Outcome {
	if len(messages) == 0 {
		return nil
	}
	b := &burst{
		known: make(chan struct{}), outcomes: make([]Outcome, len(messages)),
		open: make([]bool, len(messages)), left: len(messages),
	}
	for i := range b.open {
		b.open[i] = true
	}
	for i, m := range messages {
		if err := p.Publish(m, func(ack Ack, err error) { b.told(i, Outcome{ack, err}) }); err != nil {
			b.told(i, Outcome{Err: err})
		}
	}
	select {
	case <-b.known:
		return b.outcomes
	case <-ctx.Done():
		return b.soFar(ctx.Err())
	}
}

func (b *burst) told(i int, o Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outcomes[i], b.open[i] = o, false
	if b.left--; b.left == 0 {
		close(b.known)
	}
}

// soFar gives the outcomes as they are known now; the others have the error.
func (b *burst) soFar(err error) []Outcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	outcomes := make([]Outcome, len(b.outcomes))
	for i := range outcomes {
		if outcomes[i] = b.outcomes[i]; b.open[i] {
			outcomes[i].Err = err
		}
	}
	return outcomes
}
