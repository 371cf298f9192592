package streams

import (
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/schemas"
)

// deadLetter makes the dead letter of a request that is given up: its original
// bytes, with what went wrong in the headers.
func (r *Runner) deadLetter(it *item, err error) *nats.Msg {
	request := &it.request
	stage := stageName(r.steps[it.step].Name)
	e := schemas.AsError(err)
	r.cfg.Metrics.deadLetter(stage, e.Code)
	return &nats.Msg{
		Subject: r.names.DeadLetter(stage, request.Tenant),
		Data:    request.Published(),
		Header: nats.Header{
			jetstream.MsgIDHeader: []string{"dead/" + stage + "/" + request.Tenant + "/" + request.ID + "/" + strconv.FormatUint(it.from.sequence, 10)},
			HeaderID:              []string{request.ID},
			HeaderPriority:        []string{string(request.Class)},
			HeaderStage:           []string{stage},
			HeaderReason:          []string{string(e.Code)},
			HeaderMessage:         []string{headerText(e.Error())},
			HeaderDeliveries:      []string{strconv.Itoa(it.from.delivered)},
			HeaderSubject:         []string{headerText(r.originalSubject(it))},
			HeaderSequence:        []string{strconv.FormatUint(request.Sequence, 10)},
		},
	}
}

// originalSubject is where the request was published, whichever stage gave it up;
// of a hand-off that nobody can read, it is the hand-off's.
func (r *Runner) originalSubject(it *item) string {
	came := it.from.msg.Subject()
	if it.request.ID == "" || strings.HasPrefix(came, r.names.Request("")) {
		return came
	}
	return r.names.Request(it.request.Tenant)
}

// headerText makes text fit for a header: one line, bounded.
func headerText(s string) string {
	clean := []byte(clipText(s, 512))
	for i, c := range clean {
		if c < ' ' || c == 0x7f {
			clean[i] = ' '
		}
	}
	return string(clean)
}
