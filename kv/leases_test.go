package kv

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/internal/natstest"
)

func newLeases(t *testing.T, nc *nats.Conn, process string) *Leases {
	l, err := NewLeases(nc, layout(), process, func(process string) string { return "llm.alive." + process })
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

func check(t *testing.T, l *Leases, key string) Lease {
	lease, err := l.Check(t.Context(), key)
	require.NoError(t, err)
	return lease
}

func TestALeaseHasOneHolder(t *testing.T) {
	t.Parallel() // it mostly waits
	nc, js := open(t)
	one, two := newLeases(t, nc, "one"), newLeases(t, nc, "two")
	taken, err := one.Take(t.Context(), []string{"acme.a", "acme.b"})
	require.NoError(t, err)
	require.Equal(t, []bool{true, true}, taken)
	taken, err = two.Take(t.Context(), []string{"acme.b", "acme.c"})
	require.NoError(t, err)
	require.Equal(t, []bool{false, true}, taken)
	require.Equal(t, LeaseHeld, check(t, two, "acme.b").State)
	require.Equal(t, LeaseHeld, check(t, one, "acme.b").State, "by itself")
	require.Equal(t, LeaseFree, check(t, two, "acme.none").State)

	one.Release("acme.b")
	eventually(t, "released", func() bool { return check(t, two, "acme.b").State == LeaseFree })
	taken, err = two.Take(t.Context(), []string{"acme.b"})
	require.NoError(t, err)
	require.Equal(t, []bool{false}, taken, "it was held a moment ago, so its answer may be there")
	ok, err := two.TakeOver(t.Context(), "acme.b", check(t, two, "acme.b").Revision)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, LeaseHeld, check(t, one, "acme.b").State)
	ok, err = one.TakeOver(t.Context(), "acme.b", 1)
	require.NoError(t, err)
	require.False(t, ok, "of another revision")

	one.Release("acme.a")
	two.Release("acme.b")
	two.Release("acme.c")
	stream, err := js.Stream(t.Context(), "KV_llm_leases")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	}, 3*releasedTTL, 50*time.Millisecond, "nothing is left of released leases")
}

func TestTheLeaseOfADeadProcessIsTakenOver(t *testing.T) {
	server := natstest.Start(t)
	nc, js := natstest.Connect(t, server)
	require.NoError(t, Provision(t.Context(), js, layout()))
	theirs, _ := natstest.Connect(t, server)
	dead, two := newLeases(t, theirs, "dead"), newLeases(t, nc, "two")
	_, err := dead.Take(t.Context(), []string{"acme.a"})
	require.NoError(t, err)
	require.Equal(t, LeaseHeld, check(t, two, "acme.a").State)
	theirs.Close()
	eventually(t, "gone", func() bool { return check(t, two, "acme.a").State == LeaseGone })
	ok, err := two.TakeOver(t.Context(), "acme.a", check(t, two, "acme.a").Revision)
	require.NoError(t, err)
	require.True(t, ok)
}

func TestLeasesAreRenewed(t *testing.T) {
	nc, _ := open(t)
	one := newLeases(t, nc, "one")
	_, err := one.Take(t.Context(), []string{"acme.a"})
	require.NoError(t, err)
	before := check(t, one, "acme.a").Revision
	one.renewDue(t.Context(), time.Now())
	require.Equal(t, before, check(t, one, "acme.a").Revision, "not due yet")
	one.renewDue(t.Context(), time.Now().Add(renewEvery))
	after := check(t, one, "acme.a").Revision
	require.Greater(t, after, before)
	one.Release("acme.a")
	eventually(t, "released at the new revision", func() bool { return check(t, one, "acme.a").State == LeaseFree })
}

func TestLeasesExpireWithTheirTTL(t *testing.T) {
	nc, js := open(t)
	one := newLeases(t, nc, "one")
	_, err := one.Take(t.Context(), []string{"acme.a"})
	require.NoError(t, err)
	m, err := js.Stream(t.Context(), "KV_llm_leases")
	require.NoError(t, err)
	stored, err := m.GetLastMsgForSubject(t.Context(), "$KV.llm_leases.acme.a")
	require.NoError(t, err)
	require.Equal(t, "15s", stored.Header.Get(jetstream.MsgTTLHeader))
	require.Equal(t, "one", string(stored.Data))
}

