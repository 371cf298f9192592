package jsx

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// publishWindow and publishTimeout are the defaults of a Publisher.
	publishWindow  = 4096
	publishTimeout = 10 * time.Second
	// nobodyTries is how often a message that no stream took is sent again, every
	// nobodyWait: none does for a moment while a leader is elected.
	nobodyTries = 2
	nobodyWait  = 250 * time.Millisecond
)

// Ack is the server's word that a message is stored.
type Ack struct {
	Sequence  uint64
	Duplicate bool // its message id was stored before, under this sequence
}

// PublisherConfig configures a Publisher.
type PublisherConfig struct {
	Window  int           // messages that may be unacknowledged at a time; default 4,096
	Timeout time.Duration // of an acknowledgement; default 10 s, noticed up to an eighth later
}

// Publisher publishes to streams without waiting for the acknowledgements, as
// the client library's PublishMsgAsync does, for less: it has one timer for all
// messages, and reads the usual acknowledgement without reflection. It is safe
// for concurrent use.
type Publisher struct {
	nc     *nats.Conn
	sub    *nats.Subscription
	prefix string // of the subjects that acknowledgements come to
	cfg    PublisherConfig
	stop   func()
	ended  chan struct{}

	mu     sync.Mutex
	room   sync.Cond // there are fewer than Window
	number uint64    // of the last message
	open   map[uint64]*unacked
	closed bool
}

// unacked is a message on its way.
type unacked struct {
	msg   nats.Msg
	at    time.Time
	tries int // that no stream took
	done  func(Ack, error)
}

// NewPublisher makes a Publisher with a subscription of its own. Close ends it.
func NewPublisher(nc *nats.Conn, cfg PublisherConfig) (*Publisher, error) {
	if cfg.Window <= 0 {
		cfg.Window = publishWindow
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = publishTimeout
	}
	stopped := make(chan struct{})
	p := &Publisher{
		nc: nc, prefix: nc.NewInbox() + ".", cfg: cfg, stop: sync.OnceFunc(func() { close(stopped) }), ended: make(chan struct{}),
		open: map[uint64]*unacked{},
	}
	p.room.L = &p.mu
	var err error
	if p.sub, err = nc.Subscribe(p.prefix+"*", p.receive); err != nil {
		return nil, fmt.Errorf("subscribing for acknowledgements: %w", err)
	}
	go p.watch(nc.StatusChanged(nats.RECONNECTING, nats.CLOSED), stopped)
	return p, nil
}

// Close ends the Publisher. What is not acknowledged by then fails.
func (p *Publisher) Close() {
	_ = p.sub.Unsubscribe()
	p.stop()
	<-p.ended
}

// Publish sends a message and calls done once, when its fate is known: with an
// error that is a *jetstream.APIError if the stream refused it,
// jetstream.ErrNoStreamResponse if no stream took it, and any other if nobody
// knows whether it was stored. It waits while Window messages are
// unacknowledged, at most as long as these take to time out. With an error the
// message did not leave, and done is not called.
//
// done is called from a goroutine that all messages share: it must neither block
// nor publish. The message must not be changed any more.
func (p *Publisher) Publish(m *nats.Msg, done func(Ack, error)) error {
	u := &unacked{done: done, msg: nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}}
	number, ok := p.add(u)
	if !ok {
		return nats.ErrConnectionClosed
	}
	if err := p.nc.PublishMsg(&u.msg); err != nil && p.take(number) != nil {
		return err
	}
	return nil
}

// add notes a message as unacknowledged, once there is room. It is false when
// the Publisher is closed.
func (p *Publisher) add(u *unacked) (number uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.open) >= p.cfg.Window && !p.closed {
		p.room.Wait()
	}
	if p.closed {
		return 0, false
	}
	p.number++
	u.at = time.Now()
	u.msg.Reply = p.prefix + strconv.FormatUint(p.number, 36)
	p.open[p.number] = u
	return p.number, true
}

// take gives a message whose fate is known; nil where it was known before.
func (p *Publisher) take(number uint64) *unacked {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.open[number]
	if u != nil {
		delete(p.open, number)
		p.room.Signal()
	}
	return u
}

// receive reads the server's answer to a message.
func (p *Publisher) receive(m *nats.Msg) {
	number, err := strconv.ParseUint(m.Subject[len(p.prefix):], 36, 64)
	if err != nil {
		return
	}
	nobody := len(m.Data) == 0 && m.Header.Get("Status") == "503"
	if nobody && p.later(number) {
		return
	}
	u := p.take(number)
	switch {
	case u == nil:
	case nobody:
		u.done(Ack{}, jetstream.ErrNoStreamResponse)
	default:
		u.done(readAck(m.Data))
	}
}

