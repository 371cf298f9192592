package budget

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
)

// sameRecord compares records in full.
var sameRecord = cmp.Options{cmpopts.EquateEmpty(),
	cmp.AllowUnexported(record{}, window{}, account{}, modelAccount{}, warning{}, entry{}, day{}, span{})}

var noon = time.Date(2026, 11, 23, 12, 0, 30, 0, time.UTC)

func turnOf(base *record, configs []Config, now time.Time) *turn {
	return newTurn(base, compile(configs), now, bounds{4096, 1 << 20})
}

func until(r Request, at time.Time) *Request {
	r.Until = at
	return &r
}

func (t *turn) ask(id string, tokens int64) Outcome {
	return t.reserve(until(ask(id, tokens), noon.Add(time.Hour)))
}

func daily(limit int64) []Config { return acme(func(c *Config) { c.DailyLimit = limit }) }

func TestReserveDecides(t *testing.T) {
	turn := turnOf(&record{}, daily(1000), noon)
	require.Equal(t, Granted, turn.ask("a", 600).State)
	require.Equal(t, Granted, turn.ask("b", 400).State, "the limit itself may be used")
	require.Equal(t, Wait, turn.ask("c", 1).State, "open reservations are in the way")
	require.Equal(t, Denied, turn.ask("d", 1001).State, "larger than the limit")

	s := bill("a", 600)
	require.True(t, turn.settle(&s))
	require.Equal(t, Wait, turn.ask("c", 400).State)
	require.Equal(t, Denied, turn.ask("c", 401).State, "what is settled leaves no room")
	s = bill("b", 100)
	require.True(t, turn.settle(&s))
	require.Equal(t, Granted, turn.ask("c", 300).State)
	require.Equal(t, int64(700), turn.windows[0].Settled.Tokens)
	require.Equal(t, int64(300), turn.windows[0].open.Tokens)
}

func TestReserveTwiceIsOnce(t *testing.T) {
	turn := turnOf(&record{}, daily(1000), noon)
	turn.ask("a", 600)
	require.Equal(t, Granted, turn.ask("a", 600).State)
	require.Equal(t, int64(600), turn.windows[0].open.Tokens)
}

func TestAnotherCallForfeitsTheFirst(t *testing.T) {
	turn := turnOf(&record{}, daily(1000), noon)
	turn.ask("a", 400)
	again := ask("a", 500)
	again.Call = "a-2"
	require.Equal(t, Granted, turn.reserve(until(again, noon.Add(time.Hour))).State)
	w := turn.windows[0]
	require.Equal(t, Amount{Tokens: 400, Requests: 1}, w.Settled)
	require.Equal(t, Amount{Tokens: 400, Requests: 1}, w.Lost)
	require.Equal(t, int64(500), w.open.Tokens)

	late := bill("a", 300) // of the first call
	require.False(t, turn.settle(&late), "a call that is not open settles nothing")
	require.Equal(t, int64(400), w.Settled.Tokens)

	third := ask("a", 900)
	third.Call = "a-3"
	require.Equal(t, Denied, turn.reserve(until(third, noon)).State)
	require.Empty(t, turn.open, "it is charged also where the next is refused")
	require.Equal(t, int64(900), w.Settled.Tokens)
}

func TestSettleTwiceIsOnceAndReleaseIsFree(t *testing.T) {
	turn := turnOf(&record{}, acme(func(c *Config) { c.DailyLimit = 1000; c.RequestsPerMinute = 2 }), noon)
	turn.ask("a", 400)
	turn.ask("b", 400)
	require.Equal(t, Wait, turn.ask("c", 1).State, "two requests a minute")
	s := bill("a", 300)
	require.True(t, turn.settle(&s))
	require.False(t, turn.settle(&s))
	release := bill("b", 300)
	release.Released = true
	require.True(t, turn.settle(&release))
	for _, w := range turn.windows {
		require.Equal(t, Amount{Tokens: 300, Requests: 1}, w.Settled)
		require.Zero(t, w.open)
	}
	require.Equal(t, Granted, turn.ask("c", 1).State)
}

func TestALostCallIsChargedAtItsEstimate(t *testing.T) {
	turn := turnOf(&record{}, daily(1000), noon)
	turn.ask("a", 400)
	s := bill("a", 1)
	s.Lost = true
	require.True(t, turn.settle(&s))
	require.Equal(t, account{Settled: Amount{Tokens: 400, Requests: 1}, Lost: Amount{Tokens: 400, Requests: 1}}, turn.windows[0].account)
}

