package budget

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// flaky is a JetStream whose writes fail in the ways that a network has: the
// answer is lost, the write is lost, or it arrives when nobody expects it any more.
type flaky struct {
	jetstream.JetStream
	late sync.WaitGroup
}

var errFlaky = errors.New("the network was cut")

func (f *flaky) PublishMsg(ctx context.Context, m *nats.Msg, o ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	switch rand.IntN(6) {
	case 0: // the answer is lost
		_, _ = f.JetStream.PublishMsg(ctx, m, o...)
		return nil, errFlaky
	case 1: // the write is lost
		return nil, errFlaky
	case 2: // the write is late
		f.late.Add(1)
		time.AfterFunc(rand.N(5*time.Millisecond), func() {
			defer f.late.Done()
			_, _ = f.JetStream.PublishMsg(context.Background(), m, o...)
		})
		return nil, errFlaky
	}
	return f.JetStream.PublishMsg(ctx, m, o...)
}

func TestEveryCallIsChargedOnceOverAFlakyNetwork(t *testing.T) {
	s := startServer(t)
	const callers, calls, tokens = 16, 20, 10
	var networks []*flaky
	var ledgers []*Ledger
	for range 2 {
		f := &flaky{JetStream: connect(t, s)}
		networks = append(networks, f)
		ledgers = append(ledgers, open(t, f, Options{Budgets: daily(callers * calls * tokens)}))
	}
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			l := ledgers[c%len(ledgers)]
			for i := range calls {
				id := fmt.Sprint("r", c, "-", i)
				if o := l.Reserve(t.Context(), []Request{ask(id, 2*tokens)})[0]; o.State == Wait {
					o = l.Reserve(t.Context(), []Request{ask(id, tokens)})[0] // near the end the estimate is tighter
					for o.State == Wait {
						<-l.Changed("acme")
						o = l.Reserve(t.Context(), []Request{ask(id, tokens)})[0]
					}
				} else if o.State == Denied {
					l.Reserve(t.Context(), []Request{ask(id, tokens)})
				}
				if err := l.Settle(t.Context(), []Settlement{bill(id, tokens)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, f := range networks {
		f.late.Wait()
	}
	r := stateOf(t, ledgers[0], "acme")
	require.Empty(t, r.open)
	require.Equal(t, Amount{Tokens: callers * calls * tokens, Requests: callers * calls}, r.windows[0].Settled)
	require.Zero(t, r.windows[0].Lost)
	require.Equal(t, Denied, ledgers[0].Reserve(t.Context(), []Request{ask("more", 1)})[0].State)
}

// startAt starts a server on a port, with what was stored in a directory.
func startAt(t *testing.T, port int, dir string) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(10*time.Second))
	return s
}

func TestServerGoesAndComesBack(t *testing.T) {
	dir := t.TempDir()
	s := startAt(t, -1, dir)
	port := s.Addr().(*net.TCPAddr).Port
	l := open(t, connect(t, s), Options{Budgets: daily(1000)})
	other := open(t, connect(t, s), Options{Budgets: daily(1000)})
	require.Equal(t, Granted, reserve(t, l, ask("a", 600)).State)
	s.Shutdown()
	s.WaitForShutdown()

	require.Equal(t, Wait, l.Check("acme", "m", Amount{Tokens: 600}), "local answers go on")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	o := l.Reserve(ctx, []Request{ask("b", 100)})[0]
	require.Equal(t, Failed, o.State)
	require.ErrorIs(t, o.Err, context.DeadlineExceeded)
	require.ErrorIs(t, l.Settle(ctx, []Settlement{bill("a", 1)}), context.DeadlineExceeded)

	settled := make(chan error, 1)
	go func() { settled <- l.Settle(context.Background(), []Settlement{bill("a", 500)}) }()
	startAt(t, port, dir)
	require.NoError(t, <-settled, "who has patience is served when the server is back")
	// The reservation of b may have gone out with what the client had buffered:
	// it is open until it is settled, reaped, or taken by another call.
	require.Equal(t, Granted, reserve(t, l, ask("c", 400)).State)
	eventually(t, other, func() bool { return other.Check("acme", "m", Amount{Tokens: 101}) == Wait })
	require.Equal(t, int64(500), settledTokens(t, l, Day))
}

// TestWaitingOperationsAreBounded stops the server and has many callers wait.
func TestWaitingOperationsAreBounded(t *testing.T) {
	s := startServer(t)
	l := open(t, connect(t, s), Options{Budgets: daily(1000), MaxQueued: 8})
	reserve(t, l, ask("a", 1))
	s.Shutdown()
	s.WaitForShutdown()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if o := l.Reserve(ctx, []Request{ask(fmt.Sprint("b", i), 1)})[0]; o.State != Failed {
				t.Error(o.State)
			}
		})
	}
	tenant := l.find("acme")
	for tenant.room.TryAcquire(1) { // until there is no room
		tenant.room.Release(1)
		runtime.Gosched()
	}
	tenant.mu.Lock()
	waiting := len(tenant.queue)
	tenant.mu.Unlock()
	require.LessOrEqual(t, waiting, 8)
	cancel()
	wg.Wait()
}

func TestASliceMayBeLargerThanTheQueue(t *testing.T) {
	l := open(t, connect(t, startServer(t)), Options{Budgets: daily(1000), MaxQueued: 8, MaxOpen: 30})
	var slice []Request
	for i := range 40 {
		slice = append(slice, ask(fmt.Sprint("r", i), 1))
	}
	var states [4]int
	for _, o := range l.Reserve(t.Context(), slice) {
		states[o.State]++
	}
	require.Equal(t, [4]int{Granted: 30, Wait: 10}, states, "more than may be open wait")
}

// TestChangedIsOneChannel: any number of waiters hold the same one, and it
// closes within about a second even if nothing happens.
func TestChangedIsOneChannel(t *testing.T) {
	l := open(t, connect(t, startServer(t)), Options{Budgets: daily(1000)})
	a, b := l.Changed("acme"), l.Changed("acme")
	require.Equal(t, a, b)
	<-a // closes by itself
	<-l.Changed("nobody")
	c := l.Changed("acme")
	reserve(t, l, ask("a", 1))
	<-c
}

// TestWaitersAreServed has more callers than fit wait for each other.
func TestWaitersAreServed(t *testing.T) {
	s := startServer(t)
	var wg sync.WaitGroup
	var granted atomic.Int64
	for p := range 2 {
		l := open(t, connect(t, s), Options{Budgets: daily(10_000)})
		for i := range 20 {
			wg.Go(func() {
				id := fmt.Sprint("r", p, "-", i)
				for l.Reserve(t.Context(), []Request{ask(id, 4000)})[0].State != Granted {
					changed := l.Changed("acme")
					if l.Check("acme", "gpt-4o", Amount{Tokens: 4000}) == Wait {
						<-changed
					}
				}
				granted.Add(1)
				if err := l.Settle(t.Context(), []Settlement{bill(id, 1)}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	require.Equal(t, int64(40), granted.Load())
}
