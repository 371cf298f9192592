package streams

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// backlogPoll is how often consumers are asked what waits for them: two dozen
// questions, which at this pace cost the server nothing that can be measured.
const backlogPoll = time.Second

// Backlog follows what waits for each stage.
type Backlog struct {
	cancel  context.CancelFunc
	done    sync.WaitGroup
	waiting map[string]*atomic.Int64
	lanes   map[schemas.Class]*[schemas.Lanes]atomic.Int64 // of generate
	later   atomic.Int64
	deltas  *jsx.Headless

	laterBytes atomic.Int64
}

// WatchBacklog follows what waits for each stage until Close, and keeps the
// figures of it.
func WatchBacklog(js jetstream.JetStream, l Layout, m *Metrics) *Backlog {
	ctx, cancel := context.WithCancel(context.Background())
	b := &Backlog{cancel: cancel, deltas: jsx.NewHeadless(l.Names.Deltas()), waiting: map[string]*atomic.Int64{}, lanes: map[schemas.Class]*[schemas.Lanes]atomic.Int64{}}
	for _, stage := range stages.Names {
		b.waiting[stage] = new(atomic.Int64)
	}
	for _, class := range schemas.Classes {
		b.lanes[class] = new([schemas.Lanes]atomic.Int64)
	}
	b.done.Go(func() { b.run(ctx, js, l, m) })
	return b
}

// Waiting is the number of messages that wait for a stage, as of a moment ago.
func (b *Backlog) Waiting(stage string) int64 { return b.waiting[stage].Load() }

// InLane is the number of messages that wait for generate in a lane, as of a
// moment ago.
func (b *Backlog) InLane(class schemas.Class, lane int) int64 { return b.lanes[class][lane].Load() }

// Deferred is the number of requests that wait in the later stream for their
// time, as of a moment ago.
func (b *Backlog) Deferred() int64 { return b.later.Load() }

// LaterFull reports whether the later stream holds as much as it should. It
// cannot refuse what is too much, so this is asked before more goes there.
func (b *Backlog) LaterFull() bool { return b.laterBytes.Load() > laterBytes/2 }

// Close ends it.
func (b *Backlog) Close() {
	b.cancel()
	b.done.Wait()
}

func (b *Backlog) run(ctx context.Context, js jetstream.JetStream, l Layout, m *Metrics) {
	ticker := time.NewTicker(backlogPoll)
	defer ticker.Stop()
	for {
		b.read(ctx, js, l, m)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// read asks every consumer once; one that does not answer keeps its last figure.
func (b *Backlog) read(ctx context.Context, js jetstream.JetStream, l Layout, m *Metrics) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	type key struct {
		stage string
		class schemas.Class
	}
	sums := map[key]int64{}
	for _, d := range l.consumers() {
		consumer, err := js.Consumer(ctx, d.stream, d.config.Durable)
		if err != nil {
			return
		}
		class := d.class
		if class == "" {
			class = schemas.Interactive // requests show their class only once they are read
		}
		pending := int64(consumer.CachedInfo().NumPending)
		sums[key{d.stage, class}] += pending
		if d.lane >= 0 {
			b.lanes[class][d.lane].Store(pending)
		}
	}
	if _, err := b.deltas.Remove(ctx, js); err != nil {
		slog.Warn("the stream of streamed answers has no leader", "error", err)
	}
	if _, err := js.Stream(ctx, l.Names.Deltas()); errors.Is(err, jetstream.ErrStreamNotFound) {
		l.remakeDeltas(ctx, js)
	}
	if later, err := js.Stream(ctx, l.Names.Later()); err == nil {
		b.later.Store(int64(later.CachedInfo().State.Msgs))
		b.laterBytes.Store(int64(later.CachedInfo().State.Bytes))
	}
	total := map[string]int64{}
	for k, n := range sums {
		m.backlog.WithLabelValues(k.stage, string(k.class)).Set(float64(n))
		total[k.stage] += n
	}
	for stage, n := range total {
		b.waiting[stage].Store(n)
	}
}

// remakeDeltas makes the stream of streamed answers anew: it is in memory, and
// goes with the only server that has it.
func (l Layout) remakeDeltas(ctx context.Context, js jetstream.JetStream) {
	for _, cfg := range l.streams() {
		if cfg.Name == l.Names.Deltas() {
			if err := ensureStream(ctx, js, cfg); err != nil {
				slog.Warn("making the stream of streamed answers anew failed", "error", err)
			}
		}
	}
}
