package streams

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// streamer publishes the chunks of the request acme.s as generate does.
type streamer struct {
	t      *testing.T
	nc     *nats.Conn
	js     jetstream.JetStream
	deltas *Deltas
}

func newStreamer(t *testing.T, nc *nats.Conn, js jetstream.JetStream) *streamer {
	t.Helper()
	names := testLayout().Names
	sub, err := ServeMissed(nc, names)
	require.NoError(t, err)
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	require.NoError(t, nc.Flush())
	return &streamer{t, nc, js, NewDeltas(nc, names)}
}

func (s *streamer) begin() func(chunk []byte) {
	return s.deltas.Begin(&stages.Request{Handoff: schemas.Handoff{State: schemas.State{Tenant: "acme", ID: "s"}}})
}

// send publishes chunks and waits until the stream has them, which takes them in
// behind the connection.
func (s *streamer) send(send func([]byte), chunks ...string) {
	s.t.Helper()
	last := func() uint64 {
		stream, err := s.js.Stream(s.t.Context(), "LLM_DELTAS")
		if err != nil {
			return 0
		}
		return stream.CachedInfo().State.LastSeq
	}
	before := last()
	for _, c := range chunks {
		send([]byte(c))
	}
	require.Eventually(s.t, func() bool { return last() >= before+uint64(len(chunks)) }, 10*time.Second, time.Millisecond)
}

func (s *streamer) answer() {
	s.t.Helper()
	_, err := s.js.Publish(s.t.Context(), "llm.responses.acme.s", []byte("whole"))
	require.NoError(s.t, err)
}

// reader follows acme.s on a connection of its own.
type reader struct {
	t    *testing.T
	nc   *nats.Conn
	got  chan string
	done chan error
}

func (r *reader) expect(chunks ...string) {
	r.t.Helper()
	for i, want := range chunks {
		select {
		case got := <-r.got:
			require.Equal(r.t, want, got, "chunk %d", i)
		case <-time.After(10 * time.Second):
			require.Fail(r.t, "no chunk", want)
		}
	}
}

// end waits for the answer; nothing may come before it that was not expected.
func (r *reader) end() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		require.Empty(r.t, r.got, "chunks that were not to come")
		return err
	case <-time.After(15 * time.Second):
		require.Fail(r.t, "no answer")
		return nil
	}
}

func read(t *testing.T, url string) *reader {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	r := &reader{t, nc, make(chan string, 10_000), make(chan error, 1)}
	go func() {
		answer, err := testClient(t, nc).Follow(t.Context(), "s", func(d Delta) { r.got <- fmt.Sprint(d.Number, " ", string(d.Chunk)) })
		if string(answer.Body) != "whole" && err == nil {
			err = errors.New("another answer: " + string(answer.Body))
		}
		r.done <- err
	}()
	return r
}

func TestAReaderGetsWhatCameBeforeAndThenTheRest(t *testing.T) {
	server := natstest.Start(t)
	nc, js := natstest.Connect(t, server)
	require.NoError(t, Provision(t.Context(), js, testLayout()))
	s := newStreamer(t, nc, js)
	send := s.begin()
	early := read(t, server.ClientURL())
	s.send(send, "a", "b")
	early.expect("1 a", "2 b")
	late := read(t, server.ClientURL())
	late.expect("1 a", "2 b")
	s.send(send, "c", "d")
	early.expect("3 c", "4 d")
	late.expect("3 c", "4 d")
	s.answer()
	require.NoError(t, early.end())
	require.NoError(t, late.end())
	last := read(t, server.ClientURL()) // after everything
	last.expect("1 a", "2 b", "3 c", "4 d")
	require.NoError(t, last.end())
}

func TestAReaderWhoLostTheConnectionMissesNothing(t *testing.T) {
	server := natstest.Start(t)
	nc, js := natstest.Connect(t, server)
	require.NoError(t, Provision(t.Context(), js, testLayout()))
	s := newStreamer(t, nc, js)
	send := s.begin()
	r := read(t, server.ClientURL())
	s.send(send, "a")
	r.expect("1 a")
	for i := range 5 {
		// The server cuts the reader off; what comes meanwhile is nowhere but in the stream.
		id, err := r.nc.GetClientID()
		require.NoError(t, err)
		back := r.nc.StatusChanged(nats.CONNECTED)
		require.NoError(t, server.DisconnectClientByID(id))
		s.send(send, fmt.Sprint("x", i), fmt.Sprint("y", i))
		<-back
		r.expect(fmt.Sprint(3*i+2, " x", i), fmt.Sprint(3*i+3, " y", i))
		s.send(send, fmt.Sprint("z", i))
		r.expect(fmt.Sprint(3*i+4, " z", i))
	}
	s.answer()
	require.NoError(t, r.end())
}

