package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/schemas"
)

// tally sums up what became of the lines of a batch. It is safe for concurrent use.
type tally struct {
	begin time.Time

	mu       sync.Mutex
	lines    int
	bytes    int64 // of the input, read so far
	answered int
	earlier  int // of answered and failed, what was stored before this run
	failed   int
	hits     int
	saved    int
	cost     float64
	quality  float64 // sum
	scored   int
}

// outcome is what a tally reads of a response.
type outcome struct {
	Cache  string `json:"cache"`
	Tokens struct {
		Saved int `json:"saved"`
	} `json:"tokens"`
	CostUSD float64 `json:"cost_usd"`
	Quality struct {
		Score *float64 `json:"score"`
	} `json:"quality"`
}

func (t *tally) read(bytes int) {
	t.mu.Lock()
	t.bytes += int64(bytes)
	if bytes > 0 {
		t.lines++
	}
	t.mu.Unlock()
}

// add counts one line. What an earlier run paid is no cost of this one.
func (t *tally) add(response []byte, failed, earlier bool) {
	var o outcome
	if span, ok := schemas.Member(response, "processor"); ok {
		_ = json.Unmarshal(span.Of(response), &o) // figures that cannot be read count as none
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if failed {
		t.failed++
	} else {
		t.answered++
	}
	if earlier {
		t.earlier++
	} else {
		t.cost += o.CostUSD
	}
	if o.Cache == "hit" || o.Cache == "shared" || o.Cache == "normalized" {
		t.hits++
	}
	t.saved += o.Tokens.Saved
	if o.Quality.Score != nil {
		t.quality += *o.Quality.Score
		t.scored++
	}
}

func (t *tally) failures() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// summary prints what became of the lines.
func (t *tally) summary(w io.Writer, complete bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	elapsed := time.Since(t.begin)
	done := t.answered + t.failed
	var text strings.Builder
	fmt.Fprintf(&text, "answered %d, failed %d", t.answered, t.failed)
	if t.earlier > 0 {
		fmt.Fprintf(&text, " (%d by an earlier run)", t.earlier)
	}
	if !complete {
		text.WriteString(", not finished")
	}
	quality := "none"
	if t.scored > 0 {
		quality = fmt.Sprintf("%.2f", t.quality/float64(t.scored))
	}
	fmt.Fprintf(&text, "\ncache hits %d, tokens saved %d, cost $%.4f, quality %s\n", t.hits, t.saved, t.cost, quality)
	fmt.Fprintf(&text, "time %s, %.0f requests a second\n", elapsed.Round(10*time.Millisecond), float64(done)/elapsed.Seconds())
	_, _ = io.WriteString(w, text.String())
}

// progress shows how far a batch is: a bar on a terminal, and on any a word
// where nobody seems to work.
type progress struct {
	stop chan struct{}
	done sync.WaitGroup
}

// silence is how long a batch may go without an answer before the user is told
// what that may mean.
const silence = 15 * time.Second

func startProgress(a *app, t *tally, size int64, nc *nats.Conn) *progress {
	p := &progress{stop: make(chan struct{})}
	columns, terminal := onTerminal(a.stderr)
	p.done.Go(func() {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		told := false
		for {
			select {
			case <-p.stop:
				if terminal {
					fmt.Fprint(a.stderr, "\r\x1b[K")
				}
				return
			case <-ticker.C:
			}
			if terminal {
				fmt.Fprint(a.stderr, "\r"+t.bar(size, columns-1)+"\x1b[K")
			}
			if !told && t.silent() {
				told = true
				fmt.Fprintf(a.stderr, "no answer for %s: is processor run at work on %s, with a provider that answers?\n", silence, redact(nc.ConnectedUrl()))
			}
		}
	})
	return p
}

func (p *progress) end() {
	close(p.stop)
	p.done.Wait()
}

func (t *tally) silent() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered+t.failed == 0 && time.Since(t.begin) > silence
}

// bar is one line for a terminal. How many lines the input has is estimated
// from the part that was read.
func (t *tally) bar(size int64, columns int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	done := t.answered + t.failed
	rate := float64(done) / time.Since(t.begin).Seconds()
	if size == 0 || t.bytes == 0 || t.lines == 0 {
		return clipLine(fmt.Sprintf("%d answered, %d failed, %.0f/s", t.answered, t.failed, rate), columns)
	}
	total := max(float64(t.lines)*float64(size)/float64(t.bytes), 1)
	share := min(float64(done)/total, 1)
	left := "-"
	if rate > 0 {
		left = time.Duration((total - float64(done)) / rate * float64(time.Second)).Round(time.Second).String()
	}
	text := fmt.Sprintf(" %3.0f%%  %d of %.0f, %d failed, %.0f/s, %s left", share*100, done, total, t.failed, rate, left)
	width := min(columns-len(text)-2, 40)
	if width < 10 {
		return clipLine(strings.TrimSpace(text), columns)
	}
	full := int(share * float64(width))
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]" + text
}

func clipLine(s string, columns int) string { return s[:min(len(s), max(columns, 0))] }
