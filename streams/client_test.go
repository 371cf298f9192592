package streams

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

func testClient(t *testing.T, nc *nats.Conn) *Client {
	t.Helper()
	c, err := NewClient(nc, Names{Prefix: "llm"}, "acme")
	require.NoError(t, err)
	return c
}

// provisioned starts a server with the layout.
func provisioned(t *testing.T, layout Layout) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, js := natstest.Connect(t, natstest.Start(t))
	require.NoError(t, Provision(t.Context(), js, layout))
	return nc, js
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestAskThroughThePipeline(t *testing.T) {
	nc, _ := provisioned(t, testLayout())
	start(t, nc, testLayout(), steps(pass, pass, pass, pass, answer))
	c := testClient(t, nc)

	given, err := c.Ask(within(t, 10*time.Second), Message{ID: "mine", Body: request("hi")})
	require.NoError(t, err)
	require.Equal(t, "mine", given.ID)
	require.Contains(t, string(given.Body), `"tenant":"acme"`)

	again, err := c.Await(within(t, 10*time.Second), "mine")
	require.NoError(t, err)
	require.Equal(t, string(given.Body), string(again.Body), "an answer is there for those who come later")
}

func TestPublishGivesTheSequenceAsID(t *testing.T) {
	nc, js := provisioned(t, testLayout())
	c := testClient(t, nc)
	id, err := c.Publish(within(t, 5*time.Second), Message{Class: schemas.Batch, Deadline: time.Unix(1_900_000_000, 0), Body: request("x")})
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), "LLM_REQUESTS")
	require.NoError(t, err)
	stored, err := stream.GetLastMsgForSubject(t.Context(), "llm.requests.acme")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(stored.Sequence), id)
	require.Equal(t, "batch", stored.Header.Get(HeaderPriority))
	require.Equal(t, "2030-03-17T17:46:40Z", stored.Header.Get(HeaderDeadline))
	require.Empty(t, stored.Header.Get(HeaderID))
}

func TestWrongNamesAreRefused(t *testing.T) {
	nc, _ := natstest.Connect(t, natstest.Start(t))
	_, err := NewClient(nc, Names{Prefix: "llm"}, "a.b")
	require.ErrorContains(t, err, "1 to 64 characters")
	c := testClient(t, nc)
	for _, id := range []string{"a b", "123", "*"} {
		_, err = c.Publish(t.Context(), Message{ID: id})
		require.ErrorContains(t, err, "1 to 64 characters", id)
	}
	require.Error(t, c.Cancel(t.Context(), "a.>"))
}

func TestServerWithoutStreams(t *testing.T) {
	nc, _ := natstest.Connect(t, natstest.Start(t))
	c := testClient(t, nc)
	_, err := c.Ask(within(t, 10*time.Second), Message{Body: request("x")})
	require.ErrorIs(t, err, ErrNoStreams)
	_, err = c.Exchange(t.Context(), 10)
	require.ErrorIs(t, err, ErrNoStreams)
}

// What the server refuses because a tenant has as many requests waiting as it
// may is published once there is room.
func TestPublishWaitsWhileTooManyWait(t *testing.T) {
	layout := testLayout()
	layout.MaxWaiting = 2
	nc, js := provisioned(t, layout)
	c := testClient(t, nc)
	for range 2 {
		_, err := c.Publish(within(t, 5*time.Second), Message{Body: request("x")})
		require.NoError(t, err)
	}
	_, err := c.Publish(within(t, 200*time.Millisecond), Message{Body: request("x")})
	require.ErrorIs(t, err, context.DeadlineExceeded)

	stream, err := js.Stream(t.Context(), "LLM_REQUESTS")
	require.NoError(t, err)
	published := make(chan error, 1)
	go func() {
		_, err := c.Publish(t.Context(), Message{Body: request("y")})
		published <- err
	}()
	require.NoError(t, stream.Purge(t.Context()))
	require.NoError(t, <-published)
}

func TestLookupOfMany(t *testing.T) {
	nc, js := provisioned(t, testLayout())
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprintf("id-%d", i)
		if i%3 == 0 {
			_, err := js.PublishAsync("llm.responses.acme."+ids[i], []byte(ids[i]))
			require.NoError(t, err)
		}
	}
	<-js.PublishAsyncComplete()
	found, err := testClient(t, nc).Lookup(within(t, 10*time.Second), ids)
	require.NoError(t, err)
	require.Len(t, found, 334)
	require.Equal(t, "id-999", string(found["id-999"]))
	require.NotContains(t, found, "id-1")
}

