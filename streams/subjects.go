// Package streams is the product's use of JetStream: subjects, streams and
// consumers, the one runner of all consumer groups, dead letters, the client
// and the embedded server.
package streams

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/adpa/processor/schemas"
)

// Headers of requests, hand-offs, responses and dead letters.
const (
	HeaderID       = "Llm-Id"
	HeaderPriority = "Llm-Priority"
	HeaderDeadline = "Llm-Deadline"
	HeaderTrace    = "traceparent"
	HeaderVersion  = "Llm-Version"
	HeaderBody     = "Llm-Body" // on responses: fingerprint of the body that was answered
	HeaderKey      = "Llm-Key"  // on responses: that of the cache, where the request has one

	HeaderStage      = "Llm-Stage" // on dead letters, and the five below
	HeaderReason     = "Llm-Reason"
	HeaderMessage    = "Llm-Message"
	HeaderDeliveries = "Llm-Deliveries"
	HeaderSubject    = "Llm-Subject"
	HeaderSequence   = "Llm-Sequence"
)

// Names gives the names of subjects and streams under a prefix.
type Names struct{ Prefix string }

func (n Names) stream(suffix string) string {
	return strings.ToUpper(n.Prefix) + "_" + suffix
}

// The streams.
func (n Names) Requests() string          { return n.stream("REQUESTS") }
func (n Names) Archive() string           { return n.stream("ARCHIVE") }
func (n Names) Stage(stage string) string { return n.stream(strings.ToUpper(stage)) }
func (n Names) Later() string             { return n.stream("LATER") }
func (n Names) Responses() string         { return n.stream("RESPONSES") }
func (n Names) Deltas() string            { return n.stream("DELTAS") }
func (n Names) Feedback() string          { return n.stream("FEEDBACK") }
func (n Names) Dead() string              { return n.stream("DEAD") }

// Request is the subject that a tenant publishes to.
func (n Names) Request(tenant string) string { return n.Prefix + ".requests." + tenant }

// Response is the subject of the answer to a request.
func (n Names) Response(tenant, id string) string {
	return n.Prefix + ".responses." + tenant + "." + id
}

// Overtaking and Overtaken are the subjects, on core NATS, on which replicas tell
// each other who works requests ahead of their turn, and which need no more work.
func (n Names) Overtaking() string { return n.Prefix + ".overtaking" }
func (n Names) Overtaken() string  { return n.Prefix + ".overtaken" }

// Compared is the subject, on core NATS, on which replicas tell each other which
// requests they have compared with the answers.
func (n Names) Compared() string { return n.Prefix + ".compared" }

// Delta is the subject of the streamed tokens of an answer.
func (n Names) Delta(tenant, id string) string { return n.Prefix + ".deltas." + tenant + "." + id }

// Handoff is the subject of hand-offs to a stage.
func (n Names) Handoff(stage string, class schemas.Class, tenant string) string {
	return n.handoff(stage, class, schemas.Shard(tenant), tenant)
}

// HandoffBeyond is the subject of hand-offs beyond a tenant's share, which are
// told apart on the way to generate.
func (n Names) HandoffBeyond(stage string, class schemas.Class, tenant string) string {
	return n.handoff(stage, class, schemas.OverflowLane(tenant), tenant)
}

func (n Names) handoff(stage string, class schemas.Class, lane int, tenant string) string {
	return n.Prefix + ".stages." + stage + "." + string(class) + "." + strconv.Itoa(lane) + "." + tenant
}

func (n Names) handoffOf(stage string, s *schemas.State) string {
	if s.Beyond {
		return n.HandoffBeyond(stage, s.Class, s.Tenant)
	}
	return n.Handoff(stage, s.Class, s.Tenant)
}

// LaterAt is the subject of the schedule of one waiting request.
func (n Names) LaterAt(tenant, id string) string { return n.Prefix + ".later.at." + tenant + "." + id }

// LaterDue is the subject on which a request that waited comes back to its stage.
func (n Names) LaterDue(stage string, class schemas.Class, tenant string) string {
	return n.Prefix + ".later.due." + stage + "." + string(class) + "." + tenant
}

// DeadLetter is the subject of a request that a stage gave up.
func (n Names) DeadLetter(stage, tenant string) string {
	return n.Prefix + ".dead." + stage + "." + tenant
}

// FeedbackOn is the subject of an application's scores and labels.
func (n Names) FeedbackOn(tenant string) string { return n.Prefix + ".feedback." + tenant }

// Cancel is the subject that cancels a request, on core NATS.
func (n Names) Cancel(tenant, id string) string { return n.Prefix + ".cancel." + tenant + "." + id }

// Events is the subject of a tenant's events, on core NATS.
func (n Names) Events(tenant string) string { return n.Prefix + ".events." + tenant }

// Alive is the subject on which a process answers that it lives, on core NATS.
func (n Names) Alive(process string) string { return n.Prefix + ".alive." + process }

// Bucket is the name of a KV bucket.
func (n Names) Bucket(name string) string { return n.Prefix + "_" + name }

// TenantOf reads the tenant from the subject of a request.
func (n Names) TenantOf(subject string) (string, error) {
	tenant, ok := strings.CutPrefix(subject, n.Prefix+".requests.")
	if !ok {
		return "", fmt.Errorf("subject %q is none of requests", subject)
	}
	return tenant, nil
}

// consumerName is the durable of a stage's consumer group.
func consumerName(stage string, class schemas.Class, shard int) string {
	if shard < 0 {
		return stage + "-" + string(class)
	}
	return stage + "-" + string(class) + "-" + strconv.Itoa(shard)
}
