package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// Figures of the layout that are not configured.
const (
	// defaultAckWait: see Layout.AckWait.
	defaultAckWait = 15 * time.Second

	// duplicateWindow covers a crash between publishing a hand-off and
	// acknowledging its input: a few times AckWait.
	duplicateWindow = 2 * time.Minute
	// requestsWindow is the shortest that the server takes: ids of requests are
	// not its duplicate ids, which are one key space over all tenants.
	requestsWindow = 100 * time.Millisecond

	// maxAckPending is generous: concurrency is bounded by the workers, and a
	// request that waits must not hold back the others.
	maxAckPending = 50_000
	// maxPulls is how many pulls may wait at a consumer: one of each idle replica.
	maxPulls = 4096
	// maxMessageSize bounds what a stream takes beside the server's max_payload.
	deltasBytes   = 256 << 20
	deltasAge     = time.Minute
	feedbackBytes = 1 << 30
	feedbackAge   = 7 * 24 * time.Hour
	laterBytes    = 4 << 30

	// sourcingTimeout bounds the wait for the archive to begin sourcing; it
	// begins about 120 ms after its stream is made and 10 s after a restart.
	sourcingTimeout = 30 * time.Second
)

// Layout is everything that Provision sets up: names, limits and replicas.
type Layout struct {
	Names    Names
	Replicas int // servers that keep each stream, at least

	// AckWait is how long a message may be worked on without a sign of life
	// before another replica gets it. The runner gives that sign at a third of
	// it. Default 15 s.
	AckWait time.Duration

	RequestsBytes int64
	MaxWaiting    int64 // requests of one tenant that no stage has taken
	// MaxWaitingBytes bounds what waits for a tenant without a limit of its own
	// behind the stream of requests; 0 is any number.
	MaxWaitingBytes int64
	Archive         bool
	ArchiveBytes    int64
	ArchiveAge      time.Duration
	StageBytes      int64
	ResponsesBytes  int64
	ResponsesAge    time.Duration
	DeadBytes       int64
	DeadAge         time.Duration
}

// Provision sets up all streams and consumers. It is idempotent: what is there
// already is brought to this layout, and replicas that start at once do not
// get in each other's way. The consumer of the requests is made last, once the
// archive has begun to copy them, so that nothing is worked and gone before.
func Provision(ctx context.Context, js jetstream.JetStream, l Layout) error {
	for _, cfg := range l.streams() {
		if err := ensureStream(ctx, js, cfg); err != nil {
			return err
		}
	}
	if err := l.provisionArchive(ctx, js); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, c := range l.consumers() {
		group.Go(func() error { return ensureConsumer(ctx, js, c) })
	}
	return group.Wait()
}

func (l Layout) streams() []jetstream.StreamConfig {
	n, p := l.Names, l.Names.Prefix
	list := []jetstream.StreamConfig{{
		Name: n.Requests(), Subjects: []string{p + ".requests.*"},
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew,
		MaxBytes: l.RequestsBytes, MaxMsgsPerSubject: l.MaxWaiting, DiscardNewPerSubject: true,
		AllowDirect: true, Duplicates: requestsWindow, // read directly where one overtakes a flood
		// Ids of requests are sequences, which must not start again when the stream is made anew.
		FirstSeq: uint64(time.Now().UnixMilli()),
	}, {
		Name: n.Responses(), Subjects: []string{p + ".responses.*.*"},
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew,
		MaxBytes: l.ResponsesBytes, MaxAge: l.ResponsesAge,
		MaxMsgsPerSubject: 1, DiscardNewPerSubject: true, AllowDirect: true, Duplicates: requestsWindow,
	}, {
		Name: n.Deltas(), Subjects: []string{p + ".deltas.*.*"},
		Storage: jetstream.MemoryStorage, Discard: jetstream.DiscardOld,
		MaxBytes: deltasBytes, MaxAge: deltasAge, AllowDirect: true, Duplicates: requestsWindow,
	}, {
		Name: n.Feedback(), Subjects: []string{p + ".feedback.*"},
		Discard: jetstream.DiscardOld, MaxBytes: feedbackBytes, MaxAge: feedbackAge, Duplicates: requestsWindow,
	}, {
		Name: n.Dead(), Subjects: []string{p + ".dead.*.*"},
		Discard: jetstream.DiscardOld, MaxBytes: l.DeadBytes, MaxAge: l.DeadAge, Duplicates: duplicateWindow,
	}, {
		// Schedules cannot be refused when a stream is full, so the product
		// bounds what it puts here: see later.go.
		Name: n.Later(), Subjects: []string{p + ".later.at.*.*", p + ".later.due.*.*.*"},
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardOld,
		MaxBytes: laterBytes, AllowMsgSchedules: true, Duplicates: requestsWindow,
	}}
	for _, stage := range stages.Names[1:] {
		list = append(list, jetstream.StreamConfig{
			Name: n.Stage(stage), Subjects: []string{p + ".stages." + stage + ".*.*.*"},
			Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew,
			MaxBytes: l.StageBytes, Duplicates: duplicateWindow,
		})
	}
	for i := range list {
		list[i].Replicas = max(l.Replicas, 1)
	}
	return list
}

