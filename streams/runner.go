package streams

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// Step is one stage in a runner.
type Step struct {
	Name    string
	Stage   stages.Stage
	Workers int // slices worked on at once; default 1
	Slice   int // requests in a slice at most; default 256
}

// RunnerConfig configures a Runner.
type RunnerConfig struct {
	Layout     Layout
	MaxDeliver int // failures of one request before it is given up; default 5
	Capacity   int // requests held at once; default 512
	Bytes      int // of the messages held at once, about; default 128 MB
	MaxPayload int // the server's limit on a message, in bytes
	Pull       int // bytes asked for at once, about; default 1 MB
	Window     int // messages published and not yet acknowledged by the server; default 4,096

	// Tenants are the limits of single tenants. May be nil.
	Tenants *Tenants
	// Memory bounds the bytes that all runners of the process hold. May be nil.
	Memory *Memory
	// Tight reports that memory is short: then no more is taken than one message
	// at a time. It is asked often and must be quick. May be nil.
	Tight func() bool

	// Recorded finds answers that were too large to travel with their requests.
	// The key is that of the record.
	Recorded func(ctx context.Context, key string) (answer []byte, err error)
	// Cancelled reports whether a request (tenant.id) was cancelled. May be nil.
	Cancelled func(key string) bool
	// LaterFull reports whether the later stream holds as much as it should:
	// what would wait there longer is then looked at again within half a minute.
	// May be nil.
	LaterFull func() bool
	// Parking holds the requests that wait without a worker: more may be taken
	// in their place. May be nil.
	Parking *stages.Parking
	// Wanted gives how many more requests the stages could begin, whatever is
	// free: none are pulled while that is none. It is asked again when a request
	// is settled, and after a moment. May be nil.
	Wanted func() int
	// Waiting tells how many messages wait for generate in a lane, as of a
	// moment ago. May be nil.
	Waiting func(class schemas.Class, lane int) int64
	// OnTheWay tells how many messages wait between compress and generate, as of
	// a moment ago. May be nil.
	OnTheWay func() int64
	// Local is where requests come from and responses go to in the place of
	// streams. May be nil.
	Local   *Local
	Metrics *Metrics
}

const (
	// asyncPending bounds the messages of a runner that were published and not yet
	// acknowledged by the server.
	asyncPending = 4096
	// roomPoll is how often it is looked whether there is room again that others
	// than the runner itself can make.
	roomPoll = 20 * time.Millisecond
)

// Runner runs one group of neighbouring stages: it pulls what waits for any of
// them, has them work on it in slices, publishes what they decided and
// acknowledges what it took, in that order.
type Runner struct {
	cfg   RunnerConfig
	names Names
	nc    *nats.Conn
	js    jetstream.JetStream
	get   *jsx.Getter
	steps []*step

	publisher *jsx.Publisher
	decided   pile[*outcome] // by stages, not published yet
	acked     pile[*outcome] // published, with their fate known, not settled yet

	shares    *shares
	crowding  crowding
	overtaker *overtaker // nil where no requests come in
	rescuer   *rescuer   // and this one also without an archive

	draining atomic.Bool
	warned   atomic.Int64 // when trouble was last logged, Unix seconds

	mu    sync.Mutex
	held  int // requests taken and not settled
	bytes int // of their messages
	pace  pace
	freed chan struct{}
	open  map[*delivery]struct{}
}

type step struct {
	Step
	queue *queue
}

// NewRunner makes a runner for a group of neighbouring stages, in order.
func NewRunner(nc *nats.Conn, cfg RunnerConfig, steps []Step) (*Runner, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	get, err := jsx.NewGetter(nc)
	if err != nil {
		return nil, err
	}
	publisher, err := jsx.NewPublisher(nc, jsx.PublisherConfig{Window: cmp.Or(cfg.Window, asyncPending)})
	if err != nil {
		return nil, err
	}
	if cfg.MaxDeliver <= 0 {
		cfg.MaxDeliver = 5
	}
	if cfg.Capacity <= 0 {
		cfg.Capacity = 512
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = 128 << 20
	}
	cfg.Pull = cmp.Or(cfg.Pull, 1<<20)
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	r := &Runner{
		cfg: cfg, names: cfg.Layout.Names, nc: nc, js: js, get: get,
		publisher: publisher, decided: newPile[*outcome](), acked: newPile[*outcome](),
		freed: make(chan struct{}, 1), open: map[*delivery]struct{}{},
		shares: newShares(cfg.Waiting),
	}
	r.addSteps(steps)
	r.overtaker = newOvertaker(r)
	r.rescuer = newRescuer(r)
	return r, nil
}

