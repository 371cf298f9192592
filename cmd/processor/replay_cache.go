package main

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
)

// answerCache is the cache of answers as the stages use it: that of the
// deployment (*kv.Cache), or a replay's own.
type answerCache interface {
	Get(ctx context.Context, keys []string) map[string]*kv.Entry
	GetNow(ctx context.Context, key string) (kv.Entry, bool, error)
	Put(key string, entry kv.Entry, ttl time.Duration, stored func())
	Link(key, of string, entry kv.Entry, ttl time.Duration)
	Drop(key string)
	Delete(ctx context.Context, key string) error
	Changed(key string) (changed <-chan struct{}, done func())
	Shed()
}

// replayCache is the cache of a replay in the place of a deployment's: entries
// are appended to a log, of which memory holds where each of them is. What is
// there depends on the requests alone, and not on when they were worked: it
// holds an entry at once, and is told of which request it is, so that a replay
// that goes on finds what the requests had left that it does not run again, and
// nothing else. It is safe for concurrent use.
//
// Past its size the oldest entries go, but for those that were used: they are
// kept as long as a new one, as a deployment does that writes them again.
type replayCache struct {
	log     *replayLog
	most    int64 // bytes; 0 is no bound
	largest int   // of an entry
	clock   *replayClock
	fail    func(error) // told that the log cannot be read or written: the replay is over
	durable bool        // what is put is handed to the system before anything rests on it

	mu      sync.Mutex
	entries map[cacheHash]cacheSlot
	bytes   int64
	queue   []queued // the oldest first; some are gone
	first   int      // of the queue
	again   map[int][]cacheChange
}

// cacheHash stands for a key. Two keys that share one, of a million with a
// probability of one in thirty million, are a miss more.
type cacheHash uint64

var cacheSeed = maphash.MakeSeed()

// cacheSlot is where an entry is.
type cacheSlot struct {
	offset int64
	length int32
	used   bool
}

type queued struct {
	key    cacheHash
	offset int64
}

// cacheChange is an entry that a request made or, with no length, removed.
type cacheChange struct {
	key cacheHash
	cacheSlot
}

// The kinds of its records.
const (
	recordPut  = 'p'
	recordDrop = 'd'
)

// entryOverhead is about what an entry takes in a bucket besides its record.
const entryOverhead = 100

