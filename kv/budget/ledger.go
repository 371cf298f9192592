package budget

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
)

// Options is how a ledger is opened.
type Options struct {
	Prefix   string   // of buckets and subjects; default llm
	Replicas int      // of the buckets, where they are made; default 1
	Budgets  []Config // of the configuration

	// CallTimeout is after how long a reservation without an Until of its own
	// is charged and dropped: longer than any call may take, with a margin for
	// the difference of clocks. Default 5 minutes.
	CallTimeout time.Duration
	// MaxOpen bounds the open reservations of a tenant; past it requests wait.
	// Default 4096.
	MaxOpen int
	// MaxRecord bounds a tenant's record in bytes; past it requests wait.
	// Default, and at most, three quarters of what a message may hold.
	MaxRecord int
	// MaxQueued bounds the operations of a tenant that wait in this process
	// for the writer; past it callers wait. Default 16384.
	MaxQueued int

	Now func() time.Time // the time by which windows begin and reservations end; default time.Now
	Log *slog.Logger     // for limits that cannot be read; default slog.Default()
}

// ErrClosed is the answer of a ledger that was closed.
var ErrClosed = errors.New("the budget ledger is closed")

// Ledger keeps tenants within their budgets. It is safe for concurrent use.
type Ledger struct {
	options Options
	bounds  bounds
	js      jetstream.JetStream
	budgets bucket
	limits  bucket
	tenants sync.Map // of name to *tenantState

	ctx     context.Context
	cancel  context.CancelFunc
	closing sync.Mutex // held to begin a writer, so that none begins once closed
	running sync.WaitGroup
	stops   []func()
}