func TestABillAboveTheEstimateIsCharged(t *testing.T) {
	turn := turnOf(&record{}, daily(1000), noon)
	turn.ask("a", 900)
	s := bill("a", 1100)
	turn.settle(&s)
	require.Equal(t, int64(1100), turn.windows[0].Settled.Tokens)
	require.Equal(t, Denied, turn.ask("b", 1).State)
}

func TestPerRequestLimit(t *testing.T) {
	turn := turnOf(&record{}, acme(func(c *Config) { c.PerRequestLimit = 4000; c.PerRequestLimitUSD = Dollar; c.OnExhausted = Downgrade }), noon)
	require.Equal(t, Granted, turn.ask("a", 4000).State)
	o := turn.ask("b", 4001)
	require.Equal(t, Denied, o.State)
	require.True(t, o.Denial.PerRequest())
	require.Equal(t, Reject, o.Denial.Action, "another model takes as many tokens")
	dear := until(ask("c", 1), noon)
	dear.Estimate.Cost = Dollar + 1
	require.Equal(t, Downgrade, turn.reserve(dear).Denial.Action)
}

func TestSeveralBudgetsAllHold(t *testing.T) {
	configs := append(daily(1000), acme(func(c *Config) { c.TotalLimitUSD = Dollar; c.MinuteLimit = 800 })...)
	turn := turnOf(&record{}, configs, noon)
	r := until(ask("a", 700), noon.Add(time.Hour))
	r.Estimate.Cost = Dollar + 1
	o := turn.reserve(r)
	require.Equal(t, Denied, o.State)
	require.Equal(t, Total, o.Denial.Window)
	require.Empty(t, turn.open, "nothing is reserved where one refuses")
	r.Estimate.Cost = Dollar
	require.Equal(t, Granted, turn.reserve(r).State)
	for _, w := range turn.windows {
		require.Equal(t, int64(700), w.open.Tokens, w.scope)
		require.Equal(t, Dollar, w.open.Cost, w.scope)
	}
	s := bill("a", 700)
	turn.settle(&s)
	denial := turn.ask("b", 301).Denial
	require.Equal(t, Day, denial.Window, "of the limits that refuse, the one that resets last")
	require.Equal(t, int64(1000), denial.Limit)
	require.Equal(t, int64(700), denial.Used)
	require.Equal(t, time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), denial.ResetsAt)
}

func TestAllocationKeepsAShare(t *testing.T) {
	configs := acme(func(c *Config) {
		c.DailyLimit = 1000
		c.Allocation = map[string]float64{"gpt-4": 0.6, "gemini-pro": 0.3}
	})
	by := func(id, model string, tokens int64) *Request {
		r := until(ask(id, tokens), noon.Add(time.Hour))
		r.Model = model
		return r
	}
	turn := turnOf(&record{}, configs, noon)
	require.Equal(t, Denied, turn.reserve(by("a", "other", 101)).State, "0.1 is nobody's share")
	require.Equal(t, Granted, turn.reserve(by("a", "other", 60)).State)
	require.Equal(t, Granted, turn.reserve(by("b", "gpt-4", 640)).State, "its share and what is left")
	require.Equal(t, Wait, turn.reserve(by("c", "gpt-4", 1)).State)
	require.Equal(t, Granted, turn.reserve(by("c", "gemini-pro", 300)).State, "its share is all there")
	require.Equal(t, int64(1000), turn.windows[0].open.Tokens)

	s := bill("b", 0)
	turn.settle(&s)
	require.Equal(t, Granted, turn.reserve(by("d", "other", 40)).State)
	require.Equal(t, Wait, turn.reserve(by("e", "gemini-pro", 1)).State, "gpt-4 keeps its share")
	require.Equal(t, Granted, turn.reserve(by("e", "gpt-4", 600)).State)
	d := turn.reserve(by("f", "other", 101)).Denial
	require.Equal(t, int64(900), d.Kept+d.Used)
}

