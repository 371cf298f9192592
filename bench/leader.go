package main

import (
	"bufio"
	"container/heap"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/adpa/processor/stages/generate/prefix"
)

// tracedCall is a request of Mooncake's conversation trace: its prompt is a list
// of blocks of 512 tokens, equal ones with equal ids.
type tracedCall struct {
	At     int64    `json:"timestamp"` // ms
	Input  int      `json:"input_length"`
	Output int      `json:"output_length"`
	Blocks []uint64 `json:"hash_ids"`
}

const blockTokens = 512

func readTrace(data string) (calls []tracedCall, err error) {
	file, err := os.Open(filepath.Join(data, "mooncake", "conversation_trace.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("opening the conversation trace (-data): %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c tracedCall
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return nil, fmt.Errorf("reading the conversation trace: %w", err)
		}
		calls = append(calls, c)
	}
	return calls, lines.Err()
}

// body makes a request whose prompt shares with others what the trace's does:
// four bytes for each token, each block's text made of its id.
func (c *tracedCall) body() []byte {
	var text strings.Builder
	text.Grow(4*c.Input + 100)
	text.WriteString(`{"model":"m","messages":[{"role":"user","content":"`)
	left := c.Input
	for _, id := range c.Blocks {
		n := 4 * min(left, blockTokens)
		left -= blockTokens
		word := strconv.FormatUint(id, 36) + " "
		text.WriteString(strings.Repeat(word, n/len(word)+1)[:max(n, 0)])
	}
	text.WriteString(`"}]}`)
	return []byte(text.String())
}

// providerCache is what a provider keeps of prompts: a block can be read once the
// first token of the answer that brought it has come, and for five minutes
// after its last use.
type providerCache map[uint64]struct{ readable, used time.Duration }

// ask gives the tokens that are read from the cache at a time.
func (p providerCache) ask(now, first time.Duration, c *tracedCall) (cached int) {
	hit := true
	for _, id := range c.Blocks {
		b, ok := p[id]
		alive := ok && now-b.used < prefix.TTL
		if hit = hit && alive && b.readable <= now; hit {
			cached += blockTokens
			b.used = now
		} else if !alive || now+first < b.readable {
			b.readable, b.used = now+first, now+first
		}
		p[id] = b
	}
	return min(cached, c.Input)
}

// replay runs a trace against a provider by a clock of its own.
type replay struct {
	calls    []tracedCall
	first    time.Duration // until the first token
	token    time.Duration // for each one of the answer
	most     time.Duration // that a request waits at most; 0: it goes at once
	streamed int           // one in so many requests is streamed, 0: none

	gate    *prefix.Gate
	cache   providerCache
	events  eventQueue
	prompts []prefix.Prompt
	waiting map[<-chan struct{}][]int // by what they wait for
	since   map[int]time.Duration
	waits   []time.Duration // of those that had to
	cached  int
}

