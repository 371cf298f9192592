package budget

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

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

// TestCanAffordAllocatesNothing holds the local answer to what it is for.
func TestCanAffordAllocatesNothing(t *testing.T) {
	l := open(t, connect(t, startServer(t)), Options{Budgets: acme(func(c *Config) { c.DailyLimit = 1000; c.Allocation = map[string]float64{"mini": 0.5} })})
	reserve(t, l, ask("a", 100))
	require.Zero(t, testing.AllocsPerRun(100, func() { l.CanAfford("acme", "gpt-4o", Amount{Tokens: 1000}) }))
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
