package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// begun notes when each request of a tenant came to compress.
type begun struct {
	mu    sync.Mutex
	times map[string][]time.Time
}

func (b *begun) stage() stages.Stage {
	return stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.times == nil {
			b.times = map[string][]time.Time{}
		}
		for _, r := range requests {
			b.times[r.Tenant] = append(b.times[r.Tenant], time.Now())
		}
		return make([]stages.Verdict, len(requests))
	})
}

func (b *begun) of(tenant string) []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.times[tenant]
}

// limitedRunner runs the whole pipeline with limits until the test ends.
func limitedRunner(t *testing.T, nc *nats.Conn, layout Layout, tenants *Tenants, groups ...[]Step) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for _, steps := range groups {
		r, err := NewRunner(nc, RunnerConfig{Layout: layout, MaxDeliver: 3, MaxPayload: 1 << 20, Tenants: tenants}, steps)
		require.NoError(t, err)
		done.Go(func() { require.NoError(t, r.Run(ctx)) })
	}
	t.Cleanup(func() { cancel(); done.Wait() })
}

func publishMany(t *testing.T, js jetstream.JetStream, tenant string, n int) {
	t.Helper()
	for i := range n {
		m := nats.NewMsg("llm.requests." + tenant)
		m.Header.Set(HeaderID, fmt.Sprintf("r-%d", i))
		m.Data = request("hello")
		_, err := js.PublishMsgAsync(m)
		require.NoError(t, err)
	}
	<-js.PublishAsyncComplete()
}

func errorOf(t *testing.T, body []byte) (code string, retryAfter int, details map[string]any) {
	t.Helper()
	var answer struct {
		Error struct {
			Code string `json:"code"`
			Type string `json:"type"`
		} `json:"error"`
		About struct {
			RetryAfter int            `json:"retry_after_ms"`
			Details    map[string]any `json:"details"`
		} `json:"processor"`
	}
	require.NoError(t, json.Unmarshal(body, &answer))
	if answer.Error.Code != "" && answer.Error.Code == string(schemas.CodeRateLimitExceeded) {
		require.Equal(t, string(schemas.RateLimitError), answer.Error.Type)
	}
	return answer.Error.Code, answer.About.RetryAfter, answer.About.Details
}

// Two replicas share a rate: none begins before its time, though the flood is
// there at once; a tenant without a rate passes it, and nobody has failed.
func TestARateHoldsOverReplicasAndHoldsUpNobodyElse(t *testing.T) {
	const rate, flood, others = 40, 80, 200
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	buckets := kv.Layout{Prefix: "llm", AnswersBytes: 1 << 30, AnswersAge: time.Hour, CacheBytes: 1 << 30}
	require.NoError(t, kv.Provision(t.Context(), js, buckets))
	var seen begun
	for range 2 {
		slots, err := kv.NewSlots(t.Context(), js, buckets)
		require.NoError(t, err)
		tenants := NewTenants(nc, layout, []TenantConfig{{Name: "slow", Rate: rate}}, slots.Reserve)
		limitedRunner(t, nc, layout, tenants, steps(seen.stage(), pass, pass, pass, answer))
	}
	published := time.Now()
	publishMany(t, js, "slow", flood)
	publishMany(t, js, "free", others)
	for i := range others {
		response(t, js, fmt.Sprintf("llm.responses.free.r-%d", i))
	}
	for i := range flood {
		m := response(t, js, fmt.Sprintf("llm.responses.slow.r-%d", i))
		code, _, _ := errorOf(t, m.Data)
		require.Empty(t, code)
	}
	times := seen.of("slow")
	require.Len(t, times, flood)
	for i, at := range times { // late is no fault of the rate: a machine may be slow
		require.GreaterOrEqual(t, at.Sub(published), time.Duration(i)*time.Second/rate, "the %dth began before its time", i)
	}
	passed := 0
	for _, at := range seen.of("free") { // published behind the flood
		if at.Before(times[flood-1]) {
			passed++
		}
	}
	require.Greater(t, passed, others/2, "the flood held back another tenant")
	for _, stream := range []string{"LLM_REQUESTS", "LLM_LATER", "LLM_DEAD"} {
		requireDrained(t, js, stream)
	}
}

