package crashtest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// answered is a stored response: when it came, and what is said of it.
type answered struct {
	at     time.Time
	cache  string
	cost   float64
	failed bool
}

// listen collects the responses of a tenant as they are stored.
func (c *cluster) listen(ctx context.Context, tenant string) func(id string) (answered, int) {
	stream, err := c.js.Stream(ctx, "LLM_RESPONSES")
	require.NoError(c.t, err)
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"llm.responses." + tenant + ".*"}})
	require.NoError(c.t, err)
	var mu sync.Mutex
	found := map[string]answered{}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		var body struct {
			Choices   []json.RawMessage `json:"choices"`
			Processor struct {
				Cache string  `json:"cache"`
				Cost  float64 `json:"cost_usd"`
			} `json:"processor"`
		}
		_ = json.Unmarshal(m.Data(), &body)
		meta, _ := m.Metadata()
		mu.Lock()
		defer mu.Unlock()
		found[m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]] = answered{
			meta.Timestamp, body.Processor.Cache, body.Processor.Cost, len(body.Choices) == 0,
		}
	})
	require.NoError(c.t, err)
	c.t.Cleanup(consuming.Stop)
	return func(id string) (answered, int) {
		mu.Lock()
		defer mu.Unlock()
		return found[id], len(found)
	}
}

// ask publishes a request; its outcome is waited for by the caller.
func (c *cluster) ask(tenant, id, prompt string) jetstream.PubAckFuture {
	m := nats.NewMsg("llm.requests." + tenant)
	m.Header.Set("Llm-Id", id)
	m.Data = fmt.Appendf(nil, `{"model":"gpt-4o","messages":[{"role":"user","content":%q}]}`, prompt)
	future, err := c.js.PublishMsgAsync(m, jetstream.WithStallWait(10*time.Second))
	require.NoError(c.t, err)
	return future
}

func (c *cluster) awaitCount(n int, find func(string) (answered, int), within time.Duration) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		_, have := find("")
		return have >= n
	}, within, 5*time.Millisecond, "responses are missing")
}

func (c *cluster) calls() int {
	calls, _, _, _, err := c.upstream.UpstreamStats()
	require.NoError(c.t, err)
	return calls
}

// awaitReplicas waits until every processor pulls, so that all take part.
func (c *cluster) awaitReplicas(ctx context.Context) {
	require.Eventually(c.t, func() bool {
		for _, stream := range []struct{ stream, consumer string }{{"LLM_REQUESTS", "compress"}, {"LLM_GENERATE", "generate-interactive-0"}} {
			consumer, err := c.js.Consumer(ctx, stream.stream, stream.consumer)
			if err != nil || consumer.CachedInfo().NumWaiting < len(c.processors) {
				return false
			}
		}
		return true
	}, time.Minute, 20*time.Millisecond, "not all processors pull")
}

// leases counts the leases that are held.
func (c *cluster) leases(ctx context.Context) int {
	stream, err := c.js.Stream(ctx, "KV_llm_leases")
	require.NoError(c.t, err)
	held := 0
	info := stream.CachedInfo()
	for sequence := info.State.FirstSeq; sequence <= info.State.LastSeq; sequence++ {
		if m, err := stream.GetMsg(ctx, sequence); err == nil && len(m.Data) > 0 {
			held++
		}
	}
	return held
}

