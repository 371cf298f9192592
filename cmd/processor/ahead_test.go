package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/providers"
)

// arrivals runs requests with one long beginning and gives when each reached the
// upstream, after the first.
func arrivals(t *testing.T, requests int, first time.Duration) []time.Duration {
	t.Helper()
	var mu sync.Mutex
	var at []time.Time
	p := newTestPipeline(t, fakellm.Config{FirstToken: first, TokenDelay: 10 * time.Millisecond, Respond: func(fakellm.Call) *fakellm.Step {
		mu.Lock()
		defer mu.Unlock()
		at = append(at, time.Now())
		return nil
	}}, nil)
	require.NoError(t, provision(t.Context(), p.cfg, p.nc))
	for i := range requests {
		p.publish(fmt.Sprint("r", i), fmt.Sprintf(`{"model":"gpt-4o","stream":true,"messages":[{"role":"system","content":%q},{"role":"user","content":"question %d"}]}`,
			strings.Repeat("These are the rules of the house. ", 300), i))
	}
	p.start()
	for i := range requests {
		require.Len(t, p.await(fmt.Sprint("r", i)).Choices, 1)
	}
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(at, time.Time.Compare)
	var after []time.Duration
	for _, later := range at[1:] {
		after = append(after, later.Sub(at[0]))
	}
	require.Len(t, after, requests-1)
	return after
}

func TestPromptsWithACommonBeginningFollowTheFirstToken(t *testing.T) {
	t.Parallel()
	const first = 300 * time.Millisecond
	for _, after := range arrivals(t, 6, first) {
		require.GreaterOrEqual(t, after, first)
	}
}

func TestNobodyWaitsForACacheThatIsNotThere(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*config.Config){
		"prefix_wait 0":            func(cfg *config.Config) { cfg.Batch.PrefixWait = 0 },
		"only simulated providers": func(cfg *config.Config) { cfg.Providers = nil },
	} {
		d := &deps{cfg: config.Default()}
		d.cfg.Providers = []providers.Config{{Name: "p", Kind: providers.KindOpenAI}}
		require.NotNil(t, d.prefixes(), name)
		change(&d.cfg)
		require.Nil(t, d.prefixes(), name)
	}
}
