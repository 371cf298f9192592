package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// Held is where a stream holds messages of a tenant.
type Held struct {
	Stream string
	Filter string // the tenant's subjects in it
}

// HeldOf lists where the streams hold messages of a tenant, in the order in
// which a request passes them.
func (n Names) HeldOf(tenant string) []Held {
	p := n.Prefix
	list := []Held{{n.Requests(), n.Request(tenant)}, {n.Archive(), n.Request(tenant)}}
	for _, stage := range stages.Names[1:] {
		list = append(list, Held{n.Stage(stage), p + ".stages." + stage + ".*.*." + tenant})
	}
	return append(list,
		Held{n.Later(), n.LaterAt(tenant, "*")}, Held{n.Later(), p + ".later.due.*.*." + tenant},
		Held{n.Responses(), n.Response(tenant, "*")}, Held{n.Deltas(), n.Delta(tenant, "*")},
		Held{n.Feedback(), n.FeedbackOn(tenant)}, Held{n.Dead(), n.DeadLetter("*", tenant)})
}

// Working gives the ids of a tenant's requests that wait for a stage or are
// worked on: up to most of them. It needs the rights of an operator.
func (n Names) Working(ctx context.Context, js jetstream.JetStream, tenant string, most int) ([]string, error) {
	var ids []string
	for _, h := range n.HeldOf(tenant) {
		if h.Stream == n.Archive() || h.Stream == n.Later() {
			continue
		}
		if h.Stream == n.Responses() {
			break
		}
		stream, err := js.Stream(ctx, h.Stream)
		if err != nil {
			return ids, fmt.Errorf("looking for stream %s: %w", h.Stream, missingStream(err))
		}
		for next := uint64(1); len(ids) < most; {
			m, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(h.Filter))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			if err != nil {
				return ids, fmt.Errorf("reading stream %s: %w", h.Stream, err)
			}
			ids, next = append(ids, idsOf(m, h.Stream == n.Requests())...), m.Sequence+1
		}
	}
	return ids[:min(len(ids), most)], nil
}

// idsOf gives the ids of the requests in a message.
func idsOf(m *jetstream.RawStreamMsg, published bool) (ids []string) {
	if published {
		if id := m.Header.Get(HeaderID); schemas.ValidID(id) {
			return []string{id}
		}
		return []string{schemas.SequenceID(m.Sequence)}
	}
	for rest := m.Data; len(rest) > 0; {
		h, behind, err := schemas.ReadHandoff(rest)
		if err != nil {
			break // what cannot be read is not worked on
		}
		ids, rest = append(ids, h.ID), behind
	}
	return ids
}

// CacheKeys gives the keys of the cache, of those that keep is true for, that
// the stored responses to a tenant were found or kept under.
func (n Names) CacheKeys(ctx context.Context, js jetstream.JetStream, tenant string, keep func(key string) bool) (map[string]bool, error) {
	keys := map[string]bool{}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{n.Response(tenant, "*")}, HeadersOnly: true}
	err := jsx.Each(ctx, js, n.Responses(), cfg, func(m jetstream.Msg, _ *jetstream.MsgMetadata) (bool, error) {
		if key := m.Headers().Get(HeaderKey); key != "" && keep(key) {
			keys[key] = true
		}
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading responses: %w", missingStream(err))
	}
	return keys, nil
}

// ForgetDamaged removes the dead letters of nobody (tenant _) that came on a
// subject of the tenant, and gives how many there were: hand-offs that could not
// be read.
func (d *DeadLetters) ForgetDamaged(ctx context.Context, tenant string) (n int, err error) {
	var list []uint64
	err = d.Each(ctx, schemas.NoTenant, func(l DeadLetter) (bool, error) {
		if slices.Contains(strings.Split(l.Subject, "."), tenant) {
			list = append(list, l.Sequence)
		}
		return true, nil
	})
	if err != nil {
		return 0, err
	}
	for _, sequence := range list {
		if err := d.Delete(ctx, sequence); err != nil && !errors.Is(err, ErrNoDeadLetter) {
			return n, err
		}
		n++
	}
	return n, nil
}
