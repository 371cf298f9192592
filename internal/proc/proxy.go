package proc

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Proxy is a TCP proxy that can cut its two sides off from each other. It is
// safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	open     sync.WaitGroup

	mu      sync.Mutex
	passing chan struct{} // closed while bytes pass
	refuses bool
	closed  bool
	conns   map[net.Conn]struct{}
}

// NewProxy listens on a port of loopback for connections to the target's address.
func NewProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for a proxy: %w", err)
	}
	p := &Proxy{listener: l, target: target, passing: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(p.passing)
	p.open.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut stops all bytes between the two sides, as a cable that is pulled does:
// connections stay open and nobody is told. What was sent arrives once Mend is
// called.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.passing:
		p.passing = make(chan struct{})
	default: // cut already
	}
}

// Refuse breaks all connections and takes no new one, as a server that is down does.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = true
	for c := range p.conns {
		_ = c.Close()
	}
}

// Mend lets everything through again.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = false
	p.pass()
}

func (p *Proxy) pass() {
	select {
	case <-p.passing:
	default:
		close(p.passing)
	}
}

// Close ends the proxy and all its connections.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.pass()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	_ = p.listener.Close()
	p.open.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.open.Go(func() { p.join(client) })
	}
}

// join copies between a client and the target until either side ends.
func (p *Proxy) join(client net.Conn) {
	defer func() { _ = client.Close() }()
	<-p.gate()
	server, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	if !p.keep(client, server) {
		return
	}
	defer p.forget(client, server)
	var copying sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		copying.Go(func() {
			_, _ = io.Copy(gated{p, way[1]}, way[0])
			_ = client.Close() // the other way ends too
			_ = server.Close()
		})
	}
	copying.Wait()
}

func (p *Proxy) gate() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passing
}

// keep notes connections, which it refuses while the proxy does.
func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuses || p.closed {
		return false
	}
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
	return true
}

func (p *Proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

// gated writes only while bytes pass. It has no ReadFrom, which would go round it.
type gated struct {
	proxy *Proxy
	to    net.Conn
}

// Write implements io.Writer.
func (g gated) Write(b []byte) (int, error) {
	<-g.proxy.gate()
	return g.to.Write(b)
}
