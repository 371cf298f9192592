package generate

import (
	"context"
	"sync/atomic"
)

// rowShare is which share of the workers the row has room for: what stands in it
// has left the queues, where the urgent goes first.
const rowShare = 4

// workers bound the calls under way. Where all have one, what is to be called next
// stands in a short row, and who is done takes it from there: to wake another
// goroutine for each call would cost a good part of what a call costs. It is safe
// for concurrent use.
type workers struct {
	crew    crew
	slots   chan struct{} // holds one a worker with a call
	row     chan func(begin bool) (kept bool)
	hiring  atomic.Int64 // those who wait in hire, before whom nobody in the row goes
	leaving <-chan struct{}
}

func newWorkers(leaving context.Context, n int) *workers {
	n = max(n, 1)
	return &workers{slots: make(chan struct{}, n), row: make(chan func(bool) bool, (n+rowShare-1)/rowShare), leaving: leaving.Done()}
}

// do has a worker run f, and waits while all have a call and the row is full. f is
// told false where it is not to begin, since the process is to end; it says whether
// its worker is free with its end, or was relieved before.
func (w *workers) do(f func(begin bool) (kept bool)) {
	select {
	case w.slots <- struct{}{}:
		w.crew.do(func() { w.work(f) })
	case w.row <- f:
		w.attend()
		w.clear()
	case <-w.leaving:
		f(false)
	}
}

// apart runs f, which hires a worker where it needs one.
func (w *workers) apart(f func() (kept bool)) {
	w.crew.do(func() { w.work(func(bool) bool { return f() }) })
}

// work has a worker run f, and then what stands in the row.
func (w *workers) work(f func(bool) bool) {
	for f(true) {
		if w.hiring.Load() > 0 {
			w.relieve()
			return
		}
		select {
		case f = <-w.row:
		default:
			w.relieve()
			return
		}
	}
}

// attend begins what stands in the row while workers are free.
func (w *workers) attend() {
	for len(w.row) > 0 {
		select {
		case w.slots <- struct{}{}:
		default:
			return // who relieves the next worker comes here too
		}
		select {
		case f := <-w.row:
			w.crew.do(func() { w.work(f) })
		default:
			<-w.slots
		}
	}
}

// clear tells what stands in the row, once the process is to end, not to begin.
func (w *workers) clear() {
	for {
		select {
		case <-w.leaving:
		default:
			return
		}
		select {
		case f := <-w.row:
			f(false)
		default:
			return
		}
	}
}

// hire waits for a worker.
func (w *workers) hire() {
	select {
	case w.slots <- struct{}{}:
		return
	default:
	}
	w.hiring.Add(1)
	w.slots <- struct{}{}
	w.hiring.Add(-1)
}

// relieve ends the call of a worker.
func (w *workers) relieve() {
	<-w.slots
	w.attend()
}

// idle reports whether a worker has nothing to do.
func (w *workers) idle() bool { return len(w.slots) < cap(w.slots) }
