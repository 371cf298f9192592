package streams

import (
	"bytes"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/stages"
)

// HeaderDelta numbers the chunks of a streamed answer, from 1; an attempt that
// failed in its middle is followed by another, which begins at 1 again.
const HeaderDelta = "Llm-Delta"

// Deltas publishes streamed answers as they come. It is safe for concurrent use.
type Deltas struct {
	js    jetstream.JetStream
	names Names
}

// NewDeltas makes a publisher.
func NewDeltas(js jetstream.JetStream, names Names) *Deltas { return &Deltas{js, names} }

// Begin starts an answer's chunks: send publishes the next one. It does not
// wait: the whole answer is stored at the end, whatever becomes of its chunks.
func (d *Deltas) Begin(r *stages.Request) (send func(chunk []byte)) {
	subject, number := d.names.Delta(r.Tenant, r.ID), 0
	return func(chunk []byte) {
		number++
		_, _ = d.js.PublishMsgAsync(&nats.Msg{
			Subject: subject, Data: bytes.Clone(chunk),
			Header: nats.Header{HeaderDelta: []string{strconv.Itoa(number)}},
		})
	}
}
