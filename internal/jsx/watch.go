package jsx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

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
	consumer, err := js.OrderedConsumer(ctx, "KV_"+cfg.Bucket, jetstream.OrderedConsumerConfig{
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
	select {
	case <-w.ready:
		return stop, nil
	case <-ctx.Done():
		stop()
		return nil, fmt.Errorf("watching bucket %s: %w", cfg.Bucket, ctx.Err())
	}
}

type watch struct {
	cfg    WatchConfig
	prefix string
	once   sync.Once
	ready  chan struct{}
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
	w.cfg.Apply(Entry{
		Key:      strings.TrimPrefix(m.Subject(), w.prefix),
		Value:    m.Data(),
		Revision: meta.Sequence.Stream,
		Deleted:  header.Get("KV-Operation") != "" || header.Get("Nats-Marker-Reason") != "",
		Created:  meta.Timestamp,
	})
	if meta.NumPending == 0 {
		w.becomeReady()
	}
}

func (w *watch) lost(err error) {
	if w.cfg.Lost != nil && !errors.Is(err, jetstream.ErrConnectionClosed) {
		w.cfg.Lost(err)
	}
}
