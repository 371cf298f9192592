package budget

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
)

// startServer starts a NATS server with JetStream in the test's process.
func startServer(t testing.TB) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(10*time.Second))
	return s
}

func connect(t testing.TB, s *server.Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // servers are stopped on purpose
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

// clock is a time that a test sets.
type clock struct{ unix atomic.Int64 }

func newClock(at string) *clock {
	c := &clock{}
	c.set(at)
	return c
}

func (c *clock) set(at string) {
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	c.unix.Store(t.UnixNano())
}

func (c *clock) advance(d time.Duration) { c.unix.Add(int64(d)) }
func (c *clock) now() time.Time          { return time.Unix(0, c.unix.Load()) }

func open(t testing.TB, js jetstream.JetStream, o Options) *Ledger {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l, err := Open(t.Context(), js, o)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

// acme is a budget of tenant acme with what a test sets.
func acme(set func(*Config)) []Config {
	c := Defaults()
	c.Tenant = "acme"
	set(&c)
	return []Config{c}
}

func ask(id string, tokens int64) Request {
	return Request{Tenant: "acme", ID: id, Call: id + "-1", Model: "gpt-4o", Estimate: Amount{Tokens: tokens}}
}

func bill(id string, tokens int64) Settlement {
	return Settlement{Tenant: "acme", ID: id, Call: id + "-1", Billed: Amount{Tokens: tokens}}
}

func reserve(t testing.TB, l *Ledger, r Request) Outcome {
	t.Helper()
	o := l.Reserve(context.Background(), []Request{r})[0]
	require.NoError(t, o.Err)
	return o
}

func settle(t testing.TB, l *Ledger, s ...Settlement) {
	t.Helper()
	require.NoError(t, l.Settle(context.Background(), s))
}

func stateOf(t testing.TB, l *Ledger, tenant string) *record {
	t.Helper()
	r, err := readRecord(context.Background(), l.budgets, tenant)
	require.NoError(t, err)
	return r
}

func settledTokens(t testing.TB, l *Ledger, scope Scope) int64 {
	t.Helper()
	for _, w := range stateOf(t, l, "acme").windows {
		if w.scope == scope && w.contains(l.now().Unix()) {
			return w.Settled.Tokens
		}
	}
	return 0
}

func TestReserveSettleDeny(t *testing.T) {
	now := newClock("2026-11-23T12:00:00Z")
	l := open(t, connect(t, startServer(t)), Options{Budgets: daily(1000), Now: now.now})
	require.Equal(t, Granted, reserve(t, l, ask("a", 600)).State)
	require.Equal(t, Wait, reserve(t, l, ask("b", 600)).State)
	settle(t, l, bill("a", 300))
	require.Equal(t, Granted, reserve(t, l, ask("b", 600)).State)

	o := reserve(t, l, ask("c", 701))
	require.Equal(t, Denied, o.State)
	var e *schemas.Error
	require.ErrorAs(t, o.Denial.Err(now.now()), &e)
	require.Equal(t, schemas.InsufficientQuotaError, e.Type)
	require.Equal(t, schemas.CodeInsufficientQuota, e.Code)
	require.Equal(t, map[string]any{"limit": int64(1000), "used": int64(300), "estimate": int64(701), "unit": "tokens",
		"window": "day", "resets_at": "2026-11-24T00:00:00Z"}, e.Details)
	require.Equal(t, 12*time.Hour, e.RetryAfter)
	require.Equal(t, "the request may use 701 tokens, and of tenant acme's day limit of 1000 tokens, 300 tokens are used; it resets at 2026-11-24T00:00:00Z", e.Message)

	now.advance(12 * time.Hour)
	require.Equal(t, Granted, reserve(t, l, ask("c", 701)).State, "another day")
}

func TestPerRequestError(t *testing.T) {
	l := open(t, connect(t, startServer(t)), Options{Budgets: acme(func(c *Config) { c.PerRequestLimitUSD = Dollar / 2 })})
	r := ask("a", 10)
	r.Estimate.Cost = Dollar
	o := reserve(t, l, r)
	require.Equal(t, Denied, o.State)
	var typed schemas.TokenOptimizationError
	require.ErrorAs(t, o.Denial.Err(time.Now()), &typed)
	require.Equal(t, schemas.CodePerRequestLimit, typed.Code)
	require.Equal(t, map[string]any{"limit": 0.5, "estimate": 1.0, "unit": "usd"}, typed.Details)
	require.Contains(t, typed.Message, "$1,")
	require.Contains(t, typed.Message, "$0.5 ")
}

func TestSlicesOfSeveralTenants(t *testing.T) {
	beta := daily(100)[0]
	beta.Tenant = "beta"
	l := open(t, connect(t, startServer(t)), Options{Budgets: append(daily(1000), beta)})
	of := func(tenant, id string, tokens int64) Request {
		r := ask(id, tokens)
		r.Tenant = tenant
		return r
	}
	outcomes := l.Reserve(t.Context(), []Request{
		of("acme", "a", 900), of("beta", "a", 90), of("nobody", "a", 1<<40), of("beta", "b", 90), of("beta", "c", 101), of("bad tenant", "a", 1), of("acme", "b", 100)})
	var states []State
	for _, o := range outcomes {
		states = append(states, o.State)
	}
	require.Equal(t, []State{Granted, Granted, Granted, Wait, Denied, Failed, Granted}, states)
	require.ErrorContains(t, outcomes[5].Err, "no tenant")
	require.Equal(t, "beta", outcomes[4].Denial.Tenant)
}

// TestReplicasDecideOnWhatIs has one replica refuse and grant by what another
// did a moment ago, which the watch may not have brought yet.
func TestReplicasDecideOnWhatIs(t *testing.T) {
	s := startServer(t)
	a := open(t, connect(t, s), Options{Budgets: daily(1000)})
	b := open(t, connect(t, s), Options{Budgets: daily(1000)})
	for i := range 50 {
		id, other := fmt.Sprint("a", i), fmt.Sprint("b", i)
		require.Equal(t, Granted, reserve(t, a, ask(id, 1000)).State)
		require.Equal(t, Wait, reserve(t, b, ask(other, 1000)).State)
		require.NoError(t, b.Settle(t.Context(), []Settlement{{Tenant: "acme", ID: id, Call: id + "-1", Released: true}}))
		require.Equal(t, Granted, reserve(t, b, ask(other, 1000)).State)
		require.NoError(t, a.Settle(t.Context(), []Settlement{{Tenant: "acme", ID: other, Call: other + "-1", Released: true}}))
	}
	require.Empty(t, stateOf(t, a, "acme").open)
}

func TestCanAffordFollowsOtherReplicas(t *testing.T) {
	s := startServer(t)
	a := open(t, connect(t, s), Options{Budgets: daily(1000)})
	b := open(t, connect(t, s), Options{Budgets: daily(1000)})
	estimate := Amount{Tokens: 600}
	require.True(t, b.CanAfford("acme", "gpt-4o", estimate))
	reserve(t, a, ask("a", 500))
	eventually(t, b, func() bool { return b.Check("acme", "gpt-4o", estimate) == Wait })
	require.True(t, b.CanAfford("acme", "gpt-4o", estimate), "what is open may settle lower")
	settle(t, a, bill("a", 500))
	eventually(t, b, func() bool { return !b.CanAfford("acme", "gpt-4o", estimate) })
	require.True(t, b.CanAfford("acme", "gpt-4o", Amount{Tokens: 500}))
	require.True(t, b.CanAfford("nobody", "gpt-4o", estimate))
}

// eventually waits for a change, as a waiter does.
func eventually(t testing.TB, l *Ledger, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		changed := l.Changed("acme")
		if holds() {
			return
		}
		require.True(t, time.Now().Before(deadline), "nothing changed in 10 s")
		<-changed
	}
}

func TestCanAffordAcrossTheEndOfAWindow(t *testing.T) {
	now := newClock("2026-11-23T12:00:30Z")
	l := open(t, connect(t, startServer(t)), Options{Budgets: acme(func(c *Config) { c.MinuteLimit = 100 }), Now: now.now})
	reserve(t, l, ask("a", 100))
	settle(t, l, bill("a", 100))
	require.False(t, l.CanAfford("acme", "m", Amount{Tokens: 1}))
	now.advance(30 * time.Second)
	require.True(t, l.CanAfford("acme", "m", Amount{Tokens: 100}))
}

func TestReaperFreesWhatADeadProcessHeld(t *testing.T) {
	s := startServer(t)
	now := newClock("2026-11-23T12:00:00Z")
	o := Options{Budgets: daily(1000), Now: now.now, CallTimeout: time.Minute}
	dead := open(t, connect(t, s), o)
	reserve(t, dead, ask("a", 600))
	dead.Close()
	l := open(t, connect(t, s), o)
	require.Equal(t, Wait, reserve(t, l, ask("b", 400+1)).State)
	require.Equal(t, Wait, l.Check("acme", "m", Amount{Tokens: 401}))
	now.advance(time.Minute + time.Second)
	require.Equal(t, Granted, l.Check("acme", "m", Amount{Tokens: 401}), "worth trying")
	require.Equal(t, Denied, reserve(t, l, ask("b", 401)).State, "the lost call is charged at its estimate")
	require.Equal(t, Granted, reserve(t, l, ask("c", 400)).State)
	require.Equal(t, int64(600), settledTokens(t, l, Day))
}

// TestASettlementInTimeIsNotReaped: the bill is known when the reservation's
// time is over but nobody has reaped it.
func TestASettlementInTimeIsNotReaped(t *testing.T) {
	now := newClock("2026-11-23T12:00:00Z")
	l := open(t, connect(t, startServer(t)), Options{Budgets: daily(1000), Now: now.now, CallTimeout: time.Minute})
	reserve(t, l, ask("a", 600))
	now.advance(time.Hour)
	settle(t, l, bill("a", 10))
	require.Equal(t, int64(10), settledTokens(t, l, Day))
}

func TestLimitsSetAtRunTimeReachAllReplicas(t *testing.T) {
	s := startServer(t)
	a := open(t, connect(t, s), Options{Budgets: daily(1000)})
	b := open(t, connect(t, s), Options{Budgets: daily(1000)})
	require.NoError(t, a.SetLimits(t.Context(), "acme", func(list []Config) []Config {
		list[0].DailyLimit = 50
		return list
	}))
	eventually(t, b, func() bool { return !b.CanAfford("acme", "m", Amount{Tokens: 51}) })
	limits, set := b.Limits("acme")
	require.True(t, set)
	require.Equal(t, int64(50), limits[0].DailyLimit)

	c := open(t, connect(t, s), Options{Budgets: daily(1000)})
	require.False(t, c.CanAfford("acme", "m", Amount{Tokens: 51}), "also those that start later")

	require.Error(t, a.SetLimits(t.Context(), "acme", func([]Config) []Config { return []Config{{Tenant: "other", OnExhausted: Reject, TimeZone: "UTC"}} }))
	require.ErrorContains(t, a.SetLimits(t.Context(), "acme", func(list []Config) []Config { list[0].DailyLimit = -1; return list }), "daily_limit")

	require.NoError(t, a.RestoreLimits(t.Context(), "acme"))
	eventually(t, b, func() bool { return b.CanAfford("acme", "m", Amount{Tokens: 1000}) })
	require.False(t, b.CanAfford("acme", "m", Amount{Tokens: 1001}))

	require.NoError(t, a.SetLimits(t.Context(), "acme", func([]Config) []Config { return nil }))
	eventually(t, b, func() bool { return b.CanAfford("acme", "m", Amount{Tokens: 1 << 50}) })
	require.False(t, b.Hard("acme"))
	require.False(t, b.Limited("acme"))
}

func TestLimited(t *testing.T) {
	l := open(t, connect(t, startServer(t)), Options{Budgets: daily(1000)})
	require.True(t, l.Limited("acme"))
	require.True(t, l.Hard("acme"))
	require.False(t, l.Limited("nobody"))
	reserve(t, l, ask("a", 1))
	require.NoError(t, l.SetLimits(t.Context(), "acme", func([]Config) []Config { return nil }))
	eventually(t, l, func() bool { return !l.Hard("acme") })
	require.True(t, l.Limited("acme"), "a is to be settled still")
	settle(t, l, bill("a", 1))
	require.False(t, l.Limited("acme"))
}

func TestLimitsThatCannotBeReadChangeNothing(t *testing.T) {
	js := connect(t, startServer(t))
	l := open(t, js, Options{Budgets: daily(1000)})
	for _, text := range []string{"{", `{"budgets":[{"tenant":"acme","daily_limit":-5}]}`, `{"budgets":[{"tenant":"beta"}]}`, `{"other":1}`} {
		_, err := js.Publish(t.Context(), "$KV.llm_limits.acme", []byte(text))
		require.NoError(t, err)
	}
	_, err := js.Publish(t.Context(), "$KV.llm_limits.zeta", []byte(`{"budgets":[{"tenant":"zeta","daily_limit":5}]}`))
	require.NoError(t, err)
	for l.CanAfford("zeta", "m", Amount{Tokens: 6}) { // until the watch has brought all of them
		runtime.Gosched()
	}
	require.True(t, l.CanAfford("acme", "m", Amount{Tokens: 1000}))
	require.False(t, l.CanAfford("acme", "m", Amount{Tokens: 1001}))
}

func TestWarningsArePublishedOnce(t *testing.T) {
	s := startServer(t)
	js := connect(t, s)
	events, err := js.Conn().SubscribeSync("llm.events.acme")
	require.NoError(t, err)
	require.NoError(t, js.Conn().Flush())
	now := newClock("2026-11-23T12:00:00Z")
	ledgers := []*Ledger{open(t, js, Options{Budgets: daily(1000), Now: now.now}), open(t, connect(t, s), Options{Budgets: daily(1000), Now: now.now})}
	for day := range 2 {
		for i := range 10 {
			id := fmt.Sprint("d", day, "-", i)
			reserve(t, ledgers[i%2], ask(id, 100))
			settle(t, ledgers[(i+1)%2], bill(id, 100))
		}
		for _, want := range []int{50, 80, 100} {
			m, err := events.NextMsg(5 * time.Second)
			require.NoError(t, err)
			var e Event
			require.NoError(t, json.Unmarshal(m.Data, &e))
			require.Equal(t, Event{Type: "budget_warning", Tenant: "acme", Percent: want, Window: Day, Unit: Tokens,
				Limit: 1000.0, Used: float64(10 * want), ResetsAt: moment(t, "2026-11-24T00:00:00Z").AddDate(0, 0, day), At: e.At}, e)
		}
		now.advance(24 * time.Hour)
	}
	for _, l := range ledgers {
		require.NoError(t, l.js.Conn().Flush())
	}
	pending, _, err := events.Pending()
	require.NoError(t, err)
	require.Zero(t, pending)
}

func TestPastDaysArePutAside(t *testing.T) {
	js := connect(t, startServer(t))
	now := newClock("2026-11-20T23:00:00Z")
	l := open(t, js, Options{Budgets: daily(1000), Now: now.now})
	for day := range 4 {
		id := fmt.Sprint("r", day)
		reserve(t, l, ask(id, 100))
		settle(t, l, bill(id, int64(10+day)))
		now.advance(24 * time.Hour)
	}
	reserve(t, l, ask("last", 5))
	settle(t, l, bill("last", 5))
	got, err := l.Usage(t.Context(), "acme")
	require.NoError(t, err)
	var want []Used
	for day, date := range []string{"2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23"} {
		want = append(want, Used{Tenant: "acme", Date: date, Model: "gpt-4o", Amount: Amount{Tokens: int64(10 + day), Requests: 1}})
	}
	want = append(want, Used{Tenant: "acme", Date: "2026-11-24", Model: "gpt-4o", Amount: Amount{Tokens: 5, Requests: 1}})
	require.Empty(t, cmp.Diff(want, got))
	require.NoError(t, l.Reset(t.Context(), "acme")) // a write after the last day was put aside
	require.Empty(t, stateOf(t, l, "acme").past)
	stream, err := js.Stream(t.Context(), "KV_llm_budget")
	require.NoError(t, err)
	m, err := stream.GetLastMsgForSubject(t.Context(), "$KV.llm_budget.acme.2026-11-22")
	require.NoError(t, err)
	require.Equal(t, "9600h0m0s", m.Header.Get("Nats-TTL"))
}

func TestListAndReset(t *testing.T) {
	now := newClock("2026-11-23T12:00:00Z")
	l := open(t, connect(t, startServer(t)), Options{Now: now.now, Budgets: acme(func(c *Config) {
		c.PerRequestLimit, c.DailyLimit, c.TotalLimitUSD = 700, 1000, 5*Dollar
		c.Allocation = map[string]float64{"gpt-4o": 0.5}
	})})
	a := ask("a", 300)
	a.Estimate.Cost = Dollar
	reserve(t, l, a)
	settle(t, l, Settlement{Tenant: "acme", ID: "a", Call: "a-1", Billed: Amount{Tokens: 200, Cost: Dollar / 4}})
	reserve(t, l, ask("b", 100))
	tokens := func(n int64) Quantity { return Quantity{Tokens, n} }
	usd := func(n USD) Quantity { return Quantity{Dollars, int64(n)} }
	want := []Status{
		{Tenant: "acme", Window: perRequest, Unit: Tokens, Limit: tokens(700), Settled: tokens(0), Open: tokens(0), Lost: tokens(0), OnExhausted: Reject},
		{Tenant: "acme", Window: Day, Unit: Tokens, Limit: tokens(1000), Settled: tokens(200), Open: tokens(100), Lost: tokens(0), OnExhausted: Reject,
			ResetsAt: moment(t, "2026-11-24T00:00:00Z"), Models: []ModelStatus{{"gpt-4o", tokens(500), tokens(200), tokens(100)}}},
		{Tenant: "acme", Window: Total, Unit: Dollars, Limit: usd(5 * Dollar), Settled: usd(Dollar / 4), Open: usd(0), Lost: usd(0), OnExhausted: Reject,
			Models: []ModelStatus{{"gpt-4o", usd(5 * Dollar / 2), usd(Dollar / 4), usd(0)}}},
	}
	require.Empty(t, cmp.Diff(want, l.List("acme")))
	require.Equal(t, want, l.List(""))
	require.Empty(t, l.List("nobody"))
	text, err := json.Marshal(want[2].Settled)
	require.NoError(t, err)
	require.Equal(t, "0.25", string(text))

	require.NoError(t, l.Reset(t.Context(), "acme", Day))
	require.Zero(t, settledTokens(t, l, Day))
	require.Equal(t, int64(200), settledTokens(t, l, Total))
	settle(t, l, bill("b", 90))
	require.Equal(t, int64(90), settledTokens(t, l, Day), "what was open settles as usual")
	require.ErrorIs(t, l.Reset(t.Context(), "nobody"), ErrNoBudget)
}

func TestClosedLedger(t *testing.T) {
	l := open(t, connect(t, startServer(t)), Options{Budgets: daily(1000)})
	l.Close()
	require.ErrorIs(t, l.Reserve(t.Context(), []Request{ask("a", 1)})[0].Err, ErrClosed)
	require.ErrorIs(t, l.Settle(t.Context(), []Settlement{bill("a", 1)}), ErrClosed)
}

func TestABucketThatDropsRecordsIsRefused(t *testing.T) {
	js := connect(t, startServer(t))
	bad := Streams("llm", 1)[0]
	bad.MaxAge = time.Hour
	_, err := js.CreateStream(t.Context(), bad)
	require.NoError(t, err)
	_, err = Open(t.Context(), js, Options{})
	require.ErrorContains(t, err, "max_age is 1h0m0s")
}

func TestTheBucketsAreLimited(t *testing.T) {
	js := connect(t, startServer(t))
	unlimited := Streams("llm", 1)[0]
	unlimited.MaxBytes = -1
	_, err := js.CreateStream(t.Context(), unlimited)
	require.NoError(t, err)
	require.NoError(t, Provision(t.Context(), js, "llm", 1))
	var sum int64
	for _, want := range Streams("llm", 1) {
		stream, err := js.Stream(t.Context(), want.Name)
		require.NoError(t, err)
		require.Positive(t, stream.CachedInfo().Config.MaxBytes, "%s: one that was made without a limit gets it", want.Name)
		sum += stream.CachedInfo().Config.MaxBytes
	}
	require.EqualValues(t, MaxBytes, sum)
}

func TestADamagedRecordGrantsNothing(t *testing.T) {
	js := connect(t, startServer(t))
	l := open(t, js, Options{Budgets: daily(1000)})
	_, err := js.Publish(t.Context(), "$KV.llm_budget.acme", []byte(`{"next":1,"future":true}`))
	require.NoError(t, err)
	o := l.Reserve(t.Context(), []Request{ask("a", 1)})[0]
	require.Equal(t, Failed, o.State)
	require.ErrorContains(t, o.Err, "budget rebuild")
}

// TestADeletedRecordBeginsAnew is what an operator does to a damaged one.
func TestADeletedRecordBeginsAnew(t *testing.T) {
	js := connect(t, startServer(t))
	l := open(t, js, Options{Budgets: daily(1000)})
	reserve(t, l, ask("a", 1000))
	settle(t, l, bill("a", 1000))
	kv, err := js.KeyValue(t.Context(), "llm_budget")
	require.NoError(t, err)
	require.NoError(t, kv.Delete(t.Context(), "acme"))
	require.Equal(t, Granted, reserve(t, l, ask("b", 1000)).State)
}
