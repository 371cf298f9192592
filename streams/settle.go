package streams

import (
	"time"

	"github.com/adpa/processor/stages"
)

// settle is the only place where messages are acknowledged. It notes that an
// outcome is carried out, for the request and those that were decided with it;
// once all the requests of a message are settled, so is the message.
func (r *Runner) settle(o *outcome) {
	r.settleOne(o.item, o.verdict)
	for _, other := range o.verdict.With {
		r.settleOne(other.Ticket.(*item), o.verdict)
	}
}

func (r *Runner) settleOne(it *item, verdict stages.Verdict) {
	d := it.from
	r.noteSettled(it, verdict.Action)
	switch verdict.Action {
	case stages.ActionRetry: // only of a message with one request: see retry
		d.nak = max(verdict.After, time.Millisecond)
	case stages.ActionReject:
		d.term = string(reasonOf(verdict.Err))
	}
	if d.open--; d.open > 0 || d.abandoned {
		return
	}
	r.release(d)
	// A lost acknowledgement means a redelivery, which every stage expects.
	switch {
	case d.nak > 0:
		_ = d.msg.NakWithDelay(d.nak)
	case d.term != "" && d.requests == 1:
		_ = d.msg.TermWithReason(d.term)
	default:
		_ = d.msg.Ack()
	}
}

// abandon leaves what cannot be published to other replicas: the process is to
// stop, and the server delivers again what was not acknowledged.
func (r *Runner) abandon(o *outcome) {
	for _, it := range append([]*item{o.item}, itemsOf(o.verdict.With)...) {
		r.noteSettled(it, stages.ActionRetry)
		if d := it.from; !d.abandoned {
			d.abandoned = true
			r.release(d)
		}
	}
}

func itemsOf(requests []*stages.Request) []*item {
	items := make([]*item, len(requests))
	for i, r := range requests {
		items[i] = r.Ticket.(*item)
	}
	return items
}