// addSteps makes the steps; before compress, requests pass the door.
func (r *Runner) addSteps(list []Step) {
	for _, s := range list {
		if s.Name == stages.Compress {
			r.steps = append(r.steps, &step{Step: Step{Name: doorStep, Stage: door{r}, Workers: 1, Slice: s.Slice}})
		}
		r.steps = append(r.steps, &step{Step: s})
	}
	for _, s := range r.steps {
		s.Workers = max(s.Workers, 1)
		if s.Slice <= 0 {
			s.Slice = 256
		}
	}
}

// Run works until ctx ends, then finishes what it took and returns.
func (r *Runner) Run(ctx context.Context) error {
	defer r.get.Close()
	defer r.publisher.Close()
	sources := r.sources()
	r.cfg.Local.follow(sources)
	for _, s := range r.steps {
		s.queue = newQueue(len(sources) + 1) // one is the overtaker's
	}
	defer r.overtaker.close()
	if err := r.overtaker.listen(); err != nil {
		return err
	}
	defer r.rescuer.close()
	if err := r.rescuer.listen(); err != nil {
		return err
	}
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()

	var background, pulling, working sync.WaitGroup
	background.Go(func() { r.publish(work) })
	background.Go(func() { r.keepAlive(work) })
	for i, s := range r.steps {
		for range s.Workers {
			working.Go(func() { r.work(work, i) })
		}
	}
	for _, s := range sources {
		pulling.Go(func() { s.run(ctx) })
	}
	pulling.Go(func() { r.overtaker.run(ctx) })
	pulling.Go(func() { r.rescuer.run(ctx) })

	pulling.Wait() // ends with ctx
	r.draining.Store(true)
	r.awaitSettled()
	for _, s := range r.steps {
		s.queue.close()
	}
	working.Wait()
	stopWork()
	background.Wait()
	if err := r.nc.FlushTimeout(5 * time.Second); err != nil && !r.nc.IsClosed() {
		return fmt.Errorf("flushing acknowledgements: %w", err)
	}
	return nil
}

// sources lists what feeds the group: the consumers of all its stages, so that
// what waits in the streams of inner stages is worked too.
func (r *Runner) sources() []*source {
	var list []*source
	for _, d := range r.cfg.Layout.consumers() {
		enters := d.stage
		if d.stream == r.names.Requests() {
			enters = doorStep
		}
		if i := slices.IndexFunc(r.steps, func(s *step) bool { return s.Name == enters }); i >= 0 {
			list = append(list, &source{runner: r, durable: d, lane: len(list), step: i})
		}
	}
	return list
}

// work gives slices of what waits for a step to its stage.
func (r *Runner) work(ctx context.Context, index int) {
	s := r.steps[index]
	for {
		items := s.queue.take(s.Slice)
		if len(items) == 0 {
			return
		}
		now := time.Now()
		requests := make([]*stages.Request, len(items))
		for i, it := range items {
			it.started = now
			requests[i] = &it.request
		}
		s.Stage.Run(ctx, requests, r.decide)
	}
}

// decide takes a stage's verdict on a request: on to the group's next step
// where that comes next, else to the publisher.
func (r *Runner) decide(request *stages.Request, verdict stages.Verdict) {
	it := request.Ticket.(*item)
	r.stamp(it, verdict)
	if r.steps[it.step].Name == stages.Batch {
		r.cfg.Metrics.Together(1 + len(verdict.With))
	}
	for _, other := range verdict.With {
		r.stamp(other.Ticket.(*item), verdict)
	}
	next, inside := r.nextStep(it.step, verdict)
	if !inside {
		r.decided.add(&outcome{item: it, verdict: verdict})
		return
	}
	r.enter(next, it)
	for _, other := range verdict.With {
		r.enter(next, other.Ticket.(*item))
	}
}

func (r *Runner) enter(step int, it *item) {
	it.step, it.entered = step, time.Now()
	r.steps[step].queue.push(it)
}

// stamp notes how long the request waited for the step and ran in it.
func (r *Runner) stamp(it *item, verdict stages.Verdict) {
	s := r.steps[it.step]
	if s.Name == doorStep {
		return
	}
	now := time.Now()
	queued, ran := it.started.Sub(it.entered), now.Sub(it.started)
	it.request.Stages = append(it.request.Stages, schemas.Timing{Stage: s.Name, QueuedMS: milliseconds(queued), RanMS: milliseconds(ran)})
	r.cfg.Metrics.decided(s.Name, it.request.Class, verdict.Action, queued, ran)
}

func milliseconds(d time.Duration) float64 { return float64(max(d, 0).Microseconds()) / 1000 }