// TestAllocationSetWhileCallsAreOpen begins to count a model that had none.
func TestAllocationSetWhileCallsAreOpen(t *testing.T) {
	first := turnOf(&record{}, daily(1000), noon)
	first.ask("a", 300)
	second := turnOf(first.record, acme(func(c *Config) { c.DailyLimit = 1000; c.Allocation = map[string]float64{"gpt-4o": 0.5} }), noon)
	require.Equal(t, int64(300), second.windows[0].model("gpt-4o").open.Tokens)
	s := bill("a", 200)
	require.True(t, second.settle(&s))
	require.Equal(t, account{Settled: Amount{Tokens: 200, Requests: 1}}, *second.windows[0].model("gpt-4o"))
}

func TestCallsCountInTheWindowsTheyWereReservedIn(t *testing.T) {
	configs := acme(func(c *Config) { c.MinuteLimit = 1000 })
	first := turnOf(&record{}, configs, noon)
	first.ask("a", 900)
	next := turnOf(first.record, configs, noon.Add(time.Minute))
	require.Equal(t, Granted, next.ask("b", 900).State, "a new minute")
	s := bill("a", 800)
	next.settle(&s)
	require.Equal(t, int64(800), next.windows[0].Settled.Tokens)
	require.Zero(t, next.windows[1].Settled.Tokens)

	much := turnOf(next.record, configs, noon.Add(4*time.Minute))
	require.Len(t, much.windows, 1, "old windows are swept")
	s = bill("b", 800)
	require.True(t, much.settle(&s), "a call may outlive its window")
	require.Zero(t, much.windows[0].Settled.Tokens)
}

// TestWindowsOfOtherReplicasCount: a replica whose limits differ for a moment
// still counts in the windows that others began.
func TestWindowsOfOtherReplicasCount(t *testing.T) {
	first := turnOf(&record{}, daily(1000), noon)
	first.ask("a", 300)
	other := turnOf(first.record, acme(func(c *Config) { c.TotalLimit = 5000 }), noon)
	other.ask("b", 300)
	require.Equal(t, int64(600), other.find(spanAt(Day, time.UTC, noon)).open.Tokens)
}

func TestReapForfeitsWhatIsOver(t *testing.T) {
	configs := daily(1000)
	turn := turnOf(&record{}, configs, noon)
	turn.reserve(until(ask("a", 600), noon.Add(time.Minute)))
	require.Equal(t, Wait, turn.ask("b", 600).State)
	at := turnOf(turn.record, configs, noon.Add(time.Minute))
	at.reap()
	require.False(t, at.changed)
	after := turnOf(turn.record, configs, noon.Add(time.Minute+time.Millisecond))
	after.reap()
	require.True(t, after.changed)
	require.Equal(t, int64(600), after.windows[0].Lost.Tokens)
	require.Empty(t, after.open)
}

func TestRecordIsBounded(t *testing.T) {
	turn := newTurn(&record{}, compile(daily(1<<40)), noon, bounds{10, 1 << 20})
	for i := range 10 {
		require.Equal(t, Granted, turn.ask(fmt.Sprint("r", i), 1).State)
	}
	require.Equal(t, Wait, turn.ask("more", 1).State)

	small := newTurn(&record{}, compile(daily(1<<40)), noon, bounds{1 << 20, 20_000})
	n := 0
	for small.ask(fmt.Sprint("r", n), 1).State == Granted {
		n++
	}
	require.Greater(t, n, 50)
	require.Equal(t, Wait, newView(small.record, small.rules, small.bounds, noon).check("m", Amount{}, noon), "who waits does not ask in vain")
	require.LessOrEqual(t, len(small.appendTo(nil)), 20_000)
}

func TestUsageIsBounded(t *testing.T) {
	r := (&record{}).change()
	for d := range 10 {
		for m := range 2 * maxModels {
			r.use(dateOf(noon.AddDate(0, 0, d)), fmt.Sprint("model", m), account{Settled: Amount{Tokens: 1}})
		}
	}
	require.Len(t, r.today.models, maxModels+1)
	require.Equal(t, int64(maxModels), r.today.models[otherModels].Settled.Tokens)
	require.Len(t, r.past, maxPast)
	r.use("2020-01-01", "model0", account{Settled: Amount{Tokens: 1}})
	require.Equal(t, int64(2), r.today.models["model0"].Settled.Tokens, "a slow clock counts in the newest day")
}

