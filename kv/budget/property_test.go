package budget

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// By hand: go test ./kv/budget -run Property -budget.runs 20 -timeout 60m -v
var runs = flag.Int("budget.runs", 0, "runs of the property tests in full size: 8 processes, 4,000 requests; 0 is one short run each")

// scenario is one property test.
type scenario struct {
	processes   int
	requests    int
	kills       int // of workers
	serverKills int
	endsAfter   time.Duration // of the start, a minute ends by the workers' clock; 0 is when it does
	calls       time.Duration // how long a call to the upstream may take
	budgets     func(bills int64) []Config
	// fills is the share of the budget that has to be used; 0 does not say.
	fills float64
	// windows is how many windows of the first limit have to be used.
	windows int
}

func scaled(s scenario) (scenario, int) {
	s.processes, s.requests = 8, 4000
	if *runs > 0 {
		return s, *runs
	}
	s.processes, s.requests = 3, 600
	s.kills = min(s.kills, 3)
	s.serverKills = min(s.serverKills, 1)
	return s, 1
}

func half(bills int64) []Config { return acme(func(c *Config) { c.TotalLimit = bills / 2 }) }

func TestPropertyNoKills(t *testing.T) {
	runScenario(t, scenario{budgets: half, fills: 0.98})
}

func TestPropertyWorkersKilled(t *testing.T) {
	runScenario(t, scenario{kills: 10, budgets: half, fills: 0.98})
}

func TestPropertyServerKilled(t *testing.T) {
	runScenario(t, scenario{kills: 5, serverKills: 3, budgets: half, fills: 0.98})
}

func TestPropertyTwoBudgets(t *testing.T) {
	runScenario(t, scenario{kills: 10, fills: 0.98, budgets: func(bills int64) []Config {
		tokens, money := half(bills)[0], Defaults()
		money.Tenant, money.TotalLimitUSD, money.DailyLimit = "acme", USD(bills/2+bills/20), bills
		return []Config{tokens, money}
	}})
}

// TestPropertyWindowEnds has a minute end while the requests run: each minute
// has its own limit, and calls count in the minute that they were reserved in.
func TestPropertyWindowEnds(t *testing.T) {
	runScenario(t, scenario{kills: 5, windows: 2, endsAfter: 3 * time.Second, calls: 100 * time.Millisecond, budgets: func(bills int64) []Config {
		return acme(func(c *Config) { c.MinuteLimit, c.TotalLimit = bills/3, bills })
	}})
}

func runScenario(t *testing.T, s scenario) {
	if testing.Short() {
		t.Skip("starts processes; left out with -short")
	}
	if *runs == 0 {
		t.Parallel()
	}
	s, n := scaled(s)
	t.Logf("| run | answered | denied | killed | billed/limit | settled/limit | settled - billed | lost calls | seconds |")
	for i := range n {
		began := time.Now()
		p := newPlant(t, s)
		p.run()
		a := p.audit()
		t.Logf("| %d | %d | %d | %d+%d | %.2f%% | %.2f%% | %d | %d | %.1f |", i+1, a.answered, s.requests-a.answered, p.killed, p.serverKilled,
			100*float64(a.billed)/float64(a.limit), 100*float64(a.settled)/float64(a.limit), a.settled-a.billed, a.lost, time.Since(began).Seconds())
		p.stop()
	}
}

// upstream is a provider: it bills when it accepts a call, and answers later.
type upstream struct {
	*httptest.Server
	mu    sync.Mutex
	bills map[string]sum // by call
}

// sum is what calls of one id were billed and might have been.
type sum struct{ billed, estimate int64 }

func newUpstream(longest time.Duration) *upstream {
	u := &upstream{bills: map[string]sum{}}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var call struct {
			Call           string
			Bill, Estimate int64
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &call) != nil {
			http.Error(w, "a call that cannot be read", http.StatusBadRequest)
			return
		}
		u.mu.Lock()
		u.bills[call.Call] = sum{u.bills[call.Call].billed + call.Bill, call.Estimate}
		u.mu.Unlock()
		time.Sleep(rand.N(longest)) // the model is at work
		fmt.Fprint(w, call.Bill)
	}))
	return u
}

// plant is everything that one run needs.
type plant struct {
	*scenario
	t        *testing.T
	address  string
	store    string
	server   *exec.Cmd
	upstream *upstream
	js       jetstream.JetStream
	budgets  []Config
	workers  []*exec.Cmd
	job      string
	shift    time.Duration // of the workers' clock
	late     []*nats.Msg   // requests that are published around the end of the minute

	killed, serverKilled int
}

func newPlant(t *testing.T, s scenario) *plant {
	if s.calls == 0 {
		s.calls = 20 * time.Millisecond
	}
	p := &plant{scenario: &s, t: t, store: t.TempDir(), upstream: newUpstream(s.calls)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.address = l.Addr().String()
	require.NoError(t, l.Close())
	p.startServer()
	t.Cleanup(p.stop)
	nc, err := nats.Connect(p.address, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // the server is killed on purpose
	require.NoError(t, err)
	p.js, err = jetstream.New(nc)
	require.NoError(t, err)
	require.Eventually(t, nc.IsConnected, 10*time.Second, 10*time.Millisecond)
	p.provision()
	p.publish()
	return p
}

func (p *plant) startServer() {
	_, port, err := net.SplitHostPort(p.address)
	require.NoError(p.t, err)
	p.server = p.start("server", "BUDGET_TEST_SERVER="+port+" "+p.store)
}

func (p *plant) start(role, env string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), roleKey+"="+role, env, "GOMAXPROCS=2")
	c.Stderr = os.Stderr
	require.NoError(p.t, c.Start())
	return c
}

