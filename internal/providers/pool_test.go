package providers_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/schemas"
)

// run makes n calls with so many at once, and gives the first error.
func run(p providers.Provider, n, concurrency int) error {
	var next atomic.Int64
	errs := make(chan error, concurrency)
	var wg sync.WaitGroup
	for range concurrency {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				if _, err := p.Generate(context.Background(), chat); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func TestPoolKeepsItsConnections(t *testing.T) {
	fake := fakellm.New(fakellm.Config{})
	defer fake.Close()
	p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: fake.URL, MaxConnections: 100})
	require.NoError(t, err)
	defer p.Close()
	calls := 10_000
	if raceDetector {
		calls = 1000
	}
	require.NoError(t, run(p, calls, 64))
	stats := fake.Stats()
	require.EqualValues(t, calls, stats.Answered)
	// net/http gives up a connection whose writing goroutine was not scheduled for
	// 50 ms, as happens on a busy machine: then another is opened in its place.
	require.LessOrEqual(t, stats.Connections, int64(64+4))
	pool := p.(providers.Pooled).Stats()
	require.LessOrEqual(t, pool.Open, 64)
	require.Equal(t, stats.Connections, pool.Opened)
	require.Equal(t, pool.Open, pool.Idle)
	require.Zero(t, pool.Active)
}

func TestPoolIsBounded(t *testing.T) {
	fake := fakellm.New(fakellm.Config{Latency: time.Millisecond})
	defer fake.Close()
	p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: fake.URL, MaxConnections: 5})
	require.NoError(t, err)
	defer p.Close()
	require.NoError(t, run(p, 300, 64))
	require.LessOrEqual(t, fake.Stats().Connections, int64(5+1))
	require.LessOrEqual(t, fake.Stats().HighWater, int64(5))
}

// Errors of every status leave the connection usable, and so do streams.
func TestConnectionsSurviveErrorsAndStreams(t *testing.T) {
	eachRemote(t, func(t *testing.T, _ string, start startFunc) {
		fake, p := start(fakellm.Config{Script: []*fakellm.Step{{Status: 400}, {Status: 429}, {Status: 500}, {Body: "<html>", ContentType: "text/html"}}},
			func(c *providers.Config) { c.MaxConnections = 1 })
		for range 4 {
			_ = callError(t, p, chat)
		}
		for range 3 {
			_, err := p.Generate(context.Background(), streamed(func([]byte) {}))
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, fake.Stats().Connections)
	})
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	fake := fakellm.New(fakellm.Config{})
	defer fake.Close()
	p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: fake.URL, IdleTimeout: 20 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	require.NoError(t, run(p, 10, 2))
	require.Eventually(t, func() bool { return p.(providers.Pooled).Stats().Open == 0 }, time.Second, time.Millisecond)
}

// A server that closes idle connections, as uvicorn does after five seconds,
// makes no call fail.
func TestStaleConnectionIsReplaced(t *testing.T) {
	fake := fakellm.NewFake(fakellm.Config{})
	server := httptest.NewServer(fake.Handler())
	defer server.Close()
	p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: server.URL})
	require.NoError(t, err)
	defer p.Close()
	for range 20 {
		_, err := p.Generate(context.Background(), chat)
		require.NoError(t, err)
		server.CloseClientConnections()
		require.Eventually(t, func() bool { return p.(providers.Pooled).Stats().Open == 0 }, time.Second, time.Millisecond)
	}
}

// startTLS serves a fake over HTTP/2 and gives a provider that trusts it.
func startTLS(t *testing.T, fake *fakellm.Fake, streams int, cfg providers.Config) (*httptest.Server, providers.Provider) {
	t.Helper()
	server := httptest.NewUnstartedServer(fake.Handler())
	server.EnableHTTP2 = true
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are to fail
	server.StartTLS()
	t.Cleanup(server.Close)
	cfg.Kind, cfg.BaseURL = providers.KindOpenAI, server.URL
	p, err := providers.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	providers.TransportOf(p).TLSClientConfig = &tls.Config{RootCAs: roots}
	return server, p
}

func TestHTTP2SharesConnections(t *testing.T) {
	fake := fakellm.NewFake(fakellm.Config{Latency: time.Millisecond})
	_, p := startTLS(t, fake, 100, providers.Config{})
	_, err := p.Generate(context.Background(), chat) // the others find its connection open
	require.NoError(t, err)
	require.NoError(t, run(p, 1000, 32))
	require.LessOrEqual(t, p.(providers.Pooled).Stats().Opened, int64(4), "calls share connections")
	require.Greater(t, fake.Stats().HighWater, int64(16))
}

func TestHTTP2IsBounded(t *testing.T) {
	fake := fakellm.NewFake(fakellm.Config{Latency: time.Millisecond})
	_, p := startTLS(t, fake, 4, providers.Config{MaxConnections: 3, Timeout: 20 * time.Second})
	require.NoError(t, run(p, 500, 64))
	require.LessOrEqual(t, p.(providers.Pooled).Stats().Open, 3)
	require.LessOrEqual(t, fake.Stats().HighWater, int64(3), "max_connections bounds the calls too")
}

// Calls beyond the streams of one connection get further ones, and none gets stuck.
func TestHTTP2BeyondTheStreamsOfAConnection(t *testing.T) {
	fake := fakellm.NewFake(fakellm.Config{Latency: 2 * time.Millisecond})
	_, p := startTLS(t, fake, 4, providers.Config{MaxConnections: 32, Timeout: 20 * time.Second})
	require.NoError(t, run(p, 500, 64))
	require.LessOrEqual(t, p.(providers.Pooled).Stats().Open, 32)
	require.Greater(t, fake.Stats().HighWater, int64(8))
}

func TestHTTP2Streams(t *testing.T) {
	fake := fakellm.NewFake(fakellm.Config{Script: []*fakellm.Step{nil, {CutEvents: 5}}})
	_, p := startTLS(t, fake, 100, providers.Config{})
	answer, err := p.Generate(context.Background(), streamed(func([]byte) {}))
	require.NoError(t, err)
	require.Equal(t, fakellm.DefaultText, read(t, answer.Body).Choices[0].Message.Content)
	e := callError(t, p, streamed(func([]byte) {}))
	require.True(t, e.Retryable)
	require.False(t, e.Unbilled)
	require.NoError(t, run(p, 10, 2))
}

func TestUntrustedCertificate(t *testing.T) {
	fake := fakellm.NewFake(fakellm.Config{})
	_, p := startTLS(t, fake, 100, providers.Config{})
	providers.TransportOf(p).TLSClientConfig = &tls.Config{}
	e := callError(t, p, chat)
	require.True(t, e.Unbilled)
	require.False(t, e.Retryable)
	require.Contains(t, e.Message, "certificate")
	require.Equal(t, schemas.CodeProviderUnavailable, e.Code)
}

func TestConnectionsHaveTheBuffersThatAreSet(t *testing.T) {
	for size, want := range map[int]int{0: providers.DefaultBufferSize, 4 << 10: 4 << 10, 64 << 10: 64 << 10} {
		p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: "http://127.0.0.1:1", BufferSize: size})
		require.NoError(t, err)
		require.Equal(t, want, providers.TransportOf(p).WriteBufferSize)
		require.Equal(t, want/2, providers.TransportOf(p).ReadBufferSize)
		require.NoError(t, p.Close())
	}
}