// openReplayCache opens the cache of a side of which the first requests need not
// run again: finished reports those. What others had changed counts once they
// are decided, unless they change it anew.
func openReplayCache(path, identity string, cfg kv.CacheConfig, finished func(index int) bool) (*replayCache, error) {
	c := &replayCache{most: int64(cfg.MaxSize), entries: map[cacheHash]cacheSlot{}, again: map[int][]cacheChange{}}
	var err error
	c.log, err = openReplayLog(path, identity, func(kind byte, offset int64, payload []byte) error {
		index, key, ok := readChange(payload)
		if !ok {
			return errDamaged
		}
		change := cacheChange{hashOf(key), cacheSlot{offset: offset}}
		if kind == recordPut {
			change.length = int32(len(payload))
		}
		if index >= 0 && !finished(index) {
			c.again[index] = append(c.again[index], change)
			return nil
		}
		c.apply(change)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func hashOf(key string) cacheHash { return cacheHash(maphash.String(cacheSeed, key)) }

// A record begins with the number of the request, which is -1 for nobody's, and
// the key; that of an entry goes on with when it expires, what is known of the
// answer, and the answer.
func changeHead(index int, key string) []byte {
	head := binary.LittleEndian.AppendUint32(nil, uint32(int32(index)))
	head = binary.LittleEndian.AppendUint16(head, uint16(len(key)))
	return append(head, key...)
}

func readChange(payload []byte) (index int, key string, ok bool) {
	if len(payload) < 6 {
		return 0, "", false
	}
	length := int(binary.LittleEndian.Uint16(payload[4:]))
	if len(payload) < 6+length {
		return 0, "", false
	}
	return int(int32(binary.LittleEndian.Uint32(payload))), string(payload[6 : 6+length]), true
}

func readEntry(payload []byte, key string) (e *kv.Entry, ok bool) {
	_, of, ok := readChange(payload)
	rest := payload[min(len(payload), 6+len(of)):]
	if !ok || of != key || len(rest) < 4 {
		return nil, false
	}
	length := int(binary.LittleEndian.Uint32(rest))
	if len(rest) < 4+length {
		return nil, false
	}
	e = &kv.Entry{}
	if json.Unmarshal(rest[4:4+length], e) != nil {
		return nil, false
	}
	if answer := rest[4+length:]; len(answer) > 0 {
		e.Answer = answer
	}
	return e, true
}

// apply takes in a change. The caller holds the lock, or is alone.
func (c *replayCache) apply(change cacheChange) {
	if old, there := c.entries[change.key]; there {
		c.bytes -= int64(old.length) + entryOverhead
		delete(c.entries, change.key)
	}
	if change.length == 0 {
		return
	}
	c.entries[change.key] = change.cacheSlot
	c.bytes += int64(change.length) + entryOverhead
	c.queue = append(c.queue, queued{change.key, change.offset})
	for c.most > 0 && c.bytes > c.most && c.first < len(c.queue) {
		c.evict()
	}
	if c.first > len(c.queue)/2 && c.first > 1024 {
		c.queue = append(c.queue[:0], c.queue[c.first:]...)
		c.first = 0
	}
}

// evict removes the oldest entry, or puts it last if it was used.
func (c *replayCache) evict() {
	oldest := c.queue[c.first]
	c.first++
	slot, there := c.entries[oldest.key]
	switch {
	case !there || slot.offset != oldest.offset: // was replaced
	case slot.used:
		slot.used = false
		c.entries[oldest.key] = slot
		c.queue = append(c.queue, oldest)
	default:
		delete(c.entries, oldest.key)
		c.bytes -= int64(slot.length) + entryOverhead
	}
}

// change appends a change to the log and takes it in.
func (c *replayCache) change(kind byte, index int, key string, rest ...[]byte) {
	parts := append([][]byte{changeHead(index, key)}, rest...)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.again, index) // it has its say now
	offset, err := c.log.append(kind, parts...)
	if err == nil && c.durable {
		err = c.log.flush()
	}
	if err != nil {
		c.fail(err)
		return
	}
	change := cacheChange{hashOf(key), cacheSlot{offset: offset}}
	if kind == recordPut {
		for _, part := range parts {
			change.length += int32(len(part))
		}
	}
	c.apply(change)
}

// decided says that a request has its outcome. What an interrupted run had put
// for it counts from now on, where it was answered from what that run stored.
func (c *replayCache) decided(index int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, change := range c.again[index] {
		c.apply(change)
	}
	delete(c.again, index)
}

// Get implements answerCache.
func (c *replayCache) Get(_ context.Context, keys []string) map[string]*kv.Entry {
	found := map[string]*kv.Entry{}
	for _, key := range keys {
		hash := hashOf(key)
		c.mu.Lock()
		slot, there := c.entries[hash]
		if there && !slot.used {
			slot.used = true
			c.entries[hash] = slot
		}
		c.mu.Unlock()
		if !there {
			continue
		}
		payload, err := c.log.read(slot.offset, int(slot.length))
		if err != nil {
			c.fail(err)
			continue
		}
		if e, ok := readEntry(payload, key); ok && (e.Of == "" || e.Expires > c.clock.now()) {
			found[key] = e
		}
	}
	return found
}

// GetNow implements answerCache.
func (c *replayCache) GetNow(ctx context.Context, key string) (kv.Entry, bool, error) {
	if e := c.Get(ctx, []string{key})[key]; e != nil {
		return *e, true, nil
	}
	return kv.Entry{}, false, nil
}

// Put implements answerCache. How old an entry may be is seen to where requests
// are fed, by the times at which they were published. What is there in passing is
// none: nobody is fed while an equal one is under way.
func (c *replayCache) Put(key string, entry kv.Entry, ttl time.Duration, stored func()) {
	if stored != nil {
		defer stored()
	}
	index := indexOfKey(entry.Request)
	if entry.Passing {
		c.drop(index, key)
		return
	}
	answer := entry.Answer
	entry.Answer, entry.Expires = nil, c.clock.now()+schemas.Millis(ttl.Milliseconds())
	c.put(index, key, &entry, answer)
}

func (c *replayCache) put(index int, key string, bare *kv.Entry, answer jsontext.Value) {
	meta, err := json.Marshal(bare)
	if err != nil || len(meta)+len(answer) > c.largest {
		return // as in a deployment, which has no room for it
	}
	c.change(recordPut, index, key, binary.LittleEndian.AppendUint32(nil, uint32(len(meta))), meta, answer)
}

// Link implements answerCache.
func (c *replayCache) Link(key, of string, entry kv.Entry, ttl time.Duration) {
	link := kv.Entry{Model: entry.Model, Provider: entry.Provider, CostUSD: entry.CostUSD, Of: of}
	link.Expires = c.clock.now() + schemas.Millis(ttl.Milliseconds())
	c.put(indexOfKey(entry.Request), key, &link, nil)
}

// Drop implements answerCache. Where it is known for whom, drop is to be called.
func (c *replayCache) Drop(key string) { c.drop(-1, key) }

func (c *replayCache) drop(index int, key string) {
	c.mu.Lock()
	delete(c.again, index)
	_, there := c.entries[hashOf(key)]
	c.mu.Unlock()
	if there {
		c.change(recordDrop, index, key)
	}
}

// Delete implements answerCache.
func (c *replayCache) Delete(_ context.Context, key string) error {
	c.drop(-1, key)
	return nil
}

// Changed implements answerCache: nobody else works beside a replay.
func (c *replayCache) Changed(string) (<-chan struct{}, func()) { return nil, func() {} }

// Shed implements answerCache: no answer is in memory.
func (c *replayCache) Shed() {}

// indexOfKey gives the number of the request with a key (tenant.id), -1 if it is none.
func indexOfKey(key string) int {
	if index, ok := indexOf(key[strings.LastIndexByte(key, '.')+1:]); ok {
		return index
	}
	return -1
}
