package providers

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// pool is a provider's connections: an http.Transport behind two gates.
//
// The first lets at most max_connections calls run at once; the others wait.
//
// The second lets a connection be opened only while there are fewer than calls
// that run. Without it http.Transport opens one whenever none is idle at that
// moment, although one is about to be: a connection becomes idle shortly after
// its caller has read the answer. So 64 callers would have up to 100 connections.
// MaxConnsPerHost alone does not bound connections over HTTP/2 either.
type pool struct {
	transport *http.Transport
	slots     chan struct{}

	mu      sync.Mutex
	changed sync.Cond // a dial that waits may be due
	waiting int       // dials that wait
	active  int       // calls that have a slot
	open    int       // connections, those being dialled included
	opened  int64

	// Over TLS the first connection tells whether the provider offers HTTP/2,
	// where calls share one. Until it is there, no second is opened.
	tls     bool
	probing bool // the first is on its way
	probed  bool // it was there
	shared  bool // it is HTTP/2

	queued atomic.Int64 // calls that wait for a slot
}

// dialTimeout bounds the time to connect, apart from the call's own timeout, so
// that a host which does not answer is told from one that is slow to reply.
const dialTimeout = 10 * time.Second

func newPool(cfg Config, overTLS bool) *pool {
	p := &pool{slots: make(chan struct{}, cfg.MaxConnections), tls: overTLS}
	p.changed.L = &p.mu
	p.transport = &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         p.dial,
		ForceAttemptHTTP2:   true, // a dialer of our own would else switch it off
		TLSHandshakeTimeout: dialTimeout,
		// All may stay open while idle: with the default of two, every second
		// call of a busy pool opens a new connection.
		MaxIdleConns:        cfg.MaxConnections,
		MaxIdleConnsPerHost: cfg.MaxConnections,
		IdleConnTimeout:     cfg.IdleTimeout,
		// Answers are a few KB and streams want each token at once: compression
		// would cost more than it saves.
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        cmp.Or(cfg.BufferSize, DefaultBufferSize),
		ReadBufferSize:         cmp.Or(cfg.BufferSize, DefaultBufferSize) / 2,
		// Finds connections that died without a word.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
	return p
}

// enter waits for a slot, for which leave is to be called.
func (p *pool) enter(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
	default:
		p.queued.Add(1)
		defer p.queued.Add(-1)
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active++
	p.wake()
	return nil
}

func (p *pool) leave() {
	p.mu.Lock()
	p.active--
	p.mu.Unlock()
	<-p.slots
}

func (p *pool) wake() {
	if p.waiting > 0 {
		p.changed.Broadcast()
	}
}

// dial opens a connection once one is needed. Whoever asked for it may have got
// another one by then; the new one is idle then, and the next call's.
func (p *pool) dial(ctx context.Context, network, address string) (net.Conn, error) {
	probe, err := p.due(ctx)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		p.closed(probe)
		return nil, err
	}
	return &countedConn{Conn: conn, pool: p, probe: probe}, nil
}

// due waits until a connection is needed and counts it as open. It tells whether
// it is the one that shows the protocol.
func (p *pool) due(ctx context.Context) (probe bool, err error) {
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changed.Broadcast()
	})
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.shared
	p.waiting++
	defer func() { p.waiting-- }()
	for p.open >= p.active || p.probing {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		p.changed.Wait()
		if p.shared && !asked {
			return false, errShared
		}
	}
	probe = p.tls && !p.probed
	p.probing = probe
	p.open++
	p.opened++
	return probe, nil
}

// errShared ends a dial that waited while the first connection turned out to be
// one that calls share. Whoever still waits for it tries again and finds that one.
var errShared = &net.OpError{Op: "dial", Net: "tcp", Err: net.UnknownNetworkError("not needed: calls share a connection")}

// learn takes in what the handshake of a connection says.
func (p *pool) learn(state tls.ConnectionState, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probing = false
	if err == nil {
		p.probed, p.shared = true, state.NegotiatedProtocol == "h2"
	}
	p.wake()
}

// closed notes that a connection is no more.
func (p *pool) closed(probe bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	if probe && !p.probed {
		p.probing = false
	}
	p.wake()
}

func (p *pool) stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Open: p.open, Active: p.active, Idle: max(p.open-p.active, 0), Opened: p.opened, Waiting: int(p.queued.Load())}
}

// countedConn tells its pool when it is closed, once.
type countedConn struct {
	net.Conn
	pool  *pool
	probe bool
	once  sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.pool.closed(c.probe) })
	return c.Conn.Close()
}