// An exchange of many requests holds no more than its window, waits while the
// tenant's limit is reached, and gives every answer once.
func TestExchangeIsBoundedAndComplete(t *testing.T) {
	layout := testLayout()
	layout.Archive = false // an archive holds places of the requests for a second longer
	layout.MaxWaiting = 20 // less than the window: the server refuses some
	nc, _ := provisioned(t, layout)
	var working, most atomic.Int64
	count := stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		n := working.Add(int64(len(requests)))
		for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
		}
		working.Add(-int64(len(requests)))
		return make([]stages.Verdict, len(requests))
	})
	start(t, nc, layout, steps(count, pass, pass, pass, answer))

	const total, window = 2000, 50
	x, err := testClient(t, nc).Exchange(t.Context(), window)
	require.NoError(t, err)
	defer x.Close()
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range total {
			if err := x.Send(t.Context(), Message{ID: fmt.Sprintf("id-%d", i), Body: request("x")}); err != nil {
				t.Error(err)
				return
			}
		}
		x.Finish()
	})
	seen := map[string]bool{}
	for a := range x.Answers() {
		require.NoError(t, a.Err)
		require.False(t, seen[a.ID], "answered twice")
		seen[a.ID] = true
		require.LessOrEqual(t, x.Waiting(), window)
	}
	sending.Wait()
	require.Len(t, seen, total)
	require.LessOrEqual(t, most.Load(), int64(window))
}

// Answers that pass by while the client is cut off are found among those stored.
func TestExchangeSurvivesARestartOfTheServer(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	server := natstest.StartOn(t, dir, -1)
	port := server.Addr().String()
	nc, js := natstest.Connect(t, server)
	layout := testLayout()
	layout.Archive = false // its sourcing outlives a server that is stopped at once
	require.NoError(t, Provision(t.Context(), js, layout))
	x, err := testClient(t, nc).Exchange(t.Context(), 100)
	require.NoError(t, err)
	defer x.Close()
	for i := range 10 {
		require.NoError(t, x.Send(t.Context(), Message{ID: fmt.Sprintf("id-%d", i), Body: request("x")}))
	}
	x.Finish()
	stream, err := js.Stream(t.Context(), "LLM_REQUESTS")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 10
	}, 30*time.Second, 5*time.Millisecond)

	server.Shutdown()
	server.WaitForShutdown()
	// Answered while the client is away: by another connection, on another port.
	away := natstest.StartOn(t, dir, -1)
	_, elsewhere := natstest.Connect(t, away)
	for i := range 10 {
		_, err := elsewhere.Publish(t.Context(), fmt.Sprintf("llm.responses.acme.id-%d", i), []byte("{}"))
		require.NoError(t, err)
	}
	away.Shutdown()
	away.WaitForShutdown()
	natstest.StartOn(t, dir, portOf(t, port))
	got := 0
	for a := range x.Answers() {
		require.NoError(t, a.Err)
		got++
	}
	require.Equal(t, 10, got)
}

func TestExchangeAnswersWhatCannotBePublished(t *testing.T) {
	nc, _ := provisioned(t, testLayout())
	x, err := testClient(t, nc).Exchange(t.Context(), 4)
	require.NoError(t, err)
	defer x.Close()
	require.NoError(t, x.Send(t.Context(), Message{ID: "big", Body: make([]byte, 2<<20)}))
	x.Finish()
	a := <-x.Answers()
	require.Equal(t, "big", a.ID)
	require.ErrorIs(t, a.Err, nats.ErrMaxPayload)
	_, more := <-x.Answers()
	require.False(t, more)
}

func TestCancelNeedsSomebodyToHearIt(t *testing.T) {
	nc, _ := provisioned(t, testLayout())
	c := testClient(t, nc)
	require.ErrorContains(t, c.Cancel(t.Context(), "id-1"), "no process of the product is there")
	heard := make(chan string, 1)
	sub, err := nc.Subscribe("llm.cancel.*.*", func(m *nats.Msg) {
		heard <- m.Subject
		_ = m.Respond(nil)
	})
	require.NoError(t, err)
	defer func() { _ = sub.Unsubscribe() }()
	require.NoError(t, c.Cancel(t.Context(), "id-1"))
	require.Equal(t, "llm.cancel.acme.id-1", <-heard)
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	require.NoError(t, err)
	port, err := strconv.Atoi(text)
	require.NoError(t, err)
	return port
}
