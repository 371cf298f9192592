package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// carryChunk is how much of a stream travels in a message.
	carryChunk = 128 << 10
	// carryTimeout bounds the wait for the next piece of a stream, and for the
	// server that gets it.
	carryTimeout = time.Minute
)

// Carry copies the streams and buckets of a prefix, with their consumers, from a
// server to another that has none of them, every message under the sequence that
// it has. What is in memory only is left out. Nobody may use them meanwhile, and
// Provision completes them. It gives the names of what it carried; what is there
// already is an error.
func Carry(ctx context.Context, from, to *nats.Conn, prefix string) (carried []string, err error) {
	old, err := jetstream.New(from)
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	var names []string
	lister := old.ListStreams(ctx)
	for info := range lister.Info() {
		if name := info.Config.Name; info.Config.Storage == jetstream.FileStorage &&
			(strings.HasPrefix(name, strings.ToUpper(prefix)+"_") || strings.HasPrefix(name, "KV_"+prefix+"_")) {
			names = append(names, name)
		}
	}
	if err := lister.Err(); err != nil {
		return nil, fmt.Errorf("listing streams: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := carryStream(ctx, from, to, name); err != nil {
			return carried, fmt.Errorf("carrying stream %s: %w", name, err)
		}
		carried = append(carried, name)
	}
	return carried, nil
}

// snapshot is the head of what a server sends of a stream.
type snapshot struct {
	Error  *jetstream.APIError        `json:"error,omitempty"`
	Config map[string]json.RawMessage `json:"config,omitempty"`
	State  json.RawMessage            `json:"state,omitempty"`
}

// carryStream moves one stream piece by piece: none is asked for before the one
// before it has arrived.
func carryStream(ctx context.Context, from, to *nats.Conn, name string) error {
	inbox := from.NewInbox()
	pieces, err := from.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = pieces.Unsubscribe() }()
	var head snapshot
	request := map[string]any{"deliver_subject": inbox, "chunk_size": carryChunk, "jsck": true}
	if err := call(ctx, from, "$JS.API.STREAM.SNAPSHOT."+name, request, &head); err != nil {
		return fmt.Errorf("reading it: %w", err)
	}
	if head.Error != nil {
		return fmt.Errorf("reading it: %w", head.Error)
	}
	// An archive that has its sources while it is still empty begins to copy them
	// anew. It gets them back when it is provisioned, and goes on where it was.
	delete(head.Config, "sources")
	var begun struct {
		Error   *jetstream.APIError `json:"error"`
		Deliver string              `json:"deliver_subject"`
	}
	if err := call(ctx, to, "$JS.API.STREAM.RESTORE."+name, snapshot{Config: head.Config, State: head.State}, &begun); err != nil {
		return fmt.Errorf("writing it: %w", err)
	}
	if begun.Error != nil {
		return fmt.Errorf("writing it: %w", begun.Error)
	}
	return handOver(ctx, pieces, to, begun.Deliver)
}

// handOver hands pieces on until the one that is the end.
func handOver(ctx context.Context, pieces *nats.Subscription, to *nats.Conn, subject string) error {
	for {
		piece, err := next(ctx, pieces)
		if err != nil {
			return fmt.Errorf("reading it: %w", err)
		}
		if status := piece.Header.Get("Status"); status != "" && status != "204" {
			return fmt.Errorf("reading it: %s %s", status, piece.Header.Get("Description"))
		}
		ctx, cancel := context.WithTimeout(ctx, carryTimeout)
		reply, err := to.RequestWithContext(ctx, subject, piece.Data)
		cancel()
		if err != nil {
			return fmt.Errorf("writing it: %w", err)
		}
		var answer struct {
			Error *jetstream.APIError `json:"error"`
		}
		if len(reply.Data) > 0 {
			if err := json.Unmarshal(reply.Data, &answer); err != nil {
				return fmt.Errorf("writing it: %w", err)
			}
			if answer.Error != nil {
				return fmt.Errorf("writing it: %w", answer.Error)
			}
		}
		if len(piece.Data) == 0 {
			return nil
		}
		if piece.Reply != "" {
			if err := piece.Respond(nil); err != nil {
				return err
			}
		}
	}
}

func next(ctx context.Context, pieces *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, carryTimeout)
	defer cancel()
	m, err := pieces.NextMsgWithContext(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("the server sent nothing for %v: %w", carryTimeout, err)
	}
	return m, err
}

func call(ctx context.Context, nc *nats.Conn, subject string, request, answer any) error {
	payload, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, carryTimeout)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, subject, payload)
	if err != nil {
		return err
	}
	return json.Unmarshal(reply.Data, answer)
}