func TestEqualRequestsOnFourReplicasShareTheirCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("runs four processes")
	}
	const requests, prompts = 1000, 10
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := newCluster(ctx, t, figures{requests: requests, replicas: 4, workers: 64, latency: 500 * time.Millisecond})
	c.awaitReplicas(ctx)
	find := c.listen(ctx, "flight")
	for i := range requests {
		c.ask("flight", fmt.Sprintf("r%d", i), fmt.Sprintf("question %d", i%prompts))
	}
	c.awaitCount(requests, find, time.Minute)
	require.Equal(t, prompts, c.calls(), "exactly one call a prompt")

	var after []time.Duration
	for prompt := range prompts {
		var paid time.Time
		for i := prompt; i < requests; i += prompts {
			if a, _ := find(fmt.Sprintf("r%d", i)); a.cache == "miss" {
				require.Zero(t, paid, "two of prompt %d were paid", prompt)
				paid = a.at
			}
		}
		require.NotZero(t, paid)
		for i := prompt; i < requests; i += prompts {
			a, _ := find(fmt.Sprintf("r%d", i))
			require.False(t, a.failed)
			if a.cache != "miss" {
				require.Contains(t, []string{"shared", "hit"}, a.cache)
				require.Zero(t, a.cost)
				after = append(after, max(0, a.at.Sub(paid)))
			}
		}
	}
	require.Len(t, after, requests-prompts)
	slices.Sort(after)
	t.Logf("followers behind their leader's answer: median %v, last %v", after[len(after)/2], after[len(after)-1])
	if os.Getenv("PROCESSOR_SLOW") == "" {
		return // the leases of answered calls take 15 s to run out
	}
	require.Eventually(t, func() bool { return c.leases(ctx) == 0 }, 30*time.Second, 50*time.Millisecond, "leases are given up, or run out")
}

func TestTheFollowersOfAKilledLeaderAreTakenOver(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	const requests = 200
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := newCluster(ctx, t, figures{requests: requests, replicas: 2, workers: 64, latency: 1500 * time.Millisecond})
	c.awaitReplicas(ctx)
	find := c.listen(ctx, "flight")
	for i := range requests {
		c.ask("flight", fmt.Sprintf("r%d", i), "the same question")
	}
	require.Eventually(t, func() bool { return c.calls() == 1 }, 10*time.Second, 5*time.Millisecond)
	leader := c.leader(ctx)
	c.processors[leader].Kill()
	killed := time.Now()
	require.Eventually(t, func() bool { return c.calls() == 2 }, 10*time.Second, 5*time.Millisecond, "nobody took over")
	takenOver := time.Since(killed)
	c.processors[leader] = c.startProcessor(ctx)
	c.awaitCount(requests, find, 2*time.Minute)
	t.Logf("taken over %v after the kill", takenOver)
	require.Less(t, takenOver, 2*time.Second)
	require.Equal(t, 2, c.calls(), "one call more")
}

// leader gives the processor that makes the only call: the one that, stopped,
// does not answer for the only lease. Each keeps a connection to the upstream,
// so those do not tell.
func (c *cluster) leader(ctx context.Context) int {
	stream, err := c.js.Stream(ctx, "KV_llm_leases")
	require.NoError(c.t, err)
	lease, err := stream.GetMsg(ctx, stream.CachedInfo().State.LastSeq)
	require.NoError(c.t, err)
	key := strings.TrimPrefix(lease.Subject, "$KV.llm_leases.")
	for i, p := range c.processors {
		require.NoError(c.t, p.Freeze())
		_, err := c.nc.Request("llm.alive."+string(lease.Data), []byte(key), 300*time.Millisecond)
		require.NoError(c.t, p.Thaw())
		if err != nil {
			return i
		}
	}
	c.t.Fatal("nobody has the lease")
	return 0
}

func TestAFrozenLeaderIsNoSecondAnswer(t *testing.T) {
	if os.Getenv("PROCESSOR_SLOW") == "" {
		t.Skip("takes most of a minute; PROCESSOR_SLOW=1 runs it")
	}
	const requests, frozen = 200, 30 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := newCluster(ctx, t, figures{requests: requests, replicas: 2, workers: 64, latency: 2 * time.Second})
	c.awaitReplicas(ctx)
	find := c.listen(ctx, "flight")
	for i := range requests {
		c.ask("flight", fmt.Sprintf("r%d", i), "the same question")
	}
	require.Eventually(t, func() bool { return c.calls() == 1 }, 10*time.Second, 5*time.Millisecond)
	time.Sleep(300 * time.Millisecond)
	leader := c.processors[c.leader(ctx)]
	require.NoError(t, leader.Freeze())
	time.Sleep(frozen)
	require.NoError(t, leader.Thaw())
	c.awaitCount(requests, find, 2*time.Minute)
	require.LessOrEqual(t, c.calls(), 2, "at most one call more")
	c.requireOneResponseEach(ctx, requests)
}

