package streams

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/internal/jsx"
)

// Responses reads stored responses. It is safe for concurrent use.
type Responses struct {
	names Names
	get   *jsx.Getter
}

// NewResponses makes a reader with a subscription of its own. Close ends it.
func NewResponses(nc *nats.Conn, names Names) (*Responses, error) {
	get, err := jsx.NewGetter(nc)
	if err != nil {
		return nil, err
	}
	return &Responses{names, get}, nil
}

// Close ends the reader.
func (r *Responses) Close() { r.get.Close() }

// Response is a stored response.
type Response struct {
	Body []byte
	Key  string // the fingerprint that the cache knows the request by; empty where it has none
}

// FindWhole is Find with what stands beside the bodies.
func (r *Responses) FindWhole(ctx context.Context, keys []string) (map[string]Response, error) {
	stored, prefix, err := r.find(ctx, keys)
	found := make(map[string]Response, len(stored))
	for subject, m := range stored {
		found[subject[len(prefix):]] = Response{m.Data, m.Header.Get(HeaderKey)}
	}
	return found, err
}

// Find gives the stored responses to those requests (tenant.id) that have one,
// in one round trip for some hundred.
func (r *Responses) Find(ctx context.Context, keys []string) (map[string][]byte, error) {
	stored, prefix, err := r.find(ctx, keys)
	if err != nil {
		return nil, err
	}
	found := make(map[string][]byte, len(stored))
	for subject, m := range stored {
		found[subject[len(prefix):]] = m.Data
	}
	return found, nil
}

// find gives the stored messages by subject, and what the subjects begin with.
func (r *Responses) find(ctx context.Context, keys []string) (stored map[string]jsx.Stored, prefix string, err error) {
	prefix = r.names.Prefix + ".responses."
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = prefix + key
	}
	stored, err = r.get.Last(ctx, r.names.Responses(), subjects)
	if err != nil {
		return nil, prefix, fmt.Errorf("looking for stored responses: %w", err)
	}
	return stored, prefix, nil
}
