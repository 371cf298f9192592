package stats

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/adpa/processor/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// count is a value that shows every observation that is lost or doubled.
type count struct{ N int }

func (c *count) Merge(other *count)             { c.N += other.N }
func (c *count) MarshalBinary() ([]byte, error) { return json.Marshal(c.N) }
func (c *count) UnmarshalBinary(b []byte) error { return json.Unmarshal(b, &c.N) }

type counts = Store[count, *count]

const bucketName = "llm_models"

func bucket(t *testing.T) (jetstream.JetStream, jetstream.KeyValue) {
	t.Helper()
	_, js := natstest.Connect(t, natstest.Start(t))
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: bucketName})
	require.NoError(t, err)
	return js, kv
}

func open(t *testing.T, js jetstream.JetStream, most int) *counts {
	t.Helper()
	s, err := Open[count, *count](t.Context(), js, Options{Bucket: bucketName, Filter: "*.*.test", Every: 10 * time.Millisecond, Most: most})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func add(s *counts, key string) bool {
	return s.Observe(key, func(use, own *count) { use.N++; own.N++ })
}

func value(s *counts, key string) (n int) {
	s.View(key, func(c *count) { n = c.N })
	return n
}

func TestNoObservationIsLostBetweenReplicas(t *testing.T) {
	js, _ := bucket(t)
	var replicas []*counts
	for range 4 {
		replicas = append(replicas, open(t, js, 100))
	}
	const keys, each = 5, 3000
	var working sync.WaitGroup
	for _, s := range replicas {
		working.Go(func() {
			for i := range each {
				add(s, fmt.Sprintf("r.%d.test", i%keys))
				if i%300 == 0 {
					s.flush(context.Background()) // as often as possible, for conflicts
				}
			}
		})
	}
	working.Wait()
	for i := range keys {
		key := fmt.Sprintf("r.%d.test", i)
		for _, s := range replicas {
			require.Eventually(t, func() bool { return value(s, key) == len(replicas)*each/keys }, 10*time.Second, 5*time.Millisecond,
				"%s: every replica knows what all have observed", key)
		}
	}
	for _, s := range replicas {
		s.Close()
	}
	require.Equal(t, len(replicas)*each/keys, value(open(t, js, 100), "r.0.test"), "it survives a restart of all")
}

func TestOneReplicaLearnsAnotherUsesIt(t *testing.T) {
	js, _ := bucket(t)
	one, two := open(t, js, 100), open(t, js, 100)
	begun := time.Now()
	add(one, "r.m.test")
	require.Equal(t, 1, value(one, "r.m.test"), "here at once")
	require.Eventually(t, func() bool { return value(two, "r.m.test") == 1 }, time.Second, time.Millisecond)
	require.Less(t, time.Since(begun), time.Second)
}

func TestKeysAreBounded(t *testing.T) {
	js, kv := bucket(t)
	s := open(t, js, 3)
	for i := range 10 {
		require.Equal(t, i < 3, add(s, fmt.Sprintf("r.%d.test", i)))
	}
	require.True(t, add(s, "r.0.test"), "what is known is still counted")
	_, err := kv.PutString(t.Context(), "r.9.test", "7") // by a replica that has room
	require.NoError(t, err)
	_, err = kv.PutString(t.Context(), "r.1.test", "70")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return value(s, "r.1.test") >= 70 }, 5*time.Second, time.Millisecond)
	require.Zero(t, value(s, "r.9.test"))
}

func TestDamageIsWrittenOverAndOldIsForgotten(t *testing.T) {
	js, kv := bucket(t)
	_, err := kv.PutString(t.Context(), "r.m.test", "nonsense")
	require.NoError(t, err)
	s := open(t, js, 100)
	require.False(t, s.View("r.m.test", func(*count) {}))
	add(s, "r.m.test")
	has := func(want string) func() bool {
		return func() bool {
			e, err := kv.Get(t.Context(), "r.m.test")
			return err == nil && string(e.Value()) == want
		}
	}
	require.Eventually(t, has("1"), 5*time.Second, time.Millisecond)

	require.Eventually(t, func() bool {
		s.forget(t.Context(), time.Now().Add(time.Hour))
		return !s.View("r.m.test", func(*count) {})
	}, 30*time.Second, 10*time.Millisecond, "an old key is deleted, and what was known of it")
	add(s, "r.m.test")
	require.Eventually(t, has("1"), 5*time.Second, time.Millisecond, "it begins anew over the marker of its deletion")
}

func TestWhatCannotBeWrittenIsWithTheNext(t *testing.T) {
	js, kv := bucket(t)
	s := open(t, js, 100)
	add(s, "r.m.test")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	s.flush(ended)
	add(s, "r.m.test")
	require.Equal(t, 2, value(s, "r.m.test"))
	require.Eventually(t, func() bool {
		e, err := kv.Get(t.Context(), "r.m.test")
		return err == nil && string(e.Value()) == "2"
	}, 30*time.Second, time.Millisecond)
}
