package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/proc"
)

// pipelineBench measures the pipeline against a bare JetStream loop: everything
// in one run on one machine, the server, the upstream, the load and the
// processor sharing its cores.
type pipelineBench struct {
	out      io.Writer
	requests int
	dir      string
	program  string
	only     string
	cpu      bool
	waiting  int // requests of a tenant that no stage has taken, at most; 0 is a million
}

// scenario is one way to run the processor.
type scenario struct {
	name    string
	http    bool // a real upstream, else the simulated provider
	groups  string
	archive bool
	more    string // of the configuration; {upstream} stands for the upstream's address
}

const (
	fiveGroups = "[[compress], [cache], [batch], [generate], [score]]"
	oneGroup   = "[[compress, cache, batch, generate, score]]"
)

func runPipeline(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("pipeline", flag.ContinueOnError)
	b := pipelineBench{out: out}
	flags.IntVar(&b.requests, "requests", 20_000, "requests a scenario")
	flags.StringVar(&b.only, "only", "", "run scenarios whose name contains this")
	flags.BoolVar(&b.cpu, "cpu", false, "print the processor time of each process, in microseconds a request")
	turns := flags.Int("turns", 3, "turns of the comparison; its figures are medians")
	idle := flags.Int("idle", 500, "requests of the idle latency")
	waiting := flags.Int("waiting", 100_000, "requests that wait while memory is measured; 0 leaves it out")
	if err := flags.Parse(args); err != nil {
		return err
	}
	remove, err := b.build(ctx, "pipeline")
	if err != nil {
		return err
	}
	defer remove()
	if err := b.againstBare(ctx, *turns); err != nil {
		return err
	}
	if *idle > 0 {
		if err := b.idle(ctx, *idle); err != nil {
			return fmt.Errorf("idle latency: %w", err)
		}
	}
	if *waiting > 0 {
		if err := b.memory(ctx, *waiting); err != nil {
			return fmt.Errorf("memory: %w", err)
		}
	}
	return nil
}

// shared is the directory of the processor that all scenarios of all use, and
// built the processor once it is in there.
var shared, built string

// build makes the directory of a bench and builds the processor in it. remove
// takes the directory away.
func (b *pipelineBench) build(ctx context.Context, name string) (remove func(), err error) {
	if b.dir, err = os.MkdirTemp("", "bench-"+name+"-"); err != nil {
		return nil, err
	}
	if b.program = built; built == "" {
		if b.program, err = proc.Build(ctx, cmp.Or(shared, b.dir)); err != nil {
			_ = os.RemoveAll(b.dir)
			return nil, err
		}
	}
	if shared != "" {
		built = b.program
	}
	return func() { _ = os.RemoveAll(b.dir) }, nil
}

// againstBare measures every scenario between two runs of the bare loop, several
// turns of them: the machine's own speed changes by a fifth within minutes, so a
// rate is set against the mean of the bare loops beside it.
func (b *pipelineBench) againstBare(ctx context.Context, turns int) error {
	scenarios := []scenario{
		{"five groups, simulated provider", false, fiveGroups, true, ""},
		{"five groups, HTTP upstream", true, fiveGroups, true, ""},
		{"five groups, HTTP upstream, no archive", true, fiveGroups, false, ""},
		{"one group, HTTP upstream", true, oneGroup, true, ""},
		{"one group, HTTP upstream, no archive", true, oneGroup, false, ""},
	}
	scenarios = slices.DeleteFunc(scenarios, func(s scenario) bool { return !strings.Contains(s.name, b.only) })
	rates, ratios := make([][]float64, len(scenarios)), make([][]float64, len(scenarios))
	before, err := b.bare(ctx)
	if err != nil {
		return err
	}
	bares := []float64{before}
	for range turns {
		for i, s := range scenarios {
			rate, err := b.throughput(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			after, err := b.bare(ctx)
			if err != nil {
				return err
			}
			rates[i], ratios[i] = append(rates[i], rate), append(ratios[i], 2*rate/(before+after))
			before, bares = after, append(bares, after)
		}
	}
	fmt.Fprintf(b.out, "| scenario | requests/s, median | of the bare loop beside it, median | each turn |\n| --- | --- | --- | --- |\n")
	fmt.Fprintf(b.out, "| bare JetStream loop, 5 hops | %.0f (%.0f to %.0f) | 1.00 | |\n", median(bares), slices.Min(bares), slices.Max(bares))
	for i, s := range scenarios {
		fmt.Fprintf(b.out, "| %s | %.0f | %.2f | %.2f |\n", s.name, median(rates[i]), median(ratios[i]), ratios[i])
	}
	fmt.Fprintln(b.out)
	return nil
}

// prompt is a request of about 1 KB that differs from every other.
func prompt(i int) []byte {
	text := strings.Repeat("The quick brown fox jumps over the lazy dog near the river bank. ", 14)
	return fmt.Appendf(nil, `{"model":"gpt-4o","messages":[{"role":"system","content":"Answer briefly."},{"role":"user","content":"Question %d: %s"}]}`, i, text)
}

func (b *pipelineBench) server(ctx context.Context) (*proc.Process, error) {
	dir, err := os.MkdirTemp(b.dir, "nats-")
	if err != nil {
		return nil, err
	}
	return proc.Start(ctx, "nats "+dir+" -1")
}

func (b *pipelineBench) bare(ctx context.Context) (float64, error) {
	nats, err := b.server(ctx)
	if err != nil {
		return 0, err
	}
	defer nats.Kill()
	return bare(ctx, nats.URL, prompt(0), b.requests)
}

// setting is a running server, upstream and processor.
type setting struct {
	nats, upstream, processor *proc.Process
	nc                        *nats.Conn
	js                        jetstream.JetStream
	log                       bytes.Buffer
}

func (s *setting) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	if s.processor != nil {
		_ = s.processor.Stop()
	}
	for _, p := range []*proc.Process{s.upstream, s.nats} {
		if p != nil {
			p.Kill()
		}
	}
}

