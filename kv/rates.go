package kv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
)

// rateTimes are the times that allowances go by.
type rateTimes struct {
	window time.Duration // the minute, and a second for calls that are longer on their way than those before them
	life   time.Duration // of what a process has drawn: how long it may be used
	grain  time.Duration // what is drawn within it is one entry of the record
}

var minuteTimes = rateTimes{window: 61 * time.Second, life: 2 * time.Second, grain: 500 * time.Millisecond}

const (
	// rateDemand is how much of its present pace a process draws ahead.
	rateDemand = time.Second
	// rateShare is the part of what is left that one process may draw at once,
	// so that others find some too.
	rateShare = 4
)

// Rates are the allowances of providers that all processes share: nobody draws
// what others have drawn within the last minute, whichever minute that is.
//
// A process draws chunks, sized by what waits and by its pace, and hands them
// out from memory: no call waits for the server. A chunk is counted from when it
// could be used last, so no minute holds more calls than are allowed. What of a
// chunk was not used is given back.
type Rates struct {
	kv    jetstream.KeyValue
	times rateTimes
	ctx   context.Context
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// NewRates opens the bucket. Close ends it.
func NewRates(ctx context.Context, js jetstream.JetStream, l Layout) (*Rates, error) {
	bucket, err := js.KeyValue(ctx, l.Bucket(BucketRates))
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", l.Bucket(BucketRates), err)
	}
	r := &Rates{kv: bucket, times: minuteTimes}
	r.ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	return r, nil
}

// Close ends the drawing. Allowances give nothing more then.
func (r *Rates) Close() {
	r.stop()
	r.done.Wait()
}

// Allowance is a provider's rate in this process. It is safe for concurrent
// use; no method waits for the server.
type Allowance struct {
	rateTimes
	key     string
	most    atomic.Pointer[drawn] // a minute; 0 is no limit
	kick    chan struct{}
	changed func()

	mu    sync.Mutex
	have  []chunk // drawn and not used up, oldest first
	back  []chunk // to be given back
	want  drawn   // by those who wait
	used  drawn   // since paced
	pace  drawn   // a second
	paced time.Time
}

// drawn is an amount of both.
type drawn struct{ Calls, Tokens int }

func (d drawn) plus(e drawn) drawn  { return drawn{d.Calls + e.Calls, d.Tokens + e.Tokens} }
func (d drawn) minus(e drawn) drawn { return drawn{d.Calls - e.Calls, d.Tokens - e.Tokens} }

// chunk is what was drawn at a time, as it is recorded and as a process has it.
type chunk struct {
	At     int64 `json:"t"` // milliseconds since 1970
	Calls  int   `json:"c,omitzero"`
	Tokens int   `json:"k,omitzero"`
}

func (c chunk) drawn() drawn { return drawn{c.Calls, c.Tokens} }

// Allowance opens that of a provider: so many calls and tokens a minute, 0 for
// no limit. The same numbers must be given in all processes. The key is one of KV.
func (r *Rates) Allowance(key string, calls, tokens int) *Allowance {
	a := &Allowance{rateTimes: r.times, key: key, kick: make(chan struct{}, 1), changed: func() {}, paced: time.Now()}
	a.most.Store(&drawn{calls, tokens})
	r.done.Go(func() { r.draw(a) })
	return a
}

// Limit changes the allowance: so many calls and tokens a minute, 0 for no limit.
// What was drawn before counts against the new one.
func (a *Allowance) Limit(calls, tokens int) {
	a.most.Store(&drawn{calls, tokens})
	a.mu.Lock()
	changed := a.changed
	a.mu.Unlock()
	changed()
	a.poke()
}

// OnChange sets what is called, without a lock, when Take may succeed again. It
// must be set before the first Take.
func (a *Allowance) OnChange(changed func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changed = changed
}

// Take takes one call of so many tokens from what was drawn. Where there is not
// enough it has more drawn.
func (a *Allowance) Take(tokens int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	need := a.need(tokens)
	a.expire(time.Now())
	have := a.total()
	if !a.covers(have, need) {
		if a.want.Calls == 0 {
			a.want = need
		}
		a.poke()
		return false
	}
	a.consume(need)
	a.used = a.used.plus(need)
	if left := have.minus(need); !a.covers(left, drawn{(a.pace.Calls + 3) / 4, a.pace.Tokens / 4}) {
		a.poke() // the next chunk comes before this one is used up
	}
	return true
}

// need is what a call takes: one that is larger than a minute's allowance takes all of it.
func (a *Allowance) need(tokens int) drawn {
	if most := a.most.Load().Tokens; most > 0 {
		tokens = min(tokens, most)
	}
	return drawn{1, tokens}
}

