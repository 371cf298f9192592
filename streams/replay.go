package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

const (
	// archiveBatch and archiveBytes bound one read of the archive.
	archiveBatch = 256
	archiveBytes = 4 << 20
	// archiveTimeout bounds the wait for the next message of a read.
	archiveTimeout = 10 * time.Second
	// yieldAbove messages or yieldBytes in any stream of what is worked have a reader
	// with a pause rest longer, up to yieldMost after each read: a message between
	// stages may hold many requests. yieldTimeout bounds the question.
	yieldAbove   = 256
	yieldBytes   = 512 << 10
	yieldMost    = 5 * time.Second
	yieldTimeout = time.Second
	// headerSource names the message that a sourced one is a copy of.
	headerSource = "Nats-Stream-Source"
)

// ErrNoArchive is a server without an archive.
var ErrNoArchive = errors.New("there is no archive of requests")

// Archived is a request as the archive holds it.
type Archived struct {
	ID        string // as its response is named
	Tenant    string // the subject's, whether it is a valid name or not
	Sequence  uint64 // in the archive
	Published time.Time
	Header    nats.Header
	Body      []byte
}

// Archive reads the archive without leaving a trace on the server: it uses
// batched direct reads and makes no consumer. It is for one goroutine.
type Archive struct {
	nc    *nats.Conn
	names Names
	sub   *nats.Subscription
	inbox string
	reads int
	pause time.Duration
	blind bool // what waits cannot be seen
}

