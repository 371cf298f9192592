package prefix

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// conversation makes a body whose messages are texts of the given blocks.
func conversation(blocks ...string) []byte {
	var b strings.Builder
	b.WriteString(`{"model":"m","messages":[`)
	for i, text := range blocks {
		if i > 0 {
			b.WriteByte(',')
		}
		message := fmt.Sprintf(`{"role":"user","content":"%s `, text)
		b.WriteString(message + strings.Repeat("x", BlockBytes-len(message)-3) + `"}`)
	}
	b.WriteString(`]}`)
	return []byte(b.String())
}

func read(g *Gate, blocks ...string) Prompt {
	return g.Read("acme", "m", true, conversation(blocks...))
}

// shared tells how many blocks two prompts begin with alike.
func shared(a, b Prompt) (n int) {
	for n < min(len(a.chain), len(b.chain)) && a.chain[n] == b.chain[n] {
		n++
	}
	return n
}

func TestBeginningsAreComparedInBlocks(t *testing.T) {
	g := NewGate(time.Minute)
	p := read(g, "a", "b", "c", "d")
	require.Equal(t, p, read(g, "a", "b", "c", "d"))
	require.Equal(t, 2, shared(p, read(g, "a", "b", "other", "d")))
	require.Equal(t, 3, shared(p, read(g, "a", "b", "c")), "a conversation that goes on begins with what it was")
	require.Equal(t, 0, shared(p, read(g, "other", "b", "c", "d")))
	require.Equal(t, 0, shared(p, g.Read("umbrella", "m", true, conversation("a", "b", "c", "d"))), "tenants never meet")
	require.Equal(t, 0, shared(p, g.Read("acme", "n", true, conversation("a", "b", "c", "d"))))

	tools := func(tool string) Prompt {
		body := string(conversation("a", "b"))
		return g.Read("acme", "m", true, []byte(body[:len(body)-1]+`,"tools":[{"type":"function","function":{"name":"`+tool+strings.Repeat("y", 2*BlockBytes)+`"}}]}`))
	}
	require.Equal(t, 4, shared(tools("one"), tools("one")), "tools come first, wherever they stand")
	require.Equal(t, 0, shared(tools("one"), tools("two")))

	short := g.Read("acme", "m", true, []byte(`{"messages":[{"role":"user","content":"hello"}]}`))
	require.True(t, short.Short())
	long := g.Read("acme", "m", true, []byte(`{"messages":["`+strings.Repeat("z", 2*maxBlocks*BlockBytes)+`"]}`))
	require.Len(t, long.chain, maxBlocks)
	for _, body := range []string{``, `[`, `{"messages":`, `{"messages":7` + strings.Repeat(" ", 2*BlockBytes)} {
		odd := g.Read("acme", "m", true, []byte(body))
		require.True(t, odd.Short())
	}
}

// asked is what a gate says to a prompt.
func asked(g *Gate, now time.Time, p Prompt) (goes bool, turn *Turn, waiting *Waiting) {
	turn, waiting = g.Begin(now, p)
	return waiting == nil, turn, waiting
}

func TestTheFirstGoesAheadAndTheOthersFollow(t *testing.T) {
	g, now := NewGate(time.Minute), time.Unix(0, 0)
	goes, leader, _ := asked(g, now, read(g, "a", "b", "c"))
	require.True(t, goes)
	goes, _, waiting := asked(g, now, read(g, "a", "b", "d"))
	require.False(t, goes, "1,024 tokens are on their way")
	require.True(t, waiting.Until.IsZero(), "the first token will be seen")
	goes, alone, _ := asked(g, now, read(g, "a", "x", "y"))
	require.True(t, goes, "one block is too little to wait for")
	alone.End(now, true)

	now = now.Add(3 * time.Second)
	leader.First(now)
	<-waiting.Landed
	goes, follower, _ := asked(g, now, read(g, "a", "b", "d"))
	require.True(t, goes)
	goes, _, _ = asked(g, now, read(g, "a", "b", "d"))
	require.True(t, goes, "a block more than what is cached is too little to wait for")
	goes, longer, _ := asked(g, now, read(g, "a", "b", "d", "e", "f"))
	require.True(t, goes)
	goes, _, _ = asked(g, now, read(g, "a", "b", "d", "e", "f"))
	require.False(t, goes, "what follows may lead others")
	follower.End(now, true)
	longer.End(now, true)

	goes, _, _ = asked(g, now.Add(TTL-time.Second), read(g, "a", "b"))
	require.True(t, goes, "and is used again")
	goes, _, _ = asked(g, now.Add(2*TTL-2*time.Second), read(g, "a", "b"))
	require.True(t, goes)
	goes, late, _ := asked(g, now.Add(4*TTL), read(g, "a", "b"))
	require.True(t, goes)
	goes, _, _ = asked(g, now.Add(4*TTL), read(g, "a", "b"))
	require.False(t, goes, "the provider has forgotten it; the first brings it again")
	late.End(now, true)
	late.End(now, false)
	late.First(now)
}

