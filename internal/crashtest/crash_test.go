// Package crashtest kills real processes at random moments and checks that
// nothing is lost, nothing is stored twice and nothing is paid again that was recorded.
package crashtest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/proc"
)

func TestMain(m *testing.M) {
	proc.Main()
	os.Exit(m.Run())
}

// figures of one run; PROCESSOR_SLOW=1 makes it longer.
type figures struct {
	requests    int
	kills       int // of a processor
	serverKills int
	replicas    int
	workers     int
	latency     time.Duration // of the upstream
	maxWaiting  int           // requests of a tenant; at least 10,000
}

func size() figures {
	if os.Getenv("PROCESSOR_SLOW") != "" {
		return figures{requests: 2000, kills: 8, serverKills: 2, replicas: 2, workers: 64, latency: 150 * time.Millisecond}
	}
	return figures{requests: 2000, kills: 5, serverKills: 1, replicas: 1, workers: 64, latency: 100 * time.Millisecond}
}

func TestKillsLoseNothing(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("kills processes for half a minute")
	}
	f := size()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := newCluster(ctx, t, f)

	var publishing sync.WaitGroup
	publishing.Go(func() { c.publish(ctx) })
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	events := f.kills + f.serverKills
	serverAt := random.Perm(events)[:f.serverKills]
	for i := range events {
		time.Sleep(200*time.Millisecond + time.Duration(random.Int64N(int64(500*time.Millisecond))))
		server := false
		for _, at := range serverAt {
			server = server || at == i
		}
		if server {
			c.restartServer(ctx)
		} else {
			c.restartProcessor(ctx, random.IntN(f.replicas))
		}
	}
	publishing.Wait()
	c.awaitResponses(ctx)
	c.check(ctx)
}

// cluster is a NATS server, an upstream and processors, each a process of its own.
type cluster struct {
	t          *testing.T
	f          figures
	dir        string
	program    string
	port       int
	nats       *proc.Process
	upstream   *proc.Process
	processors []*proc.Process
	nc         *nats.Conn
	js         jetstream.JetStream
	log        *os.File
}

