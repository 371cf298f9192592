package jsx

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
)

func fiveMessages(t *testing.T) (jetstream.JetStream, jetstream.Stream) {
	_, js := natstest.Connect(t, natstest.Start(t))
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	require.NoError(t, err)
	for i := range 5 {
		_, err := js.Publish(t.Context(), "s."+strconv.Itoa(i), nil)
		require.NoError(t, err)
	}
	return js, stream
}

func TestEachReadsWhatIsThere(t *testing.T) {
	js, _ := fiveMessages(t)
	var got []string
	read := func(more bool, err error, cfg jetstream.OrderedConsumerConfig) error {
		got = nil
		return Each(t.Context(), js, "S", cfg, func(m jetstream.Msg, _ *jetstream.MsgMetadata) (bool, error) {
			got = append(got, m.Subject())
			return more, err
		})
	}
	require.NoError(t, read(true, nil, jetstream.OrderedConsumerConfig{}))
	require.Equal(t, []string{"s.0", "s.1", "s.2", "s.3", "s.4"}, got)
	require.NoError(t, read(true, nil, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"s.3"}}))
	require.Equal(t, []string{"s.3"}, got)
	require.NoError(t, read(true, nil, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"s.9"}}))
	require.Empty(t, got)
	require.NoError(t, read(false, nil, jetstream.OrderedConsumerConfig{}))
	require.Len(t, got, 1)
	failed := errors.New("failed")
	require.ErrorIs(t, read(true, failed, jetstream.OrderedConsumerConfig{}), failed)
	require.ErrorIs(t, Each(t.Context(), js, "NONE", jetstream.OrderedConsumerConfig{}, nil), jetstream.ErrStreamNotFound)
}

func TestEachDoesNotWaitForWhatGoesMeanwhile(t *testing.T) {
	js, stream := fiveMessages(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	read := 0
	require.NoError(t, Each(ctx, js, "S", jetstream.OrderedConsumerConfig{}, func(jetstream.Msg, *jetstream.MsgMetadata) (bool, error) {
		read++
		return true, stream.Purge(ctx)
	}, jetstream.PullMaxMessages(1)))
	require.LessOrEqual(t, read, 2, "the others went before they were asked for")
}

func TestEachEndsWithItsContext(t *testing.T) {
	js, _ := fiveMessages(t)
	ctx, cancel := context.WithCancel(t.Context())
	require.ErrorIs(t, Each(ctx, js, "S", jetstream.OrderedConsumerConfig{}, func(jetstream.Msg, *jetstream.MsgMetadata) (bool, error) {
		cancel()
		return true, nil
	}), context.Canceled)
}
