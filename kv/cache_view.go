package kv

import (
	"context"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
)

// CacheView reads the cache of a deployment and never writes: no index, no
// watch, one batched read for a slice. It is safe for concurrent use.
type CacheView struct {
	get    *jsx.Getter
	bucket string
}

// NewCacheView opens the bucket for reading. Close ends it.
func NewCacheView(nc *nats.Conn, l Layout) (*CacheView, error) {
	get, err := jsx.NewGetter(nc)
	if err != nil {
		return nil, err
	}
	return &CacheView{get, l.Bucket(BucketCache)}, nil
}

// Close ends the reads.
func (v *CacheView) Close() { v.get.Close() }

// At gives the entries of those keys (tenant.fingerprint) that had one at a
// time: made before it, and not expired at now.
func (v *CacheView) At(ctx context.Context, keys []string, made, now schemas.Millis) (map[string]Entry, error) {
	prefix := "$KV." + v.bucket + "."
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = prefix + key
	}
	stored, err := v.get.Last(ctx, "KV_"+v.bucket, subjects)
	if err != nil {
		return nil, fmt.Errorf("looking into the cache: %w", err)
	}
	found := make(map[string]Entry, len(stored))
	for subject, m := range stored {
		var e Entry
		if jsx.Removed(m.Header) || json.Unmarshal(m.Data, &e) != nil || len(e.Answer) == 0 || e.Passing || e.Made >= made || e.Expires <= now {
			continue
		}
		found[subject[len(prefix):]] = e
	}
	return found, nil
}
