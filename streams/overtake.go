package streams

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/adpa/processor/internal/jsx"
)

// A consumer gives its messages first in, first out: even a flood that is put
// aside has to be taken in before what stands behind it. So while requests
// crowd, those of tenants with few of them are read past the flood, straight
// from the stream, and worked at once. Their messages stay where they are until
// their turn comes; then whoever gets one only acknowledges it, for the replicas
// tell each other what has been overtaken, and one of them looks at a time. Where
// such a word is missing, because a replica died or was cut off, a request is
// worked once more, as any message that is delivered again, and what was answered
// or recorded is found before anything is paid.
const (
	// overtakeEvery is how often a crowd is looked through, and overtakeRest how
	// many times as long as the last look took is waited at least.
	overtakeEvery = 25 * time.Millisecond
	overtakeRest  = 4
	// overtakePart is the part of all that waits, and shareBurst the number, up to
	// which a tenant's requests may overtake.
	overtakePart = 64
	// overtakeNear is how far before its turn a request is left to the consumer.
	overtakeNear = 2 * asideMost
	// overtakeTenants and overtakeOpen bound the tenants of one look, and the
	// requests that are being worked; overtakeReads are under way at once.
	overtakeTenants = 256
	overtakeOpen    = 512
	overtakeReads   = 8
	overtakeTimeout = 5 * time.Second
	// overtakeTurn is how long the replica whose turn it is may be silent, and
	// overtakeListen how long one listens for others before it begins.
	overtakeTurn   = time.Second
	overtakeListen = 100 * time.Millisecond
	// maxOvertaken bounds what is known of requests whose turn is yet to come.
	maxOvertaken = 1 << 16
)

// overtaker works the requests of quiet tenants ahead of a flood. A nil one does nothing.
type overtaker struct {
	runner *Runner
	source *source // of requests, with a lane of its own: no flood is before it inside the process either
	heard  []*nats.Subscription

	name    string       // of those that would look, the one with the least looks
	said    time.Time    // when it was told last
	yielded atomic.Int64 // when a lesser one was heard last, Unix nanoseconds

	read *lru.Cache[string, uint64]   // the last sequence that was read, by subject
	done *lru.Cache[uint64, struct{}] // sequences whose outcome is stored
	open atomic.Int64                 // requests that are being worked
}

// newOvertaker makes the overtaker of a runner, nil if that takes no requests
// from their stream.
func newOvertaker(r *Runner) *overtaker {
	sources := r.sources()
	i := slices.IndexFunc(sources, func(s *source) bool { return s.durable.stream == r.names.Requests() })
	if i < 0 || r.cfg.Local != nil {
		return nil
	}
	read, err := lru.New[string, uint64](maxShares)
	if err != nil {
		panic(err) // the size is a constant
	}
	done, err := lru.New[uint64, struct{}](maxOvertaken)
	if err != nil {
		panic(err)
	}
	source := sources[i]
	source.lane = len(sources)
	return &overtaker{runner: r, source: source, name: rand.Text(), read: read, done: done}
}

// listen hears what other replicas say, until close.
func (o *overtaker) listen() error {
	if o == nil {
		return nil
	}
	names := o.runner.names
	for subject, hear := range map[string]nats.MsgHandler{names.Overtaking(): o.hearName, names.Overtaken(): o.hearDone} {
		sub, err := o.runner.nc.Subscribe(subject, hear)
		if err != nil {
			return fmt.Errorf("listening for what other replicas overtake: %w", err)
		}
		o.heard = append(o.heard, sub)
	}
	return nil
}

func (o *overtaker) close() {
	if o == nil {
		return
	}
	for _, sub := range o.heard {
		_ = sub.Unsubscribe()
	}
}

// passed reports whether a request was overtaken and needs no work.
func (o *overtaker) passed(sequence uint64) bool {
	return o != nil && o.done.Contains(sequence)
}

func (o *overtaker) hearName(m *nats.Msg) {
	if string(m.Data) < o.name {
		o.yielded.Store(time.Now().UnixNano())
	}
}

func (o *overtaker) hearDone(m *nats.Msg) {
	if sequence, err := strconv.ParseUint(string(m.Data), 10, 64); err == nil {
		o.done.Add(sequence, struct{}{})
	}
}

// run looks through crowds until ctx ends.
func (o *overtaker) run(ctx context.Context) {
	if o == nil {
		return
	}
	for rest := overtakeEvery; ctx.Err() == nil; {
		sleep(ctx, rest)
		rest = overtakeEvery
		if o.runner.crowding.behind.Load() < crowd || !o.room() || !o.turn(ctx) {
			continue
		}
		began := time.Now()
		// Whom an error keeps from overtaking waits for its turn.
		_ = o.look(ctx)
		rest = max(rest, overtakeRest*time.Since(began))
	}
}

