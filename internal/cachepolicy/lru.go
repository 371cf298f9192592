package cachepolicy

import (
	"math"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// LRU lets the least recently used leave first.
type LRU[K comparable] struct {
	list     *simplelru.LRU[K, Item]
	capacity int64
	bytes    int64
}

// NewLRU makes an LRU for so many bytes.
func NewLRU[K comparable](capacity int64) *LRU[K] {
	l := &LRU[K]{capacity: capacity}
	list, err := simplelru.NewLRU(math.MaxInt, func(_ K, item Item) { l.bytes -= item.Bytes })
	if err != nil { // only for a size that is not positive
		panic(err)
	}
	l.list = list
	return l
}

// Hit implements Policy.
func (l *LRU[K]) Hit(key K) { l.list.Get(key) }

// Add implements Policy.
func (l *LRU[K]) Add(key K, item Item) (evicted []K) {
	l.list.Remove(key)
	if item.Bytes > l.capacity {
		return []K{key}
	}
	l.list.Add(key, item)
	l.bytes += item.Bytes
	for l.bytes > l.capacity {
		oldest, _, _ := l.list.RemoveOldest()
		evicted = append(evicted, oldest)
	}
	return evicted
}

// Remove implements Policy.
func (l *LRU[K]) Remove(key K) { l.list.Remove(key) }

// Item implements Policy.
func (l *LRU[K]) Item(key K) (Item, bool) { return l.list.Peek(key) }

// Keys implements Policy.
func (l *LRU[K]) Keys() []K { return l.list.Keys() }

// Bytes implements Policy.
func (l *LRU[K]) Bytes() int64 { return l.bytes }
