package clustertest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/proc"
)

// TestProvisionCarriesAServerOnItsOwnIntoACluster uses one server, stops it, and
// has provision copy what it holds into three others.
func TestProvisionCarriesAServerOnItsOwnIntoACluster(t *testing.T) {
	slow(t)
	old := newPlant(t, 10*time.Minute, settings{servers: 1, latency: 20 * time.Millisecond, more: budgetSection})
	old.awaitWorking()
	ids := old.publish(0, 300).ids()
	old.awaitResponses(300, 3*time.Minute)
	for i := range old.replicas {
		require.NoError(t, old.replicas[i].process.Stop())
		old.replicas[i].process = nil
	}
	waiting := old.publish(300, 50).ids() // nobody works on these any more
	old.checkArchive(append(ids, waiting...))
	before := old.contents()
	old.nc.Close()
	old.killNode(0)

	p := newPlant(t, 10*time.Minute, settings{latency: 20 * time.Millisecond, more: budgetSection, from: old.nodes[0].Dir})
	p.requireCopies(3)
	require.Equal(t, before, p.carried, "every message and entry is as it was")
	more := p.publish(400, 100).ids()
	p.awaitResponses(450, 3*time.Minute)
	p.awaitNothingLeft()
	answered := map[string]int{}
	for _, m := range p.read("LLM_RESPONSES") {
		answered[last(m.Subject())]++
	}
	p.requireEach(slices.Concat(ids, waiting, more), answered, "responses")
	p.checkArchive(slices.Concat(ids, waiting, more))
	calls, _, _, _, err := p.upstream.UpstreamStats()
	require.NoError(t, err)
	require.Equal(t, 150, calls, "what was answered on the old server is paid no more")
	t.Logf("350 requests carried over, 50 of them unanswered")

	out, err := proc.Run(p.ctx, p.program, "provision", "--config", p.replicas[0].config, "--from", old.nodes[0].Dir)
	require.Error(t, err, "what is there is not overwritten")
	require.Contains(t, out, "already in use", fmt.Sprint(err))
}
