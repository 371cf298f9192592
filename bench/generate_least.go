package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/streams"
)

// least is the least that a generate stage can be: for each request a lease, the
// call and a record, each acknowledged before what follows; for each message a
// hand-off and an acknowledgement. It knows one model and no failure, looks for
// nothing that was there before and keeps no figures.
type least struct {
	keeps    keeping
	nc       *nats.Conn
	put      *jsx.Publisher
	provider providers.Provider
	names    streams.Names
	calls    chan leastCall
	called   chan *leastMessage
	room     chan struct{} // holds one a message that is worked
	open     atomic.Int64  // requests
	failed   chan error
	over     chan struct{}
}

// keeping is what is done with leases and records.
type keeping int

const (
	acknowledged keeping = iota
	unheard              // stored, and nobody waits until they are
	left                 // left out
)

// leastMessage is a message with requests.
type leastMessage struct {
	msg      jetstream.Msg
	requests []schemas.Handoff
	leases   atomic.Int64 // to come
	records  atomic.Int64 // to come
}

type leastCall struct {
	of *leastMessage
	r  *schemas.Handoff
}

// leastMessages is how many messages are worked at a time.
const leastMessages = 30

// runLeast works off what waits for generate.
func runLeast(ctx context.Context, s *setting, callers, requests int, keeps keeping) error {
	p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: s.upstream.URL + "/v1", APIKey: "none", MaxConnections: callers})
	if err != nil {
		return err
	}
	defer p.Close()
	nc, err := nats.Connect(s.nats.URL)
	if err != nil {
		return err
	}
	defer nc.Close()
	put, err := jsx.NewPublisher(nc, jsx.PublisherConfig{Window: 1 << 16})
	if err != nil {
		return err
	}
	defer put.Close()
	l := &least{
		keeps: keeps, nc: nc, put: put, provider: p, names: streams.Names{Prefix: "llm"}, failed: make(chan error, 1), over: make(chan struct{}),
		calls: make(chan leastCall, requests), called: make(chan *leastMessage, requests), room: make(chan struct{}, leastMessages),
	}
	l.open.Store(int64(requests))
	for range callers {
		go l.makeCalls(ctx)
	}
	go l.handOn()
	stop, err := l.consume(ctx, nc)
	if err != nil {
		return err
	}
	defer stop()
	select {
	case <-l.over:
		close(l.calls)
		close(l.called)
		return nil
	case err := <-l.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// consume reads every shard of the interactive requests.
func (l *least) consume(ctx context.Context, nc *nats.Conn) (stop func(), err error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	var consuming []jetstream.ConsumeContext
	stop = func() {
		for _, c := range consuming {
			c.Stop()
		}
	}
	for shard := range 8 {
		consumer, err := js.Consumer(ctx, l.names.Stage(stages.Generate), "generate-interactive-"+strconv.Itoa(shard))
		if err != nil {
			stop()
			return nil, err
		}
		c, err := consumer.Consume(l.take, jetstream.PullMaxMessages(20))
		if err != nil {
			stop()
			return nil, err
		}
		consuming = append(consuming, c)
	}
	return stop, nil
}

func (l *least) fail(err error) {
	select {
	case l.failed <- err:
	default:
	}
}

// publish sends a message and calls then once it is acknowledged.
func (l *least) publish(m *nats.Msg, then func()) {
	err := l.put.Publish(m, func(_ jsx.Ack, err error) {
		if err != nil {
			l.fail(err)
			return
		}
		then()
	})
	if err != nil {
		l.fail(err)
	}
}

// take takes the leases of a message's requests.
func (l *least) take(msg jetstream.Msg) {
	l.room <- struct{}{}
	m := &leastMessage{msg: msg}
	for rest := msg.Data(); len(rest) > 0; {
		var one schemas.Handoff
		behind, err := one.Read(rest)
		if err != nil {
			l.fail(err)
			return
		}
		m.requests, rest = append(m.requests, one), behind
	}
	m.leases.Store(int64(len(m.requests)))
	m.records.Store(int64(len(m.requests)))
	for i := range m.requests {
		l.store(&nats.Msg{Subject: "$KV.llm_leases." + m.requests[i].Key(), Data: []byte("a-name-as-long-as-the-usual"), Header: leastLease}, func() {
			if m.leases.Add(-1) == 0 {
				for i := range m.requests {
					l.calls <- leastCall{m, &m.requests[i]}
				}
			}
		})
	}
}

// store publishes a lease or a record, as these are kept.
func (l *least) store(m *nats.Msg, then func()) {
	switch l.keeps {
	case acknowledged:
		l.publish(m, then)
		return
	case unheard:
		if err := l.nc.PublishMsg(m); err != nil {
			l.fail(err)
		}
	case left:
	}
	then()
}

var (
	leastLease  = nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}, jetstream.MsgTTLHeader: {"15s"}}
	leastRecord = nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}}
)

