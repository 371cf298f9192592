// Package fakellm is an upstream for tests and benchmarks: a real HTTP server
// that speaks the APIs of OpenAI, Anthropic and Gemini, counts what it is asked,
// and fails in every way that it is told to. It runs no model.
package fakellm

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Config says how a Server behaves. The zero value answers every call at once.
type Config struct {
	Addr string // where to listen, default 127.0.0.1:0

	Latency    time.Duration // before an answer that is not streamed
	FirstToken time.Duration // before the first event of a streamed answer
	TokenDelay time.Duration // between the events of a streamed answer

	// Text is the answer to every chat, default DefaultText. It is one piece of
	// content for each word when streamed.
	Text string
	// Prompt and Completion are the tokens that each answer bills, default 20 and 10.
	Prompt, Completion int
	Dimensions         int // of embeddings, default 8

	Failures   map[int]float64 // the share of calls that fail, by status
	Limit      int             // calls in flight above which the answer is 429; 0 is no limit
	RetryAfter time.Duration   // sent with 429 and 503

	// Script decides about the first calls, one step each, in the order of their
	// arrival. A nil step answers as usual, and so do the calls behind the last.
	Script []*Step
	// Respond, if not nil, decides about every call behind the script; nil
	// answers as usual. It may be called by many goroutines at once.
	Respond func(Call) *Step

	// Count counts the calls by Key, for up to MaxKeys keys.
	Count   bool
	Key     func(Call) string // default: the text of the last message, else the input
	MaxKeys int               // default 100,000
}

// DefaultText is what the fake answers to a chat.
const DefaultText = "The answer of the fake is always the same, and it is short."

// Call is one call as it arrived. The body is valid until Respond or Key returns.
type Call struct {
	Number int64 // from 1, in the order of arrival
	Path   string
	Header http.Header
	Body   []byte
	Stream bool
}

// Step is one answer that is not the usual one. Its zero value is the usual
// answer; each field changes one thing, and they combine.
type Step struct {
	Delay       time.Duration // before anything is sent
	Hang        bool          // nothing is sent until the caller goes away
	Drop        bool          // the connection is closed without a byte
	Status      int           // default 200; from 400 on with the error body of the dialect
	Header      map[string]string
	ContentType string
	Body        string        // in the place of the usual body
	Events      []string      // in the place of the usual stream; each is the event's lines, without the blank one
	CutBytes    int           // the connection is closed after so many bytes of the body
	CutEvents   int           // the connection is closed after so many events; -1 is before the first
	EndEvents   int           // the stream ends properly, but after so many events; -1 is before the first
	Drip        time.Duration // the body is sent a byte at a time with this pause
	Huge        int64         // the body is a JSON text of about so many bytes
}

// Stats is what a Server has counted.
type Stats struct {
	Calls            int64 `json:"calls"`
	Answered         int64 `json:"answered"` // with 200, cut off or not
	Streamed         int64 `json:"streamed"`
	Failed           int64 `json:"failed"`  // by a status that was asked for
	Limited          int64 `json:"limited"` // answered 429 above the limit
	InFlight         int64 `json:"in_flight"`
	HighWater        int64 `json:"high_water"`  // most calls in flight at once
	Connections      int64 `json:"connections"` // opened since the start, to a Server
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	Keys             int   `json:"keys"`    // distinct keys that were counted
	Repeats          int64 `json:"repeats"` // calls whose key had been seen before
	Uncounted        int64 `json:"uncounted"`
}

// Server is a fake upstream that listens.
type Server struct {
	URL string // such as http://127.0.0.1:4567; append /v1 for OpenAI's base_url

	*Fake
	http   *http.Server
	front  *front
	cancel context.CancelFunc
	done   chan struct{}
}

// Fake is the fake without its listener.
type Fake struct {
	cfg     Config
	answers answers

	calls, answered, streamed, failed, limited atomic.Int64
	inFlight, highWater, connections           atomic.Int64
	prompt, completion                         atomic.Int64

	mu        sync.Mutex
	counts    map[string]int
	repeats   int64
	uncounted int64
}

// NewFake makes a fake that is served by others, through Handler.
func NewFake(cfg Config) *Fake {
	if cfg.Text == "" {
		cfg.Text = DefaultText
	}
	if cfg.Prompt == 0 && cfg.Completion == 0 {
		cfg.Prompt, cfg.Completion = 20, 10
	}
	if cfg.Dimensions == 0 {
		cfg.Dimensions = 8
	}
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = 100_000
	}
	if cfg.Key == nil {
		cfg.Key = LastText
	}
	return &Fake{cfg: cfg, answers: newAnswers(cfg), counts: make(map[string]int)}
}

// New starts a server. It panics if it cannot listen, as a test would fail then.
func New(cfg Config) *Server {
	s, err := Listen(cfg)
	if err != nil {
		panic(err)
	}
	return s
}

// Listen starts a server.
func Listen(cfg Config) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("starting the fake upstream: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{URL: "http://" + listener.Addr().String(), Fake: NewFake(cfg), cancel: cancel, done: make(chan struct{})}
	s.http = &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	s.front = newFront(s.Fake, listener)
	go func() {
		defer close(s.done)
		_ = s.http.Serve(s.front)
	}()
	return s, nil
}

// Close ends the server, its connections and the calls that run.
func (s *Server) Close() {
	s.cancel()
	_ = s.http.Close()
	<-s.done
	s.front.wg.Wait()
}

// Stats gives what was counted so far.
func (f *Fake) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Stats{
		Calls: f.calls.Load(), Answered: f.answered.Load(), Streamed: f.streamed.Load(),
		Failed: f.failed.Load(), Limited: f.limited.Load(),
		InFlight: f.inFlight.Load(), HighWater: f.highWater.Load(), Connections: f.connections.Load(),
		PromptTokens: f.prompt.Load(), CompletionTokens: f.completion.Load(),
		Keys: len(f.counts), Repeats: f.repeats, Uncounted: f.uncounted,
	}
}

// Counts gives the number of calls by key, a copy.
func (f *Fake) Counts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.counts)
}

// count notes a call's key. Past the bound only keys that are known are counted.
func (f *Fake) count(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, known := f.counts[key]
	switch {
	case known:
		f.repeats++
	case len(f.counts) >= f.cfg.MaxKeys:
		f.uncounted++
		return
	}
	f.counts[key] = n + 1
}

// enter notes that a call runs, and tells whether it may.
func (f *Fake) enter() bool {
	n := f.inFlight.Add(1)
	for {
		high := f.highWater.Load()
		if n <= high || f.highWater.CompareAndSwap(high, n) {
			break
		}
	}
	return f.cfg.Limit == 0 || n <= int64(f.cfg.Limit)
}
