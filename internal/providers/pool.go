package providers

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// pool is a provider's connections: an http.Transport that never has more than
// max_connections open, counted as they come and go.
type pool struct {
	transport *http.Transport
	open      atomic.Int64
	opened    atomic.Int64
	active    atomic.Int64
}

// dialTimeout bounds the time to connect, apart from the call's own timeout, so
// that a host which does not answer is told from one that is slow to reply.
const dialTimeout = 10 * time.Second

func newPool(cfg Config) *pool {
	p := &pool{}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	p.transport = &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			p.open.Add(1)
			p.opened.Add(1)
			return &countedConn{Conn: conn, pool: p}, nil
		},
		ForceAttemptHTTP2:   true, // a dialer of our own would else switch it off
		TLSHandshakeTimeout: dialTimeout,
		MaxConnsPerHost:     cfg.MaxConnections,
		// All may stay open while idle: with the default of two, every second
		// call of a busy pool opens a new connection.
		MaxIdleConns:        cfg.MaxConnections,
		MaxIdleConnsPerHost: cfg.MaxConnections,
		IdleConnTimeout:     cfg.IdleTimeout,
		// Answers are a few KB and streams want each token at once: compression
		// would cost more than it saves.
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        16 << 10, // a usual request leaves in one write
		ReadBufferSize:         8 << 10,
		// Finds connections that died without a word.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
	return p
}

func (p *pool) stats() Stats {
	open, active := int(p.open.Load()), int(p.active.Load())
	return Stats{Open: open, Active: active, Idle: max(open-active, 0), Opened: p.opened.Load()}
}

// countedConn tells its pool when it is closed, once.
type countedConn struct {
	net.Conn
	pool *pool
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.pool.open.Add(-1) })
	return c.Conn.Close()
}
