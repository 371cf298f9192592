package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
)

// The buckets, by what stands behind the prefix in their names.
const (
	BucketCache     = "cache"
	BucketAnswers   = "answers"
	BucketLeases    = "leases"
	BucketTemplates = "templates"
	BucketModels    = "models"
	BucketCancelled = "cancelled"
	BucketRates     = "rates"
	BucketSlots     = "slots"
)

const (
	cancelledFor   = time.Hour
	cancelledBytes = 64 << 20
	leasesBytes    = 256 << 20
	templatesBytes = 256 << 20
	modelsBytes    = 64 << 20
	ratesFor       = 5 * time.Minute // after which a minute's allowance is whole anyway
	ratesBytes     = 16 << 20
	slotsBytes     = 16 << 20
	// markerTTL is how long the marker of a deleted or expired key stays, so
	// that a watch that was cut off for a while still learns of it.
	markerTTL = time.Hour
	// templateHistory is how many revisions of a template can be pinned.
	templateHistory = 64
)

// Layout is what Provision sets up.
type Layout struct {
	Prefix       string
	Replicas     int // servers that keep each bucket, at least
	AnswersBytes int64
	AnswersAge   time.Duration // as long as responses are kept
	CacheBytes   int64
}

// Bucket is the full name of a bucket.
func (l Layout) Bucket(name string) string { return l.Prefix + "_" + name }

// Provision sets up all buckets but those of the budgets. It is idempotent.
func Provision(ctx context.Context, js jetstream.JetStream, l Layout) error {
	replicas := max(l.Replicas, 1)
	for _, cfg := range []jetstream.KeyValueConfig{
		{Bucket: l.Bucket(BucketAnswers), TTL: l.AnswersAge, MaxBytes: l.AnswersBytes},
		{Bucket: l.Bucket(BucketTemplates), History: templateHistory, MaxBytes: templatesBytes},
		{Bucket: l.Bucket(BucketModels), MaxBytes: modelsBytes},
		{Bucket: l.Bucket(BucketCancelled), TTL: cancelledFor, MaxBytes: cancelledBytes},
		{Bucket: l.Bucket(BucketRates), TTL: ratesFor, MaxBytes: ratesBytes},
		{Bucket: l.Bucket(BucketSlots), MaxBytes: slotsBytes},
	} {
		if err := ensureBucket(ctx, js, cfg, replicas); err != nil {
			return err
		}
	}
	if err := provisionLeases(ctx, js, l); err != nil {
		return err
	}
	return provisionCache(ctx, js, l)
}

// provisionLeases makes the leases' bucket, which is in memory: it goes with the
// only server that has it, and is made anew when that is back. It is made by
// hand, since most leases run out: where the client library lets messages have
// an end, the server stores a marker of each.
func provisionLeases(ctx context.Context, js jetstream.JetStream, l Layout) error {
	bucket := l.Bucket(BucketLeases)
	name := "KV_" + bucket
	have, err := jsx.Copies(ctx, js, name)
	if err != nil {
		return err
	}
	cfg := jetstream.StreamConfig{
		Name: name, Subjects: []string{"$KV." + bucket + ".>"}, Storage: jetstream.MemoryStorage,
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, MaxBytes: leasesBytes,
		AllowRollup: true, DenyDelete: true, AllowDirect: true, AllowMsgTTL: true,
		Replicas: max(have, l.Replicas, 1),
	}
	if _, err := js.CreateOrUpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("setting up bucket %s: %w", bucket, err)
	}
	if have > 0 && have < cfg.Replicas {
		return jsx.AwaitCopies(ctx, js, name)
	}
	return nil
}

// Buckets lists the full names of all buckets, those of the budgets too.
func (l Layout) Buckets() []string {
	var list []string
	for _, name := range []string{BucketCache, BucketAnswers, BucketLeases, "budget", "limits", BucketTemplates, BucketModels, BucketCancelled, BucketRates, BucketSlots} {
		list = append(list, l.Bucket(name))
	}
	return list
}

// ensureBucket makes a bucket or brings it to the wanted configuration. It never
// takes copies away.
func ensureBucket(ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig, replicas int) error {
	have, err := jsx.Copies(ctx, js, "KV_"+cfg.Bucket)
	if err != nil {
		return err
	}
	cfg.Replicas = max(have, replicas)
	if _, err := js.CreateOrUpdateKeyValue(ctx, cfg); err != nil {
		return fmt.Errorf("setting up bucket %s: %w", cfg.Bucket, err)
	}
	if have > 0 && have < cfg.Replicas {
		return jsx.AwaitCopies(ctx, js, "KV_"+cfg.Bucket)
	}
	return nil
}

// provisionCache makes the cache's bucket by hand: a bucket that the client
// library makes refuses writes when it is full, this one drops its oldest.
func provisionCache(ctx context.Context, js jetstream.JetStream, l Layout) error {
	bucket := l.Bucket(BucketCache)
	cfg := jetstream.StreamConfig{
		Name: "KV_" + bucket, Subjects: []string{"$KV." + bucket + ".>"},
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld, MaxBytes: l.CacheBytes,
		AllowRollup: true, DenyDelete: true, AllowDirect: true,
		AllowMsgTTL: true, SubjectDeleteMarkerTTL: markerTTL,
		Duplicates: 100 * time.Millisecond, Replicas: max(l.Replicas, 1),
	}
	stream, err := js.Stream(ctx, cfg.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, cfg)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			err = nil // another replica was faster
		}
	} else if err == nil {
		have := stream.CachedInfo().Config
		cfg.Metadata = have.Metadata // holds what was chosen (cache_choice.go)
		if cfg.Replicas = max(cfg.Replicas, have.Replicas); have.MaxBytes != cfg.MaxBytes || have.Replicas != cfg.Replicas {
			_, err = js.UpdateStream(ctx, cfg)
		}
		if err == nil && have.Replicas < cfg.Replicas {
			err = jsx.AwaitCopies(ctx, js, cfg.Name)
		}
	}
	if err != nil {
		return fmt.Errorf("setting up bucket %s: %w", bucket, err)
	}
	return nil
}
