package jsx

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
)

func newPublisher(t testing.TB, nc *nats.Conn, cfg PublisherConfig) *Publisher {
	t.Helper()
	p, err := NewPublisher(nc, cfg)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// publish waits for the outcome of one message.
func publish(t *testing.T, p *Publisher, m *nats.Msg) (Ack, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	f, err := p.Begin(m)
	require.NoError(t, err)
	ack, err := f.Wait(ctx)
	require.NoError(t, ctx.Err(), "the outcome of a message is not known after half a minute")
	return ack, err
}

func message(subject string, headers ...string) *nats.Msg {
	m := nats.NewMsg(subject)
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	return m
}

func TestPublisherTellsWhatTheStreamSays(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	require.NoError(t, err)
	p := newPublisher(t, nc, PublisherConfig{})

	ack, err := publish(t, p, message("s.a", jetstream.MsgIDHeader, "1"))
	require.NoError(t, err)
	require.Equal(t, Ack{Sequence: 1}, ack)

	ack, err = publish(t, p, message("s.a", jetstream.MsgIDHeader, "1"))
	require.NoError(t, err)
	require.Equal(t, Ack{Sequence: 1, Duplicate: true}, ack)

	_, err = publish(t, p, message("s.a", jetstream.ExpectedLastSubjSeqHeader, "0"))
	require.True(t, IsWrongLastSequence(err), "%v", err)
	ack, err = publish(t, p, message("s.a", jetstream.ExpectedLastSubjSeqHeader, "1"))
	require.NoError(t, err)
	require.EqualValues(t, 2, ack.Sequence)
}

func TestPublisherTriesAgainWhileNoStreamTakesAMessage(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	p := newPublisher(t, nc, PublisherConfig{})
	begun := time.Now()
	_, err := publish(t, p, message("nobody"))
	require.ErrorIs(t, err, jetstream.ErrNoStreamResponse)
	require.GreaterOrEqual(t, time.Since(begun), nobodyTries*nobodyWait)

	f, err := p.Begin(message("later"))
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LATER", Subjects: []string{"later"}})
	require.NoError(t, err)
	ack, err := f.Wait(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, ack.Sequence)
}

func TestPublisherGivesUpOnLostAcknowledgements(t *testing.T) {
	nc, _ := natstest.Connect(t, natstest.Start(t))
	p := newPublisher(t, nc, PublisherConfig{Window: 2, Timeout: 100 * time.Millisecond})
	_, err := nc.Subscribe("silent", func(*nats.Msg) {})
	require.NoError(t, err)
	begun := time.Now()
	_, err = publish(t, p, message("silent"))
	require.ErrorIs(t, err, jetstream.ErrAsyncPublishTimeout)
	require.GreaterOrEqual(t, time.Since(begun), 100*time.Millisecond)

	// What times out makes room: more than the window gets through.
	for range 5 {
		_, err := p.Begin(message("silent"))
		require.NoError(t, err)
	}
}

func TestPublisherWaitsWhileTheWindowIsFull(t *testing.T) {
	nc, _ := natstest.Connect(t, natstest.Start(t))
	p := newPublisher(t, nc, PublisherConfig{Window: 3, Timeout: time.Minute})
	asked := make(chan *nats.Msg, 8)
	_, err := nc.ChanSubscribe("slow", asked)
	require.NoError(t, err)
	go func() {
		for range 4 {
			_, _ = p.Begin(message("slow"))
		}
	}()
	first := <-asked
	<-asked
	<-asked
	select {
	case <-asked:
		require.Fail(t, "more messages are on their way than the window lets")
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, first.Respond([]byte(`{"stream":"S","seq":1}`)))
	<-asked
}

func TestPublisherAfterTheConnectionWasLost(t *testing.T) {
	dir := t.TempDir()
	s := natstest.StartOn(t, dir, -1)
	nc, js := natstest.Connect(t, s)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	require.NoError(t, err)
	p := newPublisher(t, nc, PublisherConfig{Timeout: time.Minute})
	_, err = nc.Subscribe("silent", func(*nats.Msg) {})
	require.NoError(t, err)
	f, err := p.Begin(message("silent"))
	require.NoError(t, err)
	require.NoError(t, nc.Flush())

	port := s.Addr().(*net.TCPAddr).Port
	s.Shutdown()
	s.WaitForShutdown()
	_, err = f.Wait(t.Context())
	require.ErrorIs(t, err, nats.ErrDisconnected)

	natstest.StartOn(t, dir, port)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f, err := p.Begin(message("s"))
		if err == nil {
			_, err = f.Wait(ctx)
		}
		return err == nil
	}, 30*time.Second, 20*time.Millisecond)

	f, err = p.Begin(message("silent"))
	require.NoError(t, err)
	nc.Close()
	_, err = f.Wait(t.Context())
	require.ErrorIs(t, err, nats.ErrConnectionClosed)
	_, err = p.Begin(message("s"))
	require.ErrorIs(t, err, nats.ErrConnectionClosed)
}

