package streams_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/streams"
)

// The server tells where a message stood by headers beside the publisher's own.
// A request that brings such headers itself is read as what it is, once.
func TestARequestCannotPassForAnothersInTheArchive(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	names := streams.Names{Prefix: "llm"}
	require.NoError(t, streams.Provision(t.Context(), js, streams.NewLayout(streams.DefaultServer(), streams.DefaultStreams())))
	for i, header := range []nats.Header{
		{},
		{"Nats-Subject": {names.Request("beta")}, "Nats-Sequence": {"1"}, "Nats-Stream": {"LLM_RESPONSES"}, "Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}},
		{"Status": {"404"}}, {"Status": {"204"}, "Nats-Num-Pending": {"0"}}, {"Status": {"500"}},
		{"Nats-Num-Pending": {"0"}},
		{},
	} {
		header.Set(streams.HeaderID, fmt.Sprint("r-", i))
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: names.Request("acme"), Header: header, Data: []byte("{}")})
		require.NoError(t, err)
	}
	stream, err := js.Stream(t.Context(), names.Archive())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 7
	}, 20*time.Second, 10*time.Millisecond)
	a, err := streams.NewArchive(nc, names, 0)
	require.NoError(t, err)
	defer a.Close()
	var ids []string
	last := uint64(0)
	require.NoError(t, a.Each(t.Context(), time.Time{}, time.Time{}, "", func(r streams.Archived) error {
		if len(ids) > 20 {
			return fmt.Errorf("read again and again: %v", ids)
		}
		ids = append(ids, r.ID)
		require.Equal(t, "acme", r.Tenant)
		require.Greater(t, r.Sequence, last)
		require.WithinDuration(t, time.Now(), r.Published, time.Hour)
		last = r.Sequence
		return nil
	}))
	require.Equal(t, []string{"r-0", "r-1", "r-2", "r-3", "r-4", "r-5", "r-6"}, ids)
}
