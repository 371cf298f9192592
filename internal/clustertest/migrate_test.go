package clustertest

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestProvisionCopiesALayoutToThreeServers makes everything on one of three
// servers, uses it, has provision copy it to all, and then kills the server that
// had it first.
func TestProvisionCopiesALayoutToThreeServers(t *testing.T) {
	slow(t)
	p := newPlant(t, 10*time.Minute, settings{copies: 1, latency: 20 * time.Millisecond, more: budgetSection})
	p.requireCopies(1)
	p.awaitWorking()
	ids := p.publish(0, 300).ids()
	p.awaitResponses(300, 3*time.Minute)
	p.awaitNothingLeft()
	p.checkArchive(ids)
	before := p.contents()
	require.Contains(t, before, "LLM_ARCHIVE")
	require.Contains(t, before, "KV_llm_answers")
	p.provision(3)
	p.requireCopies(3)
	require.Equal(t, before, p.contents(), "every message and entry is as it was")

	// The configuration of the replicas says one copy, which takes none away.
	p.killReplica(0)
	p.startReplica(0)
	l := p.keepPublishing(10 * time.Millisecond)
	for i := range p.nodes { // each is the only home of something no longer
		have := int(p.messages("LLM_RESPONSES"))
		p.killNode(i)
		p.awaitAtLeast(have + 100)
		p.startNode(i)
		p.awaitCopies() // what is in memory needs its copy back before another goes
	}
	l.end()
	p.requireCopies(3)
	t.Logf("copied to three servers, each of which was killed then: %+v", p.check(append(ids, l.ids()...)))
}

// awaitCopies waits until every server has a complete copy of every stream again.
func (p *plant) awaitCopies() {
	p.t.Helper()
	p.await(3*time.Minute, "the copies are not complete", func() bool {
		for _, name := range append([]string{"LLM_REQUESTS", "LLM_RESPONSES", "LLM_ARCHIVE", "KV_llm_leases", "KV_llm_answers", "KV_llm_budget"}, stageStreams...) {
			info, err := p.info(name)
			if err != nil || info.Cluster == nil || len(info.Cluster.Replicas) != p.set.servers-1 {
				return false
			}
			for _, r := range info.Cluster.Replicas {
				if !r.Current || r.Offline {
					return false
				}
			}
		}
		return true
	})
}

// contents gives a fingerprint of what every stream and bucket holds that keeps
// something: of its messages with their sequences, in order. What the product
// writes while nobody asks, as statistics, is left out.
func (p *plant) contents() map[string]string {
	p.t.Helper()
	all := map[string]string{}
	for _, stream := range []string{"LLM_ARCHIVE", "LLM_RESPONSES", "KV_llm_answers", "KV_llm_cache", "KV_llm_budget"} {
		sum, n := sha256.New(), 0
		for _, m := range p.read(stream) {
			meta, err := m.Metadata()
			require.NoError(p.t, err)
			fmt.Fprintln(sum, meta.Sequence.Stream, m.Subject(), m.Headers(), string(m.Data()))
			n++
		}
		require.Positive(p.t, n, stream)
		all[stream] = fmt.Sprintf("%d messages, %x", n, sum.Sum(nil))
	}
	return all
}