// event is what happens at a time of the replay.
type event struct {
	at    time.Duration
	order int
	do    func(now time.Duration)
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(e any)   { *q = append(*q, e.(event)) }
func (q *eventQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// epoch is when replays begin.
var epoch = time.Unix(0, 0)

func (r *replay) at(at time.Duration, do func(now time.Duration)) {
	heap.Push(&r.events, event{at, len(r.events), do})
}

// run gives the share of the prompts' tokens that was read from the cache.
func (r *replay) run(speed int64) float64 {
	r.gate, r.cache = prefix.NewGate(r.most), providerCache{}
	r.waiting, r.since = map[<-chan struct{}][]int{}, map[int]time.Duration{}
	total := 0
	r.prompts = make([]prefix.Prompt, len(r.calls))
	for i := range r.calls {
		c := &r.calls[i]
		total += c.Input
		r.prompts[i] = r.gate.Read("tenant", "m", r.streamed > 0 && i%r.streamed == 0, c.body())
		r.at(time.Duration(c.At)*time.Millisecond/time.Duration(speed), func(now time.Duration) {
			r.since[i] = now
			r.arrive(now, i)
		})
	}
	for len(r.events) > 0 {
		e := heap.Pop(&r.events).(event)
		e.do(e.at)
	}
	return float64(r.cached) / float64(total)
}

// arrive sends a request, or has it wait.
func (r *replay) arrive(now time.Duration, i int) {
	since, ok := r.since[i]
	if !ok {
		return // gone already
	}
	waited := now - since
	if r.most == 0 || waited >= r.most {
		r.send(now, i, r.gate.Go(epoch.Add(now), r.prompts[i]))
		return
	}
	turn, waiting := r.gate.Begin(epoch.Add(now), r.prompts[i])
	if waiting == nil {
		r.send(now, i, turn)
		return
	}
	until := since + r.most
	if !waiting.Until.IsZero() {
		until = min(until, waiting.Until.Sub(epoch))
	}
	r.waiting[waiting.Landed] = append(r.waiting[waiting.Landed], i)
	r.at(until, func(now time.Duration) { r.arrive(now, i) })
}

func (r *replay) send(now time.Duration, i int, turn *prefix.Turn) {
	if waited := now - r.since[i]; waited > 0 {
		r.waits = append(r.waits, waited)
	}
	delete(r.since, i)
	c := &r.calls[i]
	r.cached += r.cache.ask(now, r.first, c)
	if r.prompts[i].Stream {
		r.at(now+r.first, func(now time.Duration) { turn.First(epoch.Add(now)); r.release(now) })
		return
	}
	r.at(now+r.first+time.Duration(c.Output)*r.token, func(now time.Duration) { turn.End(epoch.Add(now), true); r.release(now) })
}

// release has those ask again whose wait has ended.
func (r *replay) release(now time.Duration) {
	var free []int
	for landed, list := range r.waiting {
		select {
		case <-landed:
			free = append(free, list...)
			delete(r.waiting, landed)
		default:
		}
	}
	slices.Sort(free)
	for _, i := range free {
		r.arrive(now, i)
	}
}

// leaderBar is the least share of cached tokens at 50 times the trace's speed,
// with 3 s to the first token.
const leaderBar = 0.35

// leaderFirst replays the trace with and without the gate.
func leaderFirst(out io.Writer, data string) error {
	calls, err := readTrace(data)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Leader first, Mooncake's conversation trace (%d requests), cache of the provider 5 min:\n\n", len(calls))
	fmt.Fprint(out, "| speed | first token | streamed | at once: cached | leader first: cached | waited | mean wait | longest |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	reached := 0.0
	for _, s := range []struct {
		speed    int64
		first    time.Duration
		streamed int
		name     string
	}{
		{1, 3 * time.Second, 1, "all"}, {50, time.Second, 1, "all"}, {50, 3 * time.Second, 1, "all"},
		{50, 3 * time.Second, 5, "one in five"}, {50, 3 * time.Second, 0, "none"},
	} {
		base := replay{calls: calls, first: s.first, token: 20 * time.Millisecond, streamed: s.streamed}
		gated := base
		gated.most = 5 * time.Second
		before, after := base.run(s.speed), gated.run(s.speed)
		if s.speed == 50 && s.first == 3*time.Second && s.streamed == 1 {
			reached = after
		}
		var sum, longest time.Duration
		for _, w := range gated.waits {
			sum, longest = sum+w, max(longest, w)
		}
		fmt.Fprintf(out, "| x%d | %v | %s | %.1f%% | %.1f%% | %.1f%% | %.2f s | %.1f s |\n", s.speed, s.first, s.name, 100*before, 100*after,
			100*float64(len(gated.waits))/float64(len(calls)), (sum / time.Duration(max(len(gated.waits), 1))).Seconds(), longest.Seconds())
	}
	verdict := "reached"
	if reached < leaderBar {
		verdict = "missed"
	}
	fmt.Fprintf(out, "\nThe bar of %.0f%% at x50 and 3 s is %s.\n\n", 100*leaderBar, verdict)
	return nil
}
