package deploytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/streams"
)

// inside is set in the environment of the process that has a network of its own.
const inside = "PROCESSOR_DEPLOY_INSIDE"

// TestTopology runs what docker-compose.yml describes, each service as a process
// in a network namespace of its own, with the files, the names, the users, the
// commands and the environment that the file gives it; publishes requests; kills
// a NATS server; and asks Prometheus for every panel of the dashboard and for
// the state of every rule. Only Grafana is not run.
func TestTopology(t *testing.T) {
	sandboxed(t)
	if os.Getenv(inside) == "" {
		reenter(t)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	d := newDeployment(ctx, t)
	for _, name := range []string{"nats-1", "nats-2", "nats-3"} {
		d.start(name)
	}
	for _, name := range []string{"nats-1", "nats-2", "nats-3"} {
		d.awaitHealthy(name)
	}
	d.start("provision")
	require.NoError(t, d.processes["provision"].cmd.Wait())
	d.start("prometheus")
	for _, name := range []string{"intake", "generate", "score"} {
		d.start(name)
	}
	for _, name := range []string{"intake", "generate", "score"} {
		d.awaitHealthy(name)
	}

	// beta may use up next to nothing, so that its budget denies.
	out, err := d.container("intake").run(ctx, t, nil, "budget", "set", "beta", "daily_limit=1", "--config", "/etc/processor/processor.yaml").CombinedOutput()
	require.NoError(t, err, "%s", out)

	d.load("acme", 0, 300)
	d.processes["nats-2"].kill(t)
	d.load("acme", 300, 300) // with two servers of three
	d.start("nats-2")
	d.awaitHealthy("nats-2")
	d.load("beta", 0, 20)
	begun := time.Now()
	for n := 600; time.Since(begun) < 25*time.Second; n += 100 { // five scrapes
		d.load("acme", n, 100)
	}
	d.panels()
	d.rules()
	d.stop("score", "generate", "intake")
}

// reenter runs the test again as the first process of namespaces of its own:
// whatever it starts and sets up there ends with it.
func reenter(t *testing.T) {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		program, "-test.run", "^TestTopology$", "-test.v", "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	require.Contains(t, string(out), "--- PASS: TestTopology")
}

// deployment is the services of docker-compose.yml while they run.
type deployment struct {
	t         *testing.T
	ctx       context.Context
	services  map[string]service
	addresses map[string]string // of each service, in the test's own network
	images    map[string]image  // by the name of the service
	dir       string
	processes map[string]*process
	refused   int // requests that were answered with an error
}

type process struct {
	cmd *exec.Cmd
	log *os.File
}

const hub = "10.89.0.1" // where names are looked up

func newDeployment(ctx context.Context, t *testing.T) *deployment {
	t.Helper()
	d := &deployment{t: t, ctx: ctx, services: compose(t).Services, dir: openDir(t),
		addresses: map[string]string{}, images: map[string]image{}, processes: map[string]*process{}}
	delete(d.services, "grafana") // no registry has it
	d.network()
	own := build(ctx, t, filepath.Join(d.dir, "image"))
	for name, s := range d.services {
		switch repository, _, _ := strings.Cut(s.Image, ":"); repository {
		case "processor":
			d.images[name] = own
		case "nats":
			d.images[name] = d.natsImage()
		case "prom/prometheus":
			d.images[name] = d.prometheusImage()
		default:
			t.Fatalf("%s: the test has no program for the image %s", name, s.Image)
		}
	}
	return d
}

// network gives each service a host of its own, joined by a bridge, and its name.
func (d *deployment) network() {
	t := d.t
	command(t, "mount", "-t", "tmpfs", "tmpfs", "/run")
	command(t, "ip", "link", "set", "lo", "up")
	command(t, "ip", "link", "add", "hub", "type", "bridge")
	command(t, "ip", "addr", "add", hub+"/24", "dev", "hub")
	command(t, "ip", "link", "set", "hub", "up")
	names := []string{"--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file=", "--user=root",
		"--listen-address=" + hub, "--bind-interfaces"}
	for i, name := range slices.Sorted(maps.Keys(d.services)) {
		address := fmt.Sprintf("10.89.0.%d", 10+i)
		d.addresses[name] = address
		command(t, "ip", "netns", "add", name)
		link := "v" + strconv.Itoa(i)
		command(t, "ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
		command(t, "ip", "link", "set", link, "master", "hub", "up")
		command(t, "ip", "-n", name, "addr", "add", address+"/24", "dev", "eth0")
		command(t, "ip", "-n", name, "link", "set", "eth0", "up")
		command(t, "ip", "-n", name, "link", "set", "lo", "up")
		names = append(names, "--host-record="+name+","+address)
	}
	d.processes["dnsmasq"] = d.spawn("dnsmasq", exec.CommandContext(d.ctx, "dnsmasq", names...))
	require.NoError(t, os.WriteFile(filepath.Join(d.dir, "resolv.conf"), []byte("nameserver "+hub+"\noptions ndots:0\n"), 0o644))
}

// natsImage builds the server of the version that go.mod has, which is that of
// the image.
func (d *deployment) natsImage() image {
	root := filepath.Join(d.dir, "nats-server")
	program := filepath.Join(root, "usr/local/bin/nats-server")
	if _, err := os.Stat(program); err != nil {
		cmd := exec.CommandContext(d.ctx, "go", "build", "-o", program, "github.com/nats-io/nats-server/v2")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(d.t, err, "%s", out)
	}
	version := strings.TrimPrefix(strings.TrimSpace(command(d.t, program, "--version")), "nats-server: v")
	require.Equal(d.t, "nats:"+version+"-alpine", d.services["nats-1"].Image)
	return image{root: root, entrypoint: []string{"/usr/local/bin/nats-server"}}
}

// prometheusImage is Debian's package with its libraries; the user is that of
// the official image.
func (d *deployment) prometheusImage() image {
	root := filepath.Join(d.dir, "prometheus")
	require.NoError(d.t, os.MkdirAll(root, 0o755))
	return image{root: root, user: "65534:65534", entrypoint: []string{"/usr/bin/prometheus"}, directory: "/prometheus"}
}

// container is a service as its image and docker-compose.yml make it.
func (d *deployment) container(name string) container {
	s := d.services[name]
	c := container{image: d.images[name], network: name, environment: s.Environment,
		mounts: map[string]string{"/etc/resolv.conf": filepath.Join(d.dir, "resolv.conf")}, volumes: map[string]string{}}
	files, volumes := s.mounts()
	for target, source := range files {
		c.mounts[target] = filepath.Join(d.dir, "files", source)
		d.copyOnce(filepath.Join(root, source), c.mounts[target])
	}
	for target, volume := range volumes {
		c.volumes[target] = filepath.Join(d.dir, "volumes", volume)
		require.NoError(d.t, os.MkdirAll(c.volumes[target], 0o755))
		if c.user != "" {
			command(d.t, "chown", c.user, c.volumes[target])
		}
	}
	if name == "prometheus" {
		for _, dir := range []string{"/usr", "/lib", "/lib64"} {
			c.mounts[dir] = dir
		}
	}
	return c
}

// copyOnce brings a file of the checkout to where every user may read it; one
// that is there may be read by another service just now.
func (d *deployment) copyOnce(from, to string) {
	if _, err := os.Stat(to); err == nil {
		return
	}
	require.NoError(d.t, os.MkdirAll(filepath.Dir(to), 0o755))
	command(d.t, "cp", "--no-preserve=mode", from, to)
}

func (d *deployment) start(name string) {
	c := d.container(name)
	d.processes[name] = d.spawn(name, c.run(d.ctx, d.t, nil, d.services[name].Command...))
}

func (d *deployment) spawn(name string, cmd *exec.Cmd) *process {
	log, err := os.OpenFile(filepath.Join(d.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(d.t, err)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(d.t, cmd.Start())
	d.t.Cleanup(func() {
		if d.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			d.t.Logf("%s:\n%s", name, tail(text, 3000))
		}
	})
	return &process{cmd, log}
}

func tail(text []byte, n int) []byte { return text[max(0, len(text)-n):] }

// kill ends everything of a process at once.
func (p *process) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL))
	_ = p.cmd.Wait()
}

