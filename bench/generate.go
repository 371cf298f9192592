package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/proc"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/streams"
)

// generateBench measures the generate stage alone: hand-offs wait in its stream,
// a processor runs that one stage, and the upstream, a process of its own, counts.
type generateBench struct {
	pipelineBench
	seconds float64
	least   bool
}

func runGenerate(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("generate", flag.ContinueOnError)
	b := generateBench{pipelineBench: pipelineBench{out: out}}
	flags.Float64Var(&b.seconds, "seconds", 10, "how long each run should take, about")
	only := flags.String("only", "", "permitted, hidden, failing or rate; all without it")
	turns := flags.Int("turns", 3, "turns of rate")
	requests := flags.Int("requests", 20_000, "requests of a turn of rate")
	together := flags.Int("together", config.Default().Batch.MaxBatchSize, "requests of a tenant that share a hand-off in rate")
	flags.BoolVar(&b.cpu, "cpu", false, "print the processor time that rate takes of each process, in microseconds a request")
	flags.BoolVar(&b.least, "least", false, "measure beside rate the least that a stage can be: the same messages to and from JetStream, and nothing else")
	if err := flags.Parse(args); err != nil {
		return err
	}
	remove, err := b.build(ctx, "generate")
	if err != nil {
		return err
	}
	defer remove()
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"permitted", func() error { return b.permitted(ctx) }},
		{"hidden", func() error { return b.hidden(ctx) }},
		{"failing", func() error { return b.failing(ctx) }},
		{"rate", func() error { return b.rate(ctx, *turns, *requests, *together) }},
	} {
		if !strings.Contains(part.name, *only) {
			continue
		}
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

const benchLatency = 200 * time.Millisecond

// permitted measures what is used of the calls that a provider may be made at once.
func (b *generateBench) permitted(ctx context.Context) error {
	fmt.Fprintf(b.out, "| permitted calls in flight | requests | calls/s | of what is permitted | at most in flight |\n| --- | --- | --- | --- | --- |\n")
	for _, n := range []int{1, 8, 64, 250, 500} {
		possible := float64(n) / benchLatency.Seconds()
		requests := max(20, int(possible*b.seconds))
		m, err := b.run(ctx, requests, 1, n, n, "upstream 200ms count")
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, "| %d | %d | %.1f | %.3f | %d |\n", n, requests, m.rate(), m.rate()/possible, m.last.HighWater)
	}
	fmt.Fprintln(b.out)
	return nil
}

// hidden measures against upstreams that refuse what is above a limit which the
// processor does not know.
func (b *generateBench) hidden(ctx context.Context) error {
	fmt.Fprintf(b.out, "| hidden limit | max_connections | asks to wait | requests | of the limit used | refused after settling |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, c := range []struct {
		limit int
		wait  string
	}{{10, "0s"}, {40, "0s"}, {40, "1s"}, {90, "0s"}} {
		possible := float64(c.limit) / benchLatency.Seconds()
		requests := int(possible * 2 * b.seconds)
		m, err := b.run(ctx, requests, 1, 100, 100, fmt.Sprintf("upstream 200ms count limit=%d retry_after=%s", c.limit, c.wait))
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, "| %d | 100 | %s | %d | %.3f | %.4f |\n", c.limit, c.wait, requests, m.rate()/possible, m.refused())
	}
	fmt.Fprintln(b.out)
	return nil
}

// failing measures against an upstream that fails one call in five.
func (b *generateBench) failing(ctx context.Context) error {
	requests := int(64 / benchLatency.Seconds() * b.seconds)
	m, err := b.run(ctx, requests, 1, 64, 64, "upstream 200ms count failures=0.2")
	if err != nil {
		return err
	}
	retries := m.last.Calls - int64(requests)
	fmt.Fprintf(b.out, "| requests | answered | calls | retries of all calls |\n| --- | --- | --- | --- |\n| %d | %d | %d | %.3f |\n\n",
		requests, m.stored, m.last.Calls, float64(retries)/float64(m.last.Calls))
	return nil
}

