package kv

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/cachepolicy"
	"github.com/adpa/processor/internal/units"
)

func TestLinksAreInStepAsEntriesAre(t *testing.T) {
	nc, js := open(t)
	one, two := newCache(t, nc, 1<<20), newCache(t, nc, 1<<20)
	stored := make(chan struct{})
	one.Put("acme.k", entry("a"), time.Hour, func() { close(stored) })
	<-stored
	one.Link("acme.n-k", "acme.k", entry("a"), time.Hour)
	eventually(t, "the other replica finds it", func() bool { return two.has("acme.n-k") })
	link := two.Get(t.Context(), []string{"acme.n-k"})["acme.n-k"]
	require.Equal(t, "acme.k", link.Of)
	require.Empty(t, link.Answer)

	store, err := OpenCacheStore(t.Context(), js, layout())
	require.NoError(t, err)
	e, err := store.Resolve(t.Context(), "acme.n-k")
	require.NoError(t, err)
	require.Equal(t, "acme.k", e.Key)
	for key, has := range map[string]bool{"acme.n-k": true, "acme.k": true, "acme.none": false, "acme.*": false, "*.*": false, ">": false, "acme.k.x": false, "acme. ": false} {
		have, err := store.Has(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, has, have, key)
	}
	require.NoError(t, store.Purge(t.Context(), "acme.n-k"))
	eventually(t, "a purge reaches all", func() bool { return !one.has("acme.n-k") && !two.has("acme.n-k") })
	require.True(t, one.has("acme.k"), "what it stood for is there")
}

func TestLinksThatLeaveTheirScopeAreDamaged(t *testing.T) {
	nc, js := open(t)
	c, n := countedCache(t, nc, nil)
	for i, poison := range []string{
		`{"of":"other.k","expires":9000000000000}`, `{"of":"acme.n-1","expires":9000000000000}`, `{"of":"acme","expires":9000000000000}`,
		`{"of":"acme.k","expires":9000000000000,"answer":{}}`, `{"of":"=shared.k","expires":9000000000000}`,
	} {
		key := fmt.Sprintf("acme.n-%d", i)
		_, err := js.Publish(t.Context(), "$KV.llm_cache."+key, []byte(poison))
		require.NoError(t, err)
		eventually(t, "counted: "+poison, func() bool { return !c.has(key) && n.get(CountDamaged) > i })
	}
}

func TestReplicasFollowWhatIsChosen(t *testing.T) {
	nc, js := open(t)
	one, two := newCache(t, nc, 1<<20), newCache(t, nc, 1<<20)
	configured := one.Choice()
	require.Equal(t, CacheChoice{Strategy: Adaptive, LocalSize: 1 << 20}, configured)
	for i := range 20 {
		one.Put(fmt.Sprintf("acme.k%d", i), entry("a"), time.Hour, nil)
	}
	eventually(t, "stored", func() bool { return one.has("acme.k19") })

	store, err := OpenCacheStore(t.Context(), js, layout())
	require.NoError(t, err)
	choice := CacheChoice{Strategy: GDSF, LocalSize: 5_000}
	require.NoError(t, store.Choose(t.Context(), &choice))
	eventually(t, "both follow", func() bool { return one.Choice() == choice && two.Choice() == choice })
	one.mu.Lock()
	require.IsType(t, &cachepolicy.GDSF[indexKey]{}, one.local.policy)
	require.LessOrEqual(t, one.local.policy.Bytes(), choice.LocalSize)
	require.Len(t, one.local.entries, len(one.local.policy.Keys()))
	require.NotEmpty(t, one.local.entries)
	one.mu.Unlock()
	require.True(t, one.has("acme.k0"), "what fell out of memory is in the bucket")

	require.NoError(t, Provision(t.Context(), js, layout()), "a process that starts leaves the choice")
	starting := newCache(t, nc, 1<<20)
	eventually(t, "one that starts follows", func() bool { return starting.Choice() == choice })
	larger := layout()
	larger.CacheBytes *= 2
	require.NoError(t, Provision(t.Context(), js, larger), "nor does one with another max_size touch it")
	stream, err := js.Stream(t.Context(), "KV_llm_cache")
	require.NoError(t, err)
	require.Equal(t, larger.CacheBytes, stream.CachedInfo().Config.MaxBytes)
	have, chosen, err := store.Choice(t.Context())
	require.NoError(t, err)
	require.True(t, chosen)
	require.Equal(t, choice, have)

	require.NoError(t, store.Choose(t.Context(), nil))
	eventually(t, "both are as configured again", func() bool { return one.Choice() == configured && two.Choice() == configured })
	require.Error(t, store.Choose(t.Context(), &CacheChoice{Strategy: "best"}))
	_, chosen, err = store.Choice(t.Context())
	require.NoError(t, err)
	require.False(t, chosen)
}

func TestScopesAreChecked(t *testing.T) {
	cfg := DefaultCache()
	require.Equal(t, ScopeTenant, cfg.Scope)
	require.NoError(t, cfg.Validate())
	cfg.Scope = ScopeShared
	require.NoError(t, cfg.Validate())
	cfg.Scope, cfg.LocalSize = "all", units.Bytes(0)
	require.ErrorContains(t, cfg.Validate(), "scope:")
}
