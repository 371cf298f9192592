// Package stats keeps what is learnt from many observations in a bucket, so that
// every replica uses what all have learnt. Observations are gathered in the
// process and merged into the bucket a few times a second, whatever their
// number: no request waits for a round trip.
package stats

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/adpa/processor/internal/jsx"
)

const (
	// conflicts bounds the attempts at one write; what was not shared is with the next.
	conflicts = 5
	// writers bounds the writes under way at once.
	writers = 16
	// share is how much of the time may go into writing: where a round of writes
	// takes long, the next one is put off.
	share = 4
	// keep is how long what nobody adds to stays.
	keep = 30 * 24 * time.Hour
	// tidyEvery is how often is looked for what is older than that.
	tidyEvery = time.Hour
)

// Value is what is learnt under a key: sums, so that merging is adding and needs
// no order.
type Value[T any] interface {
	*T
	// Merge takes in what was observed elsewhere.
	Merge(*T)
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

// Options say where values are kept.
type Options struct {
	Bucket string
	Filter string        // the keys, with wildcards
	Every  time.Duration // how often observations are shared, at most
	Most   int           // keys that a process knows; observations under more are dropped
}

// Store is the values of a bucket, in step with it. It is safe for concurrent use.
//
// No observation is lost to another replica's write, for every write is a
// compare-and-swap. One may count twice where a write was carried out but its
// acknowledgement got lost, and those of the last moments are lost with a process
// that is killed.
type Store[T any, V Value[T]] struct {
	options Options
	bucket  jetstream.KeyValue
	stop    func()
	done    sync.WaitGroup

	mu      sync.RWMutex
	entries map[string]*entry[T]
	pending map[string]struct{} // keys with observations that are not shared yet
}

type entry[T any] struct {
	shared   *T // as all have learnt it; nil where nobody has
	revision uint64
	created  time.Time
	own      *T // observed here and not shared yet; nil where nothing was
	use      *T // both
}

// Open follows the bucket until Close.
func Open[T any, V Value[T]](ctx context.Context, js jetstream.JetStream, options Options) (*Store[T, V], error) {
	bucket, err := js.KeyValue(ctx, options.Bucket)
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", options.Bucket, err)
	}
	s := &Store[T, V]{options: options, bucket: bucket, entries: map[string]*entry[T]{}, pending: map[string]struct{}{}}
	stopWatch, err := jsx.Watch(ctx, js, jsx.WatchConfig{Bucket: options.Bucket, Filter: options.Filter, Apply: s.apply})
	if err != nil {
		return nil, err
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.done.Go(func() { s.run(background) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		s.done.Wait()
		stopWatch()
	})
	return s, nil
}

// Close shares what was observed and ends.
func (s *Store[T, V]) Close() { s.stop() }

// View calls f with the value of a key, which it must not change or keep; it
// reports whether there is one.
func (s *Store[T, V]) View(key string, f func(V)) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.entries[key]
	if e == nil || e.use == nil {
		return false
	}
	f(e.use)
	return true
}

// Each calls f with each key and its value, in no order.
func (s *Store[T, V]) Each(f func(key string, value V)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for key, e := range s.entries {
		if e.use != nil {
			f(key, e.use)
		}
	}
}

// Observe takes in an observation: f changes the value that is used here, use,
// and makes the same change to what the others will be told, own, which begins
// empty. It reports whether the key is known or there was room for it.
func (s *Store[T, V]) Observe(key string, f func(use, own V)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil {
		if len(s.entries) >= s.options.Most {
			return false
		}
		e = new(entry[T])
		s.entries[key] = e
	}
	if e.use == nil {
		e.use = new(T)
	}
	if e.own == nil {
		e.own = new(T)
		s.pending[key] = struct{}{}
	}
	f(e.use, e.own)
	return true
}

func (s *Store[T, V]) apply(change jsx.Entry) {
	var shared *T
	if !change.Deleted {
		shared = new(T)
		if V(shared).UnmarshalBinary(change.Value) != nil {
			shared = nil // a damaged value teaches nothing, and is written over
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[change.Key]
	switch {
	case e == nil && (shared == nil || len(s.entries) >= s.options.Most):
		return
	case e == nil:
		e = new(entry[T])
		s.entries[change.Key] = e
	case change.Revision < e.revision: // what was written here is newer
		return
	case shared == nil && e.own == nil:
		delete(s.entries, change.Key)
		return
	}
	e.shared, e.revision, e.created = shared, change.Revision, change.Created
	e.use = new(T)
	for _, part := range []*T{e.shared, e.own} {
		if part != nil {
			V(e.use).Merge(part)
		}
	}
}

func (s *Store[T, V]) run(ctx context.Context) {
	next := time.NewTimer(s.options.Every)
	defer next.Stop()
	tidy := time.NewTicker(tidyEvery)
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			s.flush(last)
			return
		case <-next.C:
			begun := time.Now()
			s.flush(ctx)
			next.Reset(max(s.options.Every, share*time.Since(begun)))
		case <-tidy.C:
			s.forget(ctx, time.Now().Add(-keep))
		}
	}
}

