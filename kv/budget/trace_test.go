package budget

import (
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// By hand, in 75 seconds: PROCESSOR_DATA=... go test ./kv/budget -run Trace -budget.plot trace.svg -v
var plot = flag.String("budget.plot", "", "the file that TestTrace draws its plot into; empty skips the test")

const (
	traceSpeed     = 50
	traceAnswer    = 1000 // the bound of answers, in tokens
	traceMinute    = 600_000
	traceDay       = 22_000_000
	millisPerToken = 20 // how fast the model that is simulated writes
)

// arrival is one request of the trace.
type arrival struct {
	at             time.Time
	prompt, answer int64
}

// sample is what was used at a moment of the trace.
type sample struct {
	at                         time.Duration
	minute, minuteOpen         int64
	day, dayOpen               int64
	waiting, deferred, refused int
}

// TestTrace replays an hour of real traffic at 50 times its speed against a
// limit a minute and one a day. What the minute has no room for waits for the
// next; what the day has none for is refused.
func TestTrace(t *testing.T) {
	dir := os.Getenv("PROCESSOR_DATA")
	if *plot == "" || dir == "" {
		t.Skip("replays a trace by hand: give -budget.plot and PROCESSOR_DATA")
	}
	arrivals := readTrace(t, filepath.Join(dir, "azure", "AzureLLMInferenceTrace_conv.csv"))
	minute, day := daily(traceDay)[0], daily(traceDay)[0]
	day.MinuteLimit, minute.DailyLimit = 0, 0
	minute.MinuteLimit, minute.OnExhausted = traceMinute, Defer
	began, start := time.Now(), arrivals[0].at.Truncate(time.Minute)
	now := func() time.Time { return start.Add(traceSpeed * time.Since(began)) }
	r := &replay{t: t, arrivals: arrivals, start: start, now: now, done: make(chan Settlement, len(arrivals)),
		ledger: open(t, connect(t, startServer(t)), Options{Budgets: []Config{minute, day}, Now: now, CallTimeout: time.Hour})}
	r.run()
	last := r.samples[len(r.samples)-1]
	require.Equal(t, r.billed, last.day)
	require.LessOrEqual(t, r.billed, int64(traceDay))
	t.Logf("%d requests: %d answered, %d refused, %d waited for a minute; billed %d of %d (%.2f%%)", len(arrivals), r.answered, last.refused,
		r.waited, r.billed, traceDay, 100*float64(r.billed)/traceDay)
	require.NoError(t, os.WriteFile(*plot, []byte(draw(r.samples)), 0o644))
}

type replay struct {
	t        *testing.T
	arrivals []arrival
	start    time.Time
	now      func() time.Time
	ledger   *Ledger
	done     chan Settlement

	waiting          []Request // for what is open
	deferred         []Request // until a minute ends
	until            time.Time
	open             int
	refused, waited  int
	answered, billed int64
	samples          []sample
}

func (r *replay) run() {
	next := 0
	for next < len(r.arrivals) || r.open+len(r.waiting)+len(r.deferred) > 0 {
		r.settle()
		now := r.now()
		if !now.Before(r.until) {
			r.waiting, r.deferred = append(r.deferred, r.waiting...), nil
		}
		for ; next < len(r.arrivals) && !r.arrivals[next].at.After(now); next++ {
			r.waiting = append(r.waiting, Request{Tenant: "acme", ID: fmt.Sprint("r", next), Call: strconv.Itoa(next), Model: "m",
				Estimate: Amount{Tokens: r.arrivals[next].prompt + traceAnswer}})
		}
		r.reserve()
		if n := len(r.samples); n == 0 || now.Sub(r.start)-r.samples[n-1].at >= 10*time.Second {
			r.sample(now)
		}
		time.Sleep(2 * time.Millisecond) // what arrives in that time is one slice
	}
	r.sample(r.now())
}

func (r *replay) reserve() {
	slice := r.waiting
	r.waiting = nil
	for i, o := range r.ledger.Reserve(r.t.Context(), slice) {
		request := slice[i]
		switch o.State {
		case Granted:
			r.open++
			r.call(request)
		case Wait:
			r.waiting = append(r.waiting, request)
		case Denied:
			if o.Denial.Action == Defer {
				r.waited++
				r.until = o.Denial.ResetsAt
				r.deferred = append(r.deferred, request)
				continue
			}
			r.refused++
		default:
			require.NoError(r.t, o.Err)
		}
	}
}

// call has the simulated model answer after the time that its tokens take.
func (r *replay) call(request Request) {
	i, err := strconv.Atoi(request.Call)
	require.NoError(r.t, err)
	a := r.arrivals[i]
	time.AfterFunc(time.Duration(a.answer)*millisPerToken*time.Millisecond/traceSpeed, func() {
		r.done <- Settlement{Tenant: "acme", ID: request.ID, Call: request.Call, Billed: Amount{Tokens: a.prompt + a.answer}}
	})
}

func (r *replay) settle() {
	var slice []Settlement
	for len(r.done) > 0 {
		s := <-r.done
		r.open--
		r.answered++
		r.billed += s.Billed.Tokens
		slice = append(slice, s)
	}
	require.NoError(r.t, r.ledger.Settle(r.t.Context(), slice))
}

func (r *replay) sample(now time.Time) {
	s := sample{at: now.Sub(r.start), waiting: len(r.waiting), deferred: len(r.deferred), refused: r.refused}
	for _, status := range r.ledger.List("acme") {
		require.LessOrEqual(r.t, status.Settled.N+status.Open.N, status.Limit.N)
		if status.Window == Minute {
			s.minute, s.minuteOpen = status.Settled.N, status.Open.N
		} else {
			s.day, s.dayOpen = status.Settled.N, status.Open.N
		}
	}
	r.samples = append(r.samples, s)
}

func readTrace(t *testing.T, path string) (arrivals []arrival) {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	rows := csv.NewReader(f)
	_, err = rows.Read() // the heading
	require.NoError(t, err)
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return arrivals
		}
		require.NoError(t, err)
		var a arrival
		a.at, err = time.Parse("2006-01-02 15:04:05", row[0])
		require.NoError(t, err)
		a.prompt, err = strconv.ParseInt(row[1], 10, 64)
		require.NoError(t, err)
		a.answer, err = strconv.ParseInt(row[2], 10, 64)
		require.NoError(t, err)
		a.answer = min(a.answer, traceAnswer)
		arrivals = append(arrivals, a)
	}
}

