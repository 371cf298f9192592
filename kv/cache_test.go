package kv

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/internal/units"
)

// counts counts what a cache counts.
type counts struct {
	mu sync.Mutex
	of map[string]int
}

func (c *counts) add(result string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[result]++
}

func (c *counts) get(result string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of[result]
}

func countedCache(t *testing.T, nc *nats.Conn, change func(*CacheConfig)) (*Cache, *counts) {
	cfg, n := DefaultCache(), &counts{of: map[string]int{}}
	if change != nil {
		change(&cfg)
	}
	c, err := NewCache(t.Context(), nc, layout(), cfg, n.add)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c, n
}

func TestDamagedAndTooLargeEntriesAreCounted(t *testing.T) {
	nc, js := open(t)
	c, n := countedCache(t, nc, nil)
	for i, poison := range []string{"what is this", `{"answer":"no object"}`, `{}`, "\xff\xfe"} {
		key := fmt.Sprintf("acme.k%d", i)
		_, err := js.Publish(t.Context(), "$KV.llm_cache."+key, []byte(poison))
		require.NoError(t, err)
		eventually(t, "counted", func() bool { return !c.has(key) && n.get(CountDamaged) > i })
	}
	stored := make(chan struct{})
	c.Put("acme.large", entry(strings.Repeat("x", 1<<20)), time.Hour, func() { close(stored) })
	<-stored
	require.Equal(t, 1, n.get(CountTooLarge))
	require.False(t, c.has("acme.large"))
}

func TestEntriesThatAreUsedDoNotFallOut(t *testing.T) {
	nc, _ := open(t)
	c := newCache(t, nc, 16<<20)
	text := strings.Repeat("x", 20_000) // the bucket holds about fifty
	stored := make(chan struct{}, 1)
	put := func(key string) {
		c.Put(key, entry(text), time.Hour, func() { stored <- struct{}{} })
		<-stored
	}
	put("acme.hot")
	for i := range 300 {
		put(fmt.Sprintf("acme.k%d", i))
		c.readFirst(t.Context())
		c.has("acme.hot")
	}
	require.True(t, c.has("acme.hot"))
	require.False(t, c.has("acme.k0"), "others fall out")
	_, found, err := c.GetNow(t.Context(), "acme.hot")
	require.NoError(t, err)
	require.True(t, found, "it is in the bucket and not in memory alone")
}

func TestSyncPutsRightWhatTheWatchMissed(t *testing.T) {
	nc, _ := open(t)
	c, n := countedCache(t, nc, func(cfg *CacheConfig) { cfg.SyncInterval = units.Duration(time.Second) })
	c.Put("acme.there", entry("a"), time.Hour, nil)
	eventually(t, "stored", func() bool { return c.has("acme.there") })
	newCache(t, nc, 1<<20).Put("acme.later", entry("b"), time.Hour, nil)
	eventually(t, "told of by the watch, and so of what came before", func() bool { return c.has("acme.later") })
	c.mu.Lock()
	delete(c.index, hashKey("acme.there"))
	c.local.remove(hashKey("acme.there"))
	c.index[hashKey("acme.gone")] = 1 << 40
	c.mu.Unlock()
	require.False(t, c.has("acme.there"))
	eventually(t, "compared", func() bool { return n.get(CountSynced) >= 2 })
	require.True(t, c.has("acme.there"))
	c.mu.Lock()
	defer c.mu.Unlock()
	require.NotContains(t, c.index, hashKey("acme.gone"))
}

func TestAPurgeReachesTheOthersAtOnce(t *testing.T) {
	nc, _ := open(t)
	one, two := newCache(t, nc, 1<<20), newCache(t, nc, 1<<20)
	var took []time.Duration
	for i := range 50 {
		key := fmt.Sprintf("acme.k%d", i)
		one.Put(key, entry("a"), time.Hour, nil)
		eventually(t, "stored", func() bool { return two.has(key) })
		begin := time.Now()
		require.NoError(t, one.Delete(t.Context(), key))
		eventually(t, "gone", func() bool { return !two.has(key) })
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("from a purge to a miss elsewhere: median %v, last %v", took[len(took)/2], took[len(took)-1])
	require.Less(t, took[len(took)/2], 20*time.Millisecond)
}

func TestAPurgeReachesTheOthersThroughARestart(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	server := natstest.StartOn(t, dir, -1)
	port := server.Addr().String()
	nc, js := natstest.Connect(t, server)
	require.NoError(t, Provision(t.Context(), js, layout()))
	two := newCache(t, nc, 1<<20)
	two.Put("acme.k", entry("a"), time.Hour, nil)
	eventually(t, "stored", func() bool { return two.has("acme.k") })
	server.Shutdown()
	server.WaitForShutdown()
	var number int
	_, err := fmt.Sscanf(port[strings.LastIndexByte(port, ':')+1:], "%d", &number)
	require.NoError(t, err)
	again := natstest.StartOn(t, dir, number)
	theirs, _ := natstest.Connect(t, again)
	js2, err := jetstream.New(theirs)
	require.NoError(t, err)
	_, err = js2.PublishMsg(t.Context(), &nats.Msg{Subject: "$KV.llm_cache.acme.k", Header: nats.Header{"KV-Operation": []string{"PURGE"}, "Nats-Rollup": []string{"sub"}}})
	require.NoError(t, err)
	begin := time.Now()
	eventually(t, "gone", func() bool { return !two.has("acme.k") })
	t.Logf("from a purge after a restart to a miss: %v", time.Since(begin))
	require.Less(t, time.Since(begin), time.Second)
}

// BenchmarkLocalLookup tells the processor time of a lookup too, which does not
// depend on what else the machine does: on two free processors a lookup takes half of it.
func BenchmarkLocalLookup(b *testing.B) {
	for _, strategy := range []string{LRU, ARC, GDSF, Adaptive} {
		b.Run(strategy, func(b *testing.B) {
			cfg := DefaultCache()
			cfg.Strategy = strategy
			c := &Cache{local: newMemory(cfg), index: map[indexKey]uint64{}}
			keys := make([][]string, 10_000)
			for i := range keys {
				key := fmt.Sprintf("acme.%064x", i)
				keys[i] = []string{key}
				e := entry("an answer")
				e.Expires = 1 << 50
				c.index[hashKey(key)] = 1
				c.local.put(key, hashKey(key), e, 1)
			}
			b.SetParallelism(4) // 8 goroutines on two processors
			b.ReportAllocs()
			begin := processorTime(b)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if len(c.Get(b.Context(), keys[rand.IntN(len(keys))])) != 1 {
						b.Fatal("a miss")
					}
				}
			})
			b.ReportMetric(float64((processorTime(b)-begin).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// processorTime is what the process has used.
func processorTime(tb testing.TB) time.Duration {
	var used syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
