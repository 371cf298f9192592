// Package jsx holds what the product needs of JetStream beyond the client
// library: batched reads, reads from the leader and a resumable watch.
package jsx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// batchSubjects bounds the subjects of one read; the server allows 1,024.
	batchSubjects = 256
	// batchBytes bounds one answer, well below what a connection may hold back.
	batchBytes = 8 << 20
	// getTimeout bounds the wait for the next message of an answer.
	getTimeout = 5 * time.Second
)

// Stored is one message as a stream holds it.
type Stored struct {
	Subject  string
	Sequence uint64
	Header   nats.Header
	Data     []byte
	Time     time.Time // when it was stored; the zero time in what LastFromLeader gives
}

// Getter reads many messages of a stream in one round trip: the last ones of some
// subjects, or the next ones of one. It is safe for concurrent use.
type Getter struct {
	nc      *nats.Conn
	sub     *nats.Subscription
	inbox   string
	next    atomic.Uint64
	mu      sync.Mutex
	waiting map[string]*read
}

type read struct {
	messages []Stored
	last     uint64
	pending  uint64
	status   string
	more     chan struct{} // a message arrived
	done     chan struct{} // the answer is complete
}

// NewGetter makes a Getter with a subscription of its own. Close ends it.
func NewGetter(nc *nats.Conn) (*Getter, error) {
	g := &Getter{nc: nc, inbox: nc.NewInbox(), waiting: map[string]*read{}}
	sub, err := nc.Subscribe(g.inbox+".*", g.receive)
	if err != nil {
		return nil, fmt.Errorf("subscribing for batched reads: %w", err)
	}
	if err := sub.SetPendingLimits(-1, 256<<20); err != nil {
		return nil, fmt.Errorf("setting the limits of batched reads: %w", err)
	}
	g.sub = sub
	return g, nil
}

// Close ends the Getter; reads under way time out.
func (g *Getter) Close() { _ = g.sub.Unsubscribe() }

// Last gives the last message of each subject that has one, by subject. The
// read may be answered by any replica, so it may miss what was written a moment ago.
func (g *Getter) Last(ctx context.Context, stream string, subjects []string) (map[string]Stored, error) {
	found := make(map[string]Stored)
	for len(subjects) > 0 {
		n := min(len(subjects), batchSubjects)
		if err := g.last(ctx, stream, subjects[:n], found); err != nil {
			return nil, err
		}
		subjects = subjects[n:]
	}
	return found, nil
}

// Next gives up to most messages of a subject, in order, from a sequence on, of no
// more bytes than the first and maxBytes. The read may be answered by any replica,
// so it may miss what was written a moment ago.
func (g *Getter) Next(ctx context.Context, stream, subject string, from uint64, most, maxBytes int) ([]Stored, error) {
	r, err := g.ask(ctx, stream, getRequest{Next: subject, From: from, Batch: most, MaxBytes: maxBytes})
	if err != nil {
		return nil, fmt.Errorf("reading from stream %s: %w", stream, err)
	}
	if !strings.HasPrefix(r.status, "204") && !strings.HasPrefix(r.status, "404") {
		return nil, fmt.Errorf("reading from stream %s: the server answered %s", stream, r.status)
	}
	return r.messages, nil
}

type getRequest struct {
	Last     []string `json:"multi_last,omitempty"`
	Next     string   `json:"next_by_subj,omitempty"`
	From     uint64   `json:"seq,omitempty"`
	Batch    int      `json:"batch,omitempty"`
	MaxBytes int      `json:"max_bytes"`
}

// last reads one batch, in as many answers as its bytes need.
func (g *Getter) last(ctx context.Context, stream string, subjects []string, found map[string]Stored) error {
	for from := uint64(0); ; {
		r, err := g.ask(ctx, stream, getRequest{Last: subjects, From: from, MaxBytes: batchBytes})
		if err != nil {
			return fmt.Errorf("reading from stream %s: %w", stream, err)
		}
		for _, m := range r.messages {
			found[m.Subject] = m
		}
		switch {
		case strings.HasPrefix(r.status, "404"):
			return nil
		case !strings.HasPrefix(r.status, "204"):
			return fmt.Errorf("reading from stream %s: the server answered %s", stream, r.status)
		case r.pending == 0 || len(r.messages) == 0:
			return nil
		}
		from = r.last + 1
	}
}

