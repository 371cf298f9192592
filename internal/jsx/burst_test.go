package jsx

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
)

func TestPublishAllTellsTheFateOfEach(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	require.NoError(t, err)
	p := newPublisher(t, nc, PublisherConfig{})
	require.Empty(t, p.PublishAll(t.Context(), nil))

	create := func(subject string) *nats.Msg { return message(subject, jetstream.ExpectedLastSubjSeqHeader, "0") }
	large := message("s.c")
	large.Data = make([]byte, nc.MaxPayload()+1)
	outcomes := p.PublishAll(t.Context(), []*nats.Msg{create("s.a"), create("s.a"), large, create("s.b")})
	require.Equal(t, Outcome{Ack: Ack{Sequence: 1}}, outcomes[0])
	require.True(t, IsWrongLastSequence(outcomes[1].Err), "%v", outcomes[1].Err)
	require.ErrorIs(t, outcomes[2].Err, nats.ErrMaxPayload)
	require.Equal(t, Outcome{Ack: Ack{Sequence: 2}}, outcomes[3])
}

func TestPublishAllEndsWithItsContext(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	require.NoError(t, err)
	_, err = nc.Subscribe("silent", func(*nats.Msg) {})
	require.NoError(t, err)
	p := newPublisher(t, nc, PublisherConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	outcomes := p.PublishAll(ctx, []*nats.Msg{message("s"), message("silent")})
	require.Equal(t, Outcome{Ack: Ack{Sequence: 1}}, outcomes[0])
	require.ErrorIs(t, outcomes[1].Err, context.DeadlineExceeded)
}