func TestTakingLeasesWithoutAServerTakesNone(t *testing.T) {
	server := natstest.Start(t)
	nc, js := natstest.Connect(t, server)
	require.NoError(t, Provision(t.Context(), js, layout()))
	one := newLeases(t, nc, "one")
	require.NoError(t, js.DeleteKeyValue(t.Context(), "llm_leases"))
	_, err := one.Take(t.Context(), []string{"acme.a", "acme.b"})
	require.Error(t, err)
	one.mu.Lock()
	defer one.mu.Unlock()
	require.Empty(t, one.held)
}

func TestHeldLeasesAreBounded(t *testing.T) {
	nc, _ := open(t)
	one := newLeases(t, nc, "one")
	one.mu.Lock()
	for i := range maxLeases {
		one.held[string(rune(i))] = &held{}
	}
	one.mu.Unlock()
	taken, err := one.Take(t.Context(), []string{"acme.a"})
	require.NoError(t, err)
	require.Equal(t, []bool{false}, taken)
}

func TestALeaseThatWasLostIsTakenAnewIfItIsFree(t *testing.T) {
	nc, js := open(t)
	one := newLeases(t, nc, "one")
	_, err := one.Take(t.Context(), []string{"acme.a", "acme.b"})
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), "KV_llm_leases")
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context()), "as a server that restarts does")
	_, err = js.Publish(t.Context(), "$KV.llm_leases.acme.b", []byte("two"))
	require.NoError(t, err)
	for range 2 {
		one.renewDue(t.Context(), time.Now().Add(renewEvery))
	}
	require.Equal(t, LeaseHeld, check(t, one, "acme.a").State)
	require.Equal(t, LeaseGone, check(t, one, "acme.b").State, "what somebody else took is theirs")
}

func TestALeaseThatLapsesIsFreeToWhoLooks(t *testing.T) {
	nc, js := open(t)
	one, two := newLeases(t, nc, "one"), newLeases(t, nc, "two")
	_, err := one.Take(t.Context(), []string{"acme.a"})
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), "KV_llm_leases")
	require.NoError(t, err)
	before, err := stream.Info(t.Context())
	require.NoError(t, err)
	one.Lapse("acme.a")
	for _, l := range []*Leases{one, two} {
		taken, err := l.Take(t.Context(), []string{"acme.a"})
		require.NoError(t, err)
		require.Equal(t, []bool{false}, taken, "its answer may be there")
		require.Equal(t, LeaseFree, check(t, l, "acme.a").State)
	}
	after, err := stream.Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, before.State.LastSeq, after.State.LastSeq, "it was not written")
	ok, err := two.TakeOver(t.Context(), "acme.a", check(t, two, "acme.a").Revision)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, LeaseHeld, check(t, one, "acme.a").State)
}

func TestLapsingLeasesAreBounded(t *testing.T) {
	nc, _ := open(t)
	one := newLeases(t, nc, "one")
	_, err := one.Take(t.Context(), []string{"acme.a", "acme.b"})
	require.NoError(t, err)
	one.mu.Lock()
	for range maxLapsing {
		require.True(t, one.lapsing.add())
	}
	one.mu.Unlock()
	one.Lapse("acme.a")
	eventually(t, "released", func() bool {
		m, found, err := jsx.LastFromLeader(t.Context(), nc, "KV_llm_leases", "$KV.llm_leases.acme.a")
		return err == nil && found && len(m.Data) == 0
	})
	one.mu.Lock()
	for range len(one.lapsing.seconds) {
		one.lapsing.tick()
	}
	require.Zero(t, one.lapsing.all, "all have ended")
	one.mu.Unlock()
	one.Lapse("acme.b")
	m, found, err := jsx.LastFromLeader(t.Context(), nc, "KV_llm_leases", "$KV.llm_leases.acme.b")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "one", string(m.Data), "left to its end")
}

func TestALeaseLeavesNothingBehindWhenItEnds(t *testing.T) {
	_, js := open(t)
	_, err := js.PublishMsg(t.Context(), &nats.Msg{
		Subject: "$KV.llm_leases.acme.a", Data: []byte("one"), Header: nats.Header{jetstream.MsgTTLHeader: []string{"1s"}},
	})
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), "KV_llm_leases")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	}, 10*time.Second, 10*time.Millisecond)
	info, err := stream.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, info.State.LastSeq, "no marker was stored")
}