func TestTenantsDoNotWaitForEachOther(t *testing.T) {
	g, now := NewGate(time.Minute), time.Unix(0, 0)
	goes, _, _ := asked(g, now, read(g, "a", "b"))
	require.True(t, goes)
	goes, _, _ = asked(g, now, g.Read("umbrella", "m", true, conversation("a", "b")))
	require.True(t, goes)
	goes, _, _ = asked(g, now, g.Read("acme", "other", true, conversation("a", "b")))
	require.True(t, goes)
}

func TestWhenTheFirstFailsTheNextLeads(t *testing.T) {
	g, now := NewGate(time.Minute), time.Unix(0, 0)
	_, leader, _ := asked(g, now, read(g, "a", "b"))
	_, _, waiting := asked(g, now, read(g, "a", "b"))
	leader.End(now, false)
	<-waiting.Landed
	require.Zero(t, g.blocks.Len(), "nothing is remembered of what was not read")
	goes, _, _ := asked(g, now, read(g, "a", "b"))
	require.True(t, goes)
	goes, _, _ = asked(g, now, read(g, "a", "b"))
	require.False(t, goes)
}

// An answer that is not streamed shows no first token: those of streamed ones
// tell how long it takes.
func TestAnUnseenFirstTokenIsEstimated(t *testing.T) {
	g, now := NewGate(time.Minute), time.Unix(0, 0)
	unseen := func(blocks ...string) Prompt { return g.Read("acme", "m", false, conversation(blocks...)) }
	_, leader, _ := asked(g, now, unseen("a", "b"))
	goes, _, waiting := asked(g, now, unseen("a", "b"))
	require.False(t, goes)
	require.Equal(t, now.Add(usualFirst), waiting.Until)
	goes, _, _ = asked(g, now.Add(usualFirst), unseen("a", "b"))
	require.True(t, goes, "by then it has probably come")
	leader.End(now, true)

	for i := range 40 {
		_, streamed, _ := asked(g, now, read(g, fmt.Sprint(i), "b"))
		streamed.Sent(now.Add(time.Hour)) // it waited so long for a worker
		streamed.First(now.Add(time.Hour + 4*time.Second))
	}
	_, _, _ = asked(g, now, unseen("c", "d"))
	_, _, waiting = asked(g, now, unseen("c", "d"))
	require.Equal(t, now.Add(5*time.Second), waiting.Until, "a quarter more than usual")
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	g, now := NewGate(time.Minute), time.Unix(0, 0)
	for i := range uint64(maxKept) {
		g.Go(now, Prompt{Model: "m", chain: []uint64{2 * i, 2*i + 1}}).First(now)
	}
	require.Equal(t, maxKept, g.blocks.Len())
	for i := range maxModels + 1 {
		p := g.Read("acme", fmt.Sprint("m", i), true, conversation("a", "b"))
		g.Go(now, p).First(now)
	}
	require.Equal(t, maxModels, g.first.Len())
}

func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(time.Minute)
		p := read(g, "a", "b")
		leader := g.Wait(t.Context(), p, time.Time{})
		require.NotNil(t, leader, "nobody is ahead of the first")
		ends := map[string]time.Duration{}
		var mu sync.Mutex
		var waits sync.WaitGroup
		begun := time.Now()
		wait := func(name string, ctx context.Context, deadline time.Time) {
			waits.Go(func() {
				turn := g.Wait(ctx, p, deadline)
				mu.Lock()
				ends[name] = time.Since(begun)
				mu.Unlock()
				turn.End(time.Now(), true)
			})
		}
		gone, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wait("deadline", t.Context(), begun.Add(4*time.Second))
		wait("patient", t.Context(), time.Time{})
		wait("cancelled", gone, time.Time{})
		synctest.Wait()
		waits.Wait()
		require.Equal(t, map[string]time.Duration{"deadline": 2 * time.Second, "patient": time.Minute, "cancelled": time.Second}, ends)
		leader.End(time.Now(), false)
		turn, waiting := g.Begin(time.Now(), p)
		require.Nil(t, waiting, "who could not wait has brought it")
		turn.End(time.Now(), true)
	})
}

func TestFollowersGoAtTheFirstToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(time.Minute)
		p := read(g, "a", "b")
		leader := g.Wait(t.Context(), p, time.Time{})
		send := leader.Streams(func([]byte) {})
		time.AfterFunc(3*time.Second, func() { send(nil); send(nil) })
		begun := time.Now()
		var waits sync.WaitGroup
		for range 100 {
			waits.Go(func() {
				turn := g.Wait(t.Context(), p, time.Time{})
				if took := time.Since(begun); took != 3*time.Second {
					t.Errorf("a follower went after %v", took)
				}
				turn.End(time.Now(), true)
			})
		}
		waits.Wait()
	})
}

func TestShortPromptsHaveNoTurn(t *testing.T) {
	g := NewGate(time.Minute)
	p := g.Read("acme", "m", true, []byte(`{"messages":[]}`))
	turn := g.Wait(t.Context(), p, time.Time{})
	require.Nil(t, turn)
	turn.Sent(time.Now())
	turn.First(time.Now())
	turn.End(time.Now(), true)
	called := false
	turn.Streams(func([]byte) { called = true })(nil)
	require.True(t, called)
	require.Nil(t, g.Go(time.Now(), p))
	body := []byte(`{"messages":[]}`)
	require.Zero(t, testing.AllocsPerRun(100, func() { g.Read("acme", "m", true, body) }))
}