// Where a request's turn comes in more than half a minute it waits as a
// schedule, and one whose deadline is before that is told at once.
func TestWhatWaitsLongForItsRateIsScheduled(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	far := time.Now().Add(time.Hour)
	tenants := NewTenants(nc, layout, []TenantConfig{{Name: "acme", Rate: 0.01}}, func(context.Context, string, float64, int) (time.Time, error) { return far, nil })
	limitedRunner(t, nc, layout, tenants, steps(pass, pass, pass, pass, answer))
	m := nats.NewMsg("llm.requests.acme")
	m.Header.Set(HeaderID, "in-a-hurry")
	m.Header.Set(HeaderDeadline, time.Now().Add(time.Minute).Format(time.RFC3339))
	m.Data = request("hello")
	_, err := js.PublishMsg(t.Context(), m)
	require.NoError(t, err)
	code, after, details := errorOf(t, response(t, js, "llm.responses.acme.in-a-hurry").Data)
	require.Equal(t, "rate_limit_exceeded", code)
	require.InDelta(t, time.Hour.Milliseconds(), after, 60_000)
	require.Equal(t, "rate", details["limit"])

	publishMany(t, js, "acme", 1)
	later, err := js.Stream(t.Context(), "LLM_LATER")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := later.GetLastMsgForSubject(t.Context(), "llm.later.at.acme.r-0")
		return err == nil
	}, 5*time.Second, 5*time.Millisecond)
	waiting, err := later.GetLastMsgForSubject(t.Context(), "llm.later.at.acme.r-0")
	require.NoError(t, err)
	at, err := time.Parse("@at "+time.RFC3339, waiting.Header.Get("Nats-Schedule"))
	require.NoError(t, err)
	require.WithinDuration(t, far, at, time.Second)
	require.False(t, at.After(far), "it must not fire after its time")
}

// Past max_waiting a request is refused at once; what was let in is answered,
// and once there is room again, so is what comes then.
func TestPastMaxWaitingARequestIsRefused(t *testing.T) {
	const most, flood = 20, 100
	bytes := most * len(request("hello"))
	five := func(g Step) [][]Step {
		return [][]Step{{{Name: stages.Compress, Stage: pass}}, {{Name: stages.Cache, Stage: pass}}, {{Name: stages.Batch, Stage: pass}}, {g}, {{Name: stages.Score, Stage: answer}}}
	}
	one := func(g Step) [][]Step {
		return [][]Step{{{Name: stages.Compress, Stage: pass}, {Name: stages.Cache, Stage: pass}, {Name: stages.Batch, Stage: pass}, g, {Name: stages.Score, Stage: answer}}}
	}
	for name, c := range map[string]struct {
		groups func(Step) [][]Step
		layout int // max_waiting_bytes of all tenants
		entry  TenantConfig
		limit  string
		value  int
	}{
		"a group for each stage":        {five, 0, TenantConfig{Name: "acme", MaxWaiting: most}, "max_waiting", most},
		"one group":                     {one, 0, TenantConfig{Name: "acme", MaxWaiting: most}, "max_waiting", most},
		"bytes, a group for each stage": {five, 0, TenantConfig{Name: "acme", MaxWaitingBytes: units.Bytes(bytes)}, "max_waiting_bytes", bytes},
		"bytes, one group":              {one, 0, TenantConfig{Name: "acme", MaxWaitingBytes: units.Bytes(bytes)}, "max_waiting_bytes", bytes},
		"bytes of any tenant":           {five, bytes, TenantConfig{Name: "other"}, "max_waiting_bytes", bytes},
	} {
		t.Run(name, func(t *testing.T) {
			nc, js := natstest.Connect(t, natstest.Start(t))
			layout := testLayout()
			layout.MaxWaitingBytes = int64(c.layout)
			require.NoError(t, Provision(t.Context(), js, layout))
			open := make(chan struct{})
			letGo := sync.OnceFunc(func() { close(open) })
			gate := Step{Name: stages.Generate, Workers: 4, Slice: 64, Stage: stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
				if requests[0].Tenant == "acme" {
					<-open
				}
				return make([]stages.Verdict, len(requests))
			})}
			tenants := NewTenants(nc, layout, []TenantConfig{c.entry}, nil)
			limitedRunner(t, nc, layout, tenants, c.groups(gate)...)
			t.Cleanup(letGo)
			publishMany(t, js, "acme", flood)
			var refused atomic.Int64
			for i := most; i < flood; i++ { // first come, first served
				code, after, details := errorOf(t, response(t, js, fmt.Sprintf("llm.responses.acme.r-%d", i)).Data)
				require.Equal(t, "rate_limit_exceeded", code)
				require.Positive(t, after)
				require.Equal(t, map[string]any{"limit": c.limit, c.limit: float64(c.value)}, details)
				refused.Add(1)
			}
			require.EqualValues(t, flood-most, refused.Load())
			letGo()
			for i := range most {
				code, _, _ := errorOf(t, response(t, js, fmt.Sprintf("llm.responses.acme.r-%d", i)).Data)
				require.Empty(t, code)
			}
			require.Eventually(t, func() bool { // once those are out of the streams
				id := NewID()
				m := nats.NewMsg("llm.requests.acme")
				m.Header.Set(HeaderID, id)
				m.Data = request("again")
				_, err := js.PublishMsg(t.Context(), m)
				require.NoError(t, err)
				code, _, _ := errorOf(t, response(t, js, "llm.responses.acme."+id).Data)
				return code == ""
			}, 5*time.Second, 10*time.Millisecond)
			requireDrained(t, js, "LLM_DEAD")
		})
	}
}

