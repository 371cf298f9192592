package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
)

const (
	// requestTimeout bounds one write or read; what has no answer by then is
	// looked up and tried again.
	requestTimeout = 2 * time.Second
	// dayTTL is how long the usage of a day is kept.
	dayTTL = 400 * 24 * time.Hour
	// MaxBytes is what the two buckets may hold together: the records and 400 days
	// of some ten thousand tenants. Full means that no tenant more gets a budget.
	MaxBytes    = budgetBytes + limitsBytes
	budgetBytes = 1 << 30
	limitsBytes = 64 << 20
)

// errConflict is a write that came after somebody else's.
var errConflict = errors.New("somebody else wrote first")

// Streams lists the streams of the ledger's two buckets, <prefix>_budget and
// <prefix>_limits. Reads must see what was written, so they go to the leader:
// direct reads are off.
func Streams(prefix string, replicas int) []jetstream.StreamConfig {
	streams := []jetstream.StreamConfig{
		{Name: "KV_" + budgetBucket(prefix), Subjects: []string{"$KV." + budgetBucket(prefix) + ".>"}, MaxBytes: budgetBytes},
		{Name: "KV_" + limitsBucket(prefix), Subjects: []string{"$KV." + limitsBucket(prefix) + ".>"}, MaxBytes: limitsBytes},
	}
	for i := range streams {
		streams[i].MaxMsgsPerSubject = 1
		streams[i].Discard = jetstream.DiscardNew
		streams[i].AllowRollup = true
		streams[i].DenyDelete = true
		streams[i].AllowMsgTTL = true // for the usage of past days
		streams[i].Duplicates = 100 * time.Millisecond
		streams[i].Replicas = max(replicas, 1)
	}
	return streams
}

func budgetBucket(prefix string) string { return prefix + "_budget" }
func limitsBucket(prefix string) string { return prefix + "_limits" }

// Provision makes the buckets that are missing, copies them to more servers
// where replicas asks for that, and refuses those that would break the ledger's
// promises. Open does it too.
func Provision(ctx context.Context, js jetstream.JetStream, prefix string, replicas int) error {
	for _, want := range Streams(prefix, replicas) {
		stream, err := js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			stream, err = js.CreateStream(ctx, want)
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another replica made it
				stream, err = js.Stream(ctx, want.Name)
			}
		}
		if err != nil {
			return fmt.Errorf("making stream %s: %w", want.Name, err)
		}
		if have := stream.CachedInfo().Config; have.MaxAge != 0 || have.Discard != jetstream.DiscardNew {
			return fmt.Errorf("stream %s would drop budgets: its max_age is %v and its discard policy %v; it must be 0 and new",
				want.Name, have.MaxAge, have.Discard)
		}
		if err := adapt(ctx, js, stream.CachedInfo().Config, want); err != nil {
			return err
		}
	}
	return nil
}

// adapt brings a stream to as many copies as are wanted, none taken away, and
// limits one that has no limit.
func adapt(ctx context.Context, js jetstream.JetStream, have, want jetstream.StreamConfig) error {
	more := have.Replicas < want.Replicas
	if !more && have.MaxBytes > 0 {
		return nil
	}
	have.Replicas = max(have.Replicas, want.Replicas)
	if have.MaxBytes <= 0 {
		have.MaxBytes = want.MaxBytes
	}
	if _, err := js.UpdateStream(ctx, have); err != nil {
		return fmt.Errorf("setting stream %s to %d copies and %d bytes: %w", have.Name, have.Replicas, have.MaxBytes, err)
	}
	if !more {
		return nil
	}
	return jsx.AwaitCopies(ctx, js, have.Name)
}

// bucket reads and writes one bucket.
type bucket struct {
	js   jetstream.JetStream
	name string
}

func (b bucket) subject(key string) string { return "$KV." + b.name + "." + key }

// put writes a value if the key's revision still is the expected one; 0 is a
// key that nobody wrote. An error other than errConflict leaves the outcome open.
func (b bucket) put(ctx context.Context, key string, value []byte, expected uint64, options ...jetstream.PublishOpt) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m := nats.NewMsg(b.subject(key))
	m.Data = value
	ack, err := b.js.PublishMsg(ctx, m, append(options, jetstream.WithExpectLastSequencePerSubject(expected))...)
	switch {
	case jsx.IsWrongLastSequence(err), jsx.IsInFlight(err):
		return 0, errConflict
	case err != nil:
		return 0, fmt.Errorf("writing %s to bucket %s: %w", key, b.name, err)
	}
	return ack.Sequence, nil
}

// get reads a key from the leader. A key that is not there is nil, with the
// revision that a write has to expect.
func (b bucket) get(ctx context.Context, key string) (value []byte, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, found, err := jsx.LastFromLeader(ctx, b.js.Conn(), "KV_"+b.name, b.subject(key))
	switch {
	case err != nil:
		return nil, 0, err
	case !found:
		return nil, 0, nil
	case jsx.Removed(m.Header):
		return nil, m.Sequence, nil
	}
	return m.Data, m.Sequence, nil
}

// purge removes a key, leaving a marker that watchers see.
func (b bucket) purge(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m := nats.NewMsg(b.subject(key))
	m.Header.Set("KV-Operation", "PURGE")
	m.Header.Set("Nats-Rollup", "sub")
	_, err := b.js.PublishMsg(ctx, m)
	return err
}

// readRecord reads a tenant's record from the leader.
func readRecord(ctx context.Context, b bucket, tenant string) (*record, error) {
	value, revision, err := b.get(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return recordOf(value, revision)
}

func dayKey(tenant, date string) string { return tenant + "." + date }

func recordOf(value []byte, revision uint64) (*record, error) {
	if len(value) == 0 {
		return &record{revision: revision}, nil
	}
	return decodeRecord(value, revision)
}
