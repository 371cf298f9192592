// Package clustertest runs the product on real clusters of NATS servers, each
// server, replica and upstream a process of its own, and does to them what
// happens to machines. What must hold is read from the streams afterwards.
package clustertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/proc"
)

func TestMain(m *testing.M) {
	proc.Main()
	code := m.Run()
	_ = os.RemoveAll(programDir)
	os.Exit(code)
}

// slow skips a test that takes long, unless it is asked for.
func slow(t *testing.T) {
	t.Helper()
	if os.Getenv("PROCESSOR_SLOW") == "" {
		t.Skip("takes long; PROCESSOR_SLOW=1 runs it")
	}
}

const tenant = "acme"

// settings of a plant; what is left out is small.
type settings struct {
	servers  int           // of NATS; default 3
	copies   int           // of each stream; default as many as there are servers
	replicas int           // of the processor; default 2
	workers  int           // of generate in each; default 32
	latency  time.Duration // of the upstream
	upstream string        // more of it, as proc takes it
	streams  string        // the members of the section streams:, as YAML
	provider string        // more members of the provider
	more     string        // more sections
	from     string        // the data directory of a server to copy everything from
	program  string        // of the replicas; default is one of this checkout
}

// plant is a cluster of NATS servers, an upstream and replicas of the processor.
type plant struct {
	set      settings
	t        *testing.T
	ctx      context.Context
	dir      string
	program  string
	nodes    []*node
	upstream *proc.Process
	outage   *proc.Proxy // between the replicas and the upstream
	replicas []*replica
	nc       *nats.Conn
	js       jetstream.JetStream
	carried  map[string]string // the contents after a copy, before anybody used them
	trail    *trail            // nil while nobody follows requests
}

// node is a NATS server.
type node struct {
	proc.Node
	process *proc.Process // nil while it is down
}

// replica is a process of the product, with a proxy of its own before each server.
type replica struct {
	config  string
	program string
	process *proc.Process // nil while it is down
	proxies []*proc.Proxy
	log     *os.File
}

// programDir holds what build made; empty before.
var programDir string

var build = sync.OnceValues(func() (program string, err error) {
	if programDir, err = os.MkdirTemp("", "clustertest"); err != nil {
		return "", err
	}
	return proc.Build(context.Background(), programDir)
})

// newPlant starts everything and sets the streams up. The test ends it, at the
// latest after the given time.
func newPlant(t *testing.T, within time.Duration, s settings) *plant {
	t.Helper()
	s.servers = cmp.Or(s.servers, 3)
	s.copies = cmp.Or(s.copies, s.servers)
	s.replicas = cmp.Or(s.replicas, 2)
	s.workers = cmp.Or(s.workers, 32)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	p := &plant{set: s, t: t, ctx: ctx, dir: t.TempDir()}
	t.Cleanup(p.close)
	var err error
	if p.program = s.program; p.program == "" {
		p.program, err = build()
		require.NoError(t, err)
	}
	p.layNodes()
	p.startNodes()
	p.connect()
	p.upstream, err = proc.Start(context.WithoutCancel(ctx), strings.TrimSpace("upstream "+s.latency.String()+" count "+s.upstream))
	require.NoError(t, err)
	p.outage, err = proc.NewProxy(strings.TrimPrefix(p.upstream.URL, "http://"))
	require.NoError(t, err)
	for range s.replicas {
		p.addReplica()
	}
	p.provision(s.copies)
	if s.from != "" {
		p.carried = p.contents()
	}
	for i := range p.replicas {
		p.startReplica(i)
	}
	return p
}

// layNodes decides the addresses of the servers.
func (p *plant) layNodes() {
	ports := freePorts(p.t, 2*p.set.servers)
	var routes []string
	for i := range p.set.servers {
		routes = append(routes, fmt.Sprintf("127.0.0.1:%d", ports[p.set.servers+i]))
	}
	for i := range p.set.servers {
		n := proc.Node{Name: fmt.Sprintf("n%d", i), Dir: filepath.Join(p.dir, fmt.Sprintf("n%d", i)), Port: ports[i]}
		if p.set.servers > 1 {
			n.ClusterPort, n.Routes = ports[p.set.servers+i], routes
		}
		p.nodes = append(p.nodes, &node{Node: n})
	}
}

func freePorts(t *testing.T, n int) (ports []int) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func (p *plant) urls() string {
	var list []string
	for _, n := range p.nodes {
		list = append(list, fmt.Sprintf("nats://127.0.0.1:%d", n.Port))
	}
	return strings.Join(list, ",")
}

