package streams

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullExpiry is when the server ends a pull. The process waits pullMargin
	// longer: what the server sent until then and nobody takes is nobody's until
	// AckWait is over.
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
	want := pullBase
	failures := 0
	var consumer jetstream.Consumer
	for ctx.Err() == nil {
		free, bytes := s.runner.free(ctx, s)
		if free <= 0 {
			return // ctx ended
		}
		if consumer == nil {
			var err error
			if consumer, err = s.runner.js.Consumer(ctx, s.durable.stream, s.durable.config.Durable); err != nil {
				failures++
				s.recover(ctx, err, failures)
				continue
			}
		}
		if s.aside() && !s.runner.clear(ctx) {
			sleep(ctx, asidePause)
			continue
		}
		n := min(want, max(1, free/max(1, s.requests)))
		got, err := s.pull(ctx, consumer, n, bytes)
		if err != nil {
			failures++
			consumer = nil
			s.recover(ctx, err, failures)
			continue
		}
		failures = 0
		if got == n {
			want = min(2*want, s.runner.cfg.Capacity+maxAhead)
		} else {
			want = pullBase
		}
	}
}

// pull takes up to n messages of so many bytes, and one at least, each handed
// on as it arrives.
//
// When ctx ends, what the server has sent by then is still taken: the pull ends
// once nothing has come for a moment.
func (s *source) pull(ctx context.Context, consumer jetstream.Consumer, n, bytes int) (got int, err error) {
	pulling, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullExpiry+pullMargin)
	defer cancel()
	quiet := time.NewTimer(pullExpiry + pullMargin)
	defer quiet.Stop()
	defer context.AfterFunc(ctx, func() { quiet.Reset(drainQuiet) })()
	go func() {
		select {
		case <-quiet.C:
			cancel()
		case <-pulling.Done():
		}
	}()
	largest := 2*s.runner.cfg.MaxPayload + 4096 // with its headers, and those of the request for it
	batch, err := consumer.Fetch(n, jetstream.FetchContext(patient{pulling, time.Now().Add(pullExpiry * 10 / 9)}), jetstream.FetchMaxBytes(max(min(bytes, s.runner.cfg.Pull), largest)))
	if err != nil {
		return 0, err
	}
	requests := 0
	for msg := range batch.Messages() {
		got++
		if ctx.Err() != nil {
			quiet.Reset(drainQuiet)
		}
		requests += s.runner.receive(s, msg)
	}
	if got > 0 {
		s.requests = (s.requests + requests/got + 1) / 2
	}
	if err := batch.Error(); err != nil && pulling.Err() == nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
		return got, err
	}
	return got, nil
}

// patient is a context that ends later than it says: nats.go has the server end
// a pull at nine tenths of what is left until the deadline, and drops what
// comes after the context has ended.
type patient struct {
	context.Context
	says time.Time
}

// Deadline implements context.Context.
func (p patient) Deadline() (time.Time, bool) { return p.says, true }

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