// turn reports whether this replica is the one to look.
func (o *overtaker) turn(ctx context.Context) bool {
	yields := func() bool { return time.Since(time.Unix(0, o.yielded.Load())) < overtakeTurn }
	if yields() {
		return false
	}
	begins := time.Since(o.said) >= overtakeTurn
	o.said = time.Now()
	if err := o.runner.nc.Publish(o.runner.names.Overtaking(), []byte(o.name)); err != nil {
		return false
	}
	if begins {
		sleep(ctx, overtakeListen)
	}
	return !yields() && ctx.Err() == nil
}

// room reports whether more may be taken.
func (o *overtaker) room() bool {
	r := o.runner
	r.mu.Lock()
	bytes := r.cfg.Bytes - r.bytes
	r.mu.Unlock()
	return o.open.Load() < overtakeOpen && r.cfg.Memory.free(bytes) > 0 && (r.cfg.Tight == nil || !r.cfg.Tight())
}

// look reads what may overtake the crowd that waits now.
func (o *overtaker) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, overtakeTimeout)
	defer cancel()
	names := o.runner.names
	var consumer jetstream.Consumer
	var waiting map[string]int64
	asks, asking := errgroup.WithContext(ctx)
	asks.Go(func() (err error) {
		consumer, err = o.runner.js.Consumer(asking, names.Requests(), o.source.durable.config.Durable)
		return err
	})
	asks.Go(func() (err error) {
		waiting, err = messagesOf(asking, o.runner.nc, names.Requests(), names.Request("*"))
		return err
	})
	if err := asks.Wait(); err != nil {
		return err
	}
	now := consumer.CachedInfo()
	o.runner.crowding.behind.Store(int64(now.NumPending)) // others may have taken them
	from := now.Delivered.Stream + overtakeNear
	reads, ctx := errgroup.WithContext(ctx)
	reads.SetLimit(overtakeReads)
	for _, subject := range mayOvertake(waiting) {
		reads.Go(func() error { return o.readOn(ctx, subject, from) })
	}
	return reads.Wait()
}

// mayOvertake gives up to overtakeTenants of the subjects, at random, that have
// few of the requests that wait: none where no flood makes up half of them.
func mayOvertake(waiting map[string]int64) []string {
	var all, flood int64
	for _, n := range waiting {
		all += n
	}
	few := max(shareBurst, all/overtakePart)
	var list []string
	for subject, n := range waiting {
		if n > few {
			flood += n
		} else if len(list) < overtakeTenants {
			list = append(list, subject)
		}
	}
	if 2*flood < all {
		return nil
	}
	return list
}

// readOn takes the requests of one subject that were not taken before.
func (o *overtaker) readOn(ctx context.Context, subject string, from uint64) error {
	if last, known := o.read.Get(subject); known {
		from = max(from, last+1)
	}
	if !o.room() {
		return nil
	}
	messages, err := o.runner.get.Next(ctx, o.runner.names.Requests(), subject, from, shareBurst, o.runner.cfg.Pull)
	for _, m := range messages {
		o.read.Add(subject, m.Sequence)
		o.take(m)
	}
	return err
}

// take has a request worked as if it had been delivered.
func (o *overtaker) take(m jsx.Stored) {
	o.open.Add(1)
	o.work(overtaking{stored(m), o, m.Sequence}, m, m.Sequence, 1)
}

// work has a request that was read from a stream worked as if it had been
// delivered so often. The sequence is that in the stream of requests.
func (o *overtaker) work(msg jetstream.Msg, m jsx.Stored, sequence uint64, delivered int) {
	d := &delivery{msg: msg, lane: o.source.lane, taken: time.Now(), delivered: delivered, sequence: sequence, requests: 1, open: 1}
	o.runner.receiveRequest(o.source, d, &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: sequence}, Timestamp: m.Time})
}

// stored is a message that was read and not delivered.
func stored(m jsx.Stored) pulled {
	return pulled{&nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}}
}

// settled notes that a request has been worked; if its outcome is stored, every
// replica hears of it.
func (o *overtaker) settled(sequence uint64, stored bool) error {
	o.open.Add(-1)
	if !stored {
		return nil // its message is delivered in its turn
	}
	o.done.Add(sequence, struct{}{})
	return o.runner.nc.Publish(o.runner.names.Overtaken(), strconv.AppendUint(nil, sequence, 10))
}

// overtaking is the message of a request that is worked before its turn. The
// server knows nothing of that, so there is nobody to acknowledge it to.
type overtaking struct {
	pulled
	by       *overtaker
	sequence uint64
}

// Ack implements jetstream.Msg.
func (m overtaking) Ack() error { return m.by.settled(m.sequence, true) }

// TermWithReason implements jetstream.Msg.
func (m overtaking) TermWithReason(string) error { return m.by.settled(m.sequence, true) }

// NakWithDelay implements jetstream.Msg.
func (m overtaking) NakWithDelay(time.Duration) error { return m.by.settled(m.sequence, false) }

// InProgress implements jetstream.Msg.
func (m overtaking) InProgress() error { return nil }
