package streams

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// Headers of the chunks of a streamed answer.
const (
	// HeaderDelta numbers the chunks, from 1.
	HeaderDelta = "Llm-Delta"
	// HeaderAttempt names the attempt that a chunk is of. One that failed in its
	// middle is followed by another, which begins at 1 again: a reader drops what
	// it has of the older one, and what may still come of it.
	HeaderAttempt = "Llm-Attempt"
)

// Missed is the subject on which a reader asks for stored chunks, on core NATS.
func (n Names) Missed(tenant, id string) string { return n.Prefix + ".missed." + tenant + "." + id }

// Deltas publishes streamed answers as they come. It is safe for concurrent use.
type Deltas struct {
	nc    *nats.Conn
	names Names
}

// NewDeltas makes a publisher.
func NewDeltas(nc *nats.Conn, names Names) *Deltas { return &Deltas{nc, names} }

// Begin starts an attempt at an answer: send publishes its next chunk. It never
// waits, not even for an acknowledgement: the whole answer is stored at the end,
// whatever becomes of its chunks.
func (d *Deltas) Begin(r *stages.Request) (send func(chunk []byte)) {
	subject, number := d.names.Delta(r.Tenant, r.ID), 0
	attempt := []string{nuid.Next()}
	return func(chunk []byte) {
		number++
		_ = d.nc.PublishMsg(&nats.Msg{Subject: subject, Data: chunk, Header: nats.Header{
			HeaderDelta: []string{strconv.Itoa(number)}, HeaderAttempt: attempt,
		}})
	}
}

const (
	// missedQueue has each request for chunks handled by one process.
	missedQueue = "missed"
	// missedSlice and missedBytes bound the chunks of one reply.
	missedSlice = 512
	missedBytes = 4 << 20
)

// chunksRequest asks the server for stored messages of a subject.
type chunksRequest struct {
	From     uint64 `json:"seq"`
	Subject  string `json:"next_by_subj"`
	Batch    int    `json:"batch"`
	MaxBytes int    `json:"max_bytes"`
}

// missedReads bounds the reads for such requests that run in a process at once.
const missedReads = 64

// ServeMissed answers those who ask for the stored chunks of an answer from a
// stream sequence on (the body, in decimal; empty is 1): it sends them what a
// batched direct get on the stream of deltas gives. A tenant needs no right to
// read that stream, which would be a right to read all of it.
func ServeMissed(nc *nats.Conn, names Names) (*nats.Subscription, error) {
	prefix := names.Prefix + ".missed."
	slots := make(chan struct{}, missedReads)
	sub, err := nc.QueueSubscribe(prefix+"*.*", missedQueue, func(m *nats.Msg) {
		tenant, id, _ := strings.Cut(strings.TrimPrefix(m.Subject, prefix), ".")
		if !schemas.ValidName(tenant) || !schemas.ValidName(id) || !safeReply(names, m.Reply) {
			return
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			relayMissed(nc, names, names.Delta(tenant, id), m)
		}()
	})
	if err != nil {
		return nil, fmt.Errorf("subscribing to requests for chunks: %w", err)
	}
	return sub, nil
}

// relayMissed reads one slice of chunks and sends them on, with the end mark
// behind them. The server refuses to send to the reply subjects of other
// accounts by itself. Who gets no end asks again.
func relayMissed(nc *nats.Conn, names Names, subject string, asked *nats.Msg) {
	from, err := strconv.ParseUint(string(asked.Data), 10, 64)
	if err != nil {
		from = 1
	}
	body, err := json.Marshal(chunksRequest{max(from, 1), subject, missedSlice, missedBytes})
	if err != nil {
		return
	}
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return
	}
	defer func() { _ = sub.Unsubscribe() }()
	if nc.PublishRequest("$JS.API.DIRECT.GET."+names.Deltas(), inbox, body) != nil {
		return
	}
	for {
		m, err := sub.NextMsg(lookupTimeout)
		if err != nil || asked.RespondMsg(&nats.Msg{Header: m.Header, Data: m.Data}) != nil {
			return
		}
		if m.Header.Get("Status") != "" {
			return
		}
	}
}

// safeReply reports whether a subject that somebody else chose may be sent to:
// none of the product's or of the server's own.
func safeReply(names Names, reply string) bool {
	return reply != "" && reply[0] != '$' && !strings.HasPrefix(reply, names.Prefix+".")
}
