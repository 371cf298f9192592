// Package calibration shares what is learnt of how providers count tokens:
// every process observes its own calls, and all use what all have learnt.
package calibration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/internal/tokens"
)

const (
	// flushEvery is how often observations are shared: often enough for 50
	// responses to be known everywhere within seconds, at one write a model.
	flushEvery = 2 * time.Second
	// maxModels bounds the models that are calibrated; others count as they are counted.
	maxModels = 1000
	// conflicts bounds the attempts at one write; what was not shared is with the next.
	conflicts = 5
	keyPrefix = "calibration."
)

// Store is the calibrations of all providers and models. It is safe for
// concurrent use.
type Store struct {
	bucket jetstream.KeyValue
	stop   func()
	done   sync.WaitGroup

	mu     sync.RWMutex
	models map[string]*entry
}

type entry struct {
	shared tokens.Calibration // as all have learnt it
	own    tokens.Calibration // observed here and not shared yet
	use    tokens.Calibration // both
}

// Open follows the bucket (the one of the models) until Close.
func Open(ctx context.Context, js jetstream.JetStream, bucket string) (*Store, error) {
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", bucket, err)
	}
	s := &Store{bucket: kv, models: map[string]*entry{}}
	stopWatch, err := jsx.Watch(ctx, js, jsx.WatchConfig{Bucket: bucket, Filter: keyPrefix + "*.*", Apply: s.apply})
	if err != nil {
		return nil, err
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.done.Go(func() { s.run(background) })
	s.stop = func() {
		stopWatch()
		cancel()
		s.done.Wait()
	}
	return s, nil
}

// Close shares what was observed and ends.
func (s *Store) Close() { s.stop() }

// Factors gives what to multiply a count with: mean for what will probably be
// billed, high for what hardly any request is billed above.
func (s *Store) Factors(provider, model string) (mean, high float64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.models[key(provider, model)]
	if e == nil {
		var fresh tokens.Calibration
		return fresh.Mean(), fresh.High()
	}
	return e.use.Mean(), e.use.High()
}

// Observe takes in a response: what was counted before and what was billed.
func (s *Store) Observe(provider, model string, counted, billed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key(provider, model)
	e := s.models[k]
	if e == nil {
		if len(s.models) >= maxModels {
			return
		}
		e = &entry{}
		s.models[k] = e
	}
	e.own.Observe(counted, billed)
	e.use.Observe(counted, billed)
}

func (s *Store) apply(change jsx.Entry) {
	var shared tokens.Calibration
	if !change.Deleted && json.Unmarshal(change.Value, &shared) != nil {
		return // a damaged value teaches nothing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.models[change.Key]
	if e == nil {
		if len(s.models) >= maxModels {
			return
		}
		e = &entry{}
		s.models[change.Key] = e
	}
	e.shared, e.use = shared, shared
	e.use.Merge(&e.own)
}

func (s *Store) run(ctx context.Context) {
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushEvery)
			defer cancel()
			s.flush(last)
			return
		case <-ticker.C:
			s.flush(ctx)
		}
	}
}

// flush shares what was observed since the last time.
func (s *Store) flush(ctx context.Context) {
	s.mu.Lock()
	own := map[string]tokens.Calibration{}
	for k, e := range s.models {
		if e.own.Weight() > 0 {
			own[k] = e.own
			e.own = tokens.Calibration{}
		}
	}
	s.mu.Unlock()
	for k, observed := range own {
		if err := s.merge(ctx, k, &observed); err != nil {
			slog.Debug("sharing a calibration failed, it is with the next", "error", err)
			s.mu.Lock()
			s.models[k].own.Merge(&observed)
			s.mu.Unlock()
		}
	}
}

// merge adds observations to the shared ones by compare-and-swap.
func (s *Store) merge(ctx context.Context, k string, observed *tokens.Calibration) error {
	for range conflicts {
		var shared tokens.Calibration
		var revision uint64
		switch have, err := s.bucket.Get(ctx, k); {
		case err == nil:
			revision = have.Revision()
			if json.Unmarshal(have.Value(), &shared) != nil {
				shared = tokens.Calibration{}
			}
		case !errors.Is(err, jetstream.ErrKeyNotFound):
			return err
		}
		shared.Merge(observed)
		value, err := json.Marshal(&shared)
		if err != nil {
			return err
		}
		if revision == 0 {
			_, err = s.bucket.Create(ctx, k, value)
		} else {
			_, err = s.bucket.Update(ctx, k, value, revision)
		}
		if err == nil {
			return nil
		}
		if !jsx.IsWrongLastSequence(err) && !jsx.IsInFlight(err) {
			return err
		}
	}
	return errors.New("others wrote first, every time")
}

func key(provider, model string) string {
	return keyPrefix + EscapeName(provider) + "." + EscapeName(model)
}

// EscapeName makes any name, such as a/b:c, part of a key: bytes other than
// A-Z a-z 0-9 _ - are written as = and two hex digits.
func EscapeName(name string) string {
	plain := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
	}
	var out strings.Builder
	for i := range len(name) {
		if plain(name[i]) {
			out.WriteByte(name[i])
			continue
		}
		fmt.Fprintf(&out, "=%02X", name[i])
	}
	return out.String()
}

// UnescapeName gives the name that EscapeName made part of a key; false where
// the part is not one of those.
func UnescapeName(part string) (string, bool) {
	var out []byte
	for i := 0; i < len(part); i++ {
		if part[i] != '=' {
			out = append(out, part[i])
			continue
		}
		if i+3 > len(part) {
			return "", false
		}
		b, err := strconv.ParseUint(part[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		out = append(out, byte(b))
		i += 2
	}
	return string(out), true
}
