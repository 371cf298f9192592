package streams

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/schemas"
)

// newerPause is how long a hand-off of a newer version is put aside, where this
// replica met it, before a replica that knows the version may get it.
const newerPause = 5 * time.Second

// leaveToNewer puts a hand-off that this replica cannot read where it comes back
// from a little later, so that another replica may take it. It is published anew
// rather than refused: refusals are deliveries, which would count as failures of
// its requests, and while an upgrade lasts there may be many.
func (r *Runner) leaveToNewer(s *source, d *delivery) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	m, err := r.postponed(s, d)
	if err == nil && (r.cfg.LaterFull == nil || !r.cfg.LaterFull()) {
		if _, err = r.js.PublishMsg(ctx, m); err == nil {
			_ = d.msg.Ack()
			return
		}
	}
	if err != nil {
		slog.Warn("a hand-off of a newer version cannot be put aside", "stream", s.durable.stream, "error", err)
	}
	_ = d.msg.NakWithDelay(defaultAckWait)
}

// postponed makes the schedule that brings a message back to its stage as it is.
// What there is to know of it is in its subject.
func (r *Runner) postponed(s *source, d *delivery) (*nats.Msg, error) {
	tokens := strings.Split(d.msg.Subject(), ".")
	class, tenant := 3, len(tokens)-1 // as in <prefix>.stages.<stage>.<class>.<lane>.<tenant>
	if s.durable.stream == r.names.Later() {
		class = 4 // <prefix>.later.due.<stage>.<class>.<tenant>
	}
	if class >= tenant {
		return nil, fmt.Errorf("%.120q is no subject of a hand-off", d.msg.Subject())
	}
	at := time.Now().Add(newerPause + time.Second).Truncate(time.Second).UTC()
	return &nats.Msg{
		Subject: r.names.LaterAt(tokens[tenant], fmt.Sprintf("newer-%s-%d", s.durable.stream, d.sequence)),
		Data:    d.msg.Data(),
		Header: nats.Header{
			HeaderVersion:          d.msg.Headers()[HeaderVersion],
			"Nats-Schedule":        []string{"@at " + at.Format(time.RFC3339)},
			"Nats-Schedule-Target": []string{r.names.LaterDue(s.durable.stage, schemas.Class(tokens[class]), tokens[tenant])},
		},
	}, nil
}
