package streams

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
)

// Consumers of an earlier version permit 512 pulls, which the server does not
// change: they are made anew where nothing is in their streams and nobody pulls, and are left else.
func TestConsumersLetManyReplicasWait(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	layout := testLayout()
	require.NoError(t, Provision(t.Context(), js, layout))
	earlier := func(g durable) jetstream.Consumer {
		require.NoError(t, js.DeleteConsumer(t.Context(), g.stream, g.config.Durable))
		g.config.MaxWaiting = 0
		c, err := js.CreateConsumer(t.Context(), g.stream, g.config)
		require.NoError(t, err)
		require.Equal(t, 512, c.CachedInfo().Config.MaxWaiting)
		return c
	}
	permits := func(g durable) int {
		c, err := js.Consumer(t.Context(), g.stream, g.config.Durable)
		require.NoError(t, err)
		return c.CachedInfo().Config.MaxWaiting
	}
	list := layout.consumers()
	idle, pulling, working := list[0], list[1], list[len(list)-1]
	require.Equal(t, "LLM_REQUESTS", working.stream)
	_, err := js.Publish(t.Context(), "llm.requests.acme", []byte("{}"))
	require.NoError(t, err)
	earlier(idle)
	earlier(pulling)
	taken, err := earlier(working).Fetch(1)
	require.NoError(t, err)
	m := <-taken.Messages()
	p, err := newPuller(nc, pulling.stream, pulling.config.Durable, 1)
	require.NoError(t, err)
	defer p.close()
	require.NoError(t, p.ask(1, 1<<20))
	require.NoError(t, nc.Flush())

	require.NoError(t, Provision(t.Context(), js, layout))
	require.Equal(t, maxPulls, permits(idle))
	require.Equal(t, 512, permits(pulling), "a pull waits there")
	require.Equal(t, 512, permits(working), "a message is being worked on")

	require.NoError(t, m.DoubleAck(t.Context()))
	require.Eventually(t, func() bool { // the pull is over, too
		require.NoError(t, Provision(t.Context(), js, layout))
		return permits(working) == maxPulls && permits(pulling) == maxPulls
	}, 20*time.Second, 100*time.Millisecond)
}
