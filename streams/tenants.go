package streams

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

const (
	// countEvery is how old the figure of what waits for a tenant may be while it
	// has room; countSoonest, or ten times as long as counting takes, while it has none.
	countEvery   = time.Second
	countSoonest = 10 * time.Millisecond
	// limitTimeout bounds the server's part in a decision at the door.
	limitTimeout = time.Second
	// shareRetry is how long a process goes by its own clock alone after the
	// replicas' common one did not answer.
	shareRetry = time.Second
	// heldWait is the longest wait for a tenant's rate that is spent in memory.
	heldWait = 250 * time.Millisecond
	// limitsAtOnce bounds the tenants of a slice that are looked up at a time.
	limitsAtOnce = 16
)

// Reserve takes n times at which requests of a tenant may begin, 1/rate seconds
// apart, from those that all replicas share, and gives the first.
type Reserve func(ctx context.Context, tenant string, rate float64, n int) (time.Time, error)

// Tenants keeps the limits of the section tenants: at the door of one process.
// It is safe for concurrent use.
//
// What waits is what was let in and has no answer yet: what the streams behind
// the door hold for the tenant, counted no longer ago than a second, with what
// this process has let in since. So several replicas may together let in more
// than max_waiting, by what they let in within a second. A batch on its way to
// generate counts as one, and groups of several stages in other processes count
// once they hand something on.
//
// The streams do not know bytes by subject. So the bytes that wait are taken to
// be those of as many requests as wait, the last ones that this process let in:
// exactly those where it is the only one, else a sample of them.
type Tenants struct {
	limits  atomic.Pointer[map[string]TenantConfig]
	bytes   units.Bytes // that may wait for a tenant that has no limit of its own; 0 is any number
	reserve Reserve
	count   func(ctx context.Context, tenant string) (int64, error)
	holding atomic.Int64 // requests that wait for their time in memory

	mu  sync.Mutex
	use *lru.Cache[string, *tenantUse]
}

// tenantUse is what is known of a tenant that has limits.
type tenantUse struct {
	counted int64 // behind the door
	at      time.Time
	took    time.Duration
	inside  int64 // let in by this process and not settled
	passed  int64 // settled by handing on since it was counted
	sizes   sizes // of those that this process let in

	next  time.Time // by the process's own clock
	alone time.Time // until when that one is used
}

// NewTenants makes the limits of the entries. reserve may be nil: then a rate
// is one of this process.
func NewTenants(nc *nats.Conn, l Layout, entries []TenantConfig, reserve Reserve) *Tenants {
	use, err := lru.New[string, *tenantUse](maxShares)
	if err != nil {
		panic(err) // the size is a constant
	}
	t := &Tenants{bytes: units.Bytes(l.MaxWaitingBytes), reserve: reserve, use: use}
	t.count = tenantCounter{nc, l.Names}.count
	t.Configure(entries)
	return t
}

// Configure changes the limits to those of other entries. What is known of the
// use of tenants stays.
func (t *Tenants) Configure(entries []TenantConfig) {
	limits := map[string]TenantConfig{}
	for _, e := range entries {
		if e.MaxWaitingBytes = cmp.Or(e.MaxWaitingBytes, t.bytes); e.counted() || e.Rate > 0 || e.MaxRequestBytes > 0 {
			limits[e.Name] = e
		}
	}
	t.limits.Store(&limits)
}

// counted reports whether what waits for the tenant is counted.
func (e TenantConfig) counted() bool { return e.MaxWaiting > 0 || e.MaxWaitingBytes > 0 }

// of gives the limits of a tenant, if it has any.
func (t *Tenants) of(tenant string) (entry TenantConfig, limited bool) {
	if entry, limited = (*t.limits.Load())[tenant]; !limited && t.bytes > 0 {
		return TenantConfig{Name: tenant, MaxWaitingBytes: t.bytes}, true
	}
	return entry, limited
}

// useOf gives what is known of a tenant. The caller holds the lock.
func (t *Tenants) useOf(tenant string) *tenantUse {
	u, known := t.use.Get(tenant)
	if !known {
		u = &tenantUse{}
		t.use.Add(tenant, u)
	}
	return u
}

