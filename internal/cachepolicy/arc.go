package cachepolicy

import "container/list"

// ARC balances what was used recently against what was used often, and learns
// the balance from the keys that it has evicted. It is the algorithm of Megiddo
// and Modha (FAST 2003) with bytes in the place of pages.
type ARC[K comparable] struct {
	capacity int64
	target   int64 // of the bytes of recent
	where    map[K]*list.Element

	recent, frequent, recentGhosts, frequentGhosts queue
}

type queue struct {
	list.List // the oldest at the front
	bytes     int64
}

type resident[K comparable] struct {
	key  K
	item Item
	in   *queue
}

// NewARC makes an ARC for so many bytes.
func NewARC[K comparable](capacity int64) *ARC[K] {
	return &ARC[K]{capacity: capacity, where: map[K]*list.Element{}}
}

func (a *ARC[K]) push(in *queue, r *resident[K]) {
	r.in = in
	a.where[r.key] = in.PushBack(r)
	in.bytes += r.item.Bytes
}

func (a *ARC[K]) take(e *list.Element) *resident[K] {
	r := e.Value.(*resident[K])
	r.in.Remove(e)
	r.in.bytes -= r.item.Bytes
	delete(a.where, r.key)
	return r
}

func (a *ARC[K]) isResident(in *queue) bool { return in == &a.recent || in == &a.frequent }

func (a *ARC[K]) find(key K) (*resident[K], bool) {
	e := a.where[key]
	if e == nil {
		return nil, false
	}
	r := e.Value.(*resident[K])
	return r, a.isResident(r.in)
}

// Hit implements Policy.
func (a *ARC[K]) Hit(key K) {
	if _, ok := a.find(key); ok {
		a.push(&a.frequent, a.take(a.where[key]))
	}
}

// Add implements Policy.
func (a *ARC[K]) Add(key K, item Item) (evicted []K) {
	in := &a.recent
	if known, _ := a.find(key); known != nil {
		a.learn(known)
		a.take(a.where[key])
		in = &a.frequent
	}
	if item.Bytes > a.capacity {
		return []K{key}
	}
	a.push(in, &resident[K]{key: key, item: item})
	for a.Bytes() > a.capacity {
		evicted = append(evicted, a.evict())
	}
	a.trim()
	return evicted
}

// learn moves the target towards the queue that evicted the key too early.
func (a *ARC[K]) learn(r *resident[K]) {
	step := float64(r.item.Bytes)
	switch r.in {
	case &a.recentGhosts:
		ratio := float64(a.frequentGhosts.bytes) / float64(max(a.recentGhosts.bytes, 1))
		a.target = min(a.capacity, a.target+int64(step*max(1, ratio)))
	case &a.frequentGhosts:
		ratio := float64(a.recentGhosts.bytes) / float64(max(a.frequentGhosts.bytes, 1))
		a.target = max(0, a.target-int64(step*max(1, ratio)))
	}
}

func (a *ARC[K]) evict() K {
	from, ghosts := &a.frequent, &a.frequentGhosts
	if a.recent.Len() > 0 && (a.recent.bytes > a.target || a.frequent.Len() == 0) {
		from, ghosts = &a.recent, &a.recentGhosts
	}
	r := a.take(from.Front())
	a.push(ghosts, r)
	return r.key
}

// trim bounds the ghosts: as many bytes again as the capacity.
func (a *ARC[K]) trim() {
	for a.recentGhosts.Len() > 0 && a.recent.bytes+a.recentGhosts.bytes > a.capacity {
		a.take(a.recentGhosts.Front())
	}
	for a.frequentGhosts.Len() > 0 && a.Bytes()+a.recentGhosts.bytes+a.frequentGhosts.bytes > 2*a.capacity {
		a.take(a.frequentGhosts.Front())
	}
}

// Remove implements Policy.
func (a *ARC[K]) Remove(key K) {
	if e := a.where[key]; e != nil {
		a.take(e)
	}
}

// Item implements Policy.
func (a *ARC[K]) Item(key K) (Item, bool) {
	if r, ok := a.find(key); ok {
		return r.item, true
	}
	return Item{}, false
}

// Keys implements Policy.
func (a *ARC[K]) Keys() []K {
	var keys []K
	for _, q := range []*queue{&a.recent, &a.frequent} {
		for e := q.Front(); e != nil; e = e.Next() {
			keys = append(keys, e.Value.(*resident[K]).key)
		}
	}
	return keys
}

// Bytes implements Policy.
func (a *ARC[K]) Bytes() int64 { return a.recent.bytes + a.frequent.bytes }