func newCluster(ctx context.Context, t *testing.T, f figures) *cluster {
	c := &cluster{t: t, f: f, dir: t.TempDir(), port: freePort(t)}
	var err error
	c.program, err = proc.Build(ctx, c.dir)
	require.NoError(t, err)
	c.log, err = os.Create(filepath.Join(c.dir, "log"))
	require.NoError(t, err)
	c.startServer(ctx)
	c.upstream, err = proc.Start(ctx, "upstream "+f.latency.String()+" count")
	require.NoError(t, err)
	configuration := fmt.Sprintf(`
nats: {url: "nats://127.0.0.1:%d"}
http: {addr: "127.0.0.1:0"}
pipeline: {workers: {generate: %d}}
providers: [{name: fake, kind: openai, base_url: "%s/v1", api_key: none}]
streams: {requests: {max_waiting: %d}}
`, c.port, f.workers, c.upstream.URL, max(f.maxWaiting, 10_000))
	require.NoError(t, os.WriteFile(filepath.Join(c.dir, "processor.yaml"), []byte(configuration), 0o600))
	c.nc, err = nats.Connect(c.nats.URL, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	require.NoError(t, err)
	c.js, err = jetstream.New(c.nc)
	require.NoError(t, err)
	out, err := proc.Run(ctx, c.program, "provision", "--config", filepath.Join(c.dir, "processor.yaml"))
	require.NoError(t, err, out)
	for range f.replicas {
		c.processors = append(c.processors, c.startProcessor(ctx))
	}
	t.Cleanup(c.close)
	return c
}

func (c *cluster) close() {
	c.nc.Close()
	for _, p := range c.processors {
		p.Kill()
	}
	c.upstream.Kill()
	c.nats.Kill()
	if c.t.Failed() {
		text, _ := os.ReadFile(c.log.Name())
		c.t.Logf("what the processors said:\n%s", text)
	}
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (c *cluster) startServer(ctx context.Context) {
	var err error
	c.nats, err = proc.Start(ctx, "nats "+filepath.Join(c.dir, "nats")+" "+strconv.Itoa(c.port))
	require.NoError(c.t, err)
}

func (c *cluster) startProcessor(ctx context.Context) *proc.Process {
	p, err := proc.Command(ctx, c.log, c.program, "run", "--config", filepath.Join(c.dir, "processor.yaml"))
	require.NoError(c.t, err)
	return p
}

func (c *cluster) restartServer(ctx context.Context) {
	c.nats.Kill()
	c.startServer(ctx)
}

func (c *cluster) restartProcessor(ctx context.Context, i int) {
	c.processors[i].Kill()
	c.processors[i] = c.startProcessor(ctx)
}

// publish publishes every request until it is accepted. A publish whose
// outcome is unknown is done again under the same id.
func (c *cluster) publish(ctx context.Context) {
	for i := range c.f.requests {
		m := nats.NewMsg("llm.requests.crash")
		m.Header.Set("Llm-Id", c.id(i))
		m.Data = fmt.Appendf(nil, `{"model":"gpt-4o","messages":[{"role":"user","content":"question %d"}]}`, i)
		for ctx.Err() == nil {
			ack, err := c.publishOnce(ctx, m)
			if err == nil && !ack.Duplicate {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if i%20 == 0 {
			time.Sleep(15 * time.Millisecond) // so that kills meet requests in every stage
		}
	}
}

func (c *cluster) publishOnce(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // a server that is killed never answers
	defer cancel()
	return c.js.PublishMsg(ctx, m)
}

func (c *cluster) id(i int) string { return fmt.Sprintf("request-%d", i) }

func (c *cluster) responses(ctx context.Context) (*jetstream.StreamInfo, error) {
	stream, err := c.js.Stream(ctx, "LLM_RESPONSES")
	if err != nil {
		return nil, err
	}
	return stream.CachedInfo(), nil
}

func (c *cluster) awaitResponses(ctx context.Context) {
	var last uint64
	for end := time.Now().Add(2 * time.Minute); last < uint64(c.f.requests); time.Sleep(50 * time.Millisecond) {
		if info, err := c.responses(ctx); err == nil {
			last = info.State.Msgs
		}
		if time.Now().After(end) {
			c.describe(ctx)
			c.t.Fatalf("%d of %d responses", last, c.f.requests)
		}
	}
	c.t.Logf("%d responses", last)
}

// describe logs what the streams and their consumers hold.
func (c *cluster) describe(ctx context.Context) {
	streams := c.js.ListStreams(ctx)
	for info := range streams.Info() {
		c.t.Logf("%s: %d messages", info.Config.Name, info.State.Msgs)
		stream, err := c.js.Stream(ctx, info.Config.Name)
		if err != nil {
			continue
		}
		consumers := stream.ListConsumers(ctx)
		for consumer := range consumers.Info() {
			if consumer.NumPending > 0 || consumer.NumAckPending > 0 {
				c.t.Logf("  %s: %d pending, %d unacknowledged, %d redelivered, %d pulls", consumer.Name, consumer.NumPending, consumer.NumAckPending, consumer.NumRedelivered, consumer.NumWaiting)
			}
		}
	}
}

// check reads what is left: one answer a request, none twice, and no more
// repeated calls than were in flight at the kills.
func (c *cluster) check(ctx context.Context) {
	info, err := c.responses(ctx)
	require.NoError(c.t, err)
	require.EqualValues(c.t, c.f.requests, info.State.Msgs)
	require.EqualValues(c.t, c.f.requests, info.State.LastSeq-info.State.FirstSeq+1, "a response was stored twice")
	stream, err := c.js.Stream(ctx, "LLM_RESPONSES")
	require.NoError(c.t, err)
	failed := 0
	for i := range c.f.requests {
		m, err := stream.GetLastMsgForSubject(ctx, "llm.responses.crash."+c.id(i))
		require.NoError(c.t, err)
		var body struct {
			Choices []json.RawMessage `json:"choices"`
		}
		require.NoError(c.t, json.Unmarshal(m.Data, &body))
		if len(body.Choices) == 0 {
			failed++
			c.t.Logf("%s", m.Data)
		}
	}
	require.Zero(c.t, failed, "errors instead of answers")
	calls, repeats, _, _, err := c.upstream.UpstreamStats()
	require.NoError(c.t, err)
	c.t.Logf("%d requests, %d kills of the processor, %d of the server: %d upstream calls, %d of them repeated", c.f.requests, c.f.kills, c.f.serverKills, calls, repeats)
	require.LessOrEqual(c.t, repeats, c.f.workers*(c.f.kills+c.f.serverKills), "more calls repeated than were in flight")
	archive, err := c.js.Stream(ctx, "LLM_ARCHIVE")
	require.NoError(c.t, err)
	require.Eventually(c.t, func() bool { // copying pauses for some seconds when the server has restarted
		info, err := archive.Info(ctx)
		return err == nil && info.State.Msgs >= uint64(c.f.requests)
	}, 30*time.Second, 100*time.Millisecond, "the archive misses accepted requests")
}

func TestStopFinishesWhatWasTaken(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds and runs the processor")
	}
	f := figures{requests: 40, replicas: 1, workers: 8, latency: time.Second}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := newCluster(ctx, t, f)
	c.publish(ctx)
	require.Eventually(t, func() bool {
		calls, _, _, _, err := c.upstream.UpstreamStats()
		return err == nil && calls >= f.workers
	}, 30*time.Second, 5*time.Millisecond, "calls have begun")
	require.NoError(t, c.processors[0].Stop(), "a stop that was asked for is no failure")
	info, err := c.responses(ctx)
	require.NoError(t, err)
	calls, _, _, _, err := c.upstream.UpstreamStats()
	require.NoError(t, err)
	require.GreaterOrEqual(t, calls, f.workers)
	answered := int(info.State.Msgs)
	c.processors[0] = c.startProcessor(ctx)
	c.awaitResponses(ctx)
	calls, repeats, _, _, err := c.upstream.UpstreamStats()
	require.NoError(t, err)
	t.Logf("%d of %d answered when it stopped; %d calls in the end", answered, f.requests, calls)
	require.Equal(t, f.requests, calls, "nothing is called again after a stop")
	require.Zero(t, repeats)
}

func TestASecondSignalStopsAtOnce(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds and runs the processor")
	}
	f := figures{requests: 4, replicas: 1, workers: 4, latency: time.Hour}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := newCluster(ctx, t, f)
	c.publish(ctx)
	require.Eventually(t, func() bool {
		calls, _, _, _, err := c.upstream.UpstreamStats()
		return err == nil && calls == f.workers
	}, 30*time.Second, 5*time.Millisecond, "calls have begun")
	p := c.processors[0]
	require.NoError(t, p.Signal(syscall.SIGINT))
	require.Never(t, p.Ended, 300*time.Millisecond, 20*time.Millisecond, "the first signal lets calls finish")
	require.NoError(t, p.Signal(syscall.SIGINT))
	require.Eventually(t, p.Ended, 5*time.Second, 5*time.Millisecond, "the second does not")
	c.processors = nil
}
