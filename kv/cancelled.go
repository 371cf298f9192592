package kv

import (
	"context"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
)

// maxCancelled bounds the cancelled requests that a process remembers. Past it
// the bucket still holds them all, and the oldest of the process are forgotten.
const maxCancelled = 100_000

// Cancelled are the requests that were cancelled within the last hour, in step
// with the bucket. It is safe for concurrent use.
type Cancelled struct {
	bucket jetstream.KeyValue
	stop   func()

	mu    sync.RWMutex
	keys  map[string]struct{}
	order []string
	told  func(key string)
}

// NewCancelled opens the bucket and follows it. told, which may be nil, is
// called with the key (tenant.id) of each request that is cancelled from now on.
func NewCancelled(ctx context.Context, js jetstream.JetStream, l Layout, told func(key string)) (*Cancelled, error) {
	bucket, err := js.KeyValue(ctx, l.Bucket(BucketCancelled))
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", l.Bucket(BucketCancelled), err)
	}
	c := &Cancelled{bucket: bucket, keys: map[string]struct{}{}, told: told}
	c.stop, err = jsx.Watch(ctx, js, jsx.WatchConfig{Bucket: l.Bucket(BucketCancelled), HeadersOnly: true, Apply: c.apply})
	return c, err
}

// Close ends the watch.
func (c *Cancelled) Close() { c.stop() }

func (c *Cancelled) apply(e jsx.Entry) {
	c.mu.Lock()
	_, known := c.keys[e.Key]
	switch {
	case e.Deleted:
		delete(c.keys, e.Key)
	case !known:
		c.keys[e.Key] = struct{}{}
		c.order = append(c.order, e.Key)
		for len(c.order) > maxCancelled {
			delete(c.keys, c.order[0])
			c.order = c.order[1:]
		}
	}
	c.mu.Unlock()
	if !e.Deleted && !known && c.told != nil {
		c.told(e.Key)
	}
}

// Has reports whether the request with this key (tenant.id) was cancelled.
func (c *Cancelled) Has(key string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.keys[key]
	return ok
}

// Add cancels the request with this key, for every replica.
func (c *Cancelled) Add(ctx context.Context, key string) error {
	if _, err := c.bucket.Put(ctx, key, nil); err != nil {
		return fmt.Errorf("cancelling %s: %w", key, err)
	}
	return nil
}