func (a *Allowance) covers(have, need drawn) bool {
	most := a.most.Load()
	return (most.Calls == 0 || have.Calls >= need.Calls) && (most.Tokens == 0 || have.Tokens >= need.Tokens)
}

func (a *Allowance) total() (sum drawn) {
	for _, c := range a.have {
		sum = sum.plus(c.drawn())
	}
	return sum
}

// consume takes from the oldest chunks first. The caller holds the lock.
func (a *Allowance) consume(need drawn) {
	for i := range a.have {
		c := &a.have[i]
		calls, tokens := min(c.Calls, need.Calls), min(c.Tokens, need.Tokens)
		c.Calls, c.Tokens = c.Calls-calls, c.Tokens-tokens
		need = need.minus(drawn{calls, tokens})
	}
}

// expire puts what has become too old to be used aside, to be given back.
func (a *Allowance) expire(now time.Time) {
	oldest := now.Add(-a.life).UnixMilli()
	for len(a.have) > 0 && (a.have[0].At <= oldest || a.have[0].drawn() == drawn{}) {
		if a.have[0].drawn() != (drawn{}) {
			a.back = append(a.back, a.have[0])
		}
		a.have = a.have[1:]
	}
}

// Want says how many calls, of how many tokens together, wait for Take.
func (a *Allowance) Want(calls, tokens int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.want = drawn{calls, tokens}
	if calls > 0 && !a.covers(a.total(), a.want) {
		a.poke()
	}
}

// Used says what a call used for which estimated tokens were taken. What it used
// more is taken too, as far as there is any; what it used less is given back.
func (a *Allowance) Used(estimated, used int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	over := used - a.need(estimated).Tokens
	if a.most.Load().Tokens == 0 || over == 0 {
		return
	}
	if over > 0 {
		a.consume(drawn{0, over})
		return
	}
	a.back = append(a.back, chunk{At: 0, Tokens: -over})
}

func (a *Allowance) poke() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// draw draws chunks for a provider when they are asked for, and gives back what
// was not used, until the process ends.
func (r *Rates) draw(a *Allowance) {
	tidy := time.NewTicker(a.life)
	defer tidy.Stop()
	for failures := 0; ; {
		select {
		case <-r.ctx.Done():
			return
		case <-a.kick:
		case <-tidy.C:
		}
		wait, err := r.drawOnce(a)
		if r.ctx.Err() != nil {
			return
		}
		if err != nil {
			failures++
			wait = min(50*time.Millisecond<<min(failures, 6), 2*time.Second)
			if failures%10 == 1 {
				slog.Warn("drawing from a provider's rate failed, trying again", "error", err)
			}
		} else {
			failures = 0
		}
		if wait <= 0 {
			continue
		}
		select {
		case <-r.ctx.Done():
			return
		case <-time.After(wait + time.Duration(rand.Int64N(int64(wait)/20+1))):
			a.poke()
		}
	}
}

// drawOnce asks for what is wanted. Where it is not all there, it gives how long
// to wait before asking again.
func (r *Rates) drawOnce(a *Allowance) (wait time.Duration, err error) {
	wish, back := a.wish(time.Now())
	if wish == (drawn{}) && len(back) == 0 {
		return 0, nil
	}
	for tries := 0; ; tries++ {
		got, next, err := r.exchange(a, wish, back)
		if errors.Is(err, errConflict) && tries < 100 {
			time.Sleep(time.Duration(rand.Int64N(int64(time.Millisecond) * int64(min(tries+1, 20))))) //nolint:forbidigo // others write the same record
			continue
		}
		if err != nil {
			a.keep(back)
			return 0, err
		}
		a.add(got)
		if !a.covers(got.drawn(), wish) {
			return next, nil
		}
		return 0, nil
	}
}

// wish gives what the process needs now, and what it has to give back.
func (a *Allowance) wish(now time.Time) (wish drawn, back []chunk) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire(now)
	if passed := now.Sub(a.paced); passed >= rateDemand/4 {
		a.pace = drawn{perSecond(a.used.Calls, passed), perSecond(a.used.Tokens, passed)}
		a.used, a.paced = drawn{}, now
	}
	back, a.back = a.back, nil
	if *a.most.Load() == (drawn{}) {
		return drawn{}, back // nothing is limited
	}
	wish = a.want.plus(a.pace).minus(a.total())
	return drawn{max(wish.Calls, 0), max(wish.Tokens, 0)}, back
}

func perSecond(n int, passed time.Duration) int {
	return int(float64(n) * rateDemand.Seconds() / passed.Seconds())
}

func (a *Allowance) keep(back []chunk) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.back = append(a.back, back...)
}

func (a *Allowance) add(got chunk) {
	if got.drawn() == (drawn{}) {
		return
	}
	a.mu.Lock()
	a.have = append(a.have, got)
	changed := a.changed
	a.mu.Unlock()
	changed()
}

