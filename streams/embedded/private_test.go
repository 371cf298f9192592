package embedded

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestAPrivateServerIsNobodyElsesAndKeepsItsData(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 {
		s, err := StartPrivate(dir)
		require.NoError(t, err)
		_, err = StartPrivate(dir)
		require.ErrorIs(t, err, ErrDirInUse)
		nc, err := s.ConnectPrivate()
		require.NoError(t, err)
		_, err = nats.Connect(s.URL())
		require.ErrorIs(t, err, nats.ErrAuthorization)
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		_, err = js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
		require.NoError(t, err)
		ack, err := js.Publish(t.Context(), "s", nil)
		require.NoError(t, err)
		require.EqualValues(t, i+1, ack.Sequence)
		nc.Close()
		s.Close()
	}
}
