package stages

import "sync"

// Parking is where requests wait in memory without a worker. They do not count
// against what a runner may hold, so that they keep nobody else away; the
// parking has bounds of its own. It is safe for concurrent use.
type Parking struct {
	most      int
	mostBytes int

	mu    sync.Mutex
	n     int
	bytes int
	full  chan struct{}
}

// NewParking makes a parking for so many requests, and bytes of their bodies.
func NewParking(most, mostBytes int) *Parking {
	return &Parking{most: most, mostBytes: mostBytes, full: make(chan struct{}, 1)}
}

// Enter parks a request; false means that there is no room.
func (p *Parking) Enter(r *Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if bytes := len(r.Body) + len(r.Original); p.n < p.most && p.bytes+bytes <= p.mostBytes {
		p.n++
		p.bytes += bytes
		select {
		case p.full <- struct{}{}:
		default:
		}
		return true
	}
	return false
}

// Leave ends the wait of a request, whose bodies must be those that it entered with.
func (p *Parking) Leave(r *Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n--
	p.bytes -= len(r.Body) + len(r.Original)
}

// Parked is the number of requests that wait.
func (p *Parking) Parked() int {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// Entered has a token after requests have entered; of a nil Parking it never has.
func (p *Parking) Entered() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.full
}
