package streams

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Local is traffic that begins and ends in the process of its runner: requests
// are handed over and responses taken without a stream between. It is for one
// runner, which has all stages, and one run of that.
type Local struct {
	requests chan *localMsg
	answered func(subject string, response []byte)
	stored   bool
	number   atomic.Uint64
	over     chan struct{}      // the runner takes no more
	sources  map[string]*source // by stage: where what comes back enters
}

// NewLocal makes local traffic for up to so many requests at a time that no
// stage has taken. answered gets each response, some more than once; it is not
// called twice at the same time, and holds up the runner.
//
// With stored, everything but requests is published too, to streams that have
// to be there: what was answered before is answered with the same again, and
// what has to wait outlives the process. Else there need be no streams at all.
func NewLocal(waiting int, stored bool, answered func(subject string, response []byte)) *Local {
	l := &Local{
		requests: make(chan *localMsg, waiting), answered: answered, stored: stored,
		over: make(chan struct{}), sources: map[string]*source{},
	}
	l.number.Store(uint64(time.Now().UnixNano())) // no request passes for one of an earlier run that was delivered again
	return l
}

// ProvisionLocal sets up what a process follows beside its traffic: all that
// local traffic which is not stored needs of the streams.
func ProvisionLocal(ctx context.Context, js jetstream.JetStream, l Layout) error {
	for _, cfg := range l.streams() {
		if cfg.Name == l.Names.Feedback() {
			return ensureStream(ctx, js, cfg)
		}
	}
	return nil
}

// Send hands over a request as it would be published. It waits while too many
// wait to be taken, and fails once the runner takes no more.
func (l *Local) Send(ctx context.Context, m *nats.Msg) error {
	return l.send(ctx, l.message(m))
}

func (l *Local) send(ctx context.Context, m *localMsg) error {
	select {
	case <-l.over:
		return errOver
	default:
	}
	select {
	case l.requests <- m:
		return nil
	case <-l.over:
		return errOver
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errOver is a request that nobody takes any more.
var errOver = errors.New("the pipeline has ended")

func (l *Local) message(m *nats.Msg) *localMsg {
	return &localMsg{Msg: m, local: l, number: l.number.Add(1), sent: time.Now(), delivered: 1}
}

// follow notes where what comes back enters a runner.
func (l *Local) follow(list []*source) {
	if l == nil {
		return
	}
	for _, s := range list {
		if s.durable.stream != s.runner.names.Requests() {
			l.sources[s.durable.stage] = s
		}
	}
}

// feed takes the place of a source and reports that it did: it gives the runner
// what is handed over, as much as there is room for, until ctx ends.
func (l *Local) feed(ctx context.Context, s *source) bool {
	if l == nil || l.stored && s.durable.stream != s.runner.names.Requests() {
		return false
	}
	if s.durable.stream != s.runner.names.Requests() {
		return true // what comes back is received without it
	}
	defer close(l.over)
	for {
		free, bytes := s.runner.free(ctx, s)
		if free <= 0 {
			return true // ctx ended
		}
		for ; free > 0 && bytes > 0; free-- {
			select {
			case m := <-l.requests:
				bytes -= len(m.Data())
				s.runner.receive(s, m)
			case <-ctx.Done():
				return true
			}
		}
	}
}

// publish takes what a runner publishes; with false it is to be published all
// the same.
func (l *Local) publish(r *Runner, m *nats.Msg) (taken bool) {
	if l == nil || m.Size() > r.cfg.MaxPayload {
		return false // the server refuses what is too large
	}
	switch kind := strings.TrimPrefix(m.Subject, r.names.Prefix+"."); {
	case strings.HasPrefix(kind, "responses."):
		l.answered(m.Subject, m.Data)
	case !l.stored && !strings.HasPrefix(kind, "dead."):
		l.again(m)
	}
	return !l.stored
}

// again brings a hand-off back to the stage that its subject names, when it is
// time for it.
func (l *Local) again(m *nats.Msg) {
	subject, wait := m.Subject, time.Duration(0)
	if target := m.Header.Get("Nats-Schedule-Target"); target != "" {
		subject = target
		if at, err := time.Parse("@at "+time.RFC3339, m.Header.Get("Nats-Schedule")); err == nil {
			wait = time.Until(at)
		}
	}
	for token := range strings.SplitSeq(subject, ".") {
		if s := l.sources[token]; s != nil {
			l.message(m).deliver(s, wait)
			return
		}
	}
}

// localMsg is a message that was handed over. What is to be delivered again is
// handed over again.
type localMsg struct {
	*nats.Msg
	local     *Local
	source    *source // nil is that of requests
	number    uint64
	sent      time.Time
	delivered uint64
}

// deliver has a source receive the message after a while.
func (m *localMsg) deliver(s *source, after time.Duration) {
	m.source = s
	time.AfterFunc(after, func() {
		select {
		case <-m.local.over: // who ends leaves it
		default:
			s.runner.receive(s, m)
		}
	})
}

var _ jetstream.Msg = (*localMsg)(nil)

// Metadata implements jetstream.Msg.
func (m *localMsg) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{
		Sequence:     jetstream.SequencePair{Consumer: m.number, Stream: m.number},
		NumDelivered: m.delivered, Timestamp: m.sent,
	}, nil
}

// Data implements jetstream.Msg.
func (m *localMsg) Data() []byte { return m.Msg.Data }

// Headers implements jetstream.Msg.
func (m *localMsg) Headers() nats.Header { return m.Header }

// Subject implements jetstream.Msg.
func (m *localMsg) Subject() string { return m.Msg.Subject }

// Reply implements jetstream.Msg.
func (m *localMsg) Reply() string { return "" }

// Ack implements jetstream.Msg.
func (m *localMsg) Ack() error { return nil }

// DoubleAck implements jetstream.Msg.
func (m *localMsg) DoubleAck(context.Context) error { return nil }

// Nak implements jetstream.Msg.
func (m *localMsg) Nak() error { return m.NakWithDelay(0) }

// NakWithDelay implements jetstream.Msg.
func (m *localMsg) NakWithDelay(d time.Duration) error {
	again := *m
	again.delivered++
	if m.source != nil {
		again.deliver(m.source, d)
		return nil
	}
	time.AfterFunc(d, func() { _ = m.local.send(context.Background(), &again) })
	return nil
}

// InProgress implements jetstream.Msg.
func (m *localMsg) InProgress() error { return nil }

// Term implements jetstream.Msg.
func (m *localMsg) Term() error { return nil }

// TermWithReason implements jetstream.Msg.
func (m *localMsg) TermWithReason(string) error { return nil }