func (g *Getter) ask(ctx context.Context, stream string, request getRequest) (*read, error) {
	payload, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	token := strconv.FormatUint(g.next.Add(1), 36)
	r := &read{more: make(chan struct{}, 1), done: make(chan struct{})}
	g.mu.Lock()
	g.waiting[token] = r
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.waiting, token)
		g.mu.Unlock()
	}()
	if err := g.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, g.inbox+"."+token, payload); err != nil {
		return nil, err
	}
	timeout := time.NewTimer(getTimeout)
	defer timeout.Stop()
	for {
		select {
		case <-r.done:
			return r, nil
		case <-r.more:
			timeout.Reset(getTimeout)
		case <-timeout.C:
			return nil, nats.ErrTimeout
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (g *Getter) receive(m *nats.Msg) {
	g.mu.Lock()
	r := g.waiting[m.Subject[len(g.inbox)+1:]]
	g.mu.Unlock()
	if r == nil {
		return
	}
	if m.Header.Get(jetstream.StreamHeader) == "" { // a word of the server and no message, whatever headers one was published with
		r.status = m.Header.Get("Status") + " " + m.Header.Get("Description")
		r.pending, _ = strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
		close(r.done)
		return
	}
	sequence, _ := strconv.ParseUint(ofServer(m, jetstream.SequenceHeader), 10, 64)
	stored, _ := time.Parse(time.RFC3339Nano, ofServer(m, jetstream.TimeStampHeaer))
	r.last = sequence
	r.messages = append(r.messages, Stored{ofServer(m, jetstream.SubjectHeader), sequence, m.Header, m.Data, stored})
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// ofServer gives a header that the server added to a stored message. It comes
// behind those of the same name that the message was published with.
func ofServer(m *nats.Msg, header string) string {
	values := m.Header.Values(header)
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// LastFromLeader gives the last message of a subject as the stream's leader
// holds it; found is false where there is none.
func LastFromLeader(ctx context.Context, nc *nats.Conn, stream, subject string) (m Stored, found bool, err error) {
	payload, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return Stored{}, false, err
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, getTimeout)
		defer cancel()
	}
	reply, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, payload)
	if err != nil {
		return Stored{}, false, fmt.Errorf("reading %s from stream %s: %w", subject, stream, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject  string `json:"subject"`
			Sequence uint64 `json:"seq"`
			Header   []byte `json:"hdrs"`
			Data     []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return Stored{}, false, fmt.Errorf("reading %s from stream %s: %w", subject, stream, err)
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return Stored{}, false, nil
		}
		return Stored{}, false, fmt.Errorf("reading %s from stream %s: %w", subject, stream, answer.Error)
	}
	header, err := nats.DecodeHeadersMsg(answer.Message.Header)
	if err != nil && len(answer.Message.Header) > 0 {
		return Stored{}, false, fmt.Errorf("reading the headers of %s: %w", subject, err)
	}
	return Stored{Subject: answer.Message.Subject, Sequence: answer.Message.Sequence, Header: header, Data: answer.Message.Data}, true, nil
}

// Publishing outcomes that the server names by number.
const (
	codeWrongLastSequence = 10071 // the subject's last sequence is another one
	codeInFlight          = 10164 // another proposal for the subject is under way
)

// IsWrongLastSequence reports that a compare-and-swap found another value: for
// expected sequence 0, that the message is stored already.
func IsWrongLastSequence(err error) bool { return hasCode(err, codeWrongLastSequence) }

// IsInFlight reports that somebody else's write to the subject is under way and
// may still fail: try again until it is decided.
func IsInFlight(err error) bool { return hasCode(err, codeInFlight) }

func hasCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}
