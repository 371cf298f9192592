package kv

import "github.com/adpa/processor/internal/cachepolicy"

const (
	// entryOverhead is about what an entry takes in memory besides its answer.
	entryOverhead = 512
	// tokensPerSecond turns the tokens of an answer into the time that it took:
	// what models write in a second, about, and good enough to compare entries.
	tokensPerSecond = 50
)

// memory is the part of the cache in memory. Entries go by the hashes of their
// keys, which the index needs too: a lookup hashes the key once. Of two keys that
// share a hash the later one stays. It is not safe for concurrent use.
type memory struct {
	entries  map[indexKey]*localEntry
	policy   cachepolicy.Policy[indexKey]
	adaptive *cachepolicy.Adaptive[indexKey] // the same, if it adapts

	configured CacheConfig
	choice     CacheChoice // that is followed
}

type localEntry struct {
	Entry
	key      string
	revision uint64
	again    bool // it is being written again, so as not to fall out of the bucket
}

func newMemory(cfg CacheConfig) *memory {
	m := &memory{entries: map[indexKey]*localEntry{}, configured: cfg}
	m.follow(m.configuredChoice())
	return m
}

func (m *memory) configuredChoice() CacheChoice {
	return CacheChoice{Strategy: m.configured.Strategy, LocalSize: int64(m.configured.LocalSize)}
}

// follow changes to a strategy and a size. What is in memory stays as far as there is room.
func (m *memory) follow(choice CacheChoice) {
	before := m.policy
	m.choice, m.adaptive = choice, nil
	if choice.Strategy == Adaptive {
		m.adaptive = cachepolicy.NewAdaptive[indexKey](choice.LocalSize, cachepolicy.ParseMetrics(m.configured.Metrics))
		m.policy = m.adaptive
	} else {
		m.policy = cachepolicy.New[indexKey](choice.Strategy, choice.LocalSize, savedCost)
	}
	if before == nil {
		return
	}
	for _, key := range before.Keys() {
		known, _ := before.Item(key)
		for _, gone := range m.policy.Add(key, known) {
			delete(m.entries, gone)
		}
	}
}

// savedCost is what a use of an entry saves; where calls cost nothing, GDSF goes
// by use and size.
func savedCost(i cachepolicy.Item) float64 { return i.CostUSD + 1e-9 }

func item(e Entry) cachepolicy.Item {
	return cachepolicy.Item{
		Bytes: int64(len(e.Answer)+len(e.Of)) + entryOverhead, CostUSD: e.CostUSD,
		Seconds: float64(e.Usage.CompletionTokens) / tokensPerSecond,
	}
}

// get gives the entry of a key, which has been used now.
func (m *memory) get(key string, hash indexKey) *localEntry {
	if m.adaptive != nil {
		m.adaptive.Lookup(uint64(hash))
	}
	e := m.entries[hash]
	if e == nil || e.key != key {
		return nil
	}
	m.policy.Hit(hash)
	return e
}

// put keeps an entry, others making room for it.
func (m *memory) put(key string, hash indexKey, entry Entry, revision uint64) {
	if m.adaptive != nil {
		m.adaptive.Stored(uint64(hash), item(entry))
	}
	m.entries[hash] = &localEntry{Entry: entry, key: key, revision: revision}
	for _, gone := range m.policy.Add(hash, item(entry)) {
		delete(m.entries, gone)
	}
}

func (m *memory) remove(hash indexKey) {
	if m.entries[hash] != nil {
		delete(m.entries, hash)
		m.policy.Remove(hash)
	}
}