// draw makes an SVG of what was used against the limits.
func draw(samples []sample) string {
	var b strings.Builder
	b.WriteString(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 460" font-family="sans-serif" font-size="12">
<style>path{fill:none;stroke-width:1.2}.settled{stroke:#1f77b4}.used{stroke:#ff9f40}.limit{stroke:#c0392b;stroke-dasharray:6 4}text{fill:#555}</style>
<rect width="860" height="460" fill="#fff"/>
`)
	panel(&b, samples, 30, "tokens in the minute", traceMinute, func(s sample) (int64, int64) { return s.minute, s.minuteOpen })
	panel(&b, samples, 250, "tokens in the day", traceDay, func(s sample) (int64, int64) { return s.day, s.dayOpen })
	b.WriteString(`<text x="70" y="452">minutes of the trace; blue: settled, orange: settled and open, red: the limit</text>
</svg>
`)
	return b.String()
}

func panel(b *strings.Builder, samples []sample, top int, title string, limit int64, of func(sample) (settled, open int64)) {
	const left, width, height = 70, 770, 160
	end := samples[len(samples)-1].at
	point := func(at time.Duration, n int64) string {
		return fmt.Sprintf("%.1f %.1f", left+float64(width)*float64(at)/float64(end), float64(top+height)-float64(height)*float64(n)/float64(limit)/1.05)
	}
	var settled, used strings.Builder
	for i, s := range samples {
		command := "L"
		if i == 0 {
			command = "M"
		}
		n, open := of(s)
		settled.WriteString(command + point(s.at, n))
		used.WriteString(command + point(s.at, n+open))
	}
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\">%s, limit %d</text>\n", left, top-6, title, limit)
	fmt.Fprintf(b, "<path stroke=\"#999\" d=\"M%s L%s L%s\"/>\n", point(0, limit), point(0, 0), point(end, 0))
	fmt.Fprintf(b, "<path class=\"limit\" d=\"M%s L%s\"/>\n<path class=\"used\" d=\"%s\"/>\n<path class=\"settled\" d=\"%s\"/>\n",
		point(0, limit), point(end, limit), used.String(), settled.String())
	for m := time.Duration(0); m <= end; m += 10 * time.Minute {
		x, _, _ := strings.Cut(point(m, 0), " ")
		fmt.Fprintf(b, "<text x=\"%s\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", x, top+height+15, int(m.Minutes()))
	}
}
