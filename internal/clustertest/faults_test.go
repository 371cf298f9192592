package clustertest

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/proc"
)

// faultTimes is how often a fault is made within one run of its test.
const faultTimes = 4

func TestReplicasAreKilled(t *testing.T) {
	slow(t)
	p := newPlant(t, 8*time.Minute, settings{replicas: 3, latency: 100 * time.Millisecond, more: budgetSection})
	p.awaitWorking()
	l := p.keepPublishing(5 * time.Millisecond)
	for i := range faultTimes {
		p.awaitAtLeast(100 * (i + 1))
		p.killReplica(i % len(p.replicas))
		p.startReplica(i % len(p.replicas))
	}
	l.end()
	t.Logf("%d replicas killed: %+v", faultTimes, p.check(l.ids()))
}

// TestTheLastReplicaOfAStageIsKilled leaves generate and score to one replica.
// What the others hand on waits until there is another.
func TestTheLastReplicaOfAStageIsKilled(t *testing.T) {
	slow(t)
	p := newPlant(t, 8*time.Minute, settings{replicas: 2, latency: 100 * time.Millisecond, more: budgetSection})
	for i, group := range []string{"compress,cache,batch", "generate,score"} {
		p.killReplica(i)
		p.startReplica(i, "--stages", group)
	}
	p.awaitWorking()
	l := p.keepPublishing(5 * time.Millisecond)
	for i := range faultTimes {
		p.awaitAtLeast(100 * (i + 1))
		p.killReplica(1)
		p.await(2*time.Minute, "nothing waits for the stage that nobody runs", func() bool { return p.messages("LLM_GENERATE") > 100 })
		p.startReplica(1, "--stages", "generate,score")
	}
	l.end()
	t.Logf("the last replica killed %d times: %+v", faultTimes, p.check(l.ids()))
}

func TestServersAreKilled(t *testing.T) {
	slow(t)
	p := newPlant(t, 12*time.Minute, settings{latency: 100 * time.Millisecond, more: budgetSection})
	p.awaitWorking()
	l := p.keepPublishing(10 * time.Millisecond)
	have := 0
	for i, leads := range []string{"LLM_REQUESTS", "LLM_GENERATE", "LLM_RESPONSES", "KV_llm_budget"} {
		have += 100
		p.awaitAtLeast(have)
		n := p.leaderOf(leads)
		if i%2 == 1 {
			n = (n + 1) % p.set.servers // one that follows
		}
		p.killNode(n)
		have += 100
		p.awaitAtLeast(have) // it goes on without
		p.startNode(n)
	}
	l.end()
	t.Logf("4 servers killed, 2 of them leaders of a stream: %+v", p.check(l.ids()))
}

// TestTwoServersAreKilledAndReturn takes the majority away: nothing is accepted
// until it is back, and nothing that was is lost.
func TestTwoServersAreKilledAndReturn(t *testing.T) {
	slow(t)
	p := newPlant(t, 10*time.Minute, settings{latency: 100 * time.Millisecond, more: budgetSection})
	p.awaitWorking()
	l := p.keepPublishing(10 * time.Millisecond)
	for i := range 2 {
		p.awaitAtLeast(200 * (i + 1))
		p.killNode(i)
		p.killNode(i + 1)
		before := p.messages("LLM_RESPONSES")
		lasts(10 * time.Second) // longer than an election
		p.startNodes()
		back := time.Now()
		p.awaitAtLeast(max(int(before), 200*(i+1)) + 100)
		t.Logf("100 answers %v after the servers are back", time.Since(back).Round(time.Second))
	}
	p.awaitAtLeast(500)
	l.end()
	t.Logf("two of three servers killed 2 times: %+v", p.check(l.ids()))
}

// TestASecondServerDiesBeforeTheFirstIsWhole kills a server in the moment in
// which another has come back, before its copies can be current, and brings it
// back only once the two others work without it.
func TestASecondServerDiesBeforeTheFirstIsWhole(t *testing.T) {
	slow(t)
	p := newPlant(t, 12*time.Minute, settings{latency: 100 * time.Millisecond, more: budgetSection})
	p.awaitWorking()
	l := p.keepPublishing(10 * time.Millisecond)
	for i := range 3 {
		first, second := i, (i+1)%3
		p.awaitAtLeast(200 * (i + 1))
		p.killNode(first)
		lasts(5 * time.Second)
		p.startNode(first)
		before := p.messages("LLM_RESPONSES")
		p.killNode(second)
		killed := time.Now()
		p.awaitResponses(int(before)+300, 2*time.Minute)
		t.Logf("%d answers; 300 more %v later, without the second", before, time.Since(killed).Round(time.Second))
		p.startNode(second)
	}
	l.end()
	t.Logf("a second server killed as the first came back, 3 times: %+v", p.check(l.ids()))
}