// surround starts the server and the upstream of a setting and connects to the server.
func (b *pipelineBench) surround(ctx context.Context, s *setting, latency time.Duration) (err error) {
	if s.nats, err = b.server(ctx); err != nil {
		return err
	}
	if s.upstream, err = proc.Start(ctx, "upstream "+latency.String()+" count"); err != nil {
		return err
	}
	if s.nc, err = nats.Connect(s.nats.URL); err != nil {
		return err
	}
	s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(1024))
	return err
}

// start runs a server, an upstream with the given latency and, unless before
// returns an error, a processor on them.
func (b *pipelineBench) start(ctx context.Context, sc scenario, latency time.Duration, before func(*setting) error) (s *setting, err error) {
	s = new(setting)
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, s.log.String())
			s.close()
		}
	}()
	if err = b.surround(ctx, s, latency); err != nil {
		return s, err
	}
	configuration := filepath.Join(b.dir, "processor.yaml")
	if err := os.WriteFile(configuration, []byte(b.config(sc, s)), 0o600); err != nil {
		return s, err
	}
	if before != nil {
		if out, err := proc.Run(ctx, b.program, "provision", "--config", configuration); err != nil {
			return s, fmt.Errorf("provisioning: %w\n%s", err, out)
		}
		if err := before(s); err != nil {
			return s, err
		}
	}
	args := []string{"run", "--config", configuration}
	if s.processor, err = proc.Command(ctx, &s.log, b.program, args...); err != nil {
		return s, err
	}
	return s, s.awaitReady(ctx)
}

func (b *pipelineBench) config(sc scenario, s *setting) string {
	text := fmt.Sprintf("nats: {url: %q}\nhttp: {addr: \"127.0.0.1:0\"}\nstreams: {archive: {enabled: %v}, requests: {max_waiting: %d}}\npipeline: {groups: %s}\n", s.nats.URL, sc.archive, cmp.Or(b.waiting, 1_000_000), sc.groups)
	if sc.http {
		text += fmt.Sprintf("providers: [{name: fake, kind: openai, base_url: %q, api_key: none}]\n", s.upstream.URL+"/v1")
	}
	return text + strings.ReplaceAll(sc.more, "{upstream}", s.upstream.URL)
}

// awaitReady waits until the processor has set up what it pulls from.
func (s *setting) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		stream, err := s.js.Stream(ctx, "LLM_REQUESTS")
		if err == nil {
			c, err := stream.Consumer(ctx, "compress")
			if err == nil && c.CachedInfo().NumWaiting > 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the processor is not ready: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// throughput gives requests a second, from the first publish to the last stored response.
func (b *pipelineBench) throughput(ctx context.Context, sc scenario) (float64, error) {
	s, err := b.start(ctx, sc, 0, nil)
	if err != nil {
		return 0, err
	}
	defer s.close()
	begin := time.Now()
	if err := s.publish(b.requests); err != nil {
		return 0, err
	}
	if err := s.awaitResponses(ctx, b.requests); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, s.log.String())
	}
	rate := float64(b.requests) / time.Since(begin).Seconds()
	if b.cpu {
		b.printCPU(s)
	}
	calls, repeats, _, _, err := s.upstream.UpstreamStats()
	if err != nil {
		return 0, fmt.Errorf("asking the upstream for its figures: %w", err)
	}
	if sc.http && (calls != b.requests || repeats != 0) {
		return 0, fmt.Errorf("the upstream got %d calls, %d of them repeated, for %d requests", calls, repeats, b.requests)
	}
	return rate, nil
}