// kill ends a process with SIGKILL; one that has ended is left alone.
func kill(c *exec.Cmd) {
	if c.ProcessState == nil {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}

func (p *plant) provision() {
	ctx := p.t.Context()
	// The bucket keeps its whole history here, so that every record that ever
	// held can be looked at.
	streams := Streams("llm", 1)
	streams[0].MaxMsgsPerSubject = -1
	streams = append(streams,
		jetstream.StreamConfig{Name: "WORK", Subjects: []string{"WORK"}, Retention: jetstream.WorkQueuePolicy},
		jetstream.StreamConfig{Name: "ANSWERS", Subjects: []string{"ANSWERS.*"}},
		jetstream.StreamConfig{Name: "RESPONSES", Subjects: []string{"RESPONSES.*"}})
	for _, s := range streams {
		_, err := p.js.CreateStream(ctx, s)
		require.NoError(p.t, err)
	}
	_, err := p.js.CreateConsumer(ctx, "WORK", jetstream.ConsumerConfig{Durable: "work", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: 2 * time.Second, MaxAckPending: 4096})
	require.NoError(p.t, err)
}

// publish publishes the requests, whose bills the budgets are made for. Where a
// minute is to end, half of them wait for that.
func (p *plant) publish() {
	bills := int64(0)
	for i := range p.requests {
		r := message{Estimate: 100 + rand.Int64N(1900)}
		r.Bill = r.Estimate - rand.Int64N(r.Estimate/2)
		bills += r.Bill
		m := nats.NewMsg("WORK")
		m.Header.Set("Id", fmt.Sprintf("r%d", i))
		m.Data, _ = json.Marshal(r)
		if p.endsAfter > 0 && i >= p.requests/2 {
			p.late = append(p.late, m)
			continue
		}
		_, err := p.js.PublishMsgAsync(m)
		require.NoError(p.t, err)
	}
	<-p.js.PublishAsyncComplete()
	p.budgets = p.scenario.budgets(bills)
}

// publishLate publishes what is left, spread over a second around the minute's end.
func (p *plant) publishLate(end time.Time) {
	time.Sleep(time.Until(end.Add(-500 * time.Millisecond)))
	for _, m := range p.late {
		if _, err := p.js.PublishMsg(context.Background(), m); err != nil {
			p.t.Error(err)
		}
		time.Sleep(time.Second / time.Duration(len(p.late)))
	}
}

// run has the workers do everything, killing as it goes, and waits for the end.
func (p *plant) run() {
	end := time.Now().Add(p.endsAfter)
	if p.endsAfter > 0 {
		p.shift = end.Truncate(time.Minute).Add(time.Minute).Sub(end)
	}
	text, err := json.Marshal(job{NATS: p.address, Upstream: p.upstream.URL, Slots: 32,
		ShiftMS: p.shift.Milliseconds(), UntilMS: 4000, Budgets: p.budgets})
	require.NoError(p.t, err)
	p.job = "BUDGET_TEST_JOB=" + string(text)
	for range p.processes {
		p.workers = append(p.workers, p.start("worker", p.job))
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() { p.killAtRandom(&done) })
	if len(p.late) > 0 {
		wg.Go(func() { p.publishLate(end) })
	}
	deadline := time.Now().Add(3 * time.Minute)
	for !p.finished() && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond) // the poll of other processes' work
	}
	done.Store(true)
	wg.Wait()
	require.True(p.t, p.finished(), "the requests are not all answered after 3 minutes")
	p.drain()
}

// killAtRandom kills workers and servers at points spread over the work, as
// seen by the responses stored.
func (p *plant) killAtRandom(done *atomic.Bool) {
	all := p.kills + p.serverKills
	servers := rand.Perm(max(all, 1))[:p.serverKills]
	for i := range all {
		// Between two kills passes a share of the responses, and a random time.
		target := uint64(p.requests) * uint64(i+1) / uint64(all+2)
		for p.responses() < target && !done.Load() {
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(rand.N(50 * time.Millisecond))
		if done.Load() {
			return
		}
		if slices.Contains(servers, i) {
			kill(p.server)
			p.serverKilled++
			time.Sleep(rand.N(500 * time.Millisecond))
			p.startServer()
			continue
		}
		k := rand.IntN(len(p.workers))
		kill(p.workers[k])
		p.killed++
		p.workers[k] = p.start("worker", p.job)
	}
}

func (p *plant) responses() uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := p.js.Stream(ctx, "RESPONSES")
	if err != nil {
		return 0 // the server is away
	}
	return s.CachedInfo().State.Msgs
}

func (p *plant) finished() bool { return p.responses() >= uint64(p.requests) }

// drain waits until no reservation is open. Those of killed workers whose
// request somebody else answered are reaped by whoever commits next.
func (p *plant) drain() {
	l, err := Open(context.Background(), p.js, Options{Budgets: p.budgets, Now: shifted(p.shift)})
	require.NoError(p.t, err)
	defer l.Close()
	require.Eventually(p.t, func() bool {
		r, err := readRecord(context.Background(), l.budgets, "acme")
		if err != nil {
			return false
		}
		if len(r.open) > 0 {
			l.Reserve(context.Background(), []Request{{Tenant: "acme", ID: "drain", Call: "drain", Model: "m"}})
			_ = l.Settle(context.Background(), []Settlement{{Tenant: "acme", ID: "drain", Call: "drain", Released: true}})
		}
		return len(r.open) == 0
	}, 30*time.Second, 100*time.Millisecond)
}

func (p *plant) stop() {
	for _, w := range p.workers {
		kill(w)
	}
	if p.js != nil {
		p.js.Conn().Close()
	}
	kill(p.server)
	p.upstream.Close()
	http.DefaultClient.CloseIdleConnections()
	_ = os.RemoveAll(p.store)
}