// Open opens the ledger, making its buckets where they are missing, and returns
// once the present records and limits are known.
func Open(ctx context.Context, js jetstream.JetStream, o Options) (*Ledger, error) {
	if err := Validate(o.Budgets); err != nil {
		return nil, err
	}
	o = o.withDefaults(js.Conn().MaxPayload())
	if err := Provision(ctx, js, o.Prefix, o.Replicas); err != nil {
		return nil, err
	}
	l := &Ledger{
		options: o, bounds: bounds{o.MaxOpen, o.MaxRecord}, js: js,
		budgets: bucket{js, budgetBucket(o.Prefix)}, limits: bucket{js, limitsBucket(o.Prefix)},
	}
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	l.configure(o.Budgets)
	if err := l.watch(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (o Options) withDefaults(maxPayload int64) Options {
	or := func(n *int, d int) {
		if *n <= 0 {
			*n = d
		}
	}
	if o.Prefix == "" {
		o.Prefix = "llm"
	}
	if o.CallTimeout <= 0 {
		o.CallTimeout = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	most := int(maxPayload) / 4 * 3
	or(&o.MaxOpen, 4096)
	or(&o.MaxQueued, 16384)
	or(&o.MaxRecord, most)
	o.MaxRecord = min(o.MaxRecord, most)
	return o
}

func (l *Ledger) configure(budgets []Config) {
	byTenant := map[string][]Config{}
	for _, c := range budgets {
		byTenant[c.Tenant] = append(byTenant[c.Tenant], c)
	}
	for name, configs := range byTenant {
		t := l.ensure(name)
		t.limit(func() { t.fixed = configs })
	}
}

// watch follows the records and the limits that are set at run time. Keys of
// several tokens in the budget bucket are the usage of past days: not followed.
func (l *Ledger) watch(ctx context.Context) error {
	for _, w := range []jsx.WatchConfig{
		{Bucket: l.limits.name, Filter: "*", Apply: l.applyLimits},
		{Bucket: l.budgets.name, Filter: "*", Apply: l.hear},
	} {
		stop, err := jsx.Watch(ctx, l.js, w)
		if err != nil {
			return err
		}
		l.stops = append(l.stops, stop)
	}
	return nil
}

func (l *Ledger) hear(e jsx.Entry) {
	if schemas.ValidName(e.Key) {
		l.ensure(e.Key).hear(e)
	}
}

// Close ends the ledger: what waits gets ErrClosed. Reservations stay open.
func (l *Ledger) Close() {
	l.closing.Lock()
	l.cancel()
	l.closing.Unlock()
	for _, stop := range l.stops {
		stop()
	}
	l.running.Wait()
}

// begin counts a writer in, unless the ledger is closed.
func (l *Ledger) begin() bool {
	l.closing.Lock()
	defer l.closing.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.running.Add(1)
	return true
}

// Reserve asks for reservations, one a request, and gives their outcomes in the
// same order. It waits until all are decided, which takes a write a tenant, or
// until ctx ends: then what is not decided is Failed. It never waits for budget.
//
// Reserving the same call again is harmless. Reserving another call under an id
// charges the earlier one at its estimate, for its outcome is unknown.
func (l *Ledger) Reserve(ctx context.Context, requests []Request) []Outcome {
	outcomes := make([]Outcome, len(requests))
	groups := map[*tenantState][]int{}
	for i := range requests {
		r := &requests[i]
		if err := r.validate(); err != nil {
			outcomes[i] = Outcome{State: Failed, Err: fmt.Errorf("reserving: %w", err)}
			continue
		}
		if t := l.find(r.Tenant); t != nil && !t.view.Load().rules.empty() {
			groups[t] = append(groups[t], i)
		}
	}
	forEach(groups, func(t *tenantState, indices []int) {
		decided := make([]Outcome, len(indices))
		err := t.do(ctx, len(indices), false, t.reserve(l.until(requests, indices), decided))
		if err != nil { // the writer may still be at work on decided
			decided = failed(len(indices), fmt.Errorf("reserving for tenant %s: %w", t.name, err))
		}
		for k, i := range indices {
			outcomes[i] = decided[k]
		}
	})
	return outcomes
}

func (t *tenantState) reserve(requests []Request, outcomes []Outcome) func(*turn) {
	return func(turn *turn) {
		for i := range requests {
			outcomes[i] = turn.reserve(&requests[i])
		}
	}
}

// until picks requests and sets the time of those that have none. They are
// copies: the writer may read them after the caller has left.
func (l *Ledger) until(requests []Request, indices []int) []Request {
	picked := make([]Request, len(indices))
	end := l.now().Add(l.options.CallTimeout)
	for k, i := range indices {
		picked[k] = requests[i]
		if picked[k].Until.IsZero() {
			picked[k].Until = end
		}
	}
	return picked
}

func failed(n int, err error) []Outcome {
	outcomes := make([]Outcome, n)
	for i := range outcomes {
		outcomes[i] = Outcome{State: Failed, Err: err}
	}
	return outcomes
}

// Settle ends reservations, charging what was billed. A settlement whose call is
// not open any more, or never was, changes nothing. On an error some may not be
// settled; settling again is harmless.
func (l *Ledger) Settle(ctx context.Context, settlements []Settlement) error {
	groups := map[*tenantState][]Settlement{}
	for i := range settlements {
		s := settlements[i]
		if err := s.validate(); err != nil {
			return fmt.Errorf("settling: %w", err)
		}
		if t := l.find(s.Tenant); t != nil {
			groups[t] = append(groups[t], s)
		}
	}
	var mu sync.Mutex
	var errs []error
	forEach(groups, func(t *tenantState, list []Settlement) {
		err := t.do(ctx, len(list), true, func(turn *turn) {
			for i := range list {
				turn.settle(&list[i])
			}
		})
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, fmt.Errorf("settling for tenant %s: %w", t.name, err))
		}
	})
	return errors.Join(errs...)
}

// forEach runs work for each group, at once if there are several.
func forEach[V any](groups map[*tenantState][]V, work func(*tenantState, []V)) {
	if len(groups) == 1 {
		for t, group := range groups {
			work(t, group)
		}
		return
	}
	var wg sync.WaitGroup
	for t, group := range groups {
		wg.Go(func() { work(t, group) })
	}
	wg.Wait()
}

// CanAfford says whether what is settled leaves room for a call, from what this
// process knows: in nanoseconds, for early refusal. Only Reserve decides.
func (l *Ledger) CanAfford(tenant, model string, estimate Amount) bool {
	return l.Check(tenant, model, estimate) != Denied
}

// Check says what Reserve would probably answer, from what this process knows,
// in nanoseconds: Wait where open reservations are in the way.
func (l *Ledger) Check(tenant, model string, estimate Amount) State {
	t := l.find(tenant)
	if t == nil {
		return Granted
	}
	return t.view.Load().check(model, estimate, l.now())
}

// Limited reports, in nanoseconds, whether a tenant has anything to reserve or
// settle: a budget, or reservations from when it had one.
func (l *Ledger) Limited(tenant string) bool {
	t := l.find(tenant)
	return t != nil && t.view.Load().limited
}

// Hard reports whether a tenant has a hard budget: estimates must then be what a
// call can be billed at most.
func (l *Ledger) Hard(tenant string) bool {
	t := l.find(tenant)
	return t != nil && t.view.Load().rules.hard
}

// Changed gives a channel that is closed when something about a tenant's budget
// changes, and after a second at the latest. Whoever waits takes the channel,
// then looks with Check, and asks Reserve if that is not Wait, else waits for the
// channel. All who wait for a tenant hold the same channel.
func (l *Ledger) Changed(tenant string) <-chan struct{} {
	t := l.find(tenant)
	if t == nil {
		return closedChannel
	}
	return t.wait()
}

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (l *Ledger) find(name string) *tenantState {
	if t, ok := l.tenants.Load(name); ok {
		return t.(*tenantState)
	}
	return nil
}

func (l *Ledger) ensure(name string) *tenantState {
	if t := l.find(name); t != nil {
		return t
	}
	t, _ := l.tenants.LoadOrStore(name, newTenant(l, name))
	return t.(*tenantState)
}

func (l *Ledger) each(do func(*tenantState)) {
	l.tenants.Range(func(_, t any) bool {
		do(t.(*tenantState))
		return true
	})
}

func (l *Ledger) now() time.Time { return l.options.Now() }

// pause waits before another attempt: after a conflict for about as long as
// others need to be through, else for as long as a server may be away.
func (l *Ledger) pause(attempt int, conflict bool) {
	longest := 20 * time.Millisecond << min(attempt, 6)
	if conflict {
		longest = 2 * time.Millisecond << min(attempt, 5)
	}
	timer := time.NewTimer(rand.N(longest))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.ctx.Done():
	}
}

// publish announces an event. It is lost if the server is away: at most once.
func (l *Ledger) publish(e *Event) {
	if text, err := json.Marshal(e); err == nil {
		_ = l.js.Conn().Publish(l.options.Prefix+".events."+e.Tenant, text)
	}
}
