package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/proc"
	"github.com/adpa/processor/schemas"
)

// runFairness measures how long the requests of quiet tenants take while a loud
// one floods the pipeline, and while that flood waits: one quiet tenant that shares the loud
// one's shard, and one that does not, in each class.
func runFairness(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("fairness", flag.ContinueOnError)
	f := fairness{pipelineBench: pipelineBench{out: out}}
	flags.IntVar(&f.requests, "flood", 100_000, "requests of the loud tenant")
	flags.IntVar(&f.probes, "probes", 200, "requests of each quiet tenant")
	flags.DurationVar(&f.every, "every", 50*time.Millisecond, "between the requests of a quiet tenant")
	flags.DurationVar(&f.latency, "latency", 200*time.Millisecond, "of the upstream")
	flags.IntVar(&f.waiting, "max-waiting", 0, "streams.requests.max_waiting, 10000 by default: what is refused past it is published again; 0 lifts it")
	flags.StringVar(&f.only, "only", "", "only this class")
	hops := flags.Bool("hops", false, "also when the quiet tenant's requests reached each stage")
	if err := flags.Parse(args); err != nil {
		return err
	}
	remove, err := f.build(ctx, "fairness")
	if err != nil {
		return err
	}
	defer remove()
	fmt.Fprintf(out, "| class | quiet tenant | while the flood is published: p50, p99 | while it is taken in: p50, p99 | while it waits: p50, p99 |\n| --- | --- | --- | --- | --- |\n")
	var notes strings.Builder
	for _, class := range schemas.Classes {
		if f.only != "" && f.only != string(class) {
			continue
		}
		for _, shares := range []bool{false, true} {
			m, err := f.measure(ctx, class, quietTenant(shares))
			if err != nil {
				return err
			}
			where := "in a shard of its own"
			if shares {
				where = "in the loud one's shard"
			}
			fmt.Fprintf(out, "| %s | %s |", class, where)
			for phase := range phases {
				took := m.of(phase, responseHop)
				fmt.Fprintf(out, " %s (%d requests) |", percentiles(took), len(took))
			}
			fmt.Fprintln(out)
			fmt.Fprintf(&notes, "%s, %s: the flood was published in %v, %d publishes of it were refused first\n", class, where, m.published.Round(time.Millisecond), m.refused)
			if *hops {
				m.printHops(&notes)
			}
		}
	}
	fmt.Fprintf(out, "\n%s", notes.String())
	return nil
}

// fairness is the scenario of that name.
type fairness struct {
	pipelineBench
	probes         int
	every, latency time.Duration
}

// The phases of a flood, in one of which each probe was sent.
const (
	publishing = iota
	takingIn
	flooded // all of it waits further on
	phases
)

// hops are what a request reaches, in order.
var hops = []string{"acknowledged", "cache", "batch", "generate", "score", "response"}

var responseHop = len(hops) - 1

// probe is a request of a quiet tenant.
type probe struct {
	at    time.Time
	phase int
	hops  [6]time.Time // when it reached each of hops
}

// probed is what became of the probes.
type probed struct {
	mu        sync.Mutex
	probes    []probe
	left      int           // without an answer
	done      chan struct{} // closed when none is left
	published time.Duration // it took to publish the flood
	refused   int           // publishes of it
	used      string        // processor time of each process until the flood was taken in
}

// of gives how long the probes of a phase took to a hop.
func (m *probed) of(phase, hop int) (took []time.Duration) {
	for _, p := range m.probes {
		if p.phase == phase && !p.hops[hop].IsZero() {
			took = append(took, p.hops[hop].Sub(p.at))
		}
	}
	return took
}