// TestAReplicaIsFrozen stops one where it is for longer than a message may be
// worked on without a sign of life, and than its leases last.
func TestAReplicaIsFrozen(t *testing.T) {
	slow(t)
	p := newPlant(t, 10*time.Minute, settings{latency: 500 * time.Millisecond, more: budgetSection})
	p.awaitPulls(2)
	l := p.keepPublishing(10 * time.Millisecond)
	for i := range 2 {
		p.awaitAtLeast(200 * (i + 1))
		require.NoError(t, p.replicas[i].process.Freeze())
		lasts(35 * time.Second)
		require.NoError(t, p.replicas[i].process.Thaw())
	}
	l.end()
	t.Logf("frozen for 35 s 2 times: %+v", p.check(l.ids()))
}

// TestAReplicaIsCutOff pulls the cable between a replica and all servers, for
// longer than its leases last.
func TestAReplicaIsCutOff(t *testing.T) {
	slow(t)
	p := newPlant(t, 10*time.Minute, settings{latency: 500 * time.Millisecond, more: budgetSection})
	p.awaitPulls(2)
	l := p.keepPublishing(10 * time.Millisecond)
	for i, away := range []time.Duration{5 * time.Second, 35 * time.Second, 50 * time.Second} {
		p.awaitAtLeast(200 * (i + 1))
		for _, proxy := range p.replicas[i%2].proxies {
			proxy.Cut()
		}
		lasts(away)
		for _, proxy := range p.replicas[i%2].proxies {
			proxy.Mend()
		}
	}
	l.end()
	t.Logf("cut off for 5, 35 and 50 s: %+v", p.check(l.ids()))
}

func TestEverythingIsRestartedAtOnce(t *testing.T) {
	slow(t)
	p := newPlant(t, 10*time.Minute, settings{latency: 100 * time.Millisecond, more: budgetSection})
	p.awaitWorking()
	l := p.keepPublishing(10 * time.Millisecond)
	for i := range 2 {
		p.awaitAtLeast(200 * (i + 1))
		var dying sync.WaitGroup
		for i := range p.replicas {
			dying.Go(func() { p.killReplica(i) })
		}
		for i := range p.nodes {
			dying.Go(func() { p.killNode(i) })
		}
		dying.Wait()
		p.startNodes()
		for i := range p.replicas {
			p.startReplica(i)
		}
	}
	p.awaitAtLeast(500)
	l.end()
	t.Logf("all killed at once 2 times: %+v", p.check(l.ids()))
}

// outage is how long the provider is away. By hand:
//
//	PROCESSOR_SLOW=1 go test ./internal/clustertest -run ProviderIsAway -cluster.outage 10m -timeout 30m -v
var outage = flag.Duration("cluster.outage", time.Minute, "how long the provider is away")

func TestTheProviderIsAway(t *testing.T) {
	slow(t)
	p := newPlant(t, *outage+8*time.Minute, settings{latency: 50 * time.Millisecond, more: budgetSection})
	p.awaitWorking()
	l := p.keepPublishing(100 * time.Millisecond)
	p.awaitAtLeast(50)
	p.outage.Refuse()
	begun := p.messages("LLM_RESPONSES")
	lasts(*outage)
	waiting := uint64(len(l.ids())) - p.messages("LLM_RESPONSES")
	require.Greater(t, waiting, uint64(*outage/(400*time.Millisecond)), "what is accepted meanwhile waits")
	require.Zero(t, p.messages("LLM_DEAD"))
	p.outage.Mend()
	l.end()
	t.Logf("%v without a provider, from the %dth answer on; %d waited at its end: %+v", *outage, begun, waiting, p.check(l.ids()))
}

