package batch

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

func newRequest(tenant, id, body string) *stages.Request {
	r := &stages.Request{}
	r.Tenant, r.ID, r.Class, r.Kind, r.Model, r.Body = tenant, id, schemas.Interactive, schemas.Chat, "m", []byte(body)
	return r
}

// collect gives a Decide that notes the ids of each batch.
func collect(batches *[][]string) stages.Decide {
	return func(r *stages.Request, v stages.Verdict) {
		ids := []string{r.ID}
		for _, other := range v.With {
			ids = append(ids, other.ID)
		}
		*batches = append(*batches, ids)
	}
}

func config(size int, timeout time.Duration) Config {
	return Config{MaxBatchSize: size, Timeout: units.Duration(timeout)}
}

func TestRequestsOfAKindShareABatch(t *testing.T) {
	s := New(config(3, time.Second), Limits{Bytes: 1 << 20}, func() bool { return false })
	var requests []*stages.Request
	for i := range 4 {
		requests = append(requests, newRequest("acme", fmt.Sprint("a", i), fmt.Sprintf(`{"temperature":0,"messages":[%d]}`, i)))
	}
	requests = append(requests,
		newRequest("other", "tenant", `{"temperature":0,"messages":[]}`),
		newRequest("acme", "parameters", `{"temperature":1,"messages":[]}`))
	var got [][]string
	s.Run(context.Background(), requests, collect(&got))
	require.ElementsMatch(t, [][]string{{"a0", "a1", "a2"}, {"a3"}, {"tenant"}, {"parameters"}}, got)
}

func TestBatchesAreBoundedByBytes(t *testing.T) {
	s := New(config(100, time.Second), Limits{Bytes: 10_000}, func() bool { return false })
	var requests []*stages.Request
	for i := range 8 {
		requests = append(requests, newRequest("acme", fmt.Sprint(i), fmt.Sprintf(`{"messages":["%02000d"]}`, i)))
	}
	var got [][]string
	s.Run(context.Background(), requests, collect(&got))
	require.Equal(t, [][]string{{"0", "1", "2"}, {"3", "4", "5"}, {"6", "7"}}, got)
}

func TestABatchWaitsOnlyWhileGenerateIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := true
		s := New(config(3, time.Second), Limits{Bytes: 1 << 20}, func() bool { return busy })
		var got [][]string
		one := func(id string) {
			s.Run(context.Background(), []*stages.Request{newRequest("acme", id, `{}`)}, collect(&got))
		}
		one("a")
		one("b")
		synctest.Wait()
		require.Empty(t, got)
		one("c")
		require.Equal(t, [][]string{{"a", "b", "c"}}, got, "a full batch goes at once")
		one("d")
		time.Sleep(time.Second) //nolint:forbidigo // the clock of a bubble goes on when all sleep
		synctest.Wait()
		require.Equal(t, [][]string{{"a", "b", "c"}, {"d"}}, got, "the time-out sends it")
		busy = false
		one("e")
		require.Len(t, got, 3, "no wait while a worker is idle")
	})
}
