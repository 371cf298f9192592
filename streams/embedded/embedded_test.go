package embedded

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/streams"
)

func TestEmbeddedServerIsFoundAndKeepsItsData(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "nats"), Host: "127.0.0.1", Port: 0, Sync: time.Minute}
	_, found := Find(t.Context(), cfg.Dir)
	require.False(t, found)
	first, err := Start(cfg)
	require.NoError(t, err)
	url, found := Find(t.Context(), cfg.Dir)
	require.True(t, found)
	require.Equal(t, first.URL(), url)

	_, err = Start(cfg)
	require.ErrorIs(t, err, ErrDirInUse)
	require.ErrorContains(t, err, cfg.Dir)

	nc, err := nats.Connect(url)
	require.NoError(t, err)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	require.NoError(t, streams.Provision(t.Context(), js, streams.NewLayout(streams.DefaultServer(), streams.DefaultStreams())))
	_, err = js.Publish(t.Context(), "llm.requests.acme", []byte("{}"))
	require.NoError(t, err)
	nc.Close()
	first.Close()
	_, found = Find(t.Context(), cfg.Dir)
	require.False(t, found)

	second, err := Start(cfg)
	require.NoError(t, err)
	defer second.Close()
	nc, err = nats.Connect(second.URL())
	require.NoError(t, err)
	defer nc.Close()
	js, err = jetstream.New(nc)
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), "LLM_REQUESTS")
	require.NoError(t, err)
	require.EqualValues(t, 1, stream.CachedInfo().State.Msgs)
}

func TestEmbeddedServerTakesAFreePort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	e, err := Start(Config{Dir: t.TempDir(), Host: "127.0.0.1", Port: taken.Addr().(*net.TCPAddr).Port})
	require.NoError(t, err)
	defer e.Close()
	require.NotContains(t, e.URL(), taken.Addr().String())
}

func TestStaleAddressIsNoServer(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "server.json"), []byte(`{"url":"nats://127.0.0.1:1","pid":1}`), 0o600))
	_, found := Find(t.Context(), dir)
	require.False(t, found)
}

func TestEmbeddedServerThatCannotListenSaysSoAtOnce(t *testing.T) {
	begun := time.Now()
	_, err := Start(Config{Dir: t.TempDir(), Host: "192.0.2.1", Port: 0}) // no address of any machine
	require.ErrorIs(t, err, errNotStarted)
	require.ErrorContains(t, err, "192.0.2.1")
	require.Less(t, time.Since(begun), startTimeout)
}