func TestAClosedPublisherFailsWhatIsOnItsWay(t *testing.T) {
	nc, _ := natstest.Connect(t, natstest.Start(t))
	p := newPublisher(t, nc, PublisherConfig{Window: 1})
	_, err := nc.Subscribe("silent", func(*nats.Msg) {})
	require.NoError(t, err)
	f, err := p.Begin(message("silent"))
	require.NoError(t, err)
	stalled := make(chan error)
	go func() {
		_, err := p.Begin(message("silent"))
		stalled <- err
	}()
	p.Close()
	_, err = f.Wait(t.Context())
	require.ErrorIs(t, err, nats.ErrConnectionClosed)
	require.ErrorIs(t, <-stalled, nats.ErrConnectionClosed)
}

func TestAMessageThatIsTooLargeDoesNotLeave(t *testing.T) {
	nc, _ := natstest.Connect(t, natstest.Start(t))
	p := newPublisher(t, nc, PublisherConfig{Window: 1, Timeout: time.Minute})
	for range 2 { // what did not leave takes no place
		_, err := p.Begin(&nats.Msg{Subject: "s", Data: make([]byte, nc.MaxPayload()+1)})
		require.ErrorIs(t, err, nats.ErrMaxPayload)
	}
}

func TestManyPublishAtOnce(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	p := newPublisher(t, nc, PublisherConfig{Window: 16})
	const goroutines, each = 8, 200
	var known [goroutines*each + 1]atomic.Int32 // by sequence
	var acked, publishing sync.WaitGroup
	acked.Add(goroutines * each)
	for range goroutines {
		publishing.Go(func() {
			for range each {
				if err := p.Publish(message("s"), func(ack Ack, err error) {
					known[ack.Sequence].Add(1)
					acked.Done()
				}); err != nil {
					t.Error(err)
					acked.Done()
				}
			}
		})
	}
	publishing.Wait()
	acked.Wait()
	require.Zero(t, known[0].Load(), "failed")
	for sequence := 1; sequence < len(known); sequence++ {
		require.EqualValues(t, 1, known[sequence].Load(), "acknowledgements of sequence %d", sequence)
	}
}

func TestReadAck(t *testing.T) {
	for text, want := range map[string]Ack{
		`{"stream":"S","seq":7}`:                          {Sequence: 7},
		`{"stream":"S", "seq":7}`:                         {Sequence: 7},
		`{"stream":"S","seq":7,"duplicate":true}`:         {Sequence: 7, Duplicate: true},
		`{"stream":"S","domain":"D","seq":7}`:             {Sequence: 7},
		`{"stream":"S","seq":18446744073709551615}`:       {Sequence: 18446744073709551615},
		`{"stream":"S","seq":7,"val":"5"}`:                {Sequence: 7},
		`{"type":"io.nats.ack","stream":"S","seq":  7  }`: {Sequence: 7},
	} {
		ack, err := readAck([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, want, ack, text)
	}
	for _, text := range []string{``, `{}`, `{"stream":"","seq":7}`, `{"stream":"S","seq":}`, `{"stream":"S","seq":7`, `{"stream":"S","seq":-7}`, `{"stream":"S","seq":7}}`} {
		_, err := readAck([]byte(text))
		require.ErrorIs(t, err, jetstream.ErrInvalidJSAck, text)
	}
	_, err := readAck([]byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"},"stream":"S","seq":0}`))
	require.True(t, IsWrongLastSequence(err), "%v", err)
}

// FuzzReadAck holds that the short way reads what the general decoder reads.
func FuzzReadAck(f *testing.F) {
	f.Add([]byte(`{"stream":"S","seq":7}`))
	f.Add([]byte(`{"stream":"S\u0041","seq":007}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		fast, fastErr := readAck(data)
		general, err := readAnyAck(data)
		require.Equal(t, err == nil, fastErr == nil, "%v, %v", fastErr, err)
		require.Equal(t, general, fast)
	})
}

// BenchmarkPublish compares with the client library; the server's work is part of both.
func BenchmarkPublish(b *testing.B) {
	nc, _ := natstest.Connect(b, natstest.Start(b))
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1024), jetstream.WithPublishAsyncTimeout(10*time.Second))
	require.NoError(b, err)
	// Answered by the client itself: the work of a stream would hide what is compared.
	_, err = nc.Subscribe("b", func(m *nats.Msg) { _ = m.Respond([]byte(`{"stream":"B","seq":123456}`)) })
	require.NoError(b, err)
	body := make([]byte, 200)
	b.Run("library", func(b *testing.B) {
		b.ReportAllocs()
		futures := make(chan jetstream.PubAckFuture, 2048)
		var awaiting sync.WaitGroup
		awaiting.Go(func() {
			for f := range futures {
				select {
				case <-f.Ok():
				case err := <-f.Err():
					b.Error(err)
				}
			}
		})
		for b.Loop() {
			f, err := js.PublishMsgAsync(&nats.Msg{Subject: "b", Data: body}, jetstream.WithStallWait(5*time.Second))
			require.NoError(b, err)
			futures <- f
		}
		close(futures)
		awaiting.Wait()
	})
	b.Run("publisher", func(b *testing.B) {
		b.ReportAllocs()
		p := newPublisher(b, nc, PublisherConfig{Window: 1024})
		var awaiting sync.WaitGroup
		for b.Loop() {
			awaiting.Add(1)
			require.NoError(b, p.Publish(&nats.Msg{Subject: "b", Data: body}, func(_ Ack, err error) {
				if err != nil {
					b.Error(err)
				}
				awaiting.Done()
			}))
		}
		awaiting.Wait()
	})
}
