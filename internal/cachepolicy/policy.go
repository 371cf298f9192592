// Package cachepolicy decides what stays in a cache of limited bytes: by
// recency (LRU), by recency and frequency (ARC), by what an entry is worth for
// its bytes (GDSF), or by whichever of them does best on the traffic (Adaptive).
// No type of the package is safe for concurrent use.
package cachepolicy

// Item is what an entry takes and what it is worth.
type Item struct {
	Bytes   int64
	CostUSD float64 // of getting it again
	Seconds float64 // that getting it again takes
}

// Policy keeps keys whose bytes are within its capacity. It holds no values: the
// owner drops those of the keys that Add gives.
type Policy[K comparable] interface {
	// Hit notes that a resident key was used; others are ignored.
	Hit(key K)
	// Add makes a key resident and gives those that had to leave, which may be
	// the key itself where it is larger than the whole capacity.
	Add(key K, item Item) (evicted []K)
	// Remove drops a key, as one that is no longer valid.
	Remove(key K)
	// Item gives what is known of a resident key.
	Item(key K) (Item, bool)
	// Keys lists the residents, roughly from the first to leave to the last.
	Keys() []K
	Bytes() int64
}

// The names of the policies.
const (
	NameLRU  = "lru"
	NameARC  = "arc"
	NameGDSF = "gdsf"
)

// Names lists the policies.
var Names = []string{NameLRU, NameARC, NameGDSF}

// New makes a policy by its name, for so many bytes; value is what GDSF goes by.
func New[K comparable](name string, capacity int64, value func(Item) float64) Policy[K] {
	switch name {
	case NameARC:
		return NewARC[K](capacity)
	case NameGDSF:
		return NewGDSF[K](capacity, value)
	}
	return NewLRU[K](capacity)
}