// limit decides the requests of a slice that their tenants' limits refuse, and
// gives when those of tenants with a rate may begin. Those that were decided
// already have another verdict than to go on.
func (t *Tenants) limit(ctx context.Context, requests []*stages.Request, verdicts []stages.Verdict) (begin []time.Time) {
	if t == nil {
		return nil
	}
	if t.bytes == 0 && len(*t.limits.Load()) == 0 {
		return nil
	}
	entries := map[string]TenantConfig{}
	by := map[string][]int{}
	for i, request := range requests {
		if entry, limited := t.of(request.Tenant); limited && verdicts[i].Action == stages.ActionContinue {
			entries[request.Tenant] = entry
			by[request.Tenant] = append(by[request.Tenant], i)
		}
	}
	if len(by) == 0 {
		return nil
	}
	begin = make([]time.Time, len(requests))
	ctx, cancel := context.WithTimeout(ctx, limitTimeout)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(limitsAtOnce)
	for tenant, list := range by {
		group.Go(func() error { t.limitOne(ctx, entries[tenant], list, requests, verdicts, begin); return nil })
	}
	_ = group.Wait() // none fails
	return begin
}

// limitOne is limit for the requests of one tenant, which are given by their places.
func (t *Tenants) limitOne(ctx context.Context, entry TenantConfig, list []int, requests []*stages.Request, verdicts []stages.Verdict, begin []time.Time) {
	var rest []int
	for _, i := range list {
		if most := int(entry.MaxRequestBytes); most > 0 && len(requests[i].Body) > most {
			verdicts[i] = stages.Fail(schemas.Invalid(schemas.CodeTooLarge, "", "the body has %d bytes, a request of this tenant may have %d (max_request_bytes)", len(requests[i].Body), most))
			continue
		}
		rest = append(rest, i)
	}
	rest = t.letIn(ctx, entry, rest, requests, verdicts)
	if entry.Rate <= 0 || len(rest) == 0 {
		return
	}
	at := t.times(ctx, entry, len(rest))
	for _, i := range rest {
		begin[i] = at
		if deadline := requests[i].Deadline; deadline > 0 && at.After(deadline.Time()) {
			verdicts[i] = stages.Fail(tooLate(entry, at)) // and its time is lost
		}
		at = at.Add(spacing(entry, 1))
	}
}

// letIn gives which of a tenant's requests may wait, notes them as let in, and
// decides the others.
func (t *Tenants) letIn(ctx context.Context, entry TenantConfig, list []int, requests []*stages.Request, verdicts []stages.Verdict) (in []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.useOf(entry.Name)
	for _, i := range list {
		size := int64(len(requests[i].Body))
		if entry.counted() {
			if age := time.Since(u.at); age > countEvery || u.fits(entry, size) != nil && age > max(countSoonest, 10*u.took) {
				t.recount(ctx, entry.Name, u)
			}
			if err := u.fits(entry, size); err != nil {
				verdicts[i] = stages.Fail(err)
				continue
			}
		}
		u.inside++
		u.sizes.add(size)
		requests[i].Ticket.(*item).letIn = true
		in = append(in, i)
	}
	return in
}

// fits is nil if a request of the given size may wait too. One that is alone
// may, however large it is.
func (u *tenantUse) fits(entry TenantConfig, size int64) error {
	waiting := u.counted + u.inside + u.passed
	switch most := int64(entry.MaxWaitingBytes); {
	case entry.MaxWaiting > 0 && waiting >= int64(entry.MaxWaiting):
		return tooManyWait(entry)
	case most > 0 && waiting > 0 && u.sizes.last(waiting)+size > most:
		return tooMuchWaits(entry)
	}
	return nil
}

// recount counts what waits behind the door. Where that fails, the figure stays
// what it was. The caller holds the lock, which is free while the server works.
func (t *Tenants) recount(ctx context.Context, tenant string, u *tenantUse) {
	before, started := u.passed, time.Now()
	t.mu.Unlock()
	n, err := t.count(ctx, tenant)
	t.mu.Lock()
	u.at, u.took = time.Now(), time.Since(started)
	if err == nil {
		u.counted, u.passed = n, max(0, u.passed-before)
	}
}

