package kv

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
)

const (
	// maxIndexed bounds the keys that a process knows of, at about 50 bytes
	// each. Past it, a key that is not known is looked up in the bucket.
	maxIndexed = 1 << 20
	// firstPoll is how often the bucket is asked what it has evicted.
	firstPoll = time.Second
	// pendingPuts bounds the writes that are under way; more are dropped, since
	// an answer that is not cached is no loss but of money.
	pendingPuts = 1024
	// headerRoom is what of a message's limit is left for its headers.
	headerRoom = 1024
	// maxLocal bounds the number of entries in memory; their bytes are bounded by local_size.
	maxLocal = 1 << 20
)

// Entry is a cached answer.
type Entry struct {
	Model    string         `json:"model"`
	Provider string         `json:"provider"`
	Usage    schemas.Usage  `json:"usage"` // of the call that was paid
	CostUSD  float64        `json:"cost_usd"`
	Expires  schemas.Millis `json:"expires"`
	Answer   jsontext.Value `json:"answer"`

	Request string         `json:"request,omitzero"` // that paid for it: tenant.id
	Made    schemas.Millis `json:"made,omitzero"`
	// Passing is an answer that may not be cached: only requests that were
	// accepted before it was made, and waited for it, may share it.
	Passing bool `json:"passing,omitzero"`
}

// Cache is the shared cache of answers with a part of it in memory. Keys are
// tenant.fingerprint. An index of what the bucket holds spares misses the round
// trip; a watch keeps it in step. It is safe for concurrent use.
type Cache struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	get    *jsx.Getter
	bucket string
	stop   func()

	mu       sync.Mutex
	local    *simplelru.LRU[string, localEntry]
	bytes    int64
	maxBytes int64
	index    map[indexKey]uint64 // revision by key
	overflow bool                // some keys are not in the index
	stale    bool                // the watch lost the server: ask the bucket
	seen     uint64              // the last revision that the watch brought

	first atomic.Uint64 // the bucket's first sequence: what is below was evicted
	puts  chan put
	done  sync.WaitGroup

	waiting map[string]*waiting // by key
}

// waiting is told when a key has got an entry.
type waiting struct {
	changed chan struct{}
	waiters int
}

type localEntry struct {
	Entry
	revision uint64
}

type put struct {
	key    string
	entry  Entry
	future jetstream.PubAckFuture
	stored func()
}

type indexKey [16]byte

func hashKey(key string) indexKey {
	sum := sha256.Sum256([]byte(key))
	return indexKey(sum[:16])
}

// NewCache opens the bucket and follows it until Close.
func NewCache(ctx context.Context, nc *nats.Conn, l Layout, localBytes int64) (*Cache, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(pendingPuts), jetstream.WithPublishAsyncTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	get, err := jsx.NewGetter(nc)
	if err != nil {
		return nil, err
	}
	c := &Cache{
		nc: nc, js: js, get: get, bucket: l.Bucket(BucketCache), maxBytes: localBytes,
		index: map[indexKey]uint64{}, puts: make(chan put, pendingPuts), waiting: map[string]*waiting{},
	}
	c.local, err = simplelru.NewLRU(maxLocal, func(_ string, e localEntry) { c.bytes -= size(e.Entry) })
	if err != nil {
		return nil, err
	}
	stopWatch, err := jsx.Watch(ctx, js, jsx.WatchConfig{
		Bucket: c.bucket, HeadersOnly: true, Apply: c.apply, Lost: func(error) { c.setStale(true) },
	})
	if err != nil {
		get.Close()
		return nil, err
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.done.Go(func() { c.pollFirst(background) })
	c.done.Go(c.keepPuts)
	c.stop = sync.OnceFunc(func() {
		stopWatch()
		cancel()
		close(c.puts)
		c.done.Wait()
		get.Close()
	})
	return c, nil
}

// Close ends the watch. Put must not be called any more.
func (c *Cache) Close() { c.stop() }

func size(e Entry) int64 { return int64(len(e.Answer)) + 256 }

func (c *Cache) subject(key string) string { return "$KV." + c.bucket + "." + key }

func (c *Cache) setStale(stale bool) {
	c.mu.Lock()
	c.stale = stale
	c.mu.Unlock()
}

// apply takes a change of the bucket.
func (c *Cache) apply(e jsx.Entry) {
	k := hashKey(e.Key)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen, c.stale = e.Revision, false
	if w := c.waiting[e.Key]; w != nil && !e.Deleted {
		close(w.changed)
		w.changed = make(chan struct{})
	}
	if e.Deleted {
		delete(c.index, k)
		c.local.Remove(e.Key)
		return
	}
	if _, known := c.index[k]; !known && len(c.index) >= maxIndexed {
		c.overflow = true
		return
	}
	c.index[k] = e.Revision
	if have, ok := c.local.Peek(e.Key); ok && have.revision != e.Revision {
		c.local.Remove(e.Key)
	}
}

// Get gives the entries of those keys that have one which has not expired.
// What is not in memory and may be in the bucket is read in one round trip; if
// that fails those are misses.
func (c *Cache) Get(ctx context.Context, keys []string) map[string]Entry {
	found := make(map[string]Entry)
	var ask []string
	now := time.Now().UnixMilli()
	c.mu.Lock()
	for _, key := range keys {
		entry, inBucket := c.lookup(key)
		switch {
		case entry != nil && int64(entry.Expires) > now:
			found[key] = *entry
		case entry == nil && inBucket:
			ask = append(ask, c.subject(key))
		}
	}
	c.mu.Unlock()
	if len(ask) == 0 {
		return found
	}
	stored, err := c.get.Last(ctx, "KV_"+c.bucket, ask)
	if err != nil {
		slog.Debug("reading the cache failed", "error", err)
		return found
	}
	for subject, m := range stored {
		key := subject[len(c.subject("")):]
		if entry, ok := readEntry(m); ok && int64(entry.Expires) > now {
			found[key] = entry
			c.keep(key, entry, m.Sequence)
		}
	}
	return found
}

// lookup finds a key in memory; else it says whether the bucket may have it.
func (c *Cache) lookup(key string) (entry *Entry, inBucket bool) {
	revision, indexed := c.index[hashKey(key)]
	if indexed && revision < c.first.Load() {
		indexed = false // evicted
	}
	if have, ok := c.local.Get(key); ok && !c.stale {
		if indexed && have.revision == revision || !indexed && have.revision > c.seen {
			return &have.Entry, true
		}
		c.local.Remove(key)
	}
	return nil, indexed || c.overflow || c.stale
}

// readEntry decodes a stored entry. One that is deleted or damaged is a miss.
func readEntry(m jsx.Stored) (Entry, bool) {
	var entry Entry
	if m.Header.Get("KV-Operation") != "" || m.Header.Get("Nats-Marker-Reason") != "" || json.Unmarshal(m.Data, &entry) != nil || len(entry.Answer) == 0 {
		return Entry{}, false
	}
	return entry, true
}

// keep puts an entry into memory, the least recently used ones making room.
func (c *Cache) keep(key string, entry Entry, revision uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if size(entry) > c.maxBytes {
		return
	}
	c.local.Remove(key)
	c.local.Add(key, localEntry{entry, revision})
	c.bytes += size(entry)
	for c.bytes > c.maxBytes {
		c.local.RemoveOldest()
	}
}

// Changed gives a channel that is closed when the key gets an entry, from now
// on. done must be called when the caller waits no more.
func (c *Cache) Changed(key string) (changed <-chan struct{}, done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.waiting[key]
	if w == nil {
		w = &waiting{changed: make(chan struct{})}
		c.waiting[key] = w
	}
	w.waiters++
	return w.changed, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if w.waiters--; w.waiters == 0 {
			delete(c.waiting, key)
		}
	}
}

