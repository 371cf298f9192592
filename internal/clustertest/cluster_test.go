package clustertest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAClusterDoesWhatOneServerDoes sends requests through three servers, all
// streams and buckets on each of them.
func TestAClusterDoesWhatOneServerDoes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	p := newPlant(t, 3*time.Minute, settings{replicas: 1, more: budgetSection})
	p.requireCopies(3)
	t.Logf("%+v", p.check(p.publish(0, 100).ids()))
}

// requireCopies requires that every stream, bucket and durable consumer has so many copies.
func (p *plant) requireCopies(n int) {
	p.t.Helper()
	seen := 0
	lister := p.js.ListStreams(p.ctx)
	for info := range lister.Info() {
		seen++
		require.Equal(p.t, n, info.Config.Replicas, info.Config.Name)
		if n > 1 {
			require.Len(p.t, info.Cluster.Replicas, n-1, info.Config.Name)
		}
		s, err := p.js.Stream(p.ctx, info.Config.Name)
		require.NoError(p.t, err)
		consumers := s.ListConsumers(p.ctx)
		for c := range consumers.Info() {
			if c.Config.Durable != "" && n > 1 {
				require.Len(p.t, c.Cluster.Replicas, n-1, "%s of %s", c.Name, info.Config.Name)
			}
		}
		require.NoError(p.t, consumers.Err())
	}
	require.NoError(p.t, lister.Err())
	require.Greater(p.t, seen, 15)
}
