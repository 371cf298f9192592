package kv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
)

// ErrNoEntry is a key without an entry.
var ErrNoEntry = errors.New("there is no such entry")

// StoredEntry is an entry as the bucket holds it.
type StoredEntry struct {
	Key string `json:"key"`
	Entry
	Stored time.Time `json:"stored"`
	Bytes  int       `json:"bytes"` // of its value
}

// CacheStore is the cache's bucket for operators: it reads and removes entries
// without following the bucket.
type CacheStore struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	bucket string
}

// OpenCacheStore opens the bucket, which must be there.
func OpenCacheStore(ctx context.Context, js jetstream.JetStream, l Layout) (*CacheStore, error) {
	bucket := l.Bucket(BucketCache)
	stream, err := js.Stream(ctx, "KV_"+bucket)
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", bucket, err)
	}
	return &CacheStore{js: js, stream: stream, bucket: bucket}, nil
}

func (s *CacheStore) subject(key string) string { return "$KV." + s.bucket + "." + key }

// Size gives the bytes that the bucket takes, and may take, for all tenants.
func (s *CacheStore) Size(ctx context.Context) (used, limit int64, err error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("looking at bucket %s: %w", s.bucket, err)
	}
	return int64(info.State.Bytes), info.Config.MaxBytes, nil
}

// Each calls f with each entry of a scope (a tenant, or what all share) that can
// be read, the oldest first; those that stand for another one (Of) too.
func (s *CacheStore) Each(ctx context.Context, tenant string, f func(StoredEntry) error) error {
	return EachMessage(ctx, s.js, "KV_"+s.bucket, s.subject(tenant+".*"), func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		e, ok := s.entry(m.Subject(), m.Headers(), m.Data(), meta.Timestamp)
		if !ok {
			return nil
		}
		return f(e)
	})
}

func (s *CacheStore) entry(subject string, header nats.Header, data []byte, stored time.Time) (StoredEntry, bool) {
	e := StoredEntry{Key: strings.TrimPrefix(subject, s.subject("")), Stored: stored, Bytes: len(data)}
	return e, !jsx.Removed(header) && json.Unmarshal(data, &e.Entry) == nil && e.whole(e.Key) && !e.Passing
}

// Get gives the entry of a key (tenant.fingerprint), or ErrNoEntry.
func (s *CacheStore) Get(ctx context.Context, key string) (StoredEntry, error) {
	m, err := s.last(ctx, key)
	if err != nil {
		return StoredEntry{}, err
	}
	e, ok := s.entry(m.Subject, m.Header, m.Data, m.Time)
	if !ok {
		return e, fmt.Errorf("%.200q: %w", key, ErrNoEntry)
	}
	return e, nil
}

// Resolve gives the entry of a key or, where it stands for another one, that.
func (s *CacheStore) Resolve(ctx context.Context, key string) (StoredEntry, error) {
	e, err := s.Get(ctx, key)
	if err != nil || e.Of == "" {
		return e, err
	}
	return s.Get(ctx, e.Of)
}

// last reads what the bucket holds of a key, whatever it is like; what was
// removed is no entry. A key with a wildcard is none, whatever it would find.
func (s *CacheStore) last(ctx context.Context, key string) (*jetstream.RawStreamMsg, error) {
	scope, name, two := strings.Cut(key, ".")
	if !two || scope == "" || name == "" || strings.ContainsAny(scope+name, ".*> \t\r\n") {
		return nil, fmt.Errorf("%.200q: %w", key, ErrNoEntry)
	}
	m, err := s.stream.GetLastMsgForSubject(ctx, s.subject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && jsx.Removed(m.Header) {
		return nil, fmt.Errorf("%.200q: %w", key, ErrNoEntry)
	}
	if err != nil {
		return nil, fmt.Errorf("reading entry %.200q: %w", key, err)
	}
	return m, nil
}

// Has reports whether there is something under a key, also if it cannot be read.
func (s *CacheStore) Has(ctx context.Context, key string) (bool, error) {
	_, err := s.last(ctx, key)
	if errors.Is(err, ErrNoEntry) {
		return false, nil
	}
	return err == nil, err
}

// Purge removes a key that there is (Has) in all replicas.
func (s *CacheStore) Purge(ctx context.Context, key string) error {
	if _, err := s.js.PublishMsg(ctx, deletion(s.subject(key))); err != nil {
		return fmt.Errorf("removing entry %.200q: %w", key, err)
	}
	return nil
}

// EachMessage calls f with each message that a stream holds now under a subject.
func EachMessage(ctx context.Context, js jetstream.JetStream, stream, subject string, f func(jetstream.Msg) error) error {
	err := jsx.Each(ctx, js, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}},
		func(m jetstream.Msg, _ *jetstream.MsgMetadata) (bool, error) { return true, f(m) }, jetstream.PullMaxMessages(500))
	if err != nil {
		return fmt.Errorf("reading stream %s: %w", stream, err)
	}
	return nil
}