func (m *probed) printHops(out io.Writer) {
	for phase, name := range []string{"published", "taken in", "waits"} {
		fmt.Fprintf(out, "  %s:", name)
		for hop, what := range hops {
			fmt.Fprintf(out, " %s %s;", what, percentiles(m.of(phase, hop)))
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "  processor time for a request of the flood, until all of it was taken in:%s\n", m.used)
}

const loudTenant = "loud"

// quietTenant gives the name of a tenant that is in the loud one's shard, or is not.
func quietTenant(shares bool) string {
	for i := 0; ; i++ {
		name := fmt.Sprint("quiet", i)
		if (schemas.Shard(name) == schemas.Shard(loudTenant)) == shares {
			return name
		}
	}
}

func percentiles(times []time.Duration) string {
	if len(times) == 0 {
		return "none"
	}
	slices.Sort(times)
	return fmt.Sprintf("%.0f ms, %.0f ms", ms(times[len(times)/2]), ms(times[len(times)*99/100]))
}

// measure floods the pipeline and measures the quiet tenant's requests.
func (f *fairness) measure(ctx context.Context, class schemas.Class, quiet string) (*probed, error) {
	s, err := f.start(ctx, scenario{"", true, fiveGroups, true, ""}, f.latency, nil)
	if err != nil {
		return nil, err
	}
	defer s.close()
	m := &probed{probes: make([]probe, f.probes), left: f.probes, done: make(chan struct{})}
	for _, subject := range []string{"llm.responses." + quiet + ".*", "llm.stages.*.*.*." + quiet} {
		if _, err := s.nc.Subscribe(subject, m.reached); err != nil {
			return nil, err
		}
	}
	published := make(chan error, 1)
	begin := time.Now()
	go func() {
		var err error
		m.refused, err = s.flood(class, f.requests)
		m.published = time.Since(begin)
		published <- err
	}()
	phase, over := publishing, false
	for i := range f.probes {
		select {
		case err := <-published:
			if err != nil {
				return nil, err
			}
			phase = takingIn
		default:
		}
		if phase == takingIn {
			taking, err := s.takesIn(ctx)
			if err != nil {
				return nil, err
			}
			if !taking {
				phase = flooded
			}
		}
		if phase == flooded && !over {
			over, m.used = true, f.used(s)
		}
		if err := m.send(ctx, s, i, phase, quiet, class); err != nil {
			return nil, err
		}
		time.Sleep(time.Until(begin.Add(time.Duration(i+1) * f.every)))
	}
	if phase == publishing {
		if err := <-published; err != nil {
			return nil, err
		}
	}
	select {
	case <-m.done:
		return m, nil
	case <-time.After(2 * time.Minute):
		return nil, errors.New("the quiet tenant's answers did not come")
	}
}

// used gives the processor time that each process has used for a request of the flood.
func (f *fairness) used(s *setting) string {
	var text strings.Builder
	for _, p := range []struct {
		name string
		*proc.Process
	}{{"server", s.nats}, {"processor", s.processor}, {"upstream", s.upstream}} {
		if used, err := p.CPUTime(); err == nil {
			fmt.Fprintf(&text, " %s %d µs;", p.name, used.Microseconds()/int64(f.requests))
		}
	}
	return text.String()
}

// send publishes a probe.
func (m *probed) send(ctx context.Context, s *setting, i, phase int, quiet string, class schemas.Class) error {
	message := nats.NewMsg("llm.requests." + quiet)
	message.Header.Set("Llm-Id", fmt.Sprint("probe-", i))
	message.Header.Set("Llm-Priority", string(class))
	message.Data = prompt(-1 - i)
	m.mu.Lock()
	m.probes[i].at, m.probes[i].phase = time.Now(), phase
	m.mu.Unlock()
	_, err := s.js.PublishMsg(ctx, message)
	m.note(i, 0)
	return err
}

var probeID = regexp.MustCompile(`probe-(\d+)`)

// reached notes where the probes of a message are now: a hand-off may have several.
func (m *probed) reached(message *nats.Msg) {
	parts := strings.Split(message.Subject, ".")
	if parts[1] == "responses" {
		if id := probeID.FindStringSubmatch(parts[3]); id != nil {
			i, _ := strconv.Atoi(id[1])
			m.note(i, responseHop)
		}
		return
	}
	for _, id := range probeID.FindAllSubmatch(message.Data, -1) {
		i, _ := strconv.Atoi(string(id[1]))
		m.note(i, slices.Index(hops, parts[2]))
	}
}

func (m *probed) note(i, hop int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := &m.probes[i].hops[hop]; at.IsZero() {
		*at = time.Now()
		if hop == responseHop {
			if m.left--; m.left == 0 {
				close(m.done)
			}
		}
	}
}

// takesIn reports whether much is left in the stream of requests.
func (s *setting) takesIn(ctx context.Context) (bool, error) {
	stream, err := s.js.Stream(ctx, "LLM_REQUESTS")
	if err != nil {
		return false, err
	}
	return stream.CachedInfo().State.Msgs > 1000, nil
}

// flood publishes n requests of the loud tenant as fast as the server takes
// them, and again what it refuses because too many wait already.
func (s *setting) flood(class schemas.Class, n int) (refused int, err error) {
	again := make(chan []byte, 2048)
	failed := make(chan error, 1)
	js, err := jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(1024), jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) {
		if api := (&jetstream.APIError{}); errors.As(err, &api) && api.ErrorCode == 10077 {
			again <- m.Data
			return
		}
		select {
		case failed <- err:
		default:
		}
	}))
	if err != nil {
		return 0, err
	}
	publish := func(data []byte) error {
		m := nats.NewMsg("llm.requests." + loudTenant)
		m.Header.Set("Llm-Priority", string(class))
		m.Data = data
		_, err := js.PublishMsgAsync(m, jetstream.WithStallWait(30*time.Second))
		return err
	}
	for i := 0; ; {
		select {
		case data := <-again:
			refused++
			err = publish(data)
		case err = <-failed:
		default:
			if i < n {
				err = publish(prompt(i))
				i++
				break
			}
			<-js.PublishAsyncComplete()
			if len(again) == 0 && len(failed) == 0 {
				return refused, nil
			}
		}
		if err != nil {
			return refused, err
		}
	}
}
