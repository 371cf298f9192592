package cachepolicy

// ARC balances what was used recently against what was used often, and learns
// the balance from the keys that it has evicted. It is the algorithm of Megiddo
// and Modha (FAST 2003) with bytes in the place of pages.
type ARC[K comparable] struct {
	capacity int64
	target   int64 // of the bytes of recent
	where    map[K]*resident[K]

	recent, frequent, recentGhosts, frequentGhosts queue[K]
}

// queue links residents, so that to move one takes no memory.
type queue[K comparable] struct {
	oldest, newest *resident[K]
	bytes          int64
}

type resident[K comparable] struct {
	key          K
	item         Item
	in           *queue[K]
	older, newer *resident[K]
}

// NewARC makes an ARC for so many bytes.
func NewARC[K comparable](capacity int64) *ARC[K] {
	return &ARC[K]{capacity: capacity, where: map[K]*resident[K]{}}
}

// push makes a resident that is in no queue the newest of one.
func (q *queue[K]) push(r *resident[K]) {
	r.in, r.older, r.newer = q, q.newest, nil
	if q.newest != nil {
		q.newest.newer = r
	} else {
		q.oldest = r
	}
	q.newest = r
	q.bytes += r.item.Bytes
}

// leave takes a resident out of its queue.
func (r *resident[K]) leave() {
	q := r.in
	if r.older != nil {
		r.older.newer = r.newer
	} else {
		q.oldest = r.newer
	}
	if r.newer != nil {
		r.newer.older = r.older
	} else {
		q.newest = r.older
	}
	q.bytes -= r.item.Bytes
	r.in, r.older, r.newer = nil, nil, nil
}

func (a *ARC[K]) forget(r *resident[K]) {
	r.leave()
	delete(a.where, r.key)
}

func (a *ARC[K]) isResident(r *resident[K]) bool {
	return r != nil && (r.in == &a.recent || r.in == &a.frequent)
}

// Hit implements Policy.
func (a *ARC[K]) Hit(key K) {
	if r := a.where[key]; a.isResident(r) {
		r.leave()
		a.frequent.push(r)
	}
}

// Add implements Policy.
func (a *ARC[K]) Add(key K, item Item) (evicted []K) {
	in := &a.recent
	if known := a.where[key]; known != nil {
		a.learn(known)
		a.forget(known)
		in = &a.frequent
	}
	if item.Bytes > a.capacity {
		return []K{key}
	}
	r := &resident[K]{key: key, item: item}
	a.where[key] = r
	in.push(r)
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
	if a.recent.oldest != nil && (a.recent.bytes > a.target || a.frequent.oldest == nil) {
		from, ghosts = &a.recent, &a.recentGhosts
	}
	r := from.oldest
	r.leave()
	ghosts.push(r)
	return r.key
}

// trim bounds the ghosts: as many bytes again as the capacity.
func (a *ARC[K]) trim() {
	for a.recentGhosts.oldest != nil && a.recent.bytes+a.recentGhosts.bytes > a.capacity {
		a.forget(a.recentGhosts.oldest)
	}
	for a.frequentGhosts.oldest != nil && a.Bytes()+a.recentGhosts.bytes+a.frequentGhosts.bytes > 2*a.capacity {
		a.forget(a.frequentGhosts.oldest)
	}
}

// Remove implements Policy.
func (a *ARC[K]) Remove(key K) {
	if r := a.where[key]; r != nil {
		a.forget(r)
	}
}

// Item implements Policy.
func (a *ARC[K]) Item(key K) (Item, bool) {
	if r := a.where[key]; a.isResident(r) {
		return r.item, true
	}
	return Item{}, false
}

// Keys implements Policy.
func (a *ARC[K]) Keys() []K {
	var keys []K
	for _, q := range []*queue[K]{&a.recent, &a.frequent} {
		for r := q.oldest; r != nil; r = r.newer {
			keys = append(keys, r.key)
		}
	}
	return keys
}

// Bytes implements Policy.
func (a *ARC[K]) Bytes() int64 { return a.recent.bytes + a.frequent.bytes }
