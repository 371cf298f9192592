package streams

import "sync"

// pile holds what one goroutine after the other puts there until somebody takes
// all of it. It has no bound of its own: a runner holds a bounded number of
// requests, and of each there is no more than one thing in a pile.
type pile[T any] struct {
	wake chan struct{} // holds a token while there is something to take

	mu   sync.Mutex
	list []T
}

func newPile[T any]() pile[T] { return pile[T]{wake: make(chan struct{}, 1)} }

func (p *pile[T]) add(one T) {
	p.mu.Lock()
	p.list = append(p.list, one)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take gives what is there, which may be nothing.
func (p *pile[T]) take() []T {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.list
	p.list = nil
	return list
}