func (c *cluster) requireOneResponseEach(ctx context.Context, n int) {
	info, err := c.responses(ctx)
	require.NoError(c.t, err)
	require.EqualValues(c.t, n, info.State.Msgs)
	require.EqualValues(c.t, n, info.State.LastSeq-info.State.FirstSeq+1, "a response was stored twice")
}

func TestRepeatsAreNotPaidThroughKills(t *testing.T) {
	if os.Getenv("PROCESSOR_SLOW") == "" {
		t.Skip("takes a minute; PROCESSOR_SLOW=1 runs it")
	}
	const requests, distinct, kills = 10_000, 7000, 6
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	f := figures{requests: requests, kills: kills, replicas: 4, workers: 64, latency: 100 * time.Millisecond}
	c := newCluster(ctx, t, f)
	c.awaitReplicas(ctx)
	find := c.listen(ctx, "flight")
	random := rand.New(rand.NewPCG(1, 2))
	var publishing sync.WaitGroup
	publishing.Go(func() {
		order := random.Perm(requests)
		for n, i := range order {
			<-c.ask("flight", fmt.Sprintf("r%d", i), fmt.Sprintf("question %d", i%distinct)).Ok()
			if n%100 == 0 {
				time.Sleep(50 * time.Millisecond)
			}
		}
	})
	for i := range kills {
		time.Sleep(time.Second)
		c.restartProcessor(ctx, i%f.replicas)
	}
	publishing.Wait()
	c.awaitCount(requests, find, 5*time.Minute)
	calls := c.calls()
	t.Logf("%d requests, %d distinct, %d kills: %d calls", requests, distinct, kills, calls)
	require.LessOrEqual(t, calls, distinct+kills*f.workers)
	require.GreaterOrEqual(t, calls, distinct)
	c.requireOneResponseEach(ctx, requests)
}

func TestAFloodOfEqualRequestsDelaysNobodyElse(t *testing.T) {
	if os.Getenv("PROCESSOR_SLOW") == "" {
		t.Skip("publishes 20,000 requests; PROCESSOR_SLOW=1 runs it")
	}
	const flood, latency = 20_000, 20 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := newCluster(ctx, t, figures{requests: flood, replicas: 4, workers: 64, latency: latency, maxWaiting: flood})
	c.awaitReplicas(ctx)
	find, other := c.listen(ctx, "flood"), c.listen(ctx, "other")
	for i := range flood {
		c.ask("flood", fmt.Sprintf("r%d", i), "the same question")
	}
	<-c.js.PublishAsyncComplete()
	c.awaitWorked(ctx, "LLM_REQUESTS", "LLM_CACHE", "LLM_BATCH")
	_, have := find("")
	require.Zero(t, have, "the flood waits in generate for its only call")
	asked := time.Now()
	<-c.ask("other", "one", "another question").Ok()
	c.awaitCount(1, other, time.Minute)
	took := time.Since(asked)
	c.awaitCount(flood, find, 3*time.Minute)
	t.Logf("beside the flood the other tenant was answered after %v (its call takes %v); %d calls", took, latency, c.calls())
	require.Equal(t, 2, c.calls())
	require.Less(t, took, latency+time.Second)
}

// awaitWorked waits until nothing waits in the streams.
func (c *cluster) awaitWorked(ctx context.Context, names ...string) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		for _, name := range names {
			stream, err := c.js.Stream(ctx, name)
			if err != nil || stream.CachedInfo().State.Msgs > 0 {
				return false
			}
		}
		return true
	}, time.Minute, 20*time.Millisecond, "requests wait before generate")
}
