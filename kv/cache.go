package kv

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
)

const (
	// maxIndexed bounds the keys that a process knows of, at about 40 bytes
	// each. Past it, a key that is not known is looked up in the bucket.
	maxIndexed = 1 << 20
	// firstPoll is how often the bucket is asked what it has evicted.
	firstPoll = time.Second
	// pendingPuts bounds the writes that are under way; more are dropped, since
	// an answer that is not cached is no loss but of money.
	pendingPuts = 1024
	// headerRoom is what of a message's limit is left for its headers.
	headerRoom = 1024
	// A bucket that is fuller than this drops its oldest entries soon: those of
	// them that are used are written again, if they are among its oldest tenth.
	nearlyFull  = 0.9
	oldestShare = 10
)

// What the cache counts besides lookups.
const (
	CountDamaged  = "damaged"
	CountTooLarge = "too_large"
	CountSynced   = "synced" // an entry that the reconcile pass put right
)

// Entry is a cached answer.
type Entry struct {
	Model    string         `json:"model"`
	Provider string         `json:"provider"`
	Usage    schemas.Usage  `json:"usage"` // of the call that was paid
	CostUSD  float64        `json:"cost_usd"`
	Expires  schemas.Millis `json:"expires"`
	Answer   jsontext.Value `json:"answer,omitzero"`

	Request string         `json:"request,omitzero"` // that paid for it: tenant.id
	Made    schemas.Millis `json:"made,omitzero"`
	// Passing is an answer that may not be cached: only requests that were
	// accepted before it was made, and waited for it, may share it.
	Passing bool `json:"passing,omitzero"`
	// Settled is an answer that was the best of all that were asked for, whatever
	// it scores.
	Settled bool `json:"settled,omitzero"`
	// Of is the key of the entry that this one stands for: it has no answer of its
	// own, and is a miss where that entry is none.
	Of string `json:"of,omitzero"`
}

// Cache is the shared cache of answers with a part of it in memory. Keys are
// tenant.fingerprint. An index of what the bucket holds spares misses the round
// trip; a watch keeps it in step. It is safe for concurrent use.
type Cache struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	get    *jsx.Getter
	put    *jsx.Publisher
	bucket string
	stop   func()

	mu       sync.Mutex
	local    *memory
	index    map[indexKey]uint64 // revision by key
	overflow bool                // some keys are not in the index
	stale    bool                // the watch lost the server: ask the bucket
	seen     uint64              // the last revision that the watch brought

	first atomic.Uint64 // the bucket's first sequence: what is below was evicted
	aging atomic.Uint64 // what is below will be evicted soon
	count func(result string)
	puts  atomic.Int64 // under way
	done  sync.WaitGroup

	waiting map[string]*waiting // by key
}

// waiting is told when a key has got an entry.
type waiting struct {
	changed chan struct{}
	waiters int
}

// indexKey stands for a key in the index. Two keys that share one, of a million
// with a probability of one in thirty million, cost a read or a call more.
type indexKey uint64

var indexSeed = maphash.MakeSeed()

func hashKey(key string) indexKey { return indexKey(maphash.String(indexSeed, key)) }

