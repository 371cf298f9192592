package kv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
)

// slotTries bounds the attempts to write a tenant's time before other replicas do.
const slotTries = 50

// Slots gives out the times at which requests of tenants may begin, over all
// replicas: each tenant's key holds the time that was not given out yet, in
// microseconds since 1970, and is changed by compare-and-swap. It is safe for
// concurrent use.
type Slots struct{ bucket jetstream.KeyValue }

// NewSlots opens the bucket.
func NewSlots(ctx context.Context, js jetstream.JetStream, l Layout) (*Slots, error) {
	bucket, err := js.KeyValue(ctx, l.Bucket(BucketSlots))
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", l.Bucket(BucketSlots), err)
	}
	return &Slots{bucket}, nil
}

// Reserve takes n times of a tenant, 1/rate seconds apart, and gives the first.
// None is given twice or lies closer to another, as far as the clocks of the
// replicas agree. What a process took and did not use is lost.
func (s *Slots) Reserve(ctx context.Context, tenant string, rate float64, n int) (first time.Time, err error) {
	for range slotTries {
		first, err = s.reserve(ctx, tenant, rate, n)
		if !errors.Is(err, errConflict) {
			return first, err
		}
		select {
		case <-time.After(rand.N(2 * time.Millisecond)):
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("taking times of tenant %s: %w", tenant, ctx.Err())
		}
	}
	return time.Time{}, fmt.Errorf("taking times of tenant %s: %w %d times", tenant, errConflict, slotTries)
}

func (s *Slots) reserve(ctx context.Context, tenant string, rate float64, n int) (time.Time, error) {
	entry, err := s.bucket.Get(ctx, tenant)
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return time.Time{}, fmt.Errorf("reading the time of tenant %s: %w", tenant, err)
	}
	next, revision := time.Now().UnixMicro(), uint64(0)
	if err == nil {
		free, err := strconv.ParseInt(string(entry.Value()), 10, 64)
		if err != nil {
			return time.Time{}, fmt.Errorf("reading the time of tenant %s: %w", tenant, err)
		}
		next, revision = max(next, free), entry.Revision()
	}
	value := strconv.AppendInt(nil, next+int64(math.Ceil(float64(n)*1e6/rate)), 10)
	if revision == 0 {
		_, err = s.bucket.Create(ctx, tenant, value)
	} else {
		_, err = s.bucket.Update(ctx, tenant, value, revision)
	}
	switch {
	case errors.Is(err, jetstream.ErrKeyExists), jsx.IsWrongLastSequence(err), jsx.IsInFlight(err):
		return time.Time{}, errConflict
	case err != nil:
		return time.Time{}, fmt.Errorf("writing the time of tenant %s: %w", tenant, err)
	}
	return time.UnixMicro(next), nil
}
