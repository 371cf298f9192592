package kv

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
)

// TenantKeys are the keys of a tenant in one bucket.
type TenantKeys struct {
	Bucket string   // its full name
	Keys   []string // with wildcards
	Follow bool     // replicas hold them in memory, and must be told
}

// KeysOf lists the keys of a tenant in all buckets but that of leases. Templates
// belong to all tenants, and what is learnt of models is not kept by tenant.
func (l Layout) KeysOf(tenant string) []TenantKeys {
	one, all := []string{tenant}, []string{tenant + ".>"}
	return []TenantKeys{
		{l.Bucket(BucketCache), all, true},
		{l.Bucket(BucketAnswers), all, false},
		{l.Bucket("budget"), append(one, all...), true},
		{l.Bucket("limits"), one, true},
		{l.Bucket(BucketCancelled), all, true},
		{l.Bucket(BucketSlots), one, false},
	}
}

// LeasesOf gives how many calls of a tenant may run now, by their leases: those
// of calls that were answered count until they run out, after 15 s at most.
func (l Layout) LeasesOf(ctx context.Context, js jetstream.JetStream, tenant string) (held int, err error) {
	bucket := l.Bucket(BucketLeases)
	err = EachMessage(ctx, js, "KV_"+bucket, "$KV."+bucket+"."+tenant+".>", func(m jetstream.Msg) error {
		if !jsx.Removed(m.Headers()) {
			held++
		}
		return nil
	})
	return held, err
}

// Forget marks keys of a bucket as deleted, so that all replicas drop them, and
// gives how many there were. The markers stay.
func Forget(ctx context.Context, js jetstream.JetStream, bucket, keys string) (n int, err error) {
	var futures []jetstream.PubAckFuture
	err = EachMessage(ctx, js, "KV_"+bucket, "$KV."+bucket+"."+keys, func(m jetstream.Msg) error {
		if jsx.Removed(m.Headers()) {
			return nil
		}
		n++
		future, err := js.PublishMsgAsync(&nats.Msg{Subject: m.Subject(), Header: nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}})
		if err != nil {
			return err
		}
		futures = append(futures, future)
		return nil
	})
	for _, future := range futures {
		select {
		case <-future.Ok():
		case failed := <-future.Err():
			err = errors.Join(err, failed)
		case <-ctx.Done():
			return n, ctx.Err()
		}
	}
	if err != nil {
		return n, fmt.Errorf("removing %s from bucket %s: %w", keys, bucket, err)
	}
	return n, nil
}