// later sends a message that no stream took again after a moment, unless that
// was tried often enough.
func (p *Publisher) later(number uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.open[number]
	if u == nil || u.tries == nobodyTries {
		return false
	}
	u.tries++
	time.AfterFunc(nobodyWait, func() { p.again(number) })
	return true
}

func (p *Publisher) again(number uint64) {
	p.mu.Lock()
	u := p.open[number]
	p.mu.Unlock()
	if u == nil {
		return
	}
	if err := p.nc.PublishMsg(&u.msg); err != nil && p.take(number) != nil {
		u.done(Ack{}, err)
	}
}

// watch fails what is acknowledged no more: what takes too long, and all that
// was on its way when the connection was lost.
func (p *Publisher) watch(status chan nats.Status, stopped <-chan struct{}) {
	defer close(p.ended)
	defer p.end()
	defer p.nc.RemoveStatusListener(status)
	ticker := time.NewTicker(p.cfg.Timeout / 8)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			p.fail(jetstream.ErrAsyncPublishTimeout, func(u *unacked) bool { return now.Sub(u.at) >= p.cfg.Timeout })
		case now := <-status:
			if now == nats.CLOSED {
				return
			}
			p.fail(nats.ErrDisconnected, anyOf)
		case <-stopped:
			return
		}
	}
}

func anyOf(*unacked) bool { return true }

// end lets nothing more be published.
func (p *Publisher) end() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.fail(nats.ErrConnectionClosed, anyOf)
}

func (p *Publisher) fail(err error, which func(*unacked) bool) {
	var failed []*unacked
	p.mu.Lock()
	for number, u := range p.open {
		if which(u) {
			failed = append(failed, u)
			delete(p.open, number)
		}
	}
	p.room.Broadcast()
	p.mu.Unlock()
	for _, u := range failed {
		u.done(Ack{}, err)
	}
}

// Future is the fate of one message.
type Future struct {
	known chan struct{}
	ack   Ack
	err   error
}

// Begin is Publish for those who wait for the outcome.
func (p *Publisher) Begin(m *nats.Msg) (*Future, error) {
	f := &Future{known: make(chan struct{})}
	return f, p.Publish(m, func(ack Ack, err error) {
		f.ack, f.err = ack, err
		close(f.known)
	})
}

// Wait gives the outcome, as Publish does, or the error of ctx if that ends first.
func (f *Future) Wait(ctx context.Context) (Ack, error) {
	select {
	case <-f.known:
		return f.ack, f.err
	case <-ctx.Done():
		return Ack{}, ctx.Err()
	}
}

// readAck reads what a stream answers, {"stream":"NAME","seq":12} most of the
// time; what looks different goes to the general decoder.
func readAck(data []byte) (Ack, error) {
	if rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`)); ok {
		name := 0
		for name < len(rest) && isPlain(rest[name]) {
			name++
		}
		number, ok := bytes.CutPrefix(rest[name:], []byte(`","seq":`))
		if sequence, plain := readSequence(number); name > 0 && ok && plain {
			return Ack{Sequence: sequence}, nil
		}
	}
	return readAnyAck(data)
}

// isPlain reports that a byte stands for itself in a JSON string.
func isPlain(c byte) bool { return c >= ' ' && c <= '~' && c != '"' && c != '\\' }

// readSequence reads a number without leading zeros that has a closing brace
// behind it, and nothing else.
func readSequence(text []byte) (sequence uint64, ok bool) {
	digits, ok := bytes.CutSuffix(text, []byte{'}'})
	if !ok || len(digits) == 0 || len(digits) > 19 || digits[0] == '0' { // 19 digits always fit
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		sequence = 10*sequence + uint64(c-'0')
	}
	return sequence, true
}

func readAnyAck(data []byte) (Ack, error) {
	var answer struct {
		Error     *jetstream.APIError `json:"error"`
		Stream    string              `json:"stream"`
		Sequence  uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return Ack{}, fmt.Errorf("%w: %w", jetstream.ErrInvalidJSAck, err)
	}
	if answer.Error != nil {
		return Ack{}, answer.Error
	}
	if answer.Stream == "" {
		return Ack{}, jetstream.ErrInvalidJSAck
	}
	return Ack{answer.Sequence, answer.Duplicate}, nil
}
