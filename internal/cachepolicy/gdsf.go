package cachepolicy

import (
	"cmp"
	"container/heap"
	"math"
	"slices"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// minGhosts is how many evicted keys GDSF remembers at least.
const minGhosts = 1024

// GDSF lets leave first what is worth least for its bytes, by how often it was
// used: the greedy-dual-size-frequency of Cherkasova (1998), with the frequency
// of evicted keys remembered at half.
type GDSF[K comparable] struct {
	capacity int64
	bytes    int64
	value    func(Item) float64
	floor    float64 // priority of the last that had to leave
	entries  map[K]*valued[K]
	byWorth  worthHeap[K]
	ghosts   *simplelru.LRU[K, float64] // frequency by key
}

type valued[K comparable] struct {
	key       K
	item      Item
	worth     float64 // of one use, for each byte
	frequency float64
	priority  float64
	at        int // in the heap
}

// NewGDSF makes a GDSF for so many bytes. value is what one use of an item saves.
func NewGDSF[K comparable](capacity int64, value func(Item) float64) *GDSF[K] {
	ghosts, err := simplelru.NewLRU[K, float64](minGhosts, nil)
	if err != nil { // only for a size that is not positive
		panic(err)
	}
	return &GDSF[K]{capacity: capacity, value: value, entries: map[K]*valued[K]{}, ghosts: ghosts}
}

// Hit implements Policy.
func (g *GDSF[K]) Hit(key K) {
	if e := g.entries[key]; e != nil {
		e.frequency++
		e.priority = g.floor + e.frequency*e.worth
		heap.Fix(&g.byWorth, e.at)
	}
}

// Add implements Policy.
func (g *GDSF[K]) Add(key K, item Item) (evicted []K) {
	frequency := 1.0
	if old := g.entries[key]; old != nil {
		frequency = old.frequency
		g.Remove(key)
	} else if past, ok := g.ghosts.Get(key); ok {
		frequency += past
		g.ghosts.Remove(key)
	}
	if item.Bytes > g.capacity {
		return []K{key}
	}
	for g.bytes+item.Bytes > g.capacity {
		evicted = append(evicted, g.evict())
	}
	worth := g.value(item) / float64(max(item.Bytes, 1))
	e := &valued[K]{key: key, item: item, worth: worth, frequency: frequency, priority: g.floor + frequency*worth}
	g.entries[key] = e
	heap.Push(&g.byWorth, e)
	g.bytes += item.Bytes
	return evicted
}

func (g *GDSF[K]) evict() K {
	e := heap.Pop(&g.byWorth).(*valued[K])
	g.floor = e.priority
	g.bytes -= e.item.Bytes
	delete(g.entries, e.key)
	if g.ghosts.Len() >= max(minGhosts, 2*len(g.entries)) {
		g.ghosts.RemoveOldest()
	} else if g.ghosts.Len() >= minGhosts {
		g.ghosts.Resize(max(minGhosts, 2*len(g.entries)))
	}
	g.ghosts.Add(e.key, e.frequency/2)
	return e.key
}

// Remove implements Policy.
func (g *GDSF[K]) Remove(key K) {
	if e := g.entries[key]; e != nil {
		heap.Remove(&g.byWorth, e.at)
		g.bytes -= e.item.Bytes
		delete(g.entries, key)
	}
}

// Item implements Policy.
func (g *GDSF[K]) Item(key K) (Item, bool) {
	if e := g.entries[key]; e != nil {
		return e.item, true
	}
	return Item{}, false
}

// Keys implements Policy.
func (g *GDSF[K]) Keys() []K {
	sorted := slices.Clone(g.byWorth)
	slices.SortFunc(sorted, func(a, b *valued[K]) int { return cmp.Compare(a.priority, b.priority) })
	keys := make([]K, len(sorted))
	for i, e := range sorted {
		keys[i] = e.key
	}
	return keys
}

// Bytes implements Policy.
func (g *GDSF[K]) Bytes() int64 { return g.bytes }

// worthHeap has the one to leave first on top.
type worthHeap[K comparable] []*valued[K]

func (h worthHeap[K]) Len() int           { return len(h) }
func (h worthHeap[K]) Less(i, j int) bool { return h[i].priority < h[j].priority }
func (h worthHeap[K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

func (h *worthHeap[K]) Push(x any) {
	e := x.(*valued[K])
	e.at = len(*h)
	*h = append(*h, e)
}

func (h *worthHeap[K]) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.at = math.MinInt
	return e
}
