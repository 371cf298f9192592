package jsx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Entry is one change of a bucket.
type Entry struct {
	Key      string
	Value    []byte // nil where the watch was asked for headers only
	Revision uint64
	Deleted  bool // deleted, purged or expired
	Created  time.Time
}

// WatchConfig says what to watch.
type WatchConfig struct {
	Bucket      string
	Filter      string // keys, with wildcards; empty is all
	HeadersOnly bool   // values are not sent

	// Reset is called before the present state is sent, again also after the
	// watch had to start anew: whatever is known may be stale until Ready.
	Reset func()
	// Apply is called with each entry, in order of revision, from one goroutine.
	Apply func(Entry)
	// Ready is called once the present state has been applied.
	Ready func()
	// Lost is called when the server has not been heard of for a while: what is
	// known may be stale until the next Reset or Apply. It may be nil.
	Lost func(error)
}

// Watch follows a bucket until ctx ends. It uses an ordered consumer with a
// short heartbeat, since kv.Watch stays silent for about 19 s after the server
// that hosts it has died. It returns once the present state has been applied,
// or with an error if it cannot begin; stop waits until no callback runs.
func Watch(ctx context.Context, js jetstream.JetStream, cfg WatchConfig) (stop func(), err error) {
	if cfg.Filter == "" {
		cfg.Filter = ">"
	}
	prefix := "$KV." + cfg.Bucket + "."
	consumer, err := orderedConsumer(ctx, js, "KV_"+cfg.Bucket, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{prefix + cfg.Filter},
		DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
		HeadersOnly:    cfg.HeadersOnly,
	})
	if err != nil {
		return nil, fmt.Errorf("watching bucket %s: %w", cfg.Bucket, err)
	}
	w := &watch{cfg: cfg, prefix: prefix, ready: make(chan struct{})}
	if cfg.Reset != nil {
		cfg.Reset()
	}
	info := consumer.CachedInfo()
	if info == nil || info.NumPending == 0 {
		w.becomeReady()
	}
	consuming, err := consumer.Consume(w.apply,
		jetstream.PullHeartbeat(500*time.Millisecond), jetstream.PullExpiry(2*time.Second),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { w.lost(err) }))
	if err != nil {
		return nil, fmt.Errorf("watching bucket %s: %w", cfg.Bucket, err)
	}
	stop = sync.OnceFunc(func() {
		consuming.Stop()
		<-consuming.Closed()
	})
	if err := w.awaitReady(ctx, consumer); err != nil {
		stop()
		return nil, fmt.Errorf("watching bucket %s: %w", cfg.Bucket, err)
	}
	return stop, nil
}

// orderedTries bounds the tries to begin; each waits five seconds for an answer.
const orderedTries = 5

// orderedConsumer tries again where the server does not answer in time: a
// request to one that dies has no answer, also when another is there at once.
func orderedConsumer(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	for tries := 1; ; tries++ {
		consumer, err := js.OrderedConsumer(ctx, stream, cfg)
		if err == nil || tries == orderedTries || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return consumer, err
		}
	}
}

type watch struct {
	cfg    WatchConfig
	prefix string
	once   sync.Once
	ready  chan struct{}

	mu   sync.Mutex // held in the callbacks Apply and Ready
	last *jetstream.MsgMetadata
}

// awaitReady waits until the present state has been applied. An entry that went
// before it was sent (it expired, or was deleted) is not waited for: then no
// message says that it is the last.
func (w *watch) awaitReady(ctx context.Context, consumer jetstream.Consumer) error {
	idle := time.NewTicker(eachIdle)
	defer idle.Stop()
	for {
		select {
		case <-w.ready:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-idle.C:
			w.mu.Lock()
			last := w.last
			w.mu.Unlock()
			if over, err := nothingLeft(ctx, consumer, last); over && err == nil { // else the consumer goes on trying
				w.mu.Lock()
				w.becomeReady()
				w.mu.Unlock()
			}
		}
	}
}

func (w *watch) becomeReady() {
	w.once.Do(func() {
		if w.cfg.Ready != nil {
			w.cfg.Ready()
		}
		close(w.ready)
	})
}

func (w *watch) apply(m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		w.lost(err)
		return
	}
	header := m.Headers()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = meta
	w.cfg.Apply(Entry{
		Key:      strings.TrimPrefix(m.Subject(), w.prefix),
		Value:    m.Data(),
		Revision: meta.Sequence.Stream,
		Deleted:  Removed(header),
		Created:  meta.Timestamp,
	})
	if meta.NumPending == 0 {
		w.becomeReady()
	}
}

// Removed reports, by the header of a message of a bucket, that the key has no
// value: it was deleted or purged, or it expired.
func Removed(header nats.Header) bool {
	return header.Get("KV-Operation") != "" || header.Get("Nats-Marker-Reason") != ""
}

func (w *watch) lost(err error) {
	if w.cfg.Lost != nil && !errors.Is(err, jetstream.ErrConnectionClosed) {
		w.cfg.Lost(err)
	}
}
