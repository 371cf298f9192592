package kv

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/internal/units"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func layout() Layout {
	return Layout{Prefix: "llm", AnswersBytes: 1 << 30, AnswersAge: time.Hour, CacheBytes: 1 << 20}
}

func open(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	require.NoError(t, Provision(t.Context(), js, layout()))
	require.NoError(t, Provision(t.Context(), js, layout()), "again")
	return nc, js
}

func TestARecordIsMadeOnce(t *testing.T) {
	nc, _ := open(t)
	answers, err := NewAnswers(nc, layout())
	require.NoError(t, err)
	defer answers.Close()
	record := Record{Call: "first", Model: "m", Calls: 1, Answer: []byte(`{"choices":[]}`)}
	require.NoError(t, answers.Create(t.Context(), "acme.a", record))
	require.ErrorIs(t, answers.Create(t.Context(), "acme.a", Record{Call: "second", Answer: []byte(`{}`)}), ErrRecorded)

	found, err := answers.Find(t.Context(), []string{"acme.a", "acme.b", "other.a"})
	require.NoError(t, err)
	require.Equal(t, map[string]Record{"acme.a": record}, found)
	now, ok, err := answers.FindNow(t.Context(), "acme.a")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, record, now)
	_, ok, err = answers.FindNow(t.Context(), "acme.b")
	require.NoError(t, err)
	require.False(t, ok)
}

func TestFindReadsManyAtOnce(t *testing.T) {
	nc, _ := open(t)
	answers, err := NewAnswers(nc, layout())
	require.NoError(t, err)
	defer answers.Close()
	var keys []string
	big := []byte(`"` + strings.Repeat("x", 200_000) + `"`) // more than one answer of the server may hold
	for i := range 300 {
		key := fmt.Sprintf("acme.r%d", i)
		keys = append(keys, key, key+"-none")
		if i%5 == 0 {
			require.NoError(t, answers.Create(t.Context(), key, Record{Call: key, Answer: big}))
		}
	}
	found, err := answers.Find(t.Context(), keys)
	require.NoError(t, err)
	require.Len(t, found, 60)
	require.Equal(t, "acme.r295", found["acme.r295"].Call)
}

func newCache(t *testing.T, nc *nats.Conn, localBytes int64) *Cache {
	cfg := DefaultCache()
	cfg.LocalSize = units.Bytes(localBytes)
	c, err := NewCache(t.Context(), nc, layout(), cfg, func(string) {})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func entry(text string) Entry { return Entry{Model: "m", Answer: []byte(`{"text":"` + text + `"}`)} }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 30*time.Second, time.Millisecond, what)
}

func (c *Cache) has(key string) bool { return len(c.Get(context.Background(), []string{key})) == 1 }

func TestCacheIsInStepOverReplicas(t *testing.T) {
	nc, _ := open(t)
	one, two := newCache(t, nc, 1<<20), newCache(t, nc, 1<<20)
	require.False(t, two.has("acme.k"))
	one.Put("acme.k", entry("a"), time.Hour, nil)
	eventually(t, "the other replica finds it", func() bool { return two.has("acme.k") })
	eventually(t, "so does the writer", func() bool { return one.has("acme.k") })
	require.False(t, two.has("other.k"), "tenants are apart")

	one.Put("acme.k", entry("b"), time.Hour, nil)
	eventually(t, "a new value replaces it", func() bool {
		return string(two.Get(t.Context(), []string{"acme.k"})["acme.k"].Answer) == `{"text":"b"}`
	})
	require.NoError(t, two.Delete(t.Context(), "acme.k"))
	eventually(t, "a delete reaches the other", func() bool { return !one.has("acme.k") })
	eventually(t, "and so does it the deleter", func() bool { return !two.has("acme.k") })
}

func TestCacheExpires(t *testing.T) {
	nc, _ := open(t)
	c := newCache(t, nc, 1<<20)
	c.Put("acme.k", entry("a"), time.Second, nil)
	eventually(t, "stored", func() bool { return c.has("acme.k") })
	eventually(t, "expired", func() bool { return !c.has("acme.k") })
}

func TestCacheStartsWithWhatIsThere(t *testing.T) {
	nc, _ := open(t)
	first := newCache(t, nc, 1<<20)
	for i := range 100 {
		first.Put(fmt.Sprintf("acme.k%d", i), entry("a"), time.Hour, nil)
	}
	eventually(t, "stored", func() bool { return first.has("acme.k99") })
	second := newCache(t, nc, 1<<20)
	for i := range 100 {
		require.True(t, second.has(fmt.Sprintf("acme.k%d", i)))
	}
}

func TestCacheEvictsAndNoReplicaServesIt(t *testing.T) {
	nc, _ := open(t)
	c := newCache(t, nc, 16<<20)
	text := strings.Repeat("x", 100_000) // the bucket holds ten
	for i := range 30 {
		c.Put(fmt.Sprintf("acme.k%d", i), entry(text), time.Hour, nil)
	}
	eventually(t, "the last is there", func() bool { return c.has("acme.k29") })
	eventually(t, "the first is gone, from memory too", func() bool { return !c.has("acme.k0") })
}

func TestCacheMemoryIsBounded(t *testing.T) {
	nc, _ := open(t)
	c := newCache(t, nc, 50_000)
	for i := range 100 {
		c.Put(fmt.Sprintf("acme.k%d", i), entry(strings.Repeat("x", 2000)), time.Hour, nil)
	}
	eventually(t, "stored", func() bool { return c.has("acme.k99") })
	c.mu.Lock()
	defer c.mu.Unlock()
	require.LessOrEqual(t, c.local.policy.Bytes(), int64(50_000))
	require.Less(t, len(c.local.entries), 30)
}

func TestCancelledReachesEveryReplica(t *testing.T) {
	_, js := open(t)
	told := make(chan string, 1)
	one, err := NewCancelled(t.Context(), js, layout(), nil)
	require.NoError(t, err)
	defer one.Close()
	two, err := NewCancelled(t.Context(), js, layout(), func(key string) { told <- key })
	require.NoError(t, err)
	defer two.Close()
	require.False(t, two.Has("acme.a"))
	require.NoError(t, one.Add(t.Context(), "acme.a"))
	require.Equal(t, "acme.a", <-told)
	require.True(t, two.Has("acme.a"))
}