// provisionArchive makes the archive and waits until it is being fed. Where it
// is off and there is one, that is left to be drained and removed by an operator.
func (l Layout) provisionArchive(ctx context.Context, js jetstream.JetStream) error {
	if !l.Archive {
		return nil
	}
	if err := ensureStream(ctx, js, l.archive()); err != nil {
		return err
	}
	return awaitSourcing(ctx, js, l.Names.Requests())
}

func (l Layout) archive() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: l.Names.Archive(), Sources: []*jetstream.StreamSource{{Name: l.Names.Requests()}},
		Discard: jetstream.DiscardOld, MaxBytes: l.ArchiveBytes, MaxAge: l.ArchiveAge,
		Compression: jetstream.S2Compression, AllowDirect: true, Replicas: max(l.Replicas, 1),
	}
}

// awaitSourcing waits until the stream lists the consumer that copies it.
func awaitSourcing(ctx context.Context, js jetstream.JetStream, name string) error {
	ctx, cancel := context.WithTimeout(ctx, sourcingTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("looking for stream %s: %w", name, err)
	}
	for {
		names := stream.ConsumerNames(ctx)
		for consumer := range names.Name() {
			if strings.HasPrefix(consumer, "JS_SRC_") {
				return nil
			}
		}
		if err := names.Err(); err != nil {
			return fmt.Errorf("listing the consumers of stream %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the archive did not begin to copy stream %s: %w", name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (l Layout) ackWait() time.Duration { return cmp.Or(l.AckWait, defaultAckWait) }

// durable is a consumer group: a durable of a stream, and the stage that it feeds.
type durable struct {
	stream string
	stage  string
	class  schemas.Class // empty where it brings all classes
	lane   int           // of generate; else -1
	config jetstream.ConsumerConfig
}

// consumers lists all consumer groups.
func (l Layout) consumers() []durable {
	n, p := l.Names, l.Names.Prefix
	var list []durable
	add := func(stream, stage, name, filter string, class schemas.Class, lane int) {
		list = append(list, durable{stream, stage, class, lane, jetstream.ConsumerConfig{
			Durable: name, FilterSubject: filter,
			AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
			AckWait: l.ackWait(), MaxDeliver: -1, MaxAckPending: maxAckPending,
			MaxWaiting: maxPulls,
		}})
	}
	for _, stage := range stages.Names[1:] {
		for _, class := range schemas.Classes {
			if stage != stages.Generate {
				add(n.Stage(stage), stage, consumerName(stage, class, -1), fmt.Sprintf("%s.stages.%s.%s.*.*", p, stage, class), class, -1)
				continue
			}
			for lane := range schemas.Lanes {
				add(n.Stage(stage), stage, consumerName(stage, class, lane), fmt.Sprintf("%s.stages.%s.%s.%d.*", p, stage, class, lane), class, lane)
			}
		}
	}
	for _, stage := range stages.Names {
		add(n.Later(), stage, stage, fmt.Sprintf("%s.later.due.%s.*.*", p, stage), "", -1)
	}
	add(n.Requests(), stages.Compress, stages.Compress, p+".requests.*", "", -1)
	return list
}

// ensureStream makes a stream or brings it to the wanted configuration. It never
// takes copies away: a replica whose configuration was not told of a cluster
// must not undo what provision --replicas did.
func ensureStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	stream, err := js.Stream(ctx, want.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		_, err = js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another replica was faster
			return ensureStream(ctx, js, want)
		}
	case err == nil:
		have := stream.CachedInfo().Config
		want.FirstSeq = have.FirstSeq
		want.Replicas = max(want.Replicas, have.Replicas)
		if sameStream(have, want) {
			return nil
		}
		_, err = js.UpdateStream(ctx, want)
		if err == nil && want.Replicas > have.Replicas {
			err = jsx.AwaitCopies(ctx, js, want.Name)
		}
	}
	if err != nil {
		return fmt.Errorf("setting up stream %s: %w", want.Name, explain(err))
	}
	return nil
}

// sameStream reports whether a stream needs no update; the server fills in
// defaults, so only what is asked for is compared.
func sameStream(have, want jetstream.StreamConfig) bool {
	return reflect.DeepEqual(have.Subjects, want.Subjects) && len(have.Sources) == len(want.Sources) &&
		have.MaxBytes == want.MaxBytes && have.MaxAge == want.MaxAge && have.Replicas == want.Replicas &&
		(want.MaxMsgsPerSubject == 0 || have.MaxMsgsPerSubject == want.MaxMsgsPerSubject) &&
		have.Discard == want.Discard && have.DiscardNewPerSubject == want.DiscardNewPerSubject &&
		have.AllowDirect == want.AllowDirect && have.Compression == want.Compression &&
		(want.Duplicates == 0 || have.Duplicates == want.Duplicates)
}

func ensureConsumer(ctx context.Context, js jetstream.JetStream, g durable) error {
	_, err := js.CreateOrUpdateConsumer(ctx, g.stream, g.config)
	if err != nil {
		if c, lookErr := js.Consumer(ctx, g.stream, g.config.Durable); lookErr == nil && c.CachedInfo().Config.MaxWaiting != g.config.MaxWaiting {
			err = remakeConsumer(ctx, js, g, c.CachedInfo())
		}
	}
	if err != nil {
		return fmt.Errorf("setting up consumer %s of stream %s: %w", g.config.Durable, g.stream, explain(err))
	}
	return nil
}

// remakeConsumer deals with a consumer of an earlier version, whose number of
// waiting pulls the server does not change. Where nobody pulls and the stream is
// empty, it is made anew. Else that number stays: what was acknowledged may
// still be in the stream, for the archive, and would be delivered again.
func remakeConsumer(ctx context.Context, js jetstream.JetStream, g durable, have *jetstream.ConsumerInfo) error {
	stream, err := js.Stream(ctx, g.stream)
	if err != nil {
		return err
	}
	if have.NumWaiting > 0 || stream.CachedInfo().State.Msgs > 0 {
		g.config.MaxWaiting = have.Config.MaxWaiting
	} else if err := js.DeleteConsumer(ctx, g.stream, g.config.Durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return err
	}
	_, err = js.CreateOrUpdateConsumer(ctx, g.stream, g.config)
	return err
}

// explain adds what to do to errors that a user can mend.
func explain(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch api.ErrorCode {
	case 10047, 10023, 10028:
		return fmt.Errorf("%w (the limits under streams: add up to more than the server may store; lower max_bytes or raise the server's max_file_store)", err)
	case jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount:
		return fmt.Errorf("%w (start the NATS server with JetStream: nats-server -js)", err)
	case 10074:
		return fmt.Errorf("%w (nats.replicas is more than the cluster has servers)", err)
	}
	return err
}