// The worker dies in the middle, and another begins anew. What may still come of
// the first, if it only stood still, is not mixed in.
func TestASecondAttemptBeginsAnew(t *testing.T) {
	server := natstest.Start(t)
	nc, js := natstest.Connect(t, server)
	require.NoError(t, Provision(t.Context(), js, testLayout()))
	s := newStreamer(t, nc, js)
	first, second := s.begin(), s.begin()
	early := read(t, server.ClientURL())
	s.send(first, "a1", "a2")
	early.expect("1 a1", "2 a2")
	s.send(second, "b1")
	s.send(first, "a3")
	s.send(second, "b2")
	s.send(first, "a4")
	early.expect("1 b1", "2 b2")
	late := read(t, server.ClientURL())
	late.expect("1 a1", "2 a2", "1 b1", "2 b2")
	s.send(second, "b3")
	s.answer()
	early.expect("3 b3")
	late.expect("3 b3")
	require.NoError(t, early.end())
	require.NoError(t, late.end())
}

// More chunks than one reply brings.
func TestALateReaderOfALongAnswer(t *testing.T) {
	server := natstest.Start(t)
	nc, js := natstest.Connect(t, server)
	require.NoError(t, Provision(t.Context(), js, testLayout()))
	s := newStreamer(t, nc, js)
	send := s.begin()
	const chunks = 3*missedSlice + 7
	for range chunks {
		send([]byte("x"))
	}
	requireMessages(t, js, "LLM_DELTAS", chunks) // the stream takes them in behind the connection
	s.answer()
	r := read(t, server.ClientURL())
	for i := range chunks {
		r.expect(fmt.Sprint(i+1, " x"))
	}
	require.NoError(t, r.end())
}

func TestChunksThatAreNoLongerKept(t *testing.T) {
	server := natstest.Start(t)
	nc, js := natstest.Connect(t, server)
	require.NoError(t, Provision(t.Context(), js, testLayout()))
	s := newStreamer(t, nc, js)
	send := s.begin()
	s.send(send, "a", "b", "c")
	stream, err := js.Stream(t.Context(), "LLM_DELTAS")
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeKeep(1)))
	s.answer()
	r := read(t, server.ClientURL())
	require.ErrorIs(t, r.end(), ErrChunksGone)
}

func TestFollowEndsWithTheContext(t *testing.T) {
	nc, _ := provisioned(t, testLayout())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := testClient(t, nc).Follow(ctx, "s", func(Delta) {})
		done <- err
	}()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	_, err := testClient(t, nc).Follow(t.Context(), "a.>", func(Delta) {})
	require.ErrorContains(t, err, "1 to 64 characters")
}

// The product must not be made to have the server write to subjects of its own.
func TestMissedChunksGoToInboxesAlone(t *testing.T) {
	nc, js := provisioned(t, testLayout())
	s := newStreamer(t, nc, js)
	s.send(s.begin(), "a")
	for _, reply := range []string{"llm.responses.beta.x", "$KV.llm_answers.beta.x"} {
		require.NoError(t, nc.PublishRequest("llm.missed.acme.s", reply, nil))
	}
	m, err := nc.Request("llm.missed.acme.s", nil, 5*time.Second) // answered after those before it
	require.NoError(t, err)
	require.Equal(t, "a", string(m.Data))
	stream, err := js.Stream(t.Context(), "LLM_RESPONSES")
	require.NoError(t, err)
	_, err = stream.GetLastMsgForSubject(t.Context(), "llm.responses.beta.x")
	require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
}

func TestFeedback(t *testing.T) {
	nc, js := provisioned(t, testLayout())
	c := testClient(t, nc)
	score := 0.5
	require.NoError(t, c.Feedback(t.Context(), Feedback{ID: "r-1", Score: &score}))
	require.NoError(t, c.Feedback(t.Context(), Feedback{ID: "r-2", Label: "Paris"}))
	stream, err := js.Stream(t.Context(), "LLM_FEEDBACK")
	require.NoError(t, err)
	for sequence, want := range map[uint64]string{1: `{"id":"r-1","score":0.5}`, 2: `{"id":"r-2","label":"Paris"}`} {
		m, err := stream.GetMsg(t.Context(), sequence)
		require.NoError(t, err)
		require.JSONEq(t, want, string(m.Data))
	}
	score = 2
	require.ErrorContains(t, c.Feedback(t.Context(), Feedback{ID: "r-1", Score: &score}), "between 0 and 1")
	require.ErrorContains(t, c.Feedback(t.Context(), Feedback{ID: "r-1"}), "says nothing")
	require.ErrorContains(t, c.Feedback(t.Context(), Feedback{ID: "a.b", Label: "x"}), "1 to 64 characters")
}