// NewArchive opens the archive. pause is a rest after each read, for a reader
// that is not to get in the way of others, and that waits for up to yieldMost
// while many requests wait to be worked; 0 is none. Close ends it.
func NewArchive(nc *nats.Conn, names Names, pause time.Duration) (*Archive, error) {
	a := &Archive{nc: nc, names: names, inbox: nc.NewInbox(), pause: pause}
	var err error
	if a.sub, err = nc.SubscribeSync(a.inbox + ".*"); err == nil {
		err = a.sub.SetPendingLimits(-1, 4*archiveBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribing for reads of the archive: %w", err)
	}
	return a, nil
}

// Close ends the reads.
func (a *Archive) Close() { _ = a.sub.Unsubscribe() }

type archiveRequest struct {
	Sequence uint64     `json:"seq,omitempty"`
	Since    *time.Time `json:"start_time,omitempty"`
	Subject  string     `json:"next_by_subj,omitempty"`
	Batch    int        `json:"batch"`
	MaxBytes int        `json:"max_bytes"`
}

// Each calls f with each request that was published within [since, until), of
// one tenant or of all (""), in the order of their acceptance. A zero time is no
// bound. It ends at what the archive holds when it begins to read, so that
// traffic that goes on does not keep it; the first error of f ends it too.
func (a *Archive) Each(ctx context.Context, since, until time.Time, tenant string, f func(Archived) error) error {
	last, err := a.last(ctx)
	if err != nil || last == 0 {
		return err
	}
	request := archiveRequest{Sequence: 1, Batch: archiveBatch, MaxBytes: archiveBytes}
	if !since.IsZero() {
		since = since.UTC()
		request.Sequence, request.Since = 0, &since
	}
	if tenant != "" {
		request.Subject = a.names.Request(tenant)
	}
	for {
		next, more, err := a.read(ctx, request, func(m *nats.Msg) error {
			r, err := a.archived(m)
			if err != nil {
				return err
			}
			if r.Sequence > last || !until.IsZero() && !r.Published.Before(until) {
				return errEnd
			}
			return f(r)
		})
		switch {
		case errors.Is(err, errEnd):
			return nil
		case err != nil:
			return fmt.Errorf("reading the archive: %w", err)
		case !more || next > last:
			return nil
		}
		request.Sequence, request.Since = next, nil
		if a.pause > 0 {
			a.yield(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// yield rests, and goes on resting while those who work the traffic have more of
// it than they keep up with.
func (a *Archive) yield(ctx context.Context) {
	for rested := time.Duration(0); rested < yieldMost && ctx.Err() == nil; rested += a.pause {
		sleep(ctx, a.pause)
		if !a.busy(ctx) {
			return
		}
	}
}

// busy says whether much waits to be worked or is being worked; false where that
// cannot be seen, which is asked once.
func (a *Archive) busy(ctx context.Context) bool {
	if a.blind {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, yieldTimeout)
	defer cancel()
	much, err := a.muchIsHeld(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return true // so busy that it does not say so
	}
	a.blind = err != nil
	return much
}

// muchIsHeld looks at the streams of what is worked.
func (a *Archive) muchIsHeld(ctx context.Context) (bool, error) {
	js, err := jetstream.New(a.nc)
	if err != nil {
		return false, err
	}
	for _, stage := range stages.Names {
		name := a.names.Stage(stage)
		if stage == stages.Compress { // which takes from the requests
			name = a.names.Requests()
		}
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return false, err
		}
		if held := stream.CachedInfo().State; held.Msgs > yieldAbove || held.Bytes > yieldBytes {
			return true, nil
		}
	}
	return false, nil
}

// errEnd ends a read at what is not wanted any more.
var errEnd = errors.New("the end of what is wanted")

// last gives the last sequence that the archive holds.
func (a *Archive) last(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, archiveTimeout)
	defer cancel()
	js, err := jetstream.New(a.nc)
	if err != nil {
		return 0, fmt.Errorf("opening JetStream: %w", err)
	}
	stream, err := js.Stream(ctx, a.names.Archive())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, ErrNoArchive
	}
	if err != nil {
		return 0, fmt.Errorf("looking at the archive: %w", noStreams(err))
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// read asks for one batch. more says whether there is more behind it, from next on.
func (a *Archive) read(ctx context.Context, request archiveRequest, f func(*nats.Msg) error) (next uint64, more bool, err error) {
	payload, err := json.Marshal(request)
	if err != nil {
		return 0, false, err
	}
	a.reads++
	inbox := a.inbox + "." + strconv.Itoa(a.reads)
	if err := a.nc.PublishRequest("$JS.API.DIRECT.GET."+a.names.Archive(), inbox, payload); err != nil {
		return 0, false, err
	}
	for {
		m, err := a.next(ctx)
		if err != nil {
			return 0, false, err
		}
		if m.Subject != inbox { // of a read that was given up
			continue
		}
		status := m.Header.Get("Status")
		if said(m, jetstream.StreamHeader) != "" { // a stored message, whatever its publisher wrote
			status = ""
		}
		switch status {
		case "":
			sequence, _ := strconv.ParseUint(said(m, jetstream.SequenceHeader), 10, 64)
			next = sequence + 1
			if err := f(m); err != nil {
				return 0, false, err
			}
		case "204":
			pending, _ := strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			return next, pending > 0 && next > 0, nil
		case "404":
			return 0, false, nil
		default:
			return 0, false, fmt.Errorf("the server answered %s %s", status, m.Header.Get("Description"))
		}
	}
}

func (a *Archive) next(ctx context.Context) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, archiveTimeout)
	defer cancel()
	return a.sub.NextMsgWithContext(ctx)
}

// said gives what the server says of a message that it read: the last header of
// the name. Those before it are of its publisher, who may write what he likes.
func said(m *nats.Msg, name string) string {
	if values := m.Header[name]; len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// archived reads a message of the archive. A request without an id of its own
// is named by its sequence in the stream of requests.
func (a *Archive) archived(m *nats.Msg) (Archived, error) {
	subject := said(m, jetstream.SubjectHeader)
	published, err := time.Parse(time.RFC3339Nano, said(m, jetstream.TimeStampHeaer))
	if err != nil {
		return Archived{}, fmt.Errorf("the server gives no time of a message: %w", err)
	}
	r := Archived{
		ID: m.Header.Get(HeaderID), Tenant: strings.TrimPrefix(subject, a.names.Prefix+".requests."),
		Published: published.UTC(), Header: m.Header, Body: m.Data,
	}
	r.Sequence, _ = strconv.ParseUint(said(m, jetstream.SequenceHeader), 10, 64)
	if !schemas.ValidID(r.ID) {
		r.ID = sourceSequence(m.Header.Get(headerSource))
	}
	return r, nil
}

// sourceSequence reads the sequence from what the server writes of a sourced
// message: the stream, its sequence there, and more, with blanks between.
func sourceSequence(source string) string {
	fields := strings.Fields(source)
	if len(fields) < 2 {
		return ""
	}
	if _, err := strconv.ParseUint(fields[1], 10, 64); err != nil {
		return ""
	}
	return fields[1]
}

// Rating is what an application said of an answer.
type Rating struct {
	ID    string
	Score *float64 // 0 to 1
	Label string
	Ideal []byte // the answer that would have been right, as JSON
}

// ReadRating reads a message of the feedback stream: {"id", "score"} or {"id",
// "label"}, or both, and perhaps "ideal". ok is false for what is no rating.
func ReadRating(body []byte) (r Rating, ok bool) {
	var fields struct {
		ID    string          `json:"id"`
		Score *float64        `json:"score"`
		Label string          `json:"label"`
		Ideal json.RawMessage `json:"ideal"`
	}
	if schemas.Depth(body) > schemas.MaxDepth || json.Unmarshal(body, &fields) != nil || !schemas.ValidName(fields.ID) {
		return Rating{}, false
	}
	if s := fields.Score; s != nil && !(*s >= 0 && *s <= 1) {
		fields.Score = nil
	}
	r = Rating{ID: fields.ID, Score: fields.Score, Label: fields.Label, Ideal: fields.Ideal}
	return r, r.Score != nil || r.Label != "" || len(r.Ideal) > 0
}
