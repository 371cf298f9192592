package budget

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// By hand: go test ./kv/budget -run Throughput -budget.seconds 3 -v
var seconds = flag.Int("budget.seconds", 0, "how long TestThroughput measures each case; 0 skips it")

// TestThroughput measures how many calls a second are reserved and settled by
// 1, 3 and 8 processes on one tenant with three limits, 128 calls open in each.
func TestThroughput(t *testing.T) {
	if *seconds == 0 {
		t.Skip("measures by hand: give -budget.seconds")
	}
	for _, slice := range []int{1, 16} {
		for _, processes := range []int{1, 3, 8} {
			p := newPlant(t, scenario{budgets: half})
			require.NoError(t, p.js.DeleteStream(t.Context(), "KV_llm_budget")) // it keeps its history
			reports := make([]strings.Builder, processes)
			var wg sync.WaitGroup
			for i := range processes {
				wg.Go(func() {
					c := exec.Command(os.Args[0])
					c.Env = append(os.Environ(), roleKey+"=bench", fmt.Sprintf("BUDGET_TEST_BENCH=%s %d %d %d", p.address, *seconds, slice, max(1, 128/slice)))
					c.Stdout, c.Stderr = &reports[i], os.Stderr
					_ = c.Run()
				})
			}
			wg.Wait()
			var total float64
			for i := range reports {
				var rate float64
				_, err := fmt.Sscan(reports[i].String(), &rate)
				require.NoError(t, err)
				total += rate
			}
			t.Logf("%d processes, slices of %d: %.0f reserved and settled a second", processes, slice, total)
			p.stop()
		}
	}
}

// runBench is the role of a process of TestThroughput.
func runBench() error {
	var address string
	var seconds, slice, callers int
	if _, err := fmt.Sscan(os.Getenv("BUDGET_TEST_BENCH"), &address, &seconds, &slice, &callers); err != nil {
		return err
	}
	nc, err := nats.Connect(address)
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx := context.Background()
	l, err := Open(ctx, js, Options{Budgets: acme(func(c *Config) { c.DailyLimit, c.TotalLimitUSD, c.RequestsPerMinute = 1<<50, 1e6*Dollar, 1<<40 })})
	if err != nil {
		return err
	}
	var n, done atomic.Int64
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	var wg sync.WaitGroup
	for range max(callers, 1) {
		wg.Go(func() {
			for time.Now().Before(end) {
				requests, bills := make([]Request, slice), make([]Settlement, slice)
				for i := range slice {
					id := fmt.Sprintf("p%d-%d", os.Getpid(), n.Add(1))
					requests[i], bills[i] = ask(id, 1000), bill(id, 900)
				}
				l.Reserve(ctx, requests)
				if err := l.Settle(ctx, bills); err == nil {
					done.Add(int64(slice))
				}
			}
		})
	}
	wg.Wait()
	_, err = io.WriteString(os.Stdout, fmt.Sprint(float64(done.Load())/float64(seconds)))
	return err
}