// What waits is taken to be as large as the last that were let in.
func TestTheBytesThatWaitAreThoseOfTheLast(t *testing.T) {
	var s sizes
	require.Zero(t, s.last(10), "nothing is known yet")
	s.add(1000)
	require.EqualValues(t, 1000, s.last(1))
	require.EqualValues(t, 1000, s.last(10_000), "one says nothing of the others")
	for range 6000 {
		s.add(10)
	}
	require.EqualValues(t, 10*100, s.last(100))
	require.EqualValues(t, 10*10_000, s.last(10_000), "the large one was too long ago")
	for range 64 {
		s.add(1000)
	}
	require.EqualValues(t, 49*1000, s.last(49), "a part that is not full yet counts as far as it goes")
	require.InDelta(t, 64*1000+936*10, s.last(1000), 64*1000*0.02)
}

// A request that is alone may wait, however large it is.
func TestOneRequestFitsAlways(t *testing.T) {
	u := tenantUse{}
	entry := TenantConfig{Name: "acme", MaxWaitingBytes: units.MB}
	require.NoError(t, u.fits(entry, 5_000_000))
	u.inside = 1
	u.sizes.add(400_000)
	require.NoError(t, u.fits(entry, 1<<20-400_000))
	var e *schemas.Error
	require.ErrorAs(t, u.fits(entry, 1<<20-400_000+1), &e)
	require.Equal(t, schemas.CodeRateLimitExceeded, e.Code)
}

func TestABodyMayBeNoLargerThanItsTenantsLimit(t *testing.T) {
	tenants := NewTenants(nil, testLayout(), []TenantConfig{{Name: "acme", MaxRequestBytes: units.KB}}, nil)
	var requests []*stages.Request
	for _, size := range []int{1024, 1025} {
		r := &stages.Request{Handoff: schemas.Handoff{State: schemas.State{Tenant: "acme"}, Body: make([]byte, size)}}
		r.Ticket = new(item)
		requests = append(requests, r)
	}
	verdicts := make([]stages.Verdict, 2)
	tenants.limit(t.Context(), requests, verdicts)
	require.Equal(t, stages.ActionContinue, verdicts[0].Action)
	var e *schemas.Error
	require.ErrorAs(t, verdicts[1].Err, &e)
	require.Equal(t, schemas.CodeTooLarge, e.Code)
}

// While the replicas' common clock is away, a process goes by its own, and
// begins where the common one was.
func TestARateIsKeptWithoutTheBucket(t *testing.T) {
	far := time.Now().Add(time.Minute)
	answers := []error{nil, errors.New("no leader")}
	asked := 0
	tenants := NewTenants(nil, testLayout(), []TenantConfig{{Name: "acme", Rate: 10}}, func(context.Context, string, float64, int) (time.Time, error) {
		asked++
		return far, answers[asked-1]
	})
	entry := (*tenants.limits.Load())["acme"]
	require.Equal(t, far, tenants.times(t.Context(), entry, 5))
	require.Equal(t, far.Add(500*time.Millisecond), tenants.times(t.Context(), entry, 1))
	require.Equal(t, far.Add(600*time.Millisecond), tenants.times(t.Context(), entry, 1), "the bucket is left alone for a moment")
	require.Equal(t, 2, asked)
}

func TestTheLimitsOfTenantsAreChecked(t *testing.T) {
	for want, entry := range map[string]TenantConfig{
		"[0].max_waiting":       {Name: "a", MaxWaiting: 101},
		"[0].rate: -1":          {Name: "a", Rate: -1},
		"[0].rate: NaN":         {Name: "a", Rate: math.NaN()},
		"[0].rate: 1e-09":       {Name: "a", Rate: 1e-9},
		"[0].max_request_bytes": {Name: "a", MaxRequestBytes: 10},
		"[0].max_waiting_bytes": {Name: "a", MaxWaitingBytes: 10},
	} {
		require.ErrorContains(t, ValidateTenants([]TenantConfig{entry}, 100), want)
	}
	require.NoError(t, ValidateTenants([]TenantConfig{{Name: "a", MaxWaiting: 100, Rate: 0.5, MaxRequestBytes: units.KB}}, 100))
}
