package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/batch"
)

// smallCache is the blocks that the provider of the comparison keeps: few, so
// that it matters which requests follow each other.
const smallCache = 2000

// offlineOrder sends the trace through the batch stage in slices and gives the
// share of blocks that a small cache then has.
func offlineOrder(calls []tracedCall, class schemas.Class, slice int) (float64, error) {
	stage := batch.New(batch.Config{MaxBatchSize: 10, Timeout: units.Duration(time.Minute)}, batch.Limits{Bytes: 512 << 10})
	cache, err := simplelru.NewLRU[uint64, struct{}](smallCache, nil)
	if err != nil {
		return 0, err
	}
	hits, blocks := 0, 0
	look := func(r *stages.Request) {
		i, _ := strconv.Atoi(r.ID) // made below
		hit := true
		for _, id := range calls[i].Blocks {
			_, ok := cache.Get(id)
			if hit = hit && ok; hit {
				hits++
			}
			blocks++
			cache.Add(id, struct{}{})
		}
	}
	for begin := 0; begin+slice <= len(calls); begin += slice {
		requests := make([]*stages.Request, slice)
		for i := range requests {
			r := &stages.Request{}
			r.Tenant, r.ID, r.Class, r.Kind, r.Model, r.Body = "tenant", strconv.Itoa(begin+i), class, schemas.Chat, "m", calls[begin+i].body()
			requests[i] = r
		}
		decided := make(chan *stages.Request, slice)
		stage.Run(context.Background(), requests, func(r *stages.Request, v stages.Verdict) {
			decided <- r
			for _, other := range v.With {
				decided <- other
			}
		})
		for range slice {
			look(<-decided)
		}
	}
	return float64(hits) / float64(blocks), nil
}

// offlineOrders compares the order of arrival with that of the batch stage.
func offlineOrders(out io.Writer, data string) error {
	calls, err := readTrace(data)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Offline order, the same trace, a cache of %d blocks:\n\n| requests that wait together | as they came: cached | class batch: cached |\n| --- | --- | --- |\n", smallCache)
	for _, slice := range []int{32, 128, 512} {
		came, err := offlineOrder(calls, schemas.Interactive, slice)
		if err != nil {
			return err
		}
		sorted, err := offlineOrder(calls, schemas.Batch, slice)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "| %d | %.1f%% | %.1f%% |\n", slice, 100*came, 100*sorted)
	}
	fmt.Fprintln(out)
	return nil
}
