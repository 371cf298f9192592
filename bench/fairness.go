package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/schemas"
)

// runFairness measures how long the requests of quiet tenants take while a loud
// one floods the pipeline, and while that flood waits: one quiet tenant that shares the loud
// one's shard, and one that does not, in each class.
func runFairness(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("fairness", flag.ContinueOnError)
	flood := flags.Int("flood", 100_000, "requests of the loud tenant")
	probes := flags.Int("probes", 200, "requests of each quiet tenant")
	every := flags.Duration("every", 50*time.Millisecond, "between the requests of a quiet tenant")
	latency := flags.Duration("latency", 200*time.Millisecond, "of the upstream")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b := pipelineBench{out: out}
	remove, err := b.build(ctx, "fairness")
	if err != nil {
		return err
	}
	defer remove()
	fmt.Fprintf(out, "| class | quiet tenant | while the flood is published and taken in: p50, p99 | while it waits: p50, p99 |\n| --- | --- | --- | --- |\n")
	for _, class := range schemas.Classes {
		for _, shares := range []bool{false, true} {
			during, after, err := b.fairness(ctx, class, quietTenant(shares), *flood, *probes, *every, *latency)
			if err != nil {
				return err
			}
			where := "in a shard of its own"
			if shares {
				where = "in the loud one's shard"
			}
			fmt.Fprintf(out, "| %s | %s | %s (%d requests) | %s (%d requests) |\n", class, where, percentiles(during), len(during), percentiles(after), len(after))
		}
	}
	return nil
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

// fairness floods the pipeline and measures the quiet tenant's requests: those
// sent while the flood is still being published, and those sent later.
func (b *pipelineBench) fairness(ctx context.Context, class schemas.Class, quiet string, flood, probes int, every, latency time.Duration) (during, after []time.Duration, err error) {
	s, err := b.start(ctx, scenario{"", true, fiveGroups, true, ""}, latency, nil)
	if err != nil {
		return nil, nil, err
	}
	defer s.close()
	published := make(chan error, 1)
	go func() { published <- s.flood(class, flood) }()
	type arrival struct {
		subject string
		at      time.Time
	}
	arrived := make(chan arrival, probes)
	if _, err := s.nc.Subscribe("llm.responses."+quiet+".*", func(m *nats.Msg) { arrived <- arrival{m.Subject, time.Now()} }); err != nil {
		return nil, nil, err
	}
	var sent []probe
	begin := time.Now()
	flooding, taking := true, false
	for i := range probes {
		id := fmt.Sprint("probe-", i)
		m := nats.NewMsg("llm.requests." + quiet)
		m.Header.Set("Llm-Id", id)
		m.Header.Set("Llm-Priority", string(class))
		m.Data = prompt(-1 - i)
		if _, err := s.js.PublishMsg(ctx, m); err != nil {
			return nil, nil, err
		}
		sent = append(sent, probe{time.Now(), flooding})
		select {
		case err := <-published:
			if err != nil {
				return nil, nil, err
			}
			taking = true
		default:
		}
		if taking {
			if flooding, err = s.takesIn(ctx); err != nil {
				return nil, nil, err
			}
			taking = flooding
		}
		time.Sleep(time.Until(begin.Add(time.Duration(i+1) * every)))
	}
	timeout := time.After(2 * time.Minute)
	for range probes {
		var a arrival
		select {
		case a = <-arrived:
		case <-timeout:
			return nil, nil, fmt.Errorf("the quiet tenant's answers did not come")
		}
		var i int
		if _, err := fmt.Sscanf(a.subject, "llm.responses."+quiet+".probe-%d", &i); err != nil {
			return nil, nil, err
		}
		took := a.at.Sub(sent[i].at)
		if sent[i].flooding {
			during = append(during, took)
		} else {
			after = append(after, took)
		}
	}
	return during, after, nil
}

// probe is a request of a quiet tenant: when it was sent, and whether the flood
// was still being published or taken in then.
type probe struct {
	at       time.Time
	flooding bool
}

// takesIn reports whether much is left in the stream of requests.
func (s *setting) takesIn(ctx context.Context) (bool, error) {
	stream, err := s.js.Stream(ctx, "LLM_REQUESTS")
	if err != nil {
		return false, err
	}
	return stream.CachedInfo().State.Msgs > 1000, nil
}

func (s *setting) flood(class schemas.Class, n int) error {
	js, err := jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(1024))
	if err != nil {
		return err
	}
	for i := range n {
		m := nats.NewMsg("llm.requests." + loudTenant)
		m.Header.Set("Llm-Priority", string(class))
		m.Data = prompt(i)
		if _, err := js.PublishMsgAsync(m, jetstream.WithStallWait(30*time.Second)); err != nil {
			return err
		}
	}
	<-js.PublishAsyncComplete()
	return nil
}