// awaitHealthy asks what the container engine would: the health check of
// docker-compose.yml, or that of the image.
func (d *deployment) awaitHealthy(name string) {
	check := d.container(name).healthcheck
	if test := d.services[name].Healthcheck.Test; len(test) > 0 {
		check = test[1:]
	}
	var said []byte
	require.Eventually(d.t, func() bool {
		var cmd *exec.Cmd
		if d.images[name].healthcheck != nil {
			cmd = d.container(name).exec(d.ctx, d.t, nil, check)
		} else { // the image has a wget; this machine's does as well
			cmd = exec.CommandContext(d.ctx, "ip", append([]string{"netns", "exec", name}, check...)...)
		}
		var err error
		said, err = cmd.CombinedOutput()
		return err == nil
	}, time.Minute, 100*time.Millisecond, "%s is not healthy: %s", name, &late{&said})
}

// late prints what is known when it is printed.
type late struct{ text *[]byte }

func (l *late) String() string { return string(*l.text) }

// load publishes requests as a tenant's application does, the second half equal
// to the first, and awaits their answers.
func (d *deployment) load(tenant string, from, n int) {
	var servers []string
	for _, name := range []string{"nats-1", "nats-2", "nats-3"} {
		servers = append(servers, "nats://"+d.addresses[name]+":4222")
	}
	nc, err := nats.Connect(strings.Join(servers, ","), nats.UserInfo(tenant, passwords[strings.ToUpper(tenant)+"_PASSWORD"]), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	require.NoError(d.t, err)
	defer nc.Close()
	client, err := streams.NewClient(nc, streams.Names{Prefix: "llm"}, tenant)
	require.NoError(d.t, err)
	for _, again := range []bool{false, true} {
		exchange, err := client.Exchange(d.ctx, n)
		require.NoError(d.t, err)
		go func() {
			for i := from; i < from+n/2; i++ {
				id := fmt.Sprintf("r%d-%v", i, again)
				body := fmt.Sprintf(`{"model":%q,"temperature":0,"messages":[{"role":"user","content":"Name the river %d of the list, and where it ends."}]}`, []string{"large", "small"}[i%2], i)
				if exchange.Send(d.ctx, streams.Message{ID: id, Body: []byte(body)}) != nil {
					break // the test sees that answers are missing
				}
			}
			exchange.Finish()
		}()
		answered := 0
		for answer := range exchange.Answers() {
			require.NoError(d.t, answer.Err)
			if bytes.Contains(answer.Body, []byte(`"insufficient_quota"`)) {
				d.refused++
			} else {
				require.Contains(d.t, string(answer.Body), `"choices"`)
			}
			answered++
		}
		exchange.Close()
		require.Equal(d.t, n/2, answered)
	}
}

// result is what Prometheus answers to a query.
type result struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"`
}