// NewCache opens the bucket and follows it until Close. count is told of
// entries that are damaged or too large to be kept.
func NewCache(ctx context.Context, nc *nats.Conn, l Layout, cfg CacheConfig, count func(result string)) (*Cache, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	get, err := jsx.NewGetter(nc)
	if err != nil {
		return nil, err
	}
	publisher, err := jsx.NewPublisher(nc, jsx.PublisherConfig{Window: 2 * pendingPuts}) // which is never full
	if err != nil {
		get.Close()
		return nil, err
	}
	c := &Cache{
		nc: nc, js: js, get: get, put: publisher, bucket: l.Bucket(BucketCache), local: newMemory(cfg), count: count,
		index: map[indexKey]uint64{}, waiting: map[string]*waiting{},
	}
	stopWatch, err := jsx.Watch(ctx, js, jsx.WatchConfig{
		Bucket: c.bucket, HeadersOnly: true, Apply: c.apply, Lost: func(error) { c.setStale(true) },
	})
	if err != nil {
		get.Close()
		publisher.Close()
		return nil, err
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.done.Go(func() { c.pollFirst(background) })
	c.done.Go(func() { c.syncEvery(background, cfg.SyncInterval.Std()) })
	c.stop = sync.OnceFunc(func() {
		stopWatch()
		cancel()
		c.done.Wait()
		get.Close()
		publisher.Close()
	})
	return c, nil
}

// Close waits for what is being put, and ends the watch. Put must not be called
// any more.
func (c *Cache) Close() { c.stop() }

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
		c.local.remove(k)
		return
	}
	if _, known := c.index[k]; !known && len(c.index) >= maxIndexed {
		c.overflow = true
		return
	}
	c.index[k] = e.Revision
	if have := c.local.entries[k]; have != nil && have.revision != e.Revision {
		c.local.remove(k)
	}
}

// Get gives the entries of those keys that have one which has not expired; they
// must not be changed. What is not in memory and may be in the bucket is read in
// one round trip; if that fails those are misses.
func (c *Cache) Get(ctx context.Context, keys []string) map[string]*Entry {
	found := make(map[string]*Entry, len(keys))
	var ask []string
	now := time.Now().UnixMilli()
	for _, key := range keys {
		entry, again, inBucket := c.lookup(key, hashKey(key))
		switch {
		case entry != nil && int64(entry.Expires) > now:
			found[key] = entry
			if again {
				c.store(key, *entry, nil)
			}
		case entry == nil && inBucket:
			ask = append(ask, c.subject(key))
		}
	}
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
		if entry, ok := c.readEntry(key, m); ok && int64(entry.Expires) > now {
			found[key] = &entry
			c.keep(key, entry, m.Sequence)
		}
	}
	return found
}

// lookup finds a key in memory, and says whether its entry is to be written again
// before it falls out of the bucket; else it says whether the bucket may have it.
func (c *Cache) lookup(key string, hash indexKey) (entry *Entry, again, inBucket bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	revision, indexed := c.index[hash]
	if indexed && revision < c.first.Load() {
		indexed = false // evicted
	}
	if have := c.local.get(key, hash); have != nil && !c.stale {
		if indexed && have.revision == revision || !indexed && have.revision > c.seen {
			again = have.revision < c.aging.Load() && !have.again
			have.again = have.again || again
			return &have.Entry, again, true
		}
		c.local.remove(hash)
	}
	return nil, false, indexed || c.overflow || c.stale
}

// readEntry decodes a stored entry. One that is deleted or damaged is a miss, and
// so is one that stands for another tenant's.
func (c *Cache) readEntry(key string, m jsx.Stored) (Entry, bool) {
	if jsx.Removed(m.Header) {
		return Entry{}, false
	}
	var entry Entry
	if json.Unmarshal(m.Data, &entry) != nil || !entry.whole(key) {
		c.count(CountDamaged)
		return Entry{}, false
	}
	return entry, true
}

// whole reports whether an entry under the given key can be used: it has an
// answer, or stands for one of the same scope.
func (e *Entry) whole(key string) bool {
	if e.Of == "" {
		return len(e.Answer) > 0 && e.Answer[0] == '{'
	}
	scope, _, _ := strings.Cut(key, ".")
	theirs, _, ok := strings.Cut(e.Of, ".")
	return ok && scope == theirs && e.Of != key && len(e.Answer) == 0
}

// keep puts an entry into memory.
func (c *Cache) keep(key string, entry Entry, revision uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.local.put(key, hashKey(key), entry, revision)
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
	entry, ok := c.readEntry(key, m)
	return entry, ok && int64(entry.Expires) > time.Now().UnixMilli(), nil
}

