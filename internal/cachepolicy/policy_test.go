package cachepolicy

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func cost(item Item) float64 { return item.CostUSD }

// model is a policy with the values that its owner would keep.
type model struct {
	policy Policy[int]
	values map[int]bool
}

func (m *model) use(key int, item Item) (hit bool) {
	if m.values[key] {
		m.policy.Hit(key)
		return true
	}
	m.values[key] = true
	for _, gone := range m.policy.Add(key, item) {
		delete(m.values, gone)
	}
	return false
}

func TestPoliciesKeepToTheirBytes(t *testing.T) {
	const capacity = 10_000
	for _, name := range append(Names, "adaptive") {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			var p Policy[int]
			if p = New[int](name, capacity, cost); name == "adaptive" {
				p = NewAdaptive[int](capacity, Metrics{Hits: true})
			}
			m := model{p, map[int]bool{}}
			for range 50_000 {
				key := int(random.ExpFloat64() * 200)
				switch random.IntN(20) {
				case 0:
					p.Remove(key)
					delete(m.values, key)
				case 1: // replaced by a larger or smaller one
					for _, gone := range p.Add(key, Item{Bytes: random.Int64N(500)}) {
						delete(m.values, gone)
						if gone == key {
							key = -1
						}
					}
					if key >= 0 {
						m.values[key] = true
					}
				default:
					m.use(key, Item{Bytes: 1 + random.Int64N(300), CostUSD: random.Float64()})
				}
				if a, ok := p.(*Adaptive[int]); ok {
					a.Lookup(uint64(key))
					a.Stored(uint64(key), Item{Bytes: 100})
				}
				require.LessOrEqual(t, p.Bytes(), int64(capacity))
			}
			var bytes int64
			keys := p.Keys()
			require.Len(t, keys, len(m.values), "the owner knows exactly who is there")
			for _, key := range keys {
				require.True(t, m.values[key])
				item, ok := p.Item(key)
				require.True(t, ok)
				bytes += item.Bytes
			}
			require.Equal(t, bytes, p.Bytes())
			require.Equal(t, []int{-7}, p.Add(-7, Item{Bytes: capacity + 1}), "what is too large does not stay")
			require.Len(t, p.Keys(), len(keys), "and drives nobody out")
		})
	}
}

func TestLRUForgetsTheOldest(t *testing.T) {
	l := NewLRU[int](3)
	for _, key := range []int{1, 2, 3} {
		l.Add(key, Item{Bytes: 1})
	}
	l.Hit(1)
	require.Equal(t, []int{2}, l.Add(4, Item{Bytes: 1}))
}

func TestARCKeepsWhatIsUsedAgainThroughAScan(t *testing.T) {
	a := NewARC[int](10)
	for range 2 {
		for key := range 5 {
			if _, ok := a.Item(key); ok {
				a.Hit(key)
			} else {
				a.Add(key, Item{Bytes: 1})
			}
		}
	}
	for key := range 1000 {
		a.Add(100+key, Item{Bytes: 1})
	}
	for key := range 5 {
		_, ok := a.Item(key)
		require.True(t, ok, key)
	}
	require.LessOrEqual(t, len(a.where), 20, "ghosts are bounded")
}

func TestGDSFKeepsWhatIsWorthItsBytes(t *testing.T) {
	g := NewGDSF[int](100, cost)
	g.Add(1, Item{Bytes: 50, CostUSD: 0.01})
	g.Add(2, Item{Bytes: 50, CostUSD: 1})
	require.Equal(t, []int{1}, g.Add(3, Item{Bytes: 50, CostUSD: 0.5}))
	for range 500_000 {
		g.Add(rand.IntN(1e9), Item{Bytes: 50, CostUSD: 0.1})
	}
	require.LessOrEqual(t, g.ghosts.Len(), minGhosts)
}

func TestAdaptiveChangesWithTheTraffic(t *testing.T) {
	a := NewAdaptive[int](400, Metrics{Cost: true})
	a.change(NameLRU)
	random := rand.New(rand.NewPCG(1, 2))
	values := map[int]bool{}
	for range 200_000 {
		key := random.IntN(1000)
		item := Item{Bytes: 1, CostUSD: 0.001}
		if key%10 == 1 {
			item.CostUSD = 1
		}
		hash := uint64(key) * 0x9E3779B97F4A7C15 >> 7
		a.Lookup(hash)
		if values[key] {
			a.Hit(key)
			continue
		}
		a.Stored(hash, item)
		values[key] = true
		for _, gone := range a.Add(key, item) {
			delete(values, gone)
		}
	}
	require.Equal(t, NameGDSF, a.Name())
	require.Len(t, a.Keys(), len(values))
}
