package streams

import (
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

func TestATenantHasABurstAndMoreWhileItsShardHasNoBacklog(t *testing.T) {
	busy := int64(0)
	s := newShares(func(schemas.Class, int) int64 { return busy })
	now := time.Now()
	taken := func() (n int) {
		for range 10 * shareBurst {
			if !s.beyond("loud", schemas.Interactive, now) {
				n++
			}
		}
		return n
	}
	require.Equal(t, shareBurst, taken())
	require.Zero(t, taken())
	require.False(t, s.beyond("quiet", schemas.Interactive, now), "another tenant has its own")
	require.False(t, s.beyond("loud", schemas.Batch, now), "so has another class")
	now = now.Add(100 * time.Millisecond)
	require.Equal(t, sharePerSecond/10, taken())
	busy = laneBusy
	now = now.Add(time.Minute)
	require.Zero(t, taken(), "nothing more while much waits in the shard")
	busy = 0
	now = now.Add(time.Minute)
	require.Equal(t, shareBurst, taken(), "never more than the burst")
}

func TestAQuietTenantHasItsShareAlsoWhileItsShardIsBusy(t *testing.T) {
	s := newShares(func(schemas.Class, int) int64 { return laneBusy })
	quiet := tenantInShardOf("loud")
	now := time.Now()
	beyond := map[string]int{}
	for range 500 { // ten seconds: 1,000 requests a second of one, 50 of the other
		now = now.Add(20 * time.Millisecond)
		for range 20 {
			if s.beyond("loud", schemas.Interactive, now) {
				beyond["loud"]++
			}
		}
		if s.beyond(quiet, schemas.Interactive, now) {
			beyond[quiet]++
		}
	}
	require.Equal(t, map[string]int{"loud": 10_000 - shareBurst}, beyond)
}

func tenantInShardOf(other string) string {
	for i := 0; ; i++ {
		if name := fmt.Sprint("quiet", i); schemas.Shard(name) == schemas.Shard(other) {
			return name
		}
	}
}

// A tenant that is alone in its shard is no quiet one there, and beyond its share
// when a busy machine leaves it a backlog. That is no reason to put it aside.
func TestWhoSendsLittleOfAllMakesNoCrowd(t *testing.T) {
	s := newShares(func(schemas.Class, int) int64 { return laneBusy })
	alone := "quiet"
	for schemas.Shard(alone) == schemas.Shard("loud") {
		alone += "t"
	}
	now := time.Now()
	beyond := 0
	for range 100 { // five seconds: 10,000 requests a second of one, 20 of the other
		now = now.Add(50 * time.Millisecond)
		for range 500 {
			s.beyond("loud", schemas.Interactive, now)
		}
		if s.beyond(alone, schemas.Interactive, now) {
			beyond++
		}
	}
	require.Positive(t, beyond)
	require.False(t, s.floods(alone, schemas.Interactive))
	require.True(t, s.floods("loud", schemas.Interactive))
	require.False(t, s.floods("loud", schemas.Batch), "it sends nothing of the class")
}

func TestTheSharesOfTenantsAreBounded(t *testing.T) {
	s := newShares(nil)
	for i := range maxShares + 100 {
		s.beyond(fmt.Sprint("t", i), schemas.Interactive, time.Now())
	}
	require.Equal(t, maxShares, s.use.Len())
}

func TestTenantsInOneShardAreSeldomBesideItTogether(t *testing.T) {
	both, shard := 0, 0
	for range 2000 {
		a, b := rand.Text(), rand.Text()
		require.GreaterOrEqual(t, schemas.OverflowLane(a), schemas.Shards)
		require.Less(t, schemas.OverflowLane(a), schemas.Lanes)
		if schemas.Shard(a) == schemas.Shard(b) {
			shard++
			if schemas.OverflowLane(a) == schemas.OverflowLane(b) {
				both++
			}
		}
	}
	require.Less(t, both, shard/4)
}

// slow is a stage that works on few requests at a time, each for a moment.
var slow = stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
	<-time.After(time.Duration(len(requests)) * time.Millisecond)
	return make([]stages.Verdict, len(requests))
})

func TestAFloodHoldsBackNoOtherTenant(t *testing.T) {
	const flood = 4000
	quiet := func(sharing bool) string {
		for i := 0; ; i++ {
			if name := fmt.Sprint("quiet", i); (schemas.Shard(name) == schemas.Shard("loud")) == sharing {
				return name
			}
		}
	}
	chain := func() []Step {
		return []Step{
			{Name: stages.Compress, Stage: pass}, {Name: stages.Cache, Stage: pass}, {Name: stages.Batch, Stage: pass},
			{Name: stages.Generate, Stage: slow, Slice: 4}, {Name: stages.Score, Stage: answer},
		}
	}
	for name, test := range map[string]struct {
		fused  bool
		tenant string
	}{
		"a group a stage":               {false, quiet(false)},
		"a group a stage, in one shard": {false, quiet(true)},
		"all stages in one group":       {true, quiet(false)},
		"in one group and shard":        {true, quiet(true)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc, js := natstest.Connect(t, natstest.Start(t))
			layout := testLayout()
			require.NoError(t, Provision(t.Context(), js, layout))
			for i := range flood {
				_, err := js.PublishAsync("llm.requests.loud", fmt.Appendf(nil, `{"model":"m","messages":[{"role":"user","content":"%d"}]}`, i))
				require.NoError(t, err)
			}
			<-js.PublishAsyncComplete()
			m := nats.NewMsg("llm.requests." + test.tenant)
			m.Header.Set(HeaderID, "probe")
			m.Data = []byte(`{"model":"m","messages":[{"role":"user","content":"hi"}]}`)
			_, err := js.PublishMsg(t.Context(), m)
			require.NoError(t, err)
			groups := [][]Step{chain()}
			if !test.fused {
				groups = nil
				for _, step := range chain() {
					groups = append(groups, []Step{step})
				}
			}
			stop := start(t, nc, layout, groups...)
			defer stop()
			var at uint64
			require.Eventually(t, func() bool {
				stream, err := js.Stream(t.Context(), "LLM_RESPONSES")
				require.NoError(t, err)
				got, err := stream.GetLastMsgForSubject(t.Context(), "llm.responses."+test.tenant+".probe")
				if err != nil {
					require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
					return false
				}
				at = got.Sequence
				return true
			}, time.Minute, 10*time.Millisecond)
			t.Logf("answered as number %d of %d", at, flood+1)
			require.Less(t, at, uint64(flood*3/4), "all that was published before it must not go before it")
		})
	}
}
