package clustertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// load publishes requests and knows which were accepted.
type load struct {
	p     *plant
	stop  context.CancelFunc
	done  sync.WaitGroup
	every int // each so many ask the same as the one before; 0 is never
	size  int // bytes that a request is larger

	mu       sync.Mutex
	accepted []string
	refused  int // publishes that got no acknowledgement
	full     int // of them, those that a full stream refused
}

// publish publishes n requests and waits until all are accepted.
func (p *plant) publish(from, n int) *load {
	p.t.Helper()
	l := &load{p: p}
	l.all(from, n)
	return l
}

// all publishes n requests and waits until all are accepted.
func (l *load) all(from, n int) {
	p := l.p
	for i := from; i < from+n; i++ {
		l.one(p.ctx, i)
	}
	require.NoError(p.t, p.ctx.Err())
}

// keepPublishing publishes requests one after the other until end is called.
func (p *plant) keepPublishing(pause time.Duration) *load {
	ctx, stop := context.WithCancel(p.ctx)
	l := &load{p: p, stop: stop}
	l.done.Go(func() {
		for i := 1000; ctx.Err() == nil; i++ { // what publish published before asks something else
			l.one(p.ctx, i) // to its end: a request is accepted, or it was never there
			lasts(pause)
		}
	})
	return l
}

func (l *load) end() {
	l.stop()
	l.done.Wait()
}

// one publishes a request until it is accepted: where the outcome is unknown,
// again under its id.
func (l *load) one(ctx context.Context, i int) {
	id := fmt.Sprintf("r%06d", i)
	question := i
	if l.every > 0 && i%l.every == 1 {
		question--
	}
	m := nats.NewMsg("llm.requests." + tenant)
	m.Header.Set("Llm-Id", id)
	m.Data = fmt.Appendf(nil, `{"model":"gpt-4o","max_completion_tokens":16,"messages":[{"role":"user","content":"question %06d%s"}]}`, question, strings.Repeat(" and", l.size/4))
	for ctx.Err() == nil {
		err := l.try(ctx, m)
		l.mu.Lock()
		if err == nil {
			l.accepted = append(l.accepted, id)
			l.mu.Unlock()
			return
		}
		l.refused++
		if isFull(err) {
			l.full++
		}
		l.mu.Unlock()
		lasts(50 * time.Millisecond)
	}
}

// try publishes once; a server that is gone never answers.
func (l *load) try(ctx context.Context, m *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := l.p.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	return err
}

// isFull reports that a stream refused a message because it is full.
func isFull(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == 10077
}

func (l *load) ids() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.accepted...)
}

// fullRefusals gives how often a full stream refused a publish.
func (l *load) fullRefusals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full
}

// messages gives what a stream holds; none where it does not answer.
func (p *plant) messages(stream string) uint64 {
	info, err := p.info(stream)
	if err != nil {
		return 0
	}
	return info.State.Msgs
}

func (p *plant) awaitResponses(n int, within time.Duration) {
	p.t.Helper()
	last := uint64(0)
	defer func() {
		if p.t.Failed() {
			p.t.Logf("%d of %d responses; %s", last, n, p.whereabouts())
		}
	}()
	p.await(within, "responses are missing", func() bool {
		if have := p.messages("LLM_RESPONSES"); have > 0 {
			last = have
		}
		return last >= uint64(n)
	})
}

// awaitAtLeast waits until so many responses are there, so that a fault meets work.
func (p *plant) awaitAtLeast(n int) { p.t.Helper(); p.awaitResponses(n, 3*time.Minute) }

// whereabouts tells what waits where.
func (p *plant) whereabouts() (text string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), 10*time.Second)
	defer cancel()
	for _, stream := range []string{"LLM_REQUESTS", "LLM_CACHE", "LLM_BATCH", "LLM_GENERATE", "LLM_SCORE", "LLM_LATER", "LLM_DEAD"} {
		s, err := p.js.Stream(ctx, stream)
		if err != nil {
			text += fmt.Sprintf("%s: %v; ", stream, err)
			continue
		}
		text += fmt.Sprintf("%s %d messages; ", stream, s.CachedInfo().State.Msgs)
		consumers := s.ListConsumers(ctx)
		for c := range consumers.Info() {
			if c.NumPending > 0 || c.NumAckPending > 0 {
				text += fmt.Sprintf("%s: %d pending, %d unacknowledged, %d redelivered, %d pulls; ", c.Name, c.NumPending, c.NumAckPending, c.NumRedelivered, c.NumWaiting)
			}
		}
	}
	return text
}
