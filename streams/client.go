package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"github.com/adpa/processor/schemas"
)

const (
	// lookups is how many stored responses are asked for at a time.
	lookups = 64
	// lookupTimeout bounds one such read.
	lookupTimeout = 5 * time.Second
	// pollFirst and pollMost bound the growing time between looks at the stored
	// response, which find what a lost connection missed.
	pollFirst = 500 * time.Millisecond
	pollMost  = 10 * time.Second
	// pendingBytes bounds the answers that a subscription holds back. What comes
	// past it is dropped there and found among the stored responses.
	pendingBytes = 64 << 20
)

// The failures of a client that are not the server's words.
var (
	// ErrNotAccepted is a publish that the server acknowledged as a duplicate of
	// another message: nobody will work on it.
	ErrNotAccepted = errors.New("the server took the request for a duplicate and dropped it")
	// ErrUnknown is a publish whose acknowledgement was lost. The request may be
	// worked on. With an id of its own it may safely be published again.
	ErrUnknown = errors.New("the acknowledgement was lost: the request may have been accepted")
	// ErrNoStreams is a server on which nothing has set up the streams.
	ErrNoStreams = errors.New("the server has no streams of the product")
)

// Message is a request to publish.
type Message struct {
	ID       string        // Llm-Id; empty leaves it to the server: the stream's sequence
	Class    schemas.Class // empty means interactive
	Deadline time.Time     // zero means none
	Body     []byte        // of an OpenAI chat completion or embeddings request
}

// Answer is the response to a request: an answer or an error.
type Answer struct {
	ID   string
	Body []byte

	// Err says why a request could not be published at all; Body is nil then.
	Err error
}

// Client is one tenant's side of the product: it publishes requests and reads
// answers. It needs only the tenant's own subjects: those of requests,
// responses, deltas, missed deltas, cancels and feedback, and direct get on its
// responses. It is safe for concurrent use. The connection stays the caller's.
type Client struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	names  Names
	tenant string
}

// NewClient makes a client of a tenant.
func NewClient(nc *nats.Conn, names Names, tenant string) (*Client, error) {
	if !schemas.ValidName(tenant) {
		return nil, fmt.Errorf("tenant %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", tenant)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(2*publishSlice), jetstream.WithPublishAsyncTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	return &Client{nc: nc, js: js, names: names, tenant: tenant}, nil
}

// NewID makes an id that no other request has.
func NewID() string { return "r-" + nuid.Next() }

// Publish publishes a request and gives its id once the server has stored it.
// While the stream is full, or the tenant has as many requests waiting as it
// may, it tries again in growing intervals until ctx ends.
func (c *Client) Publish(ctx context.Context, m Message) (id string, err error) {
	msg, err := c.message(m)
	if err != nil {
		return "", err
	}
	for failures := 1; ; failures++ {
		ack, err := c.publishOnce(ctx, msg)
		switch {
		case err == nil && ack.Duplicate:
			return "", ErrNotAccepted
		case err == nil && m.ID != "":
			return m.ID, nil
		case err == nil:
			return schemas.SequenceID(ack.Sequence), nil
		case ctx.Err() != nil:
			return "", fmt.Errorf("publishing the request: %w (the last attempt: %w)", ctx.Err(), err)
		case refused(err), m.ID != "" && unknown(err):
			sleep(ctx, backoff(failures, publishFirst, publishMost))
		case unknown(err):
			return "", fmt.Errorf("publishing the request: %w: %w", ErrUnknown, err)
		default:
			return "", fmt.Errorf("publishing the request: %w", noStreams(err))
		}
	}
}

// publishTimeout bounds one attempt: an acknowledgement that was lost with its
// server never comes.
const publishTimeout = 5 * time.Second

func (c *Client) publishOnce(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return c.js.PublishMsg(ctx, m)
}

func (c *Client) message(m Message) (*nats.Msg, error) {
	header := nats.Header{}
	if m.ID != "" {
		if !schemas.ValidID(m.ID) {
			return nil, fmt.Errorf("id %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -, or digits alone", m.ID)
		}
		header[HeaderID] = []string{m.ID}
	}
	if m.Class != "" {
		header[HeaderPriority] = []string{string(m.Class)}
	}
	if !m.Deadline.IsZero() {
		header[HeaderDeadline] = []string{m.Deadline.UTC().Format(time.RFC3339Nano)}
	}
	return &nats.Msg{Subject: c.names.Request(c.tenant), Header: header, Data: m.Body}, nil
}

// codeStoreFailed is the server's code where a stream or a subject of it is full.
const codeStoreFailed jetstream.ErrorCode = 10077

// refused reports that the server did not store a message because of what it
// holds already or has no room for; the same may be taken later.
func refused(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	return api.ErrorCode == codeStoreFailed || api.Code == 503
}

// unknown reports that nobody knows whether a message was stored, or that
// nobody was there to store it for a moment.
func unknown(err error) bool {
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, jetstream.ErrAsyncPublishTimeout) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrNoServers) || errors.Is(err, jetstream.ErrTooManyStalledMsgs)
}

// noStreams makes clear what the client library says when no stream takes a subject.
func noStreams(err error) error {
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrNoStreamResponse) {
		return ErrNoStreams
	}
	return err
}