// TestStreamsAreFullAtOnce fills every stream from the requests to score, for
// nobody scores. What scores then sends each answer back to generate once, whose
// stream is full.
func TestStreamsAreFullAtOnce(t *testing.T) {
	slow(t)
	p := newPlant(t, 10*time.Minute, settings{
		streams: "requests: {max_bytes: 4MB}, stage: {max_bytes: 4MB}",
		more:    "score: {threshold: 1, max_attempts: 2}\n",
	})
	for i := range p.replicas {
		p.killReplica(i)
	}
	p.startReplica(0, "--stages", "compress,cache,batch,generate")
	l := &load{p: p, size: 20_000}
	var publishing sync.WaitGroup
	publishing.Go(func() { l.all(0, 1500) })
	p.await(3*time.Minute, "the streams do not fill", func() bool {
		full := l.fullRefusals() > 10
		for _, stream := range []string{"LLM_GENERATE", "LLM_SCORE"} {
			info, err := p.info(stream)
			full = full && err == nil && info.State.Bytes > 3_500_000
		}
		return full
	})
	refused := l.fullRefusals()
	p.startReplica(1, "--stages", "score")
	publishing.Wait()
	t.Logf("requests, generate and score full at once; %d publishes refused by then, %d in all: %+v", refused, l.fullRefusals(), p.check(l.ids()))
}

// TestBucketsAreFull fills the responses and the bucket of recorded answers,
// which drop nothing before its time. It goes on when the oldest are a minute old.
func TestBucketsAreFull(t *testing.T) {
	slow(t)
	p := newPlant(t, 12*time.Minute, settings{
		upstream: "text=20000", streams: "responses: {max_bytes: 4MB, max_age: 1m}",
	})
	answered := map[string]int{}
	var mu sync.Mutex
	consumer, err := p.js.OrderedConsumer(p.ctx, "LLM_RESPONSES", jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		mu.Lock()
		defer mu.Unlock()
		answered[last(m.Subject())]++
	})
	require.NoError(t, err)
	defer consuming.Stop()
	ids := p.publish(0, 600).ids()
	full := 0
	p.await(10*time.Minute, "not all is answered", func() bool {
		for _, stream := range []string{"LLM_RESPONSES", "KV_llm_answers"} {
			if info, err := p.info(stream); err == nil && info.State.Bytes > 3_900_000 {
				full++
			}
		}
		mu.Lock()
		defer mu.Unlock()
		return len(answered) >= len(ids)
	})
	require.Positive(t, full, "nothing was ever full")
	mu.Lock()
	p.requireEach(ids, answered, "responses")
	mu.Unlock()
	p.awaitNothingLeft()
	require.Zero(t, p.messages("LLM_DEAD"))
	calls, repeats, _, _, err := p.upstream.UpstreamStats()
	require.NoError(t, err)
	t.Logf("responses and records full: %d answered once each, %d calls, %d of them repeated", len(ids), calls, repeats)
}

// newerProgram builds the processor with the next version of the hand-offs.
func newerProgram(p *plant) string {
	p.t.Helper()
	path, err := filepath.Abs("../../schemas/handoff.go")
	require.NoError(p.t, err)
	source, err := os.ReadFile(path)
	require.NoError(p.t, err)
	version := regexp.MustCompile(`(?m)^const HandoffVersion = 1$`)
	require.Len(p.t, version.FindAll(source, -1), 1)
	changed := filepath.Join(p.dir, "handoff.go")
	require.NoError(p.t, os.WriteFile(changed, version.ReplaceAll(source, []byte("const HandoffVersion = 2")), 0o600))
	overlay := filepath.Join(p.dir, "overlay.json")
	require.NoError(p.t, os.WriteFile(overlay, []byte(`{"Replace": {"`+path+`": "`+changed+`"}}`), 0o600))
	dir := filepath.Join(p.dir, "newer")
	require.NoError(p.t, os.Mkdir(dir, 0o700))
	program, err := proc.Build(p.ctx, dir, "-overlay", overlay)
	require.NoError(p.t, err)
	return program
}

// TestReplicasAreUpgradedOneByOne runs two versions of the hand-off side by side.
func TestReplicasAreUpgradedOneByOne(t *testing.T) {
	slow(t)
	p := newPlant(t, 10*time.Minute, settings{replicas: 3, latency: 50 * time.Millisecond, more: budgetSection})
	newer := newerProgram(p)
	p.awaitWorking()
	l := p.keepPublishing(20 * time.Millisecond)
	aside := uint64(0)
	for i, r := range p.replicas {
		p.awaitAtLeast(100 * (i + 1))
		require.NoError(t, r.process.Stop())
		r.process, r.program = nil, newer
		p.startReplica(i)
		seen := p.messages("LLM_RESPONSES")
		p.await(3*time.Minute, "nothing is answered by both versions", func() bool {
			aside = max(aside, p.messages("LLM_LATER"))
			return p.messages("LLM_RESPONSES") > seen+200
		})
	}
	l.end()
	require.Positive(t, aside, "no replica of the older version met a newer hand-off")
	t.Logf("3 replicas upgraded one by one; up to %d hand-offs waited for the newer ones: %+v", aside, p.check(l.ids()))
}
