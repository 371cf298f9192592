package cachepolicy

import (
	"slices"
)

const (
	// decayEvery lookups the scores of the shadows are halved, and compared.
	decayEvery = 5000
	// hysteresis is how much better than the present policy another must be.
	hysteresis = 1.02
	// A shadow holds the keys of one part in sampling; fewer parts where the
	// cache is small, since small shadows are noisy.
	sampling      = 16
	samplingSmall = 4
	smallCache    = 50_000 // entries
	typicalBytes  = 4096   // of an entry, to tell a small cache by its capacity
)

// Metrics say what a cache is to be good at. The zero value means hits.
type Metrics struct {
	Hits    bool
	Cost    bool
	Latency bool
}

// ParseMetrics reads the metrics by name; memory makes no difference between
// policies, which all use what they are given.
func ParseMetrics(names []string) Metrics {
	return Metrics{
		Hits: slices.Contains(names, "hit_rate"), Cost: slices.Contains(names, "cost"), Latency: slices.Contains(names, "latency"),
	}
}

// Adaptive is whichever policy does best on sampled shadows: caches of keys
// alone, each of another policy, for a part of all keys and of the capacity.
type Adaptive[K comparable] struct {
	Policy[K]
	name     string
	capacity int64
	metrics  Metrics
	every    uint64
	shadows  []*shadow
	lookups  int
	means    means
}

type shadow struct {
	name   string
	policy Policy[uint64]
	score  float64
	hits   float64
}

// means are those of what entries are worth, so that dollars and seconds can be added.
type means struct{ n, cost, seconds float64 }

func (m *means) add(item Item) {
	m.n++
	m.cost += item.CostUSD
	m.seconds += item.Seconds
}

// NewAdaptive makes an adaptive policy for so many bytes.
func NewAdaptive[K comparable](capacity int64, metrics Metrics) *Adaptive[K] {
	a := &Adaptive[K]{capacity: capacity, metrics: metrics, every: sampling, name: NameGDSF}
	if capacity < smallCache*typicalBytes {
		a.every = samplingSmall
	}
	for _, name := range Names {
		a.shadows = append(a.shadows, &shadow{name: name, policy: New[uint64](name, capacity/int64(a.every), a.worth)})
	}
	a.Policy = New[K](a.name, capacity, a.worth)
	return a
}

// worth is what a use of an item saves, by the metrics: 1 is an average use.
func (a *Adaptive[K]) worth(item Item) float64 {
	w := 0.0
	if a.metrics.Hits || !a.metrics.Cost && !a.metrics.Latency {
		w++
	}
	if a.metrics.Cost && a.means.cost > 0 {
		w += item.CostUSD * a.means.n / a.means.cost
	}
	if a.metrics.Latency && a.means.seconds > 0 {
		w += item.Seconds * a.means.n / a.means.seconds
	}
	return w
}

// Lookup tells the shadows of a lookup, found or not. hash spreads keys evenly.
func (a *Adaptive[K]) Lookup(hash uint64) (switched bool) {
	if hash%a.every != 0 {
		return false
	}
	for _, s := range a.shadows {
		if item, ok := s.policy.Item(hash); ok {
			s.score += a.worth(item)
			s.hits++
			s.policy.Hit(hash)
		}
	}
	if a.lookups++; a.lookups < max(decayEvery/int(a.every), 1) {
		return false
	}
	a.lookups = 0
	return a.choose()
}

// Stored tells the shadows of an entry that was stored.
func (a *Adaptive[K]) Stored(hash uint64, item Item) {
	a.means.add(item)
	if hash%a.every != 0 {
		return
	}
	for _, s := range a.shadows {
		if _, ok := s.policy.Item(hash); !ok {
			s.policy.Add(hash, item)
		}
	}
}

// choose changes to a policy that does clearly better; the residents stay.
func (a *Adaptive[K]) choose() (switched bool) {
	best := slices.MaxFunc(a.shadows, func(x, y *shadow) int {
		switch {
		case x.score < y.score:
			return -1
		case x.score > y.score:
			return 1
		}
		return 0
	})
	present := a.shadows[slices.IndexFunc(a.shadows, func(s *shadow) bool { return s.name == a.name })]
	if best != present && best.score > present.score*hysteresis {
		a.change(best.name)
		switched = true
	}
	for _, s := range a.shadows {
		s.score, s.hits = s.score/2, s.hits/2
	}
	return switched
}

func (a *Adaptive[K]) change(name string) {
	next := New[K](name, a.capacity, a.worth)
	for _, key := range a.Keys() {
		item, _ := a.Item(key)
		next.Add(key, item)
	}
	a.Policy, a.name = next, name
}

// Name is the policy that is followed now.
func (a *Adaptive[K]) Name() string { return a.name }