var errConflict = errors.New("another process wrote first")

// exchange gives back and draws in one compare-and-swap. next is when more will
// be there, if not all was.
func (r *Rates) exchange(a *Allowance, wish drawn, back []chunk) (got chunk, next time.Duration, err error) {
	list, revision, err := r.read(a.key)
	if err != nil {
		return chunk{}, 0, err
	}
	now := time.Now()
	list = a.giveBack(a.current(list, now), back)
	got = chunk{At: now.UnixMilli()}
	got.Calls, got.Tokens, next = a.portion(list, wish, now)
	if got.drawn() == (drawn{}) && len(back) == 0 {
		return got, next, nil
	}
	value, err := json.Marshal(a.merge(list, got))
	if err != nil {
		return chunk{}, 0, fmt.Errorf("encoding the rate of %s: %w", a.key, err)
	}
	if revision == 0 {
		_, err = r.kv.Create(r.ctx, a.key, value)
	} else {
		_, err = r.kv.Update(r.ctx, a.key, value, revision)
	}
	if errors.Is(err, jetstream.ErrKeyExists) || jsx.IsWrongLastSequence(err) || jsx.IsInFlight(err) {
		return chunk{}, 0, errConflict
	}
	if err != nil {
		return chunk{}, 0, fmt.Errorf("drawing from the rate of %s: %w", a.key, err)
	}
	return got, next, nil
}

func (r *Rates) read(key string) (list []chunk, revision uint64, err error) {
	entry, err := r.kv.Get(r.ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading the rate of %s: %w", key, err)
	}
	if err := json.Unmarshal(entry.Value(), &list); err != nil {
		return nil, 0, fmt.Errorf("reading the rate of %s: %w", key, err)
	}
	return list, entry.Revision(), nil
}

// current drops what no minute from now on can hold.
func (a *Allowance) current(list []chunk, now time.Time) []chunk {
	oldest := now.Add(-a.window - a.life).UnixMilli()
	for len(list) > 0 && list[0].At+a.grain.Milliseconds() <= oldest {
		list = list[1:]
	}
	return list
}

// giveBack takes what was not used out of the record: of the chunk that it was
// drawn in, or, where that is not known, of the oldest, which end first.
func (a *Allowance) giveBack(list, back []chunk) []chunk {
	for _, b := range back {
		for i := range list {
			c := &list[i]
			if b.At != 0 && (b.At < c.At || b.At >= c.At+a.grain.Milliseconds()) {
				continue
			}
			calls, tokens := min(c.Calls, b.Calls), min(c.Tokens, b.Tokens)
			c.Calls, c.Tokens = c.Calls-calls, c.Tokens-tokens
			b.Calls, b.Tokens = b.Calls-calls, b.Tokens-tokens
		}
	}
	return list
}

func (a *Allowance) merge(list []chunk, got chunk) []chunk {
	if n := len(list); n > 0 && got.At < list[n-1].At+a.grain.Milliseconds() {
		list[n-1].Calls += got.Calls
		list[n-1].Tokens += got.Tokens
		return list
	}
	return append(list, got)
}

// portion is how much of a wish may be drawn now, and when more can be.
func (a *Allowance) portion(list []chunk, wish drawn, now time.Time) (calls, tokens int, next time.Duration) {
	var sum drawn
	for _, c := range list {
		sum = sum.plus(c.drawn())
	}
	calls, tokens = wish.Calls, wish.Tokens
	most := a.most.Load()
	if most.Calls > 0 {
		calls = share(most.Calls-sum.Calls, wish.Calls, max(most.Calls/100, 1))
	}
	if most.Tokens > 0 {
		one := wish.Tokens / max(wish.Calls, 1)
		tokens = share(most.Tokens-sum.Tokens, wish.Tokens, max(most.Tokens/100, one, 1))
	}
	next = 20 * time.Millisecond
	if (calls == 0 && wish.Calls > 0 || tokens == 0 && wish.Tokens > 0) && len(list) > 0 { // until the oldest ends
		next = max(next, time.UnixMilli(list[0].At).Add(a.grain+a.window+a.life).Sub(now))
		next = min(next, time.Second) // somebody may give back
	}
	if most.Calls > 0 && calls == 0 && wish.Calls > 0 || most.Tokens > 0 && tokens == 0 && wish.Tokens > 0 {
		return 0, 0, next // one without the other is of no use
	}
	return calls, tokens, next
}

// share is the part of what is left that one process draws: all it wants while
// there is plenty, but at least what is of use to it.
func share(left, wish, least int) int {
	if left < min(wish, least) {
		return 0
	}
	return max(0, min(wish, left, max(left/rateShare, least)))
}