// connect opens the test's own connection, which outlives every server.
func (p *plant) connect() {
	var err error
	p.nc, err = nats.Connect(p.urls(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true),
		nats.PingInterval(2*time.Second), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	require.NoError(p.t, err)
	p.js, err = jetstream.New(p.nc)
	require.NoError(p.t, err)
	p.await(time.Minute, "the cluster did not elect a leader", func() bool {
		ctx, cancel := p.soon()
		defer cancel()
		_, err := p.js.AccountInfo(ctx)
		return err == nil
	})
}

func (p *plant) close() {
	for _, r := range p.replicas {
		if r.process != nil {
			_ = r.process.Thaw()
			r.process.Kill()
		}
		for _, proxy := range r.proxies {
			proxy.Close()
		}
		if p.t.Failed() {
			text, _ := os.ReadFile(r.log.Name())
			p.t.Logf("%s said:\n%s", filepath.Base(r.config), text[max(0, len(text)-4000):])
		}
		_ = r.log.Close()
	}
	if p.nc != nil {
		p.nc.Close()
	}
	if p.outage != nil {
		p.outage.Close()
	}
	if p.upstream != nil {
		p.upstream.Kill()
	}
	for i := range p.nodes {
		if p.nodes[i].process != nil {
			_ = p.nodes[i].process.Thaw()
		}
		p.killNode(i)
	}
}

func (p *plant) startNode(i int) {
	var err error
	p.nodes[i].process, err = proc.StartNode(context.WithoutCancel(p.ctx), p.nodes[i].Node)
	require.NoError(p.t, err)
}

// startNodes starts the servers that are down, all at once: none is ready
// before it has found others.
func (p *plant) startNodes() {
	var starting sync.WaitGroup
	errs := make([]error, len(p.nodes))
	for i, n := range p.nodes {
		if n.process == nil {
			starting.Go(func() { n.process, errs[i] = proc.StartNode(context.WithoutCancel(p.ctx), n.Node) })
		}
	}
	starting.Wait()
	require.NoError(p.t, errors.Join(errs...))
}

func (p *plant) killNode(i int) {
	if n := p.nodes[i]; n.process != nil {
		n.process.Kill()
		n.process = nil
	}
}

// addReplica lays out a replica that is not running yet.
func (p *plant) addReplica() {
	name := fmt.Sprintf("r%d", len(p.replicas))
	r := &replica{config: filepath.Join(p.dir, name+".yaml"), program: p.program}
	var urls []string
	for _, n := range p.nodes {
		proxy, err := proc.NewProxy(fmt.Sprintf("127.0.0.1:%d", n.Port))
		require.NoError(p.t, err)
		r.proxies = append(r.proxies, proxy)
		urls = append(urls, "nats://"+proxy.Addr())
	}
	var err error
	r.log, err = os.Create(filepath.Join(p.dir, name+".log"))
	require.NoError(p.t, err)
	p.replicas = append(p.replicas, r)
	require.NoError(p.t, os.WriteFile(r.config, []byte(p.configuration(strings.Join(urls, ","))), 0o600))
}

func (p *plant) configuration(urls string) string {
	return fmt.Sprintf(`
nats: {url: %q, replicas: %d}
http: {addr: "127.0.0.1:0"}
pipeline: {workers: {generate: %d}}
providers: [{name: fake, kind: openai, base_url: "http://%s/v1", api_key: none, %s}]
streams: {%s}
%s
`, urls, p.set.copies, p.set.workers, p.outage.Addr(), p.set.provider, p.set.streams, p.set.more)
}

// provision runs the command that sets everything up.
func (p *plant) provision(copies int) string {
	p.t.Helper()
	arguments := []string{"provision", "--config", p.replicas[0].config, "--replicas", fmt.Sprint(copies)}
	if p.set.from != "" {
		arguments = append(arguments, "--from", p.set.from)
	}
	out, err := proc.Run(p.ctx, p.program, arguments...)
	require.NoError(p.t, err, out)
	return out
}

func (p *plant) startReplica(i int, arguments ...string) {
	r := p.replicas[i]
	var err error
	r.process, err = proc.Command(context.WithoutCancel(p.ctx), r.log, r.program, append([]string{"run", "--config", r.config}, arguments...)...)
	require.NoError(p.t, err)
}

func (p *plant) killReplica(i int) {
	if r := p.replicas[i]; r.process != nil {
		r.process.Kill()
		r.process = nil
	}
}

// revive starts again what has ended by itself, as whoever runs the product does.
func (p *plant) revive() {
	for i, r := range p.replicas {
		if r.process != nil && r.process.Ended() {
			r.process = nil
			p.startReplica(i)
		}
	}
}

// await waits until something holds; the process that ends meanwhile is started again.
func (p *plant) await(within time.Duration, what string, holds func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(within)
	for !holds() {
		if time.Now().After(deadline) || p.ctx.Err() != nil {
			require.Fail(p.t, what)
		}
		p.revive()
		lasts(50 * time.Millisecond) // the poll of other processes' work
	}
}

// leaderOf gives the server that leads a stream.
func (p *plant) leaderOf(stream string) int {
	p.t.Helper()
	leader := -1
	p.await(time.Minute, stream+" has no leader", func() bool {
		info, err := p.info(stream)
		if err != nil || info.Cluster == nil {
			return false
		}
		for i, n := range p.nodes {
			if n.Name == info.Cluster.Leader {
				leader = i
			}
		}
		return leader >= 0
	})
	return leader
}

// awaitWorking waits until every replica that runs pulls.
func (p *plant) awaitWorking() {
	p.t.Helper()
	p.awaitPulls(1)
}

// awaitPulls waits until so many replicas pull.
func (p *plant) awaitPulls(n int) {
	p.t.Helper()
	p.await(90*time.Second, "the replicas do not pull", func() bool {
		ctx, cancel := p.soon()
		defer cancel()
		c, err := p.js.Consumer(ctx, "LLM_REQUESTS", "compress")
		return err == nil && c.CachedInfo().NumWaiting >= n
	})
}

// soon bounds one question to a cluster: a server that is gone never answers.
func (p *plant) soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(p.ctx), 3*time.Second)
}

// info asks for what a stream holds.
func (p *plant) info(stream string) (*jetstream.StreamInfo, error) {
	ctx, cancel := p.soon()
	defer cancel()
	s, err := p.js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	return s.CachedInfo(), nil
}

// lasts lets a time pass in which a fault goes on, or other processes work.
func lasts(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the time itself is what is tested; nothing is concluded from it
}