func (b *pipelineBench) printCPU(s *setting) {
	for _, p := range []struct {
		name string
		*proc.Process
	}{{"nats", s.nats}, {"upstream", s.upstream}, {"processor", s.processor}} {
		if used, err := p.CPUTime(); err == nil {
			fmt.Fprintf(b.out, "%s: %.0f\n", p.name, float64(used.Microseconds())/float64(b.requests))
		}
	}
}

func (s *setting) publish(requests int) error {
	for i := range requests {
		m := nats.NewMsg("llm.requests.bench")
		m.Data = prompt(i)
		if _, err := s.js.PublishMsgAsync(m, jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
	}
	<-s.js.PublishAsyncComplete()
	return nil
}

func (s *setting) awaitResponses(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	stream, err := s.js.Stream(ctx, "LLM_RESPONSES")
	if err != nil {
		return err
	}
	for {
		info, err := stream.Info(ctx)
		if err != nil {
			return err
		}
		if info.State.Msgs >= uint64(n) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d responses: %w", info.State.Msgs, n, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return s.checkAnswers(ctx, stream, n)
}

// checkAnswers makes sure that what was measured is answers and not errors.
func (s *setting) checkAnswers(ctx context.Context, stream jetstream.Stream, n int) error {
	info, err := stream.Info(ctx)
	if err != nil {
		return err
	}
	for i := range uint64(10) {
		m, err := stream.GetMsg(ctx, info.State.FirstSeq+i*uint64(n)/10)
		if err != nil {
			return err
		}
		var body struct {
			Choices []json.RawMessage `json:"choices"`
			Data    []json.RawMessage `json:"data"` // of embeddings
		}
		if err := json.Unmarshal(m.Data, &body); err != nil || len(body.Choices)+len(body.Data) == 0 {
			return fmt.Errorf("a response is no answer: %.300s", m.Data)
		}
	}
	return nil
}

// idle measures one request at a time through five groups.
func (b *pipelineBench) idle(ctx context.Context, n int) error {
	s, err := b.start(ctx, scenario{"", false, fiveGroups, true, ""}, 0, nil)
	if err != nil {
		return err
	}
	defer s.close()
	answers, err := s.nc.SubscribeSync("llm.responses.bench.*")
	if err != nil {
		return err
	}
	var times []time.Duration
	for i := range n + 20 {
		begin := time.Now()
		if _, err := s.js.Publish(ctx, "llm.requests.bench", prompt(i)); err != nil {
			return err
		}
		if _, err := answers.NextMsg(10 * time.Second); err != nil {
			return err
		}
		if i >= 20 { // the first ones open connections
			times = append(times, time.Since(begin))
		}
		time.Sleep(5 * time.Millisecond)
	}
	slices.Sort(times)
	fmt.Fprintf(b.out, "Idle latency, five groups, %d requests one at a time: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms.\n",
		n, ms(times[n/2]), ms(times[n*9/10]), ms(times[n*99/100]))
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// memory measures the processor while many requests wait on an external server.
func (b *pipelineBench) memory(ctx context.Context, waiting int) error {
	s, err := b.start(ctx, scenario{"", true, fiveGroups, true, ""}, 200*time.Millisecond, func(s *setting) error { return s.publish(waiting) })
	if err != nil {
		return err
	}
	defer s.close()
	var most int64
	for range 100 {
		time.Sleep(100 * time.Millisecond)
		resident, err := s.processor.ResidentBytes()
		if err != nil {
			return err
		}
		most = max(most, resident)
	}
	fmt.Fprintf(b.out, "Memory of the processor, %d requests waiting on an external server, upstream 200 ms: at most %d MB over 10 s.\n", waiting, most>>20)
	return nil
}

// median gives the middle of some figures; of an even number the upper one.
func median(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	return sorted[len(sorted)/2]
}
