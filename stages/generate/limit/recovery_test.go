package limit

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// traffic is requests that come at random, each to be answered however often it
// is refused, to a provider that permits plenty for a minute, little or nothing
// for some minutes, and then something else.
type traffic struct {
	name     string
	rate     float64 // requests a second
	latency  time.Duration
	wait     time.Duration // that a refusal asks for
	little   int
	minutes  time.Duration // of the little
	then     int
	within   time.Duration // nothing waits any more after the little
	permille int           // of the calls in the time of the little are refused at most
}

const plenty = 90

// trial is a traffic that runs on the clock of a bubble.
type trial struct {
	traffic
	l             *Limiter
	ctx           context.Context
	cancel        context.CancelFunc
	littleFrom    time.Time
	littleTo      time.Time
	requests      sync.WaitGroup
	mu            sync.Mutex
	random        *rand.Rand
	running       int
	waiting       int
	calls, refuse int // in the time of the little, but for its first quarter
	recovered     time.Duration
}

func (w *trial) permitted(now time.Time) int {
	switch {
	case now.Before(w.littleFrom):
		return plenty
	case now.Before(w.littleTo):
		return w.little
	}
	return w.then
}

func (w *trial) call(latency time.Duration) Outcome {
	w.mu.Lock()
	now := time.Now()
	w.running++
	refused := w.running > w.permitted(now)
	if now.After(w.littleFrom.Add(w.minutes/4)) && now.Before(w.littleTo) {
		w.calls++
		if refused {
			w.refuse++
		}
	}
	w.mu.Unlock()
	if refused {
		latency = 20 * time.Millisecond
	}
	time.Sleep(latency) //nolint:forbidigo // the clock of a bubble
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
	if refused {
		return Outcome{Kind: Refused, RetryAfter: w.wait}
	}
	return Outcome{Kind: Went, Took: latency, Tokens: 10}
}

func (w *trial) request(latency time.Duration) {
	for {
		place, err := w.l.Enter(w.ctx, Ask{Provider: "p", Model: "m"})
		if err != nil {
			return
		}
		outcome := w.call(latency)
		place.Leave(outcome)
		if outcome.Kind == Went {
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting--
	// As many as are on their way at any time.
	if since := time.Since(w.littleTo); since > 0 && float64(w.waiting) <= 1.5*w.rate*w.latency.Seconds()+2 {
		w.recovered = since
		w.cancel()
	}
}

// run gives how long it took after the little until nothing waited.
func (w *trial) run() {
	for w.ctx.Err() == nil {
		w.mu.Lock()
		gap := time.Duration(w.random.ExpFloat64() / w.rate * float64(time.Second))
		latency := time.Duration((0.5 + w.random.Float64()) * float64(w.latency))
		w.waiting++
		w.mu.Unlock()
		w.requests.Go(func() { w.request(latency) })
		time.Sleep(gap) //nolint:forbidigo // the clock of a bubble
	}
	w.requests.Wait()
}

func TestALimitRecoversFromALongTimeOfRefusals(t *testing.T) {
	const m, s, most = time.Minute, time.Second, 60 * time.Minute
	for _, w := range []traffic{
		{"nothing, for calls of 2 s", 2, 2 * s, 0, 0, 10 * m, plenty, 4 * m, 1000},
		{"nothing, for calls of 10 s", 0.5, 10 * s, 0, 0, 10 * m, plenty, 8 * m, 1000},
		{"nothing, for calls of 0.2 s", 20, s / 5, 0, 0, 10 * m, plenty, 4 * m, 1000},
		{"nothing, and asked to wait", 2, 2 * s, 30 * s, 0, 10 * m, plenty, 4 * m, 1000},
		{"two calls at once, of 2 s", 2, 2 * s, 0, 2, 10 * m, plenty, 290 * s, 30},
		{"two calls at once, of 0.2 s", 20, s / 5, 0, 2, 10 * m, plenty, 2 * m, 30},
		{"two calls at once, and asked to wait", 2, 2 * s, 5 * s, 2, 10 * m, plenty, 290 * s, 30},
		{"ten calls at once, of 2 s", 10, 2 * s, 0, 10, 10 * m, plenty, 5 * m, 30},
		{"one call at once, of 10 s", 0.5, 10 * s, 0, 1, 30 * m, plenty, 20 * m, 40},
		{"nothing, then half of what there was", 4, 2 * s, 0, 0, 5 * m, 20, 12 * m, 1000},
	} {
		for seed := range uint64(2) {
			t.Run(w.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					begin := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), most+w.minutes)
					defer cancel()
					trial := &trial{
						traffic: w, l: one(100), ctx: ctx, cancel: cancel, random: rand.New(rand.NewPCG(seed, 7)),
						littleFrom: begin.Add(m), littleTo: begin.Add(m + w.minutes),
					}
					defer trial.l.Close()
					trial.run()
					t.Logf("nothing waited after %.0f s; %.4f refused", trial.recovered.Seconds(), float64(trial.refuse)/float64(trial.calls))
					require.Positive(t, trial.recovered)
					require.LessOrEqual(t, trial.recovered, w.within)
					require.LessOrEqual(t, 1000*trial.refuse, w.permille*trial.calls)
				})
			})
		}
	}
}