// makeCalls makes one call after the other and records the answers.
func (l *least) makeCalls(ctx context.Context) {
	for c := range l.calls {
		answer, err := l.provider.Generate(ctx, schemas.Call{ID: c.r.ID, Model: c.r.Model, Body: c.r.Body})
		if err != nil {
			l.fail(err)
			return
		}
		c.r.Answer, c.r.Usage = answer.Body, answer.Usage
		record := fmt.Appendf(nil, `{"call":%q,"model":%q,"provider":"fake","calls":1,"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d},"cost_usd":0,"answer":%s}`,
			c.r.ID, c.r.Model, answer.Usage.PromptTokens, answer.Usage.CompletionTokens, answer.Usage.TotalTokens, answer.Body)
		l.store(&nats.Msg{Subject: "$KV.llm_answers." + c.r.Key(), Data: record, Header: leastRecord}, func() {
			if c.of.records.Add(-1) == 0 {
				l.called <- c.of
			}
		})
	}
}

// handOn publishes what has all its answers, and then acknowledges its message.
func (l *least) handOn() {
	for m := range l.called {
		data := make([]byte, 0, 32<<10)
		var err error
		for i := range m.requests {
			if data, err = schemas.AppendHandoff(data, &m.requests[i]); err != nil {
				l.fail(err)
				return
			}
		}
		first := &m.requests[0]
		l.publish(&nats.Msg{Subject: l.names.Handoff(stages.Score, first.Class, first.Tenant), Data: data, Header: nats.Header{
			streams.HeaderVersion: {strconv.Itoa(schemas.HandoffVersion)}, jetstream.MsgIDHeader: {"score/" + first.Key()},
		}}, func() {
			if err := m.msg.Ack(); err != nil {
				l.fail(err)
			}
			<-l.room
			if l.open.Add(-int64(len(m.requests))) == 0 {
				close(l.over)
			}
		})
	}
}

// compareLeast measures the least, and what it would be with less.
func (b *generateBench) compareLeast(ctx context.Context, requests, together, callers int, direct float64) error {
	for _, c := range []struct {
		name  string
		keeps keeping
	}{
		{"the least that a stage can be", acknowledged},
		{"the same with leases and records that nobody waits for", unheard},
		{"the same without leases and records", left},
	} {
		m, err := b.leastOf(ctx, requests, together, callers, c.keeps)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		rate := float64(requests) / m.took.Seconds()
		fmt.Fprintf(b.out, "%s: client %s; %.0f requests/s, %.2f\n", c.name, m.each(requests), rate, rate/direct)
	}
	return nil
}

// leastOf measures the least in the place of a processor.
func (b *generateBench) leastOf(ctx context.Context, requests, together, callers int, keeps keeping) (*measured, error) {
	s, err := b.waiting(ctx, requests, together, callers, callers, "upstream 0s count")
	defer s.close()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	var m measured
	before, own, begin := s.cpu(), ownTime(), time.Now()
	if err := runLeast(ctx, s, callers, requests, keeps); err != nil {
		return nil, errors.Join(err, s.nc.LastError())
	}
	m.took = time.Since(begin)
	for i, used := range s.cpu() {
		m.cpu[i] = used - before[i]
	}
	m.cpu[0] = ownTime() - own
	return &m, nil
}
