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

// Find gives the stored responses to those requests (tenant.id) that have one,
// in one round trip for some hundred.
func (r *Responses) Find(ctx context.Context, keys []string) (map[string][]byte, error) {
	prefix := r.names.Prefix + ".responses."
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = prefix + key
	}
	stored, err := r.get.Last(ctx, r.names.Responses(), subjects)
	if err != nil {
		return nil, fmt.Errorf("looking for stored responses: %w", err)
	}
	found := make(map[string][]byte, len(stored))
	for subject, m := range stored {
		found[subject[len(prefix):]] = m.Data
	}
	return found, nil
}