// rate compares the stage with calls to the same upstream by the same client
// and as many callers, without a queue.
func (b *generateBench) rate(ctx context.Context, turns, requests, together int) error {
	const callers = 64
	fmt.Fprintf(b.out, "| turn | called directly, calls/s | by the stage, requests/s | ratio |\n| --- | --- | --- | --- |\n")
	var ratios []float64
	for turn := range turns {
		direct, err := b.direct(ctx, callers, requests)
		if err != nil {
			return err
		}
		m, err := b.run(ctx, requests, together, callers, callers, "upstream 0s count")
		if err != nil {
			return err
		}
		through := float64(requests) / m.took.Seconds()
		ratios = append(ratios, through/direct)
		if b.cpu {
			fmt.Fprintf(b.out, "by the stage: processor %s\n", m.each(requests))
		}
		if b.least {
			if err := b.compareLeast(ctx, requests, together, callers, direct); err != nil {
				return err
			}
		}
		fmt.Fprintf(b.out, "| %d | %.0f | %.0f | %.2f |\n", turn+1, direct, through, through/direct)
	}
	fmt.Fprintf(b.out, "\nMedian ratio %.2f.\n", median(ratios))
	return nil
}

func (b *generateBench) direct(ctx context.Context, callers, requests int) (rate float64, err error) {
	upstream, err := proc.Start(ctx, "upstream 0s count")
	if err != nil {
		return 0, err
	}
	defer upstream.Kill()
	p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: upstream.URL + "/v1", APIKey: "none", MaxConnections: callers})
	if err != nil {
		return 0, err
	}
	defer p.Close()
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	begin, before := time.Now(), ownTime()
	for range callers {
		running.Go(func() {
			for i := next.Add(1); i <= int64(requests) && failed.Load() == nil; i = next.Add(1) {
				if _, err := p.Generate(ctx, schemas.Call{ID: strconv.FormatInt(i, 10), Model: "gpt-4o", Body: prompt(int(i))}); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	rate = float64(requests) / time.Since(begin).Seconds()
	if b.cpu {
		fmt.Fprintf(b.out, "called directly: client %s, upstream %s\n", each(ownTime()-before, requests), each(cpuOf(upstream), requests))
	}
	return rate, nil
}

// ownTime is the processor time that this process has used so far.
func ownTime() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // cannot fail
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// cpuOf is the processor time that a child has used so far; 0 where that is not known.
func cpuOf(p *proc.Process) time.Duration {
	used, _ := p.CPUTime()
	return used
}

func each(used time.Duration, requests int) string {
	return fmt.Sprintf("%.0f µs", float64(used.Microseconds())/float64(requests))
}

// measured is what a run showed.
type measured struct {
	from, to fakellm.Stats // between a quarter and nine tenths of the answers
	between  time.Duration
	last     fakellm.Stats
	took     time.Duration    // from the start of the processor's pulling to the last hand-off
	stored   int64            // hand-offs whose calls were answered
	cpu      [3]time.Duration // that processor, server and upstream used in that time
}

// each is the processor time a request.
func (m *measured) each(requests int) string {
	return fmt.Sprintf("%s, server %s, upstream %s", each(m.cpu[0], requests), each(m.cpu[1], requests), each(m.cpu[2], requests))
}

// rate is of answered calls a second, once it has settled.
func (m *measured) rate() float64 {
	return float64(m.to.Answered-m.from.Answered) / m.between.Seconds()
}

// refused is the share of calls that were refused, once it has settled.
func (m *measured) refused() float64 {
	return float64(m.to.Limited-m.from.Limited) / float64(m.to.Calls-m.from.Calls)
}

// run has a processor work off so many requests, some of which share a hand-off.
func (b *generateBench) run(ctx context.Context, requests, together, workers, connections int, role string) (m *measured, err error) {
	s, err := b.waiting(ctx, requests, together, workers, connections, role)
	defer s.close()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && s.log.Len() > 0 {
			err = fmt.Errorf("%w\n%s", err, s.log.String())
		}
	}()
	if s.processor, err = proc.Command(ctx, &s.log, b.program, "run", "--config", b.configuration(), "--stages", stages.Generate); err != nil {
		return nil, err
	}
	return s.watch(ctx, requests)
}

func (b *generateBench) configuration() string { return filepath.Join(b.dir, "generate.yaml") }

// waiting starts a server and an upstream, and puts requests before generate. The
// setting must be closed, also after an error.
func (b *generateBench) waiting(ctx context.Context, requests, together, workers, connections int, role string) (s *setting, err error) {
	s = new(setting)
	if s.nats, err = b.server(ctx); err != nil {
		return s, err
	}
	if s.upstream, err = proc.Start(ctx, role); err != nil {
		return s, err
	}
	if s.nc, err = nats.Connect(s.nats.URL); err != nil {
		return s, err
	}
	if s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(1024)); err != nil {
		return s, err
	}
	text := fmt.Sprintf("nats: {url: %q}\nhttp: {addr: \"127.0.0.1:0\"}\nstreams: {archive: {enabled: false}}\npipeline: {workers: {generate: %d}}\nproviders: [{name: fake, kind: openai, base_url: %q, api_key: none, max_connections: %d}]\n",
		s.nats.URL, workers, s.upstream.URL+"/v1", connections)
	if err := os.WriteFile(b.configuration(), []byte(text), 0o600); err != nil {
		return s, err
	}
	if out, err := proc.Run(ctx, b.program, "provision", "--config", b.configuration()); err != nil {
		return s, fmt.Errorf("provisioning: %w\n%s", err, out)
	}
	return s, handOff(s.js, requests, together)
}

// handOff puts requests into the stream of generate, as the batch stage does
// with those that it has at the same time: so many of a tenant in a message.
func handOff(js jetstream.JetStream, requests, together int) error {
	const tenants = 8
	cfg := config.Default()
	names := streams.NewLayout(cfg.NATS, cfg.Streams).Names
	for first := 0; first < requests; first += tenants * together {
		for tenant := range tenants {
			m := nats.NewMsg(names.Handoff(stages.Generate, schemas.Interactive, fmt.Sprint("bench", tenant)))
			m.Header.Set(streams.HeaderVersion, strconv.Itoa(schemas.HandoffVersion))
			for i := first + tenant; i < min(requests, first+tenants*together); i += tenants {
				h := schemas.Handoff{Body: prompt(i)}
				h.ID, h.Tenant, h.Class, h.Kind, h.Model = fmt.Sprint("r", i), fmt.Sprint("bench", tenant), schemas.Interactive, schemas.Chat, "gpt-4o"
				h.Sequence, h.Accepted, h.BodyHash = uint64(i+1), schemas.ToMillis(time.Now()), strconv.Itoa(i)
				var err error
				if m.Data, err = schemas.AppendHandoff(m.Data, &h); err != nil {
					return err
				}
			}
			if len(m.Data) == 0 {
				continue
			}
			if _, err := js.PublishMsgAsync(m, jetstream.WithStallWait(10*time.Second)); err != nil {
				return err
			}
		}
	}
	<-js.PublishAsyncComplete()
	return nil
}

// watchEvery is how often a run is looked at: each look takes time of the server
// and the upstream, which are measured.
const watchEvery = 25 * time.Millisecond

// watch follows a run until all is handed on.
func (s *setting) watch(ctx context.Context, requests int) (*measured, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	waiting, err := s.js.Stream(ctx, "LLM_GENERATE") // what is handed on leaves it; a message to score may hold several
	if err != nil {
		return nil, err
	}
	var m measured
	var begin, fromAt time.Time
	var cpu [3]time.Duration
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		stats, err := s.upstreamStats(ctx)
		if err != nil {
			return nil, err
		}
		now := time.Now()
		switch {
		case stats.Calls == 0:
			begin, cpu = now, s.cpu()
		case fromAt.IsZero() && stats.Answered >= int64(requests)/4:
			fromAt, m.from = now, stats
		case m.between == 0 && !fromAt.IsZero() && stats.Answered >= int64(requests)*9/10:
			m.to, m.between = stats, now.Sub(fromAt)
		}
		m.last = stats
		info, err := waiting.Info(ctx)
		if err != nil {
			return nil, err
		}
		if m.stored = stats.Answered; info.State.Msgs == 0 && m.between > 0 {
			m.took = time.Since(begin)
			for i, used := range s.cpu() {
				m.cpu[i] = used - cpu[i]
			}
			return &m, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d answered, %d wait: %w", m.stored, requests, info.State.Msgs, ctx.Err())
		case <-tick.C:
		}
	}
}

// cpu is the processor time that processor (where there is one), server and upstream have used so far.
func (s *setting) cpu() [3]time.Duration {
	used := [3]time.Duration{1: cpuOf(s.nats), 2: cpuOf(s.upstream)}
	if s.processor != nil {
		used[0] = cpuOf(s.processor)
	}
	return used
}

// upstreamStats asks the upstream for its figures.
func (s *setting) upstreamStats(ctx context.Context) (stats fakellm.Stats, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.upstream.URL+"/stats", nil)
	if err != nil {
		return stats, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return stats, err
	}
	defer response.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(response.Body); err != nil {
		return stats, err
	}
	return stats, json.Unmarshal(text.Bytes(), &stats)
}
