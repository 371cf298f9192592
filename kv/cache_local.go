package kv

import "github.com/adpa/processor/internal/cachepolicy"

const (
	// entryOverhead is about what an entry takes in memory besides its answer.
	entryOverhead = 512
	// tokensPerSecond turns the tokens of an answer into the time that it took:
	// what models write in a second, about, and good enough to compare entries.
	tokensPerSecond = 50
)

// memory is the part of the cache in memory. It is not safe for concurrent use.
type memory struct {
	entries  map[string]*localEntry
	policy   cachepolicy.Policy[string]
	adaptive *cachepolicy.Adaptive[string] // the same, if it adapts
}

type localEntry struct {
	Entry
	revision uint64
	again    bool // it is being written again, so as not to fall out of the bucket
}

func newMemory(cfg CacheConfig) *memory {
	m := &memory{entries: map[string]*localEntry{}}
	if capacity := int64(cfg.LocalSize); cfg.Strategy == Adaptive {
		m.adaptive = cachepolicy.NewAdaptive[string](capacity, cachepolicy.ParseMetrics(cfg.Metrics))
		m.policy = m.adaptive
	} else {
		m.policy = cachepolicy.New[string](cfg.Strategy, capacity, func(i cachepolicy.Item) float64 {
			return i.CostUSD + 1e-9 // where calls cost nothing, by use and size
		})
	}
	return m
}

func item(e Entry) cachepolicy.Item {
	return cachepolicy.Item{
		Bytes: int64(len(e.Answer)) + entryOverhead, CostUSD: e.CostUSD,
		Seconds: float64(e.Usage.CompletionTokens) / tokensPerSecond,
	}
}

// get gives the entry of a key, which has been used now.
func (m *memory) get(key string, hash indexKey) *localEntry {
	if m.adaptive != nil {
		m.adaptive.Lookup(uint64(hash))
	}
	e := m.entries[key]
	if e != nil {
		m.policy.Hit(key)
	}
	return e
}

// put keeps an entry, others making room for it.
func (m *memory) put(key string, hash indexKey, entry Entry, revision uint64) {
	if m.adaptive != nil {
		m.adaptive.Stored(uint64(hash), item(entry))
	}
	m.entries[key] = &localEntry{Entry: entry, revision: revision}
	for _, gone := range m.policy.Add(key, item(entry)) {
		delete(m.entries, gone)
	}
}

func (m *memory) remove(key string) {
	if m.entries[key] != nil {
		delete(m.entries, key)
		m.policy.Remove(key)
	}
}