// GetNow gives the entry of one key as the bucket's leader holds it.
func (c *Cache) GetNow(ctx context.Context, key string) (Entry, bool, error) {
	m, found, err := jsx.LastFromLeader(ctx, c.nc, "KV_"+c.bucket, c.subject(key))
	if err != nil || !found {
		return Entry{}, false, err
	}
	entry, ok := readEntry(m)
	return entry, ok && int64(entry.Expires) > time.Now().UnixMilli(), nil
}

// Put stores an entry for the given time. It does not wait: a write that fails
// is no more than a later miss. stored, if not nil, is called once the write is
// certain or has failed.
func (c *Cache) Put(key string, entry Entry, ttl time.Duration, stored func()) {
	if stored == nil {
		stored = func() {}
	}
	if !c.put(key, entry, ttl, stored) {
		stored()
	}
}

func (c *Cache) put(key string, entry Entry, ttl time.Duration, stored func()) bool {
	ttl = max(ttl.Truncate(time.Second), time.Second)
	now := time.Now()
	entry.Made, entry.Expires = schemas.ToMillis(now), schemas.ToMillis(now.Add(ttl))
	value, err := json.Marshal(&entry)
	if err != nil || int64(len(value)) > c.nc.MaxPayload()-headerRoom {
		return false
	}
	future, err := c.js.PublishMsgAsync(&nats.Msg{
		Subject: c.subject(key), Data: value,
		Header: nats.Header{"Nats-TTL": []string{strconv.Itoa(int(ttl/time.Second)) + "s"}},
	})
	if err != nil {
		return false
	}
	select {
	case c.puts <- put{key, entry, future, stored}:
		return true
	default:
		return false
	}
}

// keepPuts keeps in memory what was stored.
func (c *Cache) keepPuts() {
	for p := range c.puts {
		select {
		case ack := <-p.future.Ok():
			c.keep(p.key, p.entry, ack.Sequence)
		case <-p.future.Err():
		}
		p.stored()
	}
}

// Delete removes a key, for every replica.
func (c *Cache) Delete(ctx context.Context, key string) error {
	m := &nats.Msg{Subject: c.subject(key), Header: nats.Header{
		"KV-Operation": []string{"PURGE"}, "Nats-Rollup": []string{"sub"}, "Nats-TTL": []string{"1h"},
	}}
	if _, err := c.js.PublishMsg(ctx, m); err != nil {
		return fmt.Errorf("deleting %s from the cache: %w", key, err)
	}
	return nil
}

// pollFirst learns what the bucket has evicted: it drops its oldest entries
// without a word when it is full.
func (c *Cache) pollFirst(ctx context.Context) {
	ticker := time.NewTicker(firstPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.readFirst(ctx)
		}
	}
}

func (c *Cache) readFirst(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firstPoll)
	defer cancel()
	stream, err := c.js.Stream(ctx, "KV_"+c.bucket)
	if err != nil {
		return
	}
	state := stream.CachedInfo().State
	before := c.first.Swap(state.FirstSeq)
	if state.FirstSeq <= before {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if uint64(len(c.index)) > 2*state.Msgs+1024 { // much of it is gone: sweep
		for k, revision := range c.index {
			if revision < state.FirstSeq {
				delete(c.index, k)
			}
		}
	}
}
