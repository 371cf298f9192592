package generate

import "sync"

// keepWaiting is how many goroutines of a crew wait for more, at most, where
// fewer are running.
const keepWaiting = 64

// crew runs functions in goroutines that it keeps for the next ones: a call goes
// deep into net/http, and a new goroutine has to grow its stack for each. As many
// wait at most as are running, or a few; none while nothing runs. It is safe for
// concurrent use.
type crew struct {
	mu      sync.Mutex
	running int
	waiting []chan func()
}

// do runs f at once and does not wait for its end.
func (c *crew) do(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running++
	if last := len(c.waiting) - 1; last >= 0 {
		c.waiting[last] <- f // has room for one
		c.waiting = c.waiting[:last]
		return
	}
	go c.work(f)
}

func (c *crew) work(f func()) {
	next := make(chan func(), 1)
	for ok := true; ok; f, ok = <-next {
		f()
		if !c.wait(next) {
			return
		}
	}
}

// wait has a goroutine that is done wait for what comes next, and others wait no
// more where less is running. It is false if enough of them wait.
func (c *crew) wait(next chan func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	most := max(c.running, keepWaiting)
	if c.running == 0 {
		most = 0
	}
	for last := len(c.waiting) - 1; last >= most; last-- {
		close(c.waiting[last])
		c.waiting = c.waiting[:last]
	}
	if len(c.waiting) >= most {
		return false
	}
	c.waiting = append(c.waiting, next)
	return true
}
