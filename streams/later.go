package streams

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// later makes the message that brings a request back to its stage at the given
// time: a schedule, which the server turns into a message on the due subject.
// Schedules fire up to 0.75 s early and know whole seconds, so the time is
// rounded up; the stage looks again anyway.
func (r *Runner) later(o *outcome, stage string, due time.Time) []*nats.Msg {
	request := &o.item.request
	at := due.Add(2*time.Second - time.Nanosecond).Truncate(time.Second).UTC()
	data, err := r.encode(make([]byte, 0, r.sizeOf(o)), request)
	if err != nil {
		o.verdict = stages.Reject(err)
		return r.build(o)
	}
	return []*nats.Msg{{
		Subject: r.names.LaterAt(request.Tenant, request.ID),
		Data:    data,
		Header: nats.Header{
			HeaderVersion:          handoffVersion,
			"Nats-Schedule":        []string{"@at " + at.Format(time.RFC3339)},
			"Nats-Schedule-Target": []string{r.names.LaterDue(stage, request.Class, request.Tenant)},
		},
	}}
}

// reasonOf is the code under which an error is counted and shown.
func reasonOf(err error) schemas.Code { return schemas.AsError(err).Code }