// Put stores an entry for the given time. It does not wait: a write that fails
// is no more than a later miss. stored, if not nil, is called once the write is
// certain or has failed.
func (c *Cache) Put(key string, entry Entry, ttl time.Duration, stored func()) {
	now := time.Now()
	entry.Made, entry.Expires = schemas.ToMillis(now), schemas.ToMillis(now.Add(max(ttl, time.Second)))
	c.store(key, entry, stored)
}

// Link has a key stand for the entry of another one of the same scope, which is
// stored too. It does not wait either.
func (c *Cache) Link(key, of string, entry Entry, ttl time.Duration) {
	c.Put(key, Entry{Model: entry.Model, Provider: entry.Provider, CostUSD: entry.CostUSD, Of: of}, ttl, nil)
}

// store writes an entry that knows when it expires.
func (c *Cache) store(key string, entry Entry, stored func()) {
	if stored == nil {
		stored = func() {}
	}
	if !c.publish(key, entry, stored) {
		stored()
	}
}

func (c *Cache) publish(key string, entry Entry, stored func()) bool {
	bare := entry
	bare.Answer = nil
	value, err := encodeEntry(&bare, entry.Answer)
	if err != nil {
		return false
	}
	if int64(len(value)) > c.nc.MaxPayload()-headerRoom {
		c.count(CountTooLarge)
		return false
	}
	if c.puts.Add(1) > pendingPuts {
		c.puts.Add(-1)
		return false
	}
	c.done.Add(1)
	ttl := max(time.Until(entry.Expires.Time()).Round(time.Second), time.Second)
	err = c.put.Publish(&nats.Msg{
		Subject: c.subject(key), Data: value,
		Header: nats.Header{"Nats-TTL": []string{strconv.Itoa(int(ttl/time.Second)) + "s"}},
	}, func(ack jsx.Ack, err error) {
		if err == nil { // what was not stored is not kept
			c.keep(key, entry, ack.Sequence)
		}
		stored()
		c.ended()
	})
	if err != nil {
		c.ended()
	}
	return err == nil
}

// ended notes that a write is no longer under way.
func (c *Cache) ended() {
	c.puts.Add(-1)
	c.done.Done()
}

func encodeEntry(bare *Entry, answer jsontext.Value) ([]byte, error) {
	if bare.Of != "" {
		return json.Marshal(bare)
	}
	return marshalWith(bare, answer)
}

// Delete removes a key, for every replica; for this one at once.
func (c *Cache) Delete(ctx context.Context, key string) error {
	if _, err := c.js.PublishMsg(ctx, deletion(c.subject(key))); err != nil {
		return fmt.Errorf("deleting %s from the cache: %w", key, err)
	}
	c.dropLocal(key)
	return nil
}

// Drop is Delete without waiting: one that is lost leaves the entry until it expires.
func (c *Cache) Drop(key string) {
	_ = c.nc.PublishMsg(deletion(c.subject(key)))
	c.dropLocal(key)
}

func deletion(subject string) *nats.Msg {
	return &nats.Msg{Subject: subject, Header: nats.Header{
		"KV-Operation": []string{"PURGE"}, "Nats-Rollup": []string{"sub"}, "Nats-TTL": []string{"1h"},
	}}
}

func (c *Cache) dropLocal(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	hash := hashKey(key)
	delete(c.index, hash)
	c.local.remove(hash)
}

// pollFirst learns what the bucket has evicted: it drops its oldest entries
// without a word when it is full.
func (c *Cache) pollFirst(ctx context.Context) {
	ticker := time.NewTicker(firstPoll)
	defer ticker.Stop()
	for {
		c.readFirst(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
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
	info := stream.CachedInfo()
	state := info.State
	c.adopt(info.Config.Metadata)
	if float64(state.Bytes) > nearlyFull*float64(info.Config.MaxBytes) {
		c.aging.Store(state.FirstSeq + (state.LastSeq-state.FirstSeq)/oldestShare)
	} else {
		c.aging.Store(0)
	}
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
