package budget

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// startCluster starts three servers that know each other.
func startCluster(t *testing.T) []*server.Server {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		require.NoError(t, l.Close())
	}
	var servers []*server.Server
	for i := range 3 {
		s, err := server.NewServer(&server.Options{ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(),
			NoSigs: true, NoLog: true, Routes: routes, Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[i]}})
		require.NoError(t, err)
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	for _, s := range servers {
		require.True(t, s.ReadyForConnections(10*time.Second))
	}
	return servers
}

func connectCluster(t *testing.T, servers []*server.Server) jetstream.JetStream {
	t.Helper()
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.ClientURL())
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

// TestLeaderLeaves has the bucket's leader stop while two replicas of the ledger
// are at work: every call is charged once, and the work goes on.
func TestLeaderLeaves(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster; left out with -short")
	}
	servers := startCluster(t)
	js := connectCluster(t, servers)
	require.Eventually(t, func() bool {
		_, err := js.AccountInfo(t.Context())
		return err == nil
	}, 20*time.Second, 50*time.Millisecond)
	const callers, calls = 8, 60
	var ledgers []*Ledger
	for range 2 {
		ledgers = append(ledgers, open(t, connectCluster(t, servers), Options{Replicas: 3, Budgets: daily(callers * calls * 10)}))
	}
	var done atomic.Int64
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range calls {
				id := fmt.Sprint("r", c, "-", i)
				l := ledgers[(c+i)%2]
				for o := l.Reserve(t.Context(), []Request{ask(id, 10)})[0]; o.State != Granted; o = l.Reserve(t.Context(), []Request{ask(id, 10)})[0] {
					<-l.Changed("acme")
				}
				if err := ledgers[i%2].Settle(t.Context(), []Settlement{bill(id, 10)}); err != nil {
					t.Error(err)
				}
				done.Add(1)
			}
		})
	}
	for done.Load() < callers*calls/3 {
		time.Sleep(time.Millisecond)
	}
	stream, err := js.Stream(context.Background(), "KV_llm_budget")
	require.NoError(t, err)
	require.Equal(t, 3, stream.CachedInfo().Config.Replicas)
	leader := stream.CachedInfo().Cluster.Leader
	for _, s := range servers {
		if s.Name() == leader {
			s.Shutdown()
			s.WaitForShutdown()
		}
	}
	wg.Wait()
	r := stateOf(t, ledgers[0], "acme")
	require.Empty(t, r.open)
	require.Equal(t, Amount{Tokens: callers * calls * 10, Requests: callers * calls}, r.windows[0].Settled)
	require.Zero(t, r.windows[0].Lost)
}
