package kv

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSheddingHalvesWhatIsInMemory(t *testing.T) {
	for _, strategy := range strategies {
		cfg := DefaultCache()
		cfg.Strategy = strategy
		c := &Cache{local: newMemory(cfg)}
		for i := range 101 {
			key := fmt.Sprint("acme.", i)
			c.local.put(key, hashKey(key), Entry{Answer: make([]byte, 100)}, uint64(i+1))
		}
		c.Shed()
		require.Len(t, c.local.entries, 50)
		c.Shed()
		require.Len(t, c.local.entries, 25)
		require.Len(t, c.local.policy.Keys(), 25, strategy)
	}
}
