package clustertest

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAnEarlierBuildIsUpgraded replaces replicas of an earlier build, which has
// set everything up, by those of this checkout, one by one under load; goes back
// to the earlier build with one; and replaces that again.
func TestAnEarlierBuildIsUpgraded(t *testing.T) {
	earlier := os.Getenv("PROCESSOR_EARLIER")
	if earlier == "" {
		t.Skip("set PROCESSOR_EARLIER to a processor that was built from an earlier commit")
	}
	p := newPlant(t, 10*time.Minute, settings{replicas: 3, latency: 50 * time.Millisecond, more: budgetSection, program: earlier})
	current, err := build()
	require.NoError(t, err)
	p.awaitWorking()
	l := p.keepPublishing(5 * time.Millisecond)
	p.program = current
	p.provision(3)
	replace := func(i int, program string) {
		seen := p.messages("LLM_RESPONSES")
		p.awaitAtLeast(int(seen) + 200)
		r := p.replicas[i]
		begun := time.Now()
		require.NoError(t, r.process.Stop())
		t.Logf("replica %d was gone %d ms after SIGTERM", i, time.Since(begun).Milliseconds())
		r.process, r.program = nil, program
		p.startReplica(i)
		p.awaitAtLeast(int(p.messages("LLM_RESPONSES")) + 200)
	}
	for i := range p.replicas {
		replace(i, current)
	}
	replace(0, earlier)
	replace(0, current)
	l.end()
	t.Logf("%d requests while 3 replicas were upgraded, one of them back and forth: %+v", len(l.ids()), p.check(l.ids()))
}