func (d *deployment) query(expr string) (list []result) {
	var answer struct {
		Data struct {
			Result []result `json:"result"`
		} `json:"data"`
	}
	text := get(d.ctx, d.t, "http://"+d.addresses["prometheus"]+":9090/api/v1/query?query="+url.QueryEscape(expr))
	require.NoError(d.t, json.Unmarshal([]byte(text), &answer), text)
	return answer.Data.Result
}

// panels asks for each panel what Grafana would ask, and requires data.
func (d *deployment) panels() {
	require.Len(d.t, d.query(`up{job="processor"} == 1`), 3)
	shown := 0
	for _, p := range readDashboard(d.t).Panels {
		for _, target := range p.Targets {
			expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "1m")
			// What had nothing to do, such as a class without requests, has no quantile.
			found := slices.DeleteFunc(d.query(expr), func(r result) bool { return r.Value[1] == "NaN" })
			require.NotEmpty(d.t, found, "the panel %q shows nothing: %s", p.Title, expr)
			shown++
		}
	}
	d.t.Logf("%d queries of the dashboard show data", shown)

	// Some must show what was done, and not only be there.
	require.NotZero(d.t, d.refused)
	for _, expr := range []string{
		`sum(rate(processor_cache_requests_total{result="hit"}[1m])) > 0`,
		`sum(processor_cost_usd_total) > 0`,
		`sum(processor_provider_requests_total{code="200"}) > 0`,
		fmt.Sprintf(`sum(processor_budget_denials_total) == %d`, d.refused),
		`count(count by (service) (up{job="processor"} == 1)) == 3`,
		`sum(rate(processor_stage_requests_total{stage="score",service="score"}[1m])) > 0`,
		`sum(rate(processor_stage_requests_total{stage="generate",service="generate"}[1m])) > 0`,
		`sum(processor_stage_requests_total{stage="generate",service="intake"}) == 0`,
		`min(processor:stage_backlog) == 0`,
		`count(processor:stage_queue_age_seconds:p95) > 0`,
	} {
		require.Eventually(d.t, func() bool { return len(d.query(expr)) > 0 }, 20*time.Second, 500*time.Millisecond, expr) // with the next scrape
	}
}

// rules requires that Prometheus evaluates every rule, and that nothing is
// raised that should not be.
func (d *deployment) rules() {
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct {
					Name, Health, LastError, State string
				} `json:"rules"`
			} `json:"groups"`
		} `json:"data"`
	}
	text := get(d.ctx, d.t, "http://"+d.addresses["prometheus"]+":9090/api/v1/rules")
	require.NoError(d.t, json.Unmarshal([]byte(text), &answer), text)
	evaluated := 0
	for _, g := range answer.Data.Groups {
		for _, r := range g.Rules {
			require.Equal(d.t, "ok", r.Health, "%s: %s", r.Name, r.LastError)
			require.NotEqual(d.t, "firing", r.State, r.Name)
			evaluated++
		}
	}
	require.Equal(d.t, len(alertRules(d.t)), evaluated)
}

// stop asks services to end, as docker compose down does, and requires that they do in good order.
func (d *deployment) stop(names ...string) {
	for _, name := range names {
		p := d.processes[name]
		// The first of the container's processes is bubblewrap, which passes no
		// signal on; the program is the last of its descendants.
		program := strings.Fields(command(d.t, "pgrep", "--pgroup", strconv.Itoa(p.cmd.Process.Pid), "--exact", "processor"))
		require.Len(d.t, program, 1)
		pid, err := strconv.Atoi(program[0])
		require.NoError(d.t, err)
		require.NoError(d.t, syscall.Kill(pid, syscall.SIGTERM))
		require.NoError(d.t, p.cmd.Wait(), "%s did not end well", name)
	}
}
