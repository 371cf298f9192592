package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// puller asks one consumer for messages. The client library's Fetch would do on
// a single server, but it ends with the first word of the server that the pull
// is over. Where a consumer is replicated that word overtakes the messages,
// which wait for the other servers: Fetch drops them, and they are nobody's
// until AckWait is over. A puller keeps one subscription, so that nothing that
// is sent to it is lost, and waits for all that a pull brings.
type puller struct {
	nc      *nats.Conn
	sub     *nats.Subscription
	subject string
	inbox   string // of all pulls, with a dot behind it
	number  uint64 // of the last pull
	arrived chan *nats.Msg
}

// newPuller makes a puller of a consumer. It takes what up to most messages
// need at a time. Close ends it.
func newPuller(nc *nats.Conn, stream, consumer string, most int) (*puller, error) {
	p := &puller{nc: nc, subject: "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + consumer, inbox: nc.NewInbox() + ".", arrived: make(chan *nats.Msg, 2*most+64)}
	var err error
	if p.sub, err = nc.ChanSubscribe(p.inbox+"*", p.arrived); err != nil {
		return nil, fmt.Errorf("subscribing for pulls: %w", err)
	}
	return p, nil
}

func (p *puller) close() { _ = p.sub.Unsubscribe() }

// ask begins a pull of up to n messages of so many bytes, for up to pullExpiry.
func (p *puller) ask(n, bytes int) error {
	payload, err := json.Marshal(struct {
		Expires  time.Duration `json:"expires"`
		Batch    int           `json:"batch"`
		MaxBytes int           `json:"max_bytes"`
	}{pullExpiry, n, bytes})
	if err != nil {
		return err
	}
	p.number++
	return p.nc.PublishRequest(p.subject, p.inbox+strconv.FormatUint(p.number, 36), payload)
}

// isDelivery reports that a message comes from the stream and is no word of the
// server about a pull. Headers do not tell: an application sets them as it likes.
func isDelivery(m *nats.Msg) bool { return strings.HasPrefix(m.Reply, "$JS.ACK.") }

// left reads the server's word that the present pull is over: how many of its
// messages will not come. It is not over for words about earlier pulls.
func (p *puller) left(m *nats.Msg) (n int, over bool, err error) {
	if m.Subject != p.inbox+strconv.FormatUint(p.number, 36) {
		return 0, false, nil
	}
	status, description := m.Header.Get("Status"), m.Header.Get("Description")
	switch {
	case status == "100":
		return 0, false, nil
	case status == "503":
		return 0, true, nats.ErrNoResponders
	case status == "404", status == "408", status == "409" && (strings.EqualFold(description, "Batch Completed") || strings.EqualFold(description, "Message Size Exceeds MaxBytes")):
		n, _ = strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
		return n, true, nil
	}
	return 0, true, fmt.Errorf("the server ended a pull: %s %s", status, description)
}

// pulled is a message of a pull.
type pulled struct{ *nats.Msg }

var _ jetstream.Msg = pulled{}

// Metadata implements jetstream.Msg.
func (m pulled) Metadata() (*jetstream.MsgMetadata, error) {
	meta, err := m.Msg.Metadata()
	if err != nil {
		return nil, err
	}
	return &jetstream.MsgMetadata{
		Sequence:     jetstream.SequencePair{Consumer: meta.Sequence.Consumer, Stream: meta.Sequence.Stream},
		NumDelivered: meta.NumDelivered, NumPending: meta.NumPending, Timestamp: meta.Timestamp,
		Stream: meta.Stream, Consumer: meta.Consumer, Domain: meta.Domain,
	}, nil
}

// Data implements jetstream.Msg.
func (m pulled) Data() []byte { return m.Msg.Data }

// Headers implements jetstream.Msg.
func (m pulled) Headers() nats.Header { return m.Header }

// Subject implements jetstream.Msg.
func (m pulled) Subject() string { return m.Msg.Subject }

// Reply implements jetstream.Msg.
func (m pulled) Reply() string { return m.Msg.Reply }

// Ack implements jetstream.Msg.
func (m pulled) Ack() error { return m.say("+ACK") }

// DoubleAck implements jetstream.Msg.
func (m pulled) DoubleAck(ctx context.Context) error { return m.AckSync(nats.Context(ctx)) }

// Nak implements jetstream.Msg.
func (m pulled) Nak() error { return m.say("-NAK") }

// NakWithDelay implements jetstream.Msg.
func (m pulled) NakWithDelay(d time.Duration) error {
	return m.say(fmt.Sprintf(`-NAK {"delay": %d}`, d.Nanoseconds()))
}

// InProgress implements jetstream.Msg.
func (m pulled) InProgress() error { return m.say("+WPI") }

// Term implements jetstream.Msg.
func (m pulled) Term() error { return m.say("+TERM") }

// TermWithReason implements jetstream.Msg.
func (m pulled) TermWithReason(reason string) error { return m.say("+TERM " + reason) }

func (m pulled) say(word string) error { return m.Msg.RespondMsg(&nats.Msg{Data: []byte(word)}) }
