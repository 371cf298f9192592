package kv

import (
	"context"
	"log/slog"
	"maps"
	"time"

	"github.com/adpa/processor/internal/jsx"
)

// syncTimeout bounds a reconcile pass.
const syncTimeout = time.Minute

// syncEvery compares what is known with the bucket every so often, until ctx ends.
func (c *Cache) syncEvery(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := c.sync(ctx); err != nil && ctx.Err() == nil {
				slog.Warn("comparing the cache with its bucket failed", "error", err)
			}
		}
	}
}

// sync reads the bucket's keys and puts right what the watch may have missed.
// What changed meanwhile is left to the watch.
func (c *Cache) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	c.mu.Lock()
	before := maps.Clone(c.index)
	c.mu.Unlock()
	present := map[indexKey]uint64{}
	stop, err := jsx.Watch(ctx, c.js, jsx.WatchConfig{Bucket: c.bucket, HeadersOnly: true, Apply: func(e jsx.Entry) {
		if k := hashKey(e.Key); e.Deleted {
			delete(present, k)
		} else if len(present) < maxIndexed {
			present[k] = e.Revision
		}
	}})
	if err != nil {
		return err
	}
	stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, revision := range before {
		if _, there := present[k]; !there && c.index[k] == revision && len(present) < maxIndexed {
			delete(c.index, k)
			c.count(CountSynced)
		}
	}
	for k, revision := range present {
		if known, ok := c.index[k]; known == before[k] && known < revision {
			if !ok && len(c.index) >= maxIndexed {
				c.overflow = true
				continue
			}
			c.index[k] = revision
			c.count(CountSynced)
		}
	}
	return nil
}
