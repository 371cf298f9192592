package streams_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/streams"
)

func TestTheArchiveIsReadByTimeAndTenantWithoutATrace(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	names := streams.Names{Prefix: "llm"}
	a, err := streams.NewArchive(nc, names, 0)
	require.NoError(t, err)
	defer a.Close()
	none := func(streams.Archived) error { return errors.New("called") }
	require.ErrorIs(t, a.Each(t.Context(), time.Time{}, time.Time{}, "", none), streams.ErrNoArchive)

	layout := streams.NewLayout(streams.DefaultServer(), streams.DefaultStreams())
	require.NoError(t, streams.Provision(t.Context(), js, layout))
	require.NoError(t, a.Each(t.Context(), time.Time{}, time.Time{}, "", none), "an empty archive has nothing to call with")

	const n = 700 // more than one read
	large := strings.Repeat("x", 20_000)
	sequences := map[string]uint64{}
	var middle time.Time
	for i := range n {
		if i == n/2 {
			middle = time.Now()
		}
		m := nats.NewMsg(names.Request([]string{"acme", "other"}[i%2]))
		m.Data = fmt.Appendf(nil, "%d %s", i, large)
		if i%3 == 0 {
			m.Header.Set(streams.HeaderID, fmt.Sprint("r-", i))
		}
		ack, err := js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
		sequences[fmt.Sprint(i)] = ack.Sequence
	}
	stream, err := js.Stream(t.Context(), names.Archive())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == n
	}, 20*time.Second, 10*time.Millisecond)

	read := func(since, until time.Time, tenant string) (numbers []int) {
		require.NoError(t, a.Each(t.Context(), since, until, tenant, func(r streams.Archived) error {
			text, _, _ := strings.Cut(string(r.Body), " ")
			number := 0
			_, err := fmt.Sscan(text, &number)
			require.NoError(t, err)
			want := fmt.Sprint("r-", number)
			if number%3 != 0 {
				want = fmt.Sprint(sequences[text])
			}
			require.Equal(t, want, r.ID)
			require.Equal(t, []string{"acme", "other"}[number%2], r.Tenant)
			numbers = append(numbers, number)
			return nil
		}))
		return numbers
	}
	all := read(time.Time{}, time.Time{}, "")
	require.Len(t, all, n)
	for i, number := range all {
		require.Equal(t, i, number)
	}
	require.Len(t, read(time.Time{}, time.Time{}, "acme"), n/2)
	late := read(middle, time.Time{}, "")
	require.NotEmpty(t, late)
	early := read(time.Time{}, middle, "")
	require.Len(t, append(early, late...), n, "the two halves are the whole")
	require.Empty(t, read(time.Now().Add(time.Hour), time.Time{}, ""))

	consumers := stream.ConsumerNames(t.Context())
	for name := range consumers.Name() {
		require.Fail(t, "the reader left a consumer", name)
	}
	require.ErrorContains(t, a.Each(t.Context(), time.Time{}, time.Time{}, "", none), "called")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, a.Each(ctx, time.Time{}, time.Time{}, "", func(streams.Archived) error { return nil }))
}

func TestAReaderWithAPauseYieldsWhileRequestsWait(t *testing.T) {
	nc, js := natstest.Connect(t, natstest.Start(t))
	names := streams.Names{Prefix: "llm"}
	require.NoError(t, streams.Provision(t.Context(), js, streams.NewLayout(streams.DefaultServer(), streams.DefaultStreams())))
	const n = 300 // more than one read, and more than may wait
	for range n {
		_, err := js.Publish(t.Context(), names.Request("acme"), []byte("{}"))
		require.NoError(t, err)
	}
	archive, err := js.Stream(t.Context(), names.Archive())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := archive.Info(t.Context())
		return err == nil && info.State.Msgs == n
	}, 20*time.Second, 10*time.Millisecond)
	a, err := streams.NewArchive(nc, names, 10*time.Millisecond)
	require.NoError(t, err)
	defer a.Close()
	var read atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- a.Each(t.Context(), time.Time{}, time.Time{}, "", func(streams.Archived) error { read.Add(1); return nil })
	}()
	require.Eventually(t, func() bool { return read.Load() > 0 }, 10*time.Second, time.Millisecond)
	require.Never(t, func() bool { return read.Load() == n }, 300*time.Millisecond, 10*time.Millisecond)
	requests, err := js.Stream(t.Context(), names.Requests())
	require.NoError(t, err)
	require.NoError(t, requests.Purge(t.Context()))
	require.NoError(t, <-done)
	require.EqualValues(t, n, read.Load())
}

func TestRatings(t *testing.T) {
	for body, ok := range map[string]bool{
		`{"id":"a","score":0.5}`: true, `{"id":"a","label":"good"}`: true, `{"id":"a","ideal":{"x":1}}`: true,
		`{"id":"a"}`: false, `{"id":"a","score":7}`: false, `{"score":1}`: false, `x`: false, `{"id":"a.b","score":1}`: false,
	} {
		_, got := streams.ReadRating([]byte(body))
		require.Equal(t, ok, got, body)
	}
}
