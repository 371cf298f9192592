package budget

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// startServer starts a NATS server with JetStream in the test's process.
func startServer(t testing.TB) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(10*time.Second))
	return s
}

func connect(t testing.TB, s *server.Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

// clock is a time that a test sets.
type clock struct{ unix atomic.Int64 }

func newClock(at string) *clock {
	c := &clock{}
	c.set(at)
	return c
}

func (c *clock) set(at string) {
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	c.unix.Store(t.UnixNano())
}

func (c *clock) advance(d time.Duration) { c.unix.Add(int64(d)) }
func (c *clock) now() time.Time          { return time.Unix(0, c.unix.Load()) }

func open(t testing.TB, js jetstream.JetStream, o Options) *Ledger {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l, err := Open(t.Context(), js, o)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

// acme is a budget of tenant acme with what a test sets.
func acme(set func(*Config)) []Config {
	c := Defaults()
	c.Tenant = "acme"
	set(&c)
	return []Config{c}
}

func ask(id string, tokens int64) Request {
	return Request{Tenant: "acme", ID: id, Call: id + "-1", Model: "gpt-4o", Estimate: Amount{Tokens: tokens}}
}

func bill(id string, tokens int64) Settlement {
	return Settlement{Tenant: "acme", ID: id, Call: id + "-1", Billed: Amount{Tokens: tokens}}
}

func reserve(t testing.TB, l *Ledger, r Request) Outcome {
	t.Helper()
	o := l.Reserve(context.Background(), []Request{r})[0]
	require.NoError(t, o.Err)
	return o
}

func settle(t testing.TB, l *Ledger, s ...Settlement) {
	t.Helper()
	require.NoError(t, l.Settle(context.Background(), s))
}

func BenchmarkReserveSettle(b *testing.B) {
	js := connect(b, startServer(b))
	l := open(b, js, Options{Budgets: acme(func(c *Config) { c.DailyLimit = 1 << 50; c.TotalLimitUSD = 1e6 * Dollar; c.RequestsPerMinute = 1 << 40 })})
	for _, slice := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("slice=%d", slice), func(b *testing.B) {
			b.SetParallelism(max(1, 64/slice)) // 128 open reservations
			var n atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for {
					var requests []Request
					var bills []Settlement
					for range slice {
						if !pb.Next() {
							break
						}
						id := fmt.Sprintf("r%d", n.Add(1))
						requests = append(requests, ask(id, 1000))
						bills = append(bills, bill(id, 900))
					}
					if len(requests) == 0 {
						return
					}
					for _, o := range l.Reserve(context.Background(), requests) {
						if o.State != Granted {
							b.Error(o.State, o.Err)
						}
					}
					if err := l.Settle(context.Background(), bills); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pairs/s")
		})
	}
}

func BenchmarkCanAfford(b *testing.B) {
	js := connect(b, startServer(b))
	l := open(b, js, Options{Budgets: acme(func(c *Config) {
		c.DailyLimit = 1 << 50
		c.TotalLimitUSD = 1e6 * Dollar
		c.RequestsPerMinute = 1 << 40
	})})
	reserve(b, l, ask("a", 100))
	b.ReportAllocs()
	for b.Loop() {
		if !l.CanAfford("acme", "gpt-4o", Amount{Tokens: 1000}) {
			b.Fatal("cannot afford")
		}
	}
}

func TestReserveSettle(t *testing.T) {
	l := open(t, connect(t, startServer(t)), Options{Budgets: acme(func(c *Config) { c.DailyLimit = 1000 })})
	require.Equal(t, Granted, reserve(t, l, ask("a", 600)).State)
	require.Equal(t, Wait, reserve(t, l, ask("b", 600)).State)
	settle(t, l, bill("a", 300))
	require.Equal(t, Granted, reserve(t, l, ask("b", 600)).State)
	o := reserve(t, l, ask("c", 701))
	require.Equal(t, Denied, o.State)
	require.Equal(t, int64(300), o.Denial.Used)
}