// observed is what is to be shared under a key.
type observed[T any] struct {
	key      string
	own      *T
	shared   *T
	revision uint64
}

// flush shares what was observed since the last time: one write a key.
func (s *Store[T, V]) flush(ctx context.Context) {
	s.mu.Lock()
	list := make([]observed[T], 0, len(s.pending))
	for key := range s.pending {
		e := s.entries[key]
		list = append(list, observed[T]{key, e.own, e.shared, e.revision})
		e.own = nil
	}
	clear(s.pending)
	s.mu.Unlock()
	var group errgroup.Group
	group.SetLimit(writers)
	for _, o := range list {
		group.Go(func() error {
			if err := s.merge(ctx, &o); err != nil {
				slog.Debug("sharing statistics failed, they are with the next", "error", err)
				s.restore(&o)
			}
			return nil
		})
	}
	_ = group.Wait()
}

// restore puts observations back that could not be shared.
func (s *Store[T, V]) restore(o *observed[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[o.key]
	if e == nil {
		e = &entry[T]{use: new(T)}
		V(e.use).Merge(o.own)
		s.entries[o.key] = e
	}
	if e.own != nil {
		V(o.own).Merge(e.own)
	}
	e.own = o.own
	s.pending[o.key] = struct{}{}
}

// merge adds observations to the shared ones by compare-and-swap. The first
// attempt trusts the watch; after a conflict the bucket is read.
func (s *Store[T, V]) merge(ctx context.Context, o *observed[T]) error {
	for range conflicts {
		value := new(T)
		if o.shared != nil {
			V(value).Merge(o.shared)
		}
		V(value).Merge(o.own)
		data, err := V(value).MarshalBinary()
		if err != nil {
			return fmt.Errorf("encoding %s: %w", o.key, err)
		}
		revision, err := s.write(ctx, o, data)
		if err == nil {
			s.wrote(o.key, value, revision)
			return nil
		}
		if !jsx.IsWrongLastSequence(err) && !jsx.IsInFlight(err) {
			return fmt.Errorf("writing %s: %w", o.key, err)
		}
		if err := s.read(ctx, o); err != nil {
			return err
		}
	}
	return fmt.Errorf("writing %s: others wrote first, every time", o.key)
}

func (s *Store[T, V]) write(ctx context.Context, o *observed[T], data []byte) (uint64, error) {
	if o.revision == 0 { // Create writes over the marker of a deleted key, too
		return s.bucket.Create(ctx, o.key, data)
	}
	return s.bucket.Update(ctx, o.key, data, o.revision)
}

// wrote lets the next round begin with what was written, should the watch be late.
func (s *Store[T, V]) wrote(key string, value *T, revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[key]; e != nil && e.revision < revision {
		e.shared, e.revision, e.created = value, revision, time.Now()
	}
}

func (s *Store[T, V]) read(ctx context.Context, o *observed[T]) error {
	have, err := s.bucket.Get(ctx, o.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		o.shared, o.revision = nil, 0
		return nil
	case err != nil:
		return fmt.Errorf("reading %s: %w", o.key, err)
	}
	o.shared, o.revision = new(T), have.Revision()
	if V(o.shared).UnmarshalBinary(have.Value()) != nil {
		o.shared = nil
	}
	return nil
}

// forget deletes what nobody has added to since before.
func (s *Store[T, V]) forget(ctx context.Context, before time.Time) {
	s.mu.RLock()
	var old []observed[T]
	for key, e := range s.entries {
		if e.shared != nil && e.own == nil && e.created.Before(before) {
			old = append(old, observed[T]{key: key, revision: e.revision})
		}
	}
	s.mu.RUnlock()
	for _, o := range old {
		// Somebody who has just added to it makes this fail, as it should.
		if err := s.bucket.Delete(ctx, o.key, jetstream.LastRevision(o.revision)); err != nil {
			slog.Debug("deleting old statistics failed", "error", err)
		}
	}
}