// settled notes that a request that was let in is out of this process's hands;
// onward says that it waits elsewhere now.
func (t *Tenants) settled(tenant string, onward bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.useOf(tenant)
	u.inside = max(0, u.inside-1) // it may have been forgotten
	if onward {
		u.passed++
	}
}

// times takes n times of a tenant and gives the first, by the process's own
// clock where the replicas' common one does not answer.
func (t *Tenants) times(ctx context.Context, entry TenantConfig, n int) time.Time {
	now := time.Now()
	t.mu.Lock()
	u := t.useOf(entry.Name)
	alone := now.Before(u.alone)
	t.mu.Unlock()
	if t.reserve != nil && !alone {
		at, err := t.reserve(ctx, entry.Name, entry.Rate, n)
		t.mu.Lock()
		defer t.mu.Unlock()
		if err == nil {
			u.next = at.Add(spacing(entry, n))
			return at
		}
		u.alone = now.Add(shareRetry)
		return u.own(entry, n)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return u.own(entry, n)
}

func (u *tenantUse) own(entry TenantConfig, n int) time.Time {
	at := u.next
	if now := time.Now(); at.Before(now) {
		at = now
	}
	u.next = at.Add(spacing(entry, n))
	return at
}

func spacing(entry TenantConfig, n int) time.Duration {
	return time.Duration(float64(n) * float64(time.Second) / entry.Rate)
}

// limited reports whether what waits for a tenant is counted.
func (t *Tenants) limited(tenant string) bool {
	if t == nil {
		return false
	}
	entry, _ := t.of(tenant)
	return entry.counted()
}

// noteSettled tells the tenants' limits of a request of theirs that was let in by this process.
func (r *Runner) noteSettled(it *item, action stages.Action) {
	if !it.letIn {
		return
	}
	it.letIn = false
	onward := action == stages.ActionContinue || action == stages.ActionTogether || action == stages.ActionSkip
	r.cfg.Tenants.settled(it.request.Tenant, onward)
}

func tooManyWait(entry TenantConfig) error {
	e := &schemas.Error{
		Type: schemas.RateLimitError, Code: schemas.CodeRateLimitExceeded,
		Message: fmt.Sprintf("%d requests of this tenant wait already, which is all that may (max_waiting); publish again, under another id, when some are answered", entry.MaxWaiting),
		Details: map[string]any{"limit": "max_waiting", "max_waiting": entry.MaxWaiting}, RetryAfter: time.Second,
	}
	if entry.Rate > 0 { // about when the tenth part of them will have begun
		e.RetryAfter = max(e.RetryAfter, time.Duration(float64(entry.MaxWaiting)/10/entry.Rate*float64(time.Second)))
	}
	return e
}

func tooMuchWaits(entry TenantConfig) error {
	return &schemas.Error{
		Type: schemas.RateLimitError, Code: schemas.CodeRateLimitExceeded,
		Message: fmt.Sprintf("the requests of this tenant that wait have %v already, or would with this one, which is all that may (max_waiting_bytes); publish again, under another id, when some are answered", entry.MaxWaitingBytes),
		Details: map[string]any{"limit": "max_waiting_bytes", "max_waiting_bytes": int64(entry.MaxWaitingBytes)}, RetryAfter: time.Second,
	}
}

func tooLate(entry TenantConfig, at time.Time) error {
	wait := max(time.Until(at), time.Second)
	return &schemas.Error{
		Type: schemas.RateLimitError, Code: schemas.CodeRateLimitExceeded,
		Message: fmt.Sprintf("this tenant's requests begin at %v a second at most (rate), and the deadline of this one comes before its turn", entry.Rate),
		Details: map[string]any{"limit": "rate", "rate": entry.Rate, "begins_at": at.UTC().Format(time.RFC3339)}, RetryAfter: wait,
	}
}

// noRoomToWait refuses a request whose turn comes late, while the later stream
// holds as much as it should.
func noRoomToWait(wait time.Duration) error {
	return &schemas.Error{
		Type: schemas.RateLimitError, Code: schemas.CodeRateLimitExceeded,
		Message: fmt.Sprintf("this tenant's rate would have the request wait for %v, and there is no room for more that wait as long", wait.Round(time.Second)),
		Details: map[string]any{"limit": "rate"}, RetryAfter: wait,
	}
}

// inTime lets a request in at its time: at once, from memory if that is soon, else
// through the later stream, where it holds up nobody. It reports whether the
// request is on its way.
func (r *Runner) inTime(request *stages.Request, at time.Time, decide stages.Decide) bool {
	wait := time.Until(at)
	if at.IsZero() || wait <= 0 {
		return false
	}
	if wait <= heldWait {
		if t := r.cfg.Tenants; t.holding.Add(1) <= int64(max(1, r.cfg.Capacity/4)) {
			time.AfterFunc(wait, func() {
				t.holding.Add(-1)
				decide(request, stages.Continue())
			})
			return true
		}
		r.cfg.Tenants.holding.Add(-1)
	}
	if wait > inMemoryWait && r.cfg.LaterFull != nil && r.cfg.LaterFull() {
		decide(request, stages.Fail(noRoomToWait(wait)))
		return true
	}
	request.NotBefore = schemas.Millis(math.Ceil(float64(at.UnixMicro()) / 1000))
	decide(request, stages.Wait(wait))
	return true
}

// paced publishes a request that waits for its tenant's rate to where it comes
// back from: at once, to be kept unacknowledged until its time, or as a schedule
// that fires a little before it.
func (r *Runner) paced(o *outcome) []*nats.Msg {
	request := &o.item.request
	o.verdict = stages.SkipTo(stages.Compress)
	if at := request.NotBefore.Time(); time.Until(at) > inMemoryWait {
		return r.later(o, stages.Compress, at.Add(-2*time.Second))
	}
	return r.handoffTo(o, r.names.LaterDue(stages.Compress, request.Class, request.Tenant), "paced")
}

// tenantCounter counts what the streams behind the door hold for a tenant.
type tenantCounter struct {
	nc    *nats.Conn
	names Names
}

func (c tenantCounter) count(ctx context.Context, tenant string) (int64, error) {
	p := c.names.Prefix
	filters := map[string]string{
		p + ".later.at." + tenant + ".*": c.names.Later(),
		p + ".later.due.*.*." + tenant:   c.names.Later(),
	}
	for _, stage := range stages.Names[1:] {
		filters[p+".stages."+stage+".*.*."+tenant] = c.names.Stage(stage)
	}
	var sum atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for filter, stream := range filters {
		group.Go(func() error {
			n, err := c.matching(ctx, stream, filter)
			sum.Add(n)
			return err
		})
	}
	err := group.Wait()
	return sum.Load(), err
}

// matching counts the messages of a stream on the subjects that a filter
// matches, of which there must be fewer than the 100,000 that the server lists
// at a time; past that it counts those.
func (c tenantCounter) matching(ctx context.Context, stream, filter string) (n int64, err error) {
	subjects, err := messagesOf(ctx, c.nc, stream, filter)
	if err != nil {
		return 0, fmt.Errorf("counting %s: %w", filter, err)
	}
	for _, messages := range subjects {
		n += messages
	}
	return n, nil
}

// messagesOf counts the messages of a stream by subject, in one round trip: of
// the first 100,000 subjects that the filter matches.
func messagesOf(ctx context.Context, nc *nats.Conn, stream, filter string) (map[string]int64, error) {
	ask, err := json.Marshal(map[string]string{"subjects_filter": filter})
	if err != nil {
		return nil, err
	}
	reply, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+stream, ask)
	if err != nil {
		return nil, err
	}
	var info struct {
		Error *jetstream.APIError `json:"error"`
		State struct {
			Subjects map[string]int64 `json:"subjects"`
		} `json:"state"`
	}
	if err := json.Unmarshal(reply.Data, &info); err != nil {
		return nil, err
	}
	if info.Error != nil {
		return nil, info.Error
	}
	return info.State.Subjects, nil
}