// nextStep gives the step of this group that a verdict leads to.
func (r *Runner) nextStep(from int, verdict stages.Verdict) (step int, inside bool) {
	switch verdict.Action {
	case stages.ActionContinue, stages.ActionTogether:
		return from + 1, from+1 < len(r.steps)
	case stages.ActionSkip:
		for i, s := range r.steps {
			if s.Name == verdict.Stage {
				return i, true
			}
		}
	}
	return 0, false
}

// free gives how many more requests and bytes a source may take, and waits while
// that is none. It gives no requests when ctx ends.
func (r *Runner) free(ctx context.Context, s *source) (requests, bytes int) {
	for ctx.Err() == nil {
		requests, bytes, othersMakeRoom := r.allowed(s)
		if requests > 0 && bytes > 0 {
			r.wake() // another source may be waiting too
			return requests, bytes
		}
		var poll <-chan time.Time
		if othersMakeRoom {
			poll = time.After(roomPoll)
		}
		select {
		case <-r.freed:
		case <-r.cfg.Parking.Entered():
		case <-poll:
		case <-ctx.Done():
		}
	}
	return 0, 0
}

// allowed gives how many more requests and bytes a source may take now, and
// whether it is not only this runner that is in the way.
func (r *Runner) allowed(s *source) (requests, bytes int, othersMakeRoom bool) {
	tight := r.cfg.Tight != nil && r.cfg.Tight()
	r.mu.Lock()
	requests = s.room() + r.cfg.Capacity + r.pace.ahead(time.Now()) - r.held + r.cfg.Parking.Parked()
	bytes = r.cfg.Memory.free(r.cfg.Bytes - r.bytes)
	idle := r.held == 0
	r.mu.Unlock()
	if tight || bytes <= 0 {
		othersMakeRoom = true
		requests, bytes = 0, 0
		if idle {
			requests, bytes = 1, 1
		}
	}
	if requests > 0 && r.cfg.Wanted != nil {
		requests, othersMakeRoom = min(requests, r.cfg.Wanted()), true
	}
	return requests, bytes, othersMakeRoom
}

const (
	// paceEvery is how often the pace of a runner is measured.
	paceEvery = 100 * time.Millisecond
	// paceAhead is the work that may be held beyond the capacity: what is worked
	// within this time at the present pace. Slow calls are not hoarded by it,
	// and fast ones are read and written in larger slices.
	paceAhead = 50 * time.Millisecond
	maxAhead  = 1024
)

// pace is how fast requests are settled.
type pace struct {
	settled int // since it was measured
	at      time.Time
	extra   int
}

// ahead gives how many requests more than the capacity may be held.
func (p *pace) ahead(now time.Time) int {
	if passed := now.Sub(p.at); passed >= paceEvery {
		p.extra = min(maxAhead, int(float64(p.settled)*paceAhead.Seconds()/passed.Seconds()))
		p.settled, p.at = 0, now
	}
	return p.extra
}

func (r *Runner) hold(d *delivery, requests int) {
	r.mu.Lock()
	r.held += requests
	r.bytes += len(d.msg.Data())
	r.open[d] = struct{}{}
	r.mu.Unlock()
	r.cfg.Memory.take(len(d.msg.Data()))
}

func (r *Runner) release(d *delivery) {
	r.mu.Lock()
	r.held -= d.requests
	r.bytes -= len(d.msg.Data())
	r.pace.settled += d.requests
	delete(r.open, d)
	r.mu.Unlock()
	r.cfg.Memory.take(-len(d.msg.Data()))
	r.wake()
}

func (r *Runner) wake() {
	select {
	case r.freed <- struct{}{}:
	default:
	}
}

// awaitSettled waits until everything that was taken is settled.
func (r *Runner) awaitSettled() {
	for {
		r.mu.Lock()
		open := len(r.open)
		r.mu.Unlock()
		if open == 0 {
			return
		}
		<-r.freed
	}
}

// warn logs trouble of the sources, which often all have it at once, no more
// than once every ten seconds.
func (r *Runner) warn(s *source, failures int, err error) {
	now := time.Now().Unix()
	if last := r.warned.Load(); now-last < 10 || !r.warned.CompareAndSwap(last, now) {
		return
	}
	slog.Warn("pulling failed, trying again", "stream", s.durable.stream, "consumer", s.durable.config.Durable, "failures", failures, "error", err)
}

// keepAlive tells the server about messages that take long, so that nobody
// else gets them, until ctx ends.
func (r *Runner) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(r.cfg.Layout.ackWait() / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			r.mu.Lock()
			for d := range r.open {
				if now.Sub(d.taken) > r.cfg.Layout.ackWait()/6 {
					_ = d.msg.InProgress() // lost ones are redelivered, which every stage expects
				}
			}
			r.mu.Unlock()
		}
	}
}