func TestWarningsComeOnce(t *testing.T) {
	configs := acme(func(c *Config) { c.DailyLimit = 1000; c.TotalLimit = 2000 })
	base := &record{}
	spend := func(id string, tokens int64) (announced []string) {
		turn := turnOf(base, configs, noon)
		turn.ask(id, tokens)
		s := bill(id, tokens)
		turn.settle(&s)
		turn.warn("acme")
		base = turn.record
		for _, e := range turn.events {
			announced = append(announced, fmt.Sprintf("%s %d", e.Window, e.Percent))
		}
		return announced
	}
	require.Empty(t, spend("a", 499))
	require.Equal(t, []string{"day 50"}, spend("b", 1))
	require.Empty(t, spend("c", 299))
	require.Equal(t, []string{"day 80"}, spend("d", 100))
	require.Equal(t, []string{"day 100", "total 50"}, spend("e", 101), "refused, for less is left than a request takes")
}

func TestWarningsOfAJumpAndOfLimitsThatChange(t *testing.T) {
	turn := turnOf(&record{}, daily(1000), noon)
	turn.ask("a", 1000)
	s := bill("a", 1000)
	turn.settle(&s)
	turn.warn("acme")
	require.Len(t, turn.events, 3)
	base := turn.record
	for i := range 3 * maxWarned {
		next := turnOf(base, daily(int64(1500+i)), noon)
		next.ask("b", 1)
		s := bill("b", 1)
		next.settle(&s)
		next.warn("acme")
		base = next.record
	}
	require.Len(t, base.windows[0].warned, maxWarned)
}

// TestRandomTurns holds a record against what it was told: the sums add up, no
// limit is passed, and encoding loses nothing.
func TestRandomTurns(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 7))
		configs := acme(func(c *Config) {
			c.MinuteLimit, c.DailyLimit, c.TotalLimitUSD, c.RequestsPerMinute = 5000, 20000, 1e6, 40
			c.Allocation = map[string]float64{"gpt-4o": 0.5, "mini": 0.2}
		})
		base, now := &record{}, noon
		for range 60 {
			now = now.Add(time.Duration(random.IntN(20)) * time.Second)
			turn := turnOf(base, configs, now)
			for range random.IntN(20) {
				randomOperation(turn, random, now)
			}
			turn.reap()
			checkLimits(t, turn)
			if n := len(turn.windows); n > 0 && random.IntN(5) == 0 {
				turn.windows[random.IntN(n)].reset(now)
			}
			encoded := turn.appendTo(nil)
			require.LessOrEqual(t, len(encoded), turn.bytes())
			decoded, err := decodeRecord(encoded, 0)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(turn.record, decoded, sameRecord))
			base = decoded
		}
	}
}

func randomOperation(turn *turn, random *rand.Rand, now time.Time) {
	id := fmt.Sprint("r", random.IntN(30))
	call := fmt.Sprint(id, "-", random.IntN(3))
	if random.IntN(2) == 0 {
		turn.settle(&Settlement{Tenant: "acme", ID: id, Call: call, Billed: Amount{Tokens: random.Int64N(100)}, Released: random.IntN(5) == 0})
		return
	}
	turn.reserve(&Request{Tenant: "acme", ID: id, Call: call, Model: []string{"gpt-4o", "mini", `o"dd\`, "ünï"}[random.IntN(4)],
		Estimate: Amount{Tokens: 100 + random.Int64N(500), Cost: USD(random.Int64N(10000))}, Until: now.Add(time.Duration(random.IntN(60)) * time.Second)})
}

func checkLimits(t *testing.T, turn *turn) {
	for i := range turn.rules.limits {
		l := &turn.rules.limits[i]
		w := turn.find(turn.spans[l.cut])
		require.LessOrEqual(t, w.Settled.in(l.unit)+w.open.in(l.unit), l.max)
	}
	for _, w := range turn.windows {
		var open Amount
		for _, e := range turn.open {
			for _, number := range e.windows {
				if number == w.number {
					open = open.plus(e.estimate)
				}
			}
		}
		require.Equal(t, open, w.open)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	turn := turnOf(&record{}, acme(func(c *Config) { c.DailyLimit = 1000; c.Allocation = map[string]float64{"gpt-4o": 0.5} }), noon)
	turn.ask("a", 600)
	s := bill("a", 600)
	turn.settle(&s)
	turn.ask("b", 100)
	turn.warn("acme")
	f.Add(turn.appendTo(nil))
	f.Add([]byte(`{"settled":[{"number":1e3,"tokens":-5}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data, 1)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.appendTo(nil), 1)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(r, again, sameRecord))
	})
}
