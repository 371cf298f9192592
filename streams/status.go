package streams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// Where a request may be.
const (
	Answered = "answered" // its answer is stored
	Failed   = "failed"   // its error is stored
	Waiting  = "waiting"  // it waits for a stage, or is worked on there
	Delayed  = "delayed"  // it waits until a time: for a budget, or a long retry
	Unknown  = "unknown"  // never accepted, or its response has expired
)

// maxScan bounds how many waiting messages of a tenant Locate looks through in
// each stream: work queues can be read one message at a time only.
const maxScan = 20_000

// Whereabouts is where a request is.
type Whereabouts struct {
	ID     string    `json:"id"`
	Tenant string    `json:"tenant"`
	State  string    `json:"state"`
	Stage  string    `json:"stage,omitempty"`          // that it waits for or is in
	Since  time.Time `json:"since,omitzero"`           // when it came there
	Until  time.Time `json:"until,omitzero"`           // of Delayed
	Beyond bool      `json:"more_than_seen,omitempty"` // of Unknown: more waits than was looked through
}

// Locate finds a request. It looks through what waits, from the first stage to
// the last, so that a request that moves meanwhile is met. It needs the rights
// of an operator.
func (c *Client) Locate(ctx context.Context, id string) (Whereabouts, error) {
	if !schemas.ValidName(id) {
		return Whereabouts{}, fmt.Errorf("id %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", id)
	}
	w := Whereabouts{ID: id, Tenant: c.tenant, State: Unknown}
	for _, look := range []func(context.Context, *Whereabouts) error{c.inResponses, c.inLater, c.inRequests, c.inStages, c.inResponses} {
		if err := look(ctx, &w); err != nil {
			return Whereabouts{}, fmt.Errorf("looking for %s: %w", id, err)
		}
		if w.State != Unknown {
			w.Beyond = false
			break
		}
	}
	return w, nil
}

func (c *Client) inResponses(ctx context.Context, w *Whereabouts) error {
	body, found, err := c.stored(ctx, w.ID)
	if !found || err != nil {
		return err
	}
	w.State = Answered
	if failed, ok := schemas.Member(body, "error"); ok && string(failed.Of(body)) != "null" {
		w.State = Failed
	}
	return nil
}

func (c *Client) inLater(ctx context.Context, w *Whereabouts) error {
	stream, err := c.js.Stream(ctx, c.names.Later())
	if err != nil {
		return err
	}
	m, err := stream.GetLastMsgForSubject(ctx, c.names.LaterAt(c.tenant, w.ID))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	w.State, w.Since = Delayed, m.Time
	w.Until, _ = time.Parse(time.RFC3339, strings.TrimPrefix(m.Header.Get("Nats-Schedule"), "@at "))
	if target := strings.Split(m.Header.Get("Nats-Schedule-Target"), "."); len(target) == 6 {
		w.Stage = target[3] // <prefix>.later.due.<stage>.<class>.<tenant>
	}
	return nil
}

func (c *Client) inRequests(ctx context.Context, w *Whereabouts) error {
	if sequence, err := strconv.ParseUint(w.ID, 10, 64); err == nil {
		return c.scan(ctx, w, stages.Compress, c.names.Requests(), c.names.Request(c.tenant), sequence, 1, func(m *jetstream.RawStreamMsg) bool {
			return m.Sequence == sequence
		})
	}
	return c.scan(ctx, w, stages.Compress, c.names.Requests(), c.names.Request(c.tenant), 1, maxScan, func(m *jetstream.RawStreamMsg) bool {
		return m.Header.Get(HeaderID) == w.ID
	})
}

func (c *Client) inStages(ctx context.Context, w *Whereabouts) error {
	for _, stage := range stages.Names {
		for _, class := range schemas.Classes {
			subjects := map[string]string{c.names.Later(): c.names.LaterDue(stage, class, c.tenant)}
			if stage != stages.Compress { // which takes from the requests
				subjects[c.names.Stage(stage)] = c.names.Prefix + ".stages." + stage + "." + string(class) + ".*." + c.tenant
			}
			for stream, subject := range subjects {
				err := c.scan(ctx, w, stage, stream, subject, 1, maxScan, func(m *jetstream.RawStreamMsg) bool { return carries(m.Data, w.ID) })
				if err != nil || w.State != Unknown {
					return err
				}
			}
		}
	}
	return nil
}

// scan reads up to most messages of a subject, from a sequence on, until one is
// the one.
func (c *Client) scan(ctx context.Context, w *Whereabouts, stage, name, subject string, from uint64, most int, is func(*jetstream.RawStreamMsg) bool) error {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return err
	}
	for range most {
		m, err := stream.GetMsg(ctx, from, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if is(m) {
			w.State, w.Stage, w.Since = Waiting, stage, m.Time
			return nil
		}
		from = m.Sequence + 1
	}
	w.Beyond = most > 1
	return nil
}

// carries reports whether one of the hand-offs in a message is of the request.
func carries(data []byte, id string) bool {
	if !bytes.Contains(data, []byte(`"`+id+`"`)) {
		return false
	}
	for len(data) > 0 {
		h, rest, err := schemas.ReadHandoff(data)
		if err != nil {
			return false
		}
		if h.ID == id {
			return true
		}
		data = rest
	}
	return false
}
