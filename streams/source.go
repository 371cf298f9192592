package streams

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullExpiry is when the server ends a pull. The process waits pullMargin
	// longer for its word, and for what it sent until then.
	pullExpiry = time.Second
	pullMargin = time.Second
	// drainQuiet is how long nothing must have come before a drain ends a pull.
	drainQuiet = 50 * time.Millisecond
	// pullBase is what an idle source asks for, so that many idle ones do not
	// take more than can be worked; a busy one doubles it up to what is free.
	pullBase = 4
)

// source pulls the messages of one consumer group into the runner.
type source struct {
	runner  *Runner
	durable durable
	lane    int
	step    int

	requests int // that a message brings, on average; 1 where they come singly
}

// run pulls until ctx ends. A consumer that vanished is made again.
func (s *source) run(ctx context.Context) {
	if s.runner.cfg.Local.feed(ctx, s) {
		return
	}
	most := s.runner.cfg.Capacity + maxAhead
	p, err := newPuller(s.runner.nc, s.durable.stream, s.durable.config.Durable, most)
	for failures := 1; err != nil; failures++ { // only while the connection is closed
		s.recover(ctx, err, failures)
		if ctx.Err() != nil {
			return
		}
		p, err = newPuller(s.runner.nc, s.durable.stream, s.durable.config.Durable, most)
	}
	defer p.close()
	want := pullBase
	failures := 0
	for ctx.Err() == nil {
		free, bytes := s.runner.free(ctx, s)
		if free <= 0 {
			return // ctx ended
		}
		if s.aside() && !s.runner.clear(ctx) {
			sleep(ctx, asidePause)
			continue
		}
		n := min(want, max(1, free/max(1, s.requests)))
		got, err := s.pull(ctx, p, n, bytes)
		if err != nil {
			failures++
			s.recover(ctx, err, failures)
			continue
		}
		failures = 0
		if got >= n {
			want = min(2*want, most)
		} else {
			want = pullBase
		}
	}
}

// pull takes up to n messages of so many bytes, and one at least, each handed
// on as it arrives. It ends once all have come that the server has sent.
//
// When ctx ends, what the server has sent by then is still taken: the pull ends
// once nothing has come for a moment.
func (s *source) pull(ctx context.Context, p *puller, n, bytes int) (got int, err error) {
	largest := 2*s.runner.cfg.MaxPayload + 4096 // with its headers, and those of the request for it
	if err := p.ask(n, max(min(bytes, s.runner.cfg.Pull), largest)); err != nil {
		return 0, err
	}
	end := time.NewTimer(pullExpiry + pullMargin)
	defer end.Stop()
	defer context.AfterFunc(ctx, func() { end.Reset(drainQuiet) })()
	requests, expected := 0, n
	for got < expected && err == nil {
		select {
		case m := <-p.arrived:
			if !isDelivery(m) {
				var left int
				var over bool
				if left, over, err = p.left(m); over {
					expected = n - left
				}
				continue
			}
			if ctx.Err() != nil {
				end.Reset(drainQuiet)
			}
			got++
			requests += s.runner.receive(s, pulled{m})
		case <-end.C:
			expected = 0 // the server's word was lost, or ctx ended
		}
	}
	if got > 0 {
		s.requests = (s.requests + requests/got + 1) / 2
	}
	return got, err
}

// recover waits a growing time and sets the consumer up again where it is gone.
func (s *source) recover(ctx context.Context, err error, failures int) {
	if ctx.Err() != nil {
		return
	}
	s.runner.warn(s, failures, err)
	sleep(ctx, backoff(failures, 50*time.Millisecond, 5*time.Second))
	if ctx.Err() != nil {
		return
	}
	if err := ensureConsumer(ctx, s.runner.js, s.durable); errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := Provision(ctx, s.runner.js, s.runner.cfg.Layout); err != nil {
			slog.Warn("setting up streams failed", "error", err)
		}
	}
}
