package httpserver

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, s *Server, path string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + s.Addr() + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func TestServesMetricsAndHealth(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "processor_test_total", Help: "A test."})
	registry.MustRegister(counter)
	counter.Add(3)
	var ready atomic.Bool
	s, err := Start(Config{Addr: "127.0.0.1:0"}, registry, func() error {
		if !ready.Load() {
			return errors.New("not connected to NATS")
		}
		return nil
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(t.Context())) }()

	code, body := get(t, s, "/metrics")
	require.Equal(t, 200, code)
	require.Contains(t, body, "processor_test_total 3")
	code, _ = get(t, s, "/healthz")
	require.Equal(t, 200, code)
	code, body = get(t, s, "/readyz")
	require.Equal(t, 503, code)
	require.Contains(t, body, "not connected to NATS")
	ready.Store(true)
	code, _ = get(t, s, "/readyz")
	require.Equal(t, 200, code)
	code, _ = get(t, s, "/")
	require.Equal(t, 404, code)
}

func TestOnlyTheDefaultAddressIsReplacedWhenTaken(t *testing.T) {
	taken, err := net.Listen("tcp", DefaultAddr)
	if err == nil { // else something else holds it, which does as well
		defer taken.Close()
	}
	free, err := listen(DefaultAddr)
	require.NoError(t, err)
	require.NotEqual(t, DefaultAddr, free.Addr().String())
	_, err = Start(Config{Addr: free.Addr().String()}, prometheus.NewRegistry(), nil)
	require.ErrorContains(t, err, "listening on http.addr")
	require.NoError(t, free.Close())
}

func TestValidate(t *testing.T) {
	require.NoError(t, DefaultConfig().Validate())
	require.NoError(t, Config{Addr: ":0"}.Validate())
	for _, addr := range []string{"", "host", "host:x", "host:70000", "host:-1"} {
		require.ErrorContains(t, Config{Addr: addr}.Validate(), "addr: ")
	}
}