// Ask publishes a request and waits for its answer until ctx ends. It gives
// the message an id if it has none.
func (c *Client) Ask(ctx context.Context, m Message) (Answer, error) {
	if m.ID == "" {
		m.ID = NewID()
	}
	live, stop, err := c.listen(c.names.Response(c.tenant, m.ID))
	if err != nil {
		return Answer{}, err
	}
	defer stop()
	if _, err := c.Publish(ctx, m); err != nil {
		return Answer{}, err
	}
	return c.await(ctx, m.ID, live)
}

// Await waits for the answer to a request that was published before, possibly
// long ago, until ctx ends.
func (c *Client) Await(ctx context.Context, id string) (Answer, error) {
	live, stop, err := c.listen(c.names.Response(c.tenant, id))
	if err != nil {
		return Answer{}, err
	}
	defer stop()
	return c.await(ctx, id, live)
}

func (c *Client) listen(subject string) (live chan *nats.Msg, stop func(), err error) {
	live = make(chan *nats.Msg, 8)
	sub, err := c.nc.ChanSubscribe(subject, live)
	if err != nil {
		return nil, nil, fmt.Errorf("subscribing to %s: %w", subject, err)
	}
	return live, func() { _ = sub.Unsubscribe() }, nil
}

// await takes the answer from the subscription, or from the stream where it
// was stored before, or while the connection was gone.
func (c *Client) await(ctx context.Context, id string, live <-chan *nats.Msg) (Answer, error) {
	for wait := pollFirst; ; wait = min(2*wait, pollMost) {
		body, found, err := c.stored(ctx, id)
		if found {
			return Answer{ID: id, Body: body}, nil
		}
		if errors.Is(err, ErrNoStreams) {
			return Answer{}, err
		}
		timer := time.NewTimer(wait)
		select {
		case m := <-live:
			timer.Stop()
			return Answer{ID: id, Body: m.Data}, nil
		case <-ctx.Done():
			timer.Stop()
			return Answer{}, fmt.Errorf("waiting for the answer to %s: %w", id, ctx.Err())
		case <-timer.C:
		}
	}
}

// stored reads one stored response. It uses the subject that names the
// response, so that a tenant's rights can be bounded to its own.
func (c *Client) stored(ctx context.Context, id string) (body []byte, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	m, err := c.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+c.names.Responses()+"."+c.names.Response(c.tenant, id), nil)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, false, ErrNoStreams
	case err != nil:
		return nil, false, fmt.Errorf("reading the response to %s: %w", id, err)
	case m.Header.Get("Status") == "404":
		return nil, false, nil
	case m.Header.Get("Status") != "":
		return nil, false, fmt.Errorf("reading the response to %s: the server answered %s %s", id, m.Header.Get("Status"), m.Header.Get("Description"))
	}
	return m.Data, true, nil
}

// Lookup gives the stored responses to those of the ids that have one. It asks
// for many at a time; ids is best a few hundred long, since the answers are
// all held in memory.
func (c *Client) Lookup(ctx context.Context, ids []string) (map[string][]byte, error) {
	found := make(map[string][]byte)
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lookups)
	for _, id := range ids {
		group.Go(func() error {
			body, ok, err := c.stored(ctx, id)
			if ok {
				mu.Lock()
				found[id] = body
				mu.Unlock()
			}
			return err
		})
	}
	return found, group.Wait()
}

// Cancel ends a request. It is heard by every process of the product; with
// none there, which nobody could tell apart from success, it is an error.
func (c *Client) Cancel(ctx context.Context, id string) error {
	if !schemas.ValidName(id) {
		return fmt.Errorf("id %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", id)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := c.nc.RequestWithContext(ctx, c.names.Cancel(c.tenant, id), nil)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return errors.New("cancelling: no process of the product is there to hear it")
	case errors.Is(err, context.DeadlineExceeded):
		return nil // heard by one that does not confirm
	case err != nil:
		return fmt.Errorf("cancelling: %w", err)
	}
	return nil
}

// Feedback says what the answer to a request was worth.
type Feedback struct {
	ID    string   `json:"id"`
	Score *float64 `json:"score,omitempty"` // 0 (useless) to 1
	Label string   `json:"label,omitempty"` // the right answer, in the application's words
}

// Feedback publishes what an application thinks of an answer. It returns once
// the server has stored it.
func (c *Client) Feedback(ctx context.Context, f Feedback) error {
	switch {
	case !schemas.ValidName(f.ID):
		return fmt.Errorf("id %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", f.ID)
	case f.Score == nil && f.Label == "":
		return errors.New("feedback without a score or a label says nothing")
	case f.Score != nil && !(*f.Score >= 0 && *f.Score <= 1):
		return fmt.Errorf("score %v is not between 0 and 1", *f.Score)
	}
	body, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encoding feedback: %w", err)
	}
	if _, err := c.js.Publish(ctx, c.names.FeedbackOn(c.tenant), body); err != nil {
		return fmt.Errorf("publishing feedback: %w", noStreams(err))
	}
	return nil
}

// subjectID gives the last part of a subject.
func subjectID(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }
