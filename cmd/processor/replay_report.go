package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/schemas"
)

// maxReferences bounds the expected answers that are held in memory.
const maxReferences = 1_000_000

func readReferences(a *app, file string) (map[string]evaluate.Reference, error) {
	if file == "" {
		return nil, nil
	}
	in, err := a.openSource(file)
	if err != nil {
		return nil, err
	}
	defer in.reader.Close()
	references := map[string]evaluate.Reference{}
	err = in.each(func(e entry) error {
		r, err := evaluate.ParseReference(e.text)
		if err != nil {
			return wrongUse(fmt.Errorf("%s:%d: %w", in.name, e.number, err), `{"id": "r-1", "expected": "up", "match": "exact"}`)
		}
		if len(references) >= maxReferences {
			return hint(fmt.Errorf("%s holds more than %d expected answers", in.name, maxReferences), "split it")
		}
		references[r.ID] = r
		return nil
	})
	return references, err
}

// pairs calls f with each request of the tape and what became of it under both
// configurations, in order; paired is false without a baseline's outcome.
func (j *replayJob) pairs(f func(index int, x *record, p *evaluate.Pair, n *note, paired bool) error) error {
	candidates, err := j.outcomes("candidate")
	if err != nil {
		return err
	}
	defer candidates.close()
	baselines := (*outcomes)(nil)
	if j.cmd.Baseline != "recorded" {
		if baselines, err = j.outcomes("baseline"); err != nil {
			return err
		}
		defer baselines.close()
	}
	return j.tape.each(0, func(index int, _ int64, x *record) error {
		candidate, err := candidates.of(index)
		if err != nil {
			return err
		}
		p, n, paired := j.pairOf(x), candidate.Note, true
		p.Candidate = candidate.Outcome
		if baselines == nil {
			stored, err := readStored(x.Response)
			if paired = len(x.Response) > 0 && err == nil; paired {
				p.Baseline = stored.outcome(x.Response)
			}
		} else {
			baseline, err := baselines.of(index)
			if err != nil {
				return err
			}
			p.Baseline = baseline.Outcome
			n = n.and(baseline.Note)
		}
		j.judgeByReference(x, p)
		return f(index, x, p, &n, paired)
	})
}

func (j *replayJob) pairOf(x *record) *evaluate.Pair {
	p := &evaluate.Pair{ID: x.ID, Tenant: x.Tenant, Model: "(unreadable)", Prompt: promptText(x.body()), Rating: x.rating()}
	sum := sha256.Sum256(x.body())
	p.Body = string(sum[:16])
	if parsed, err := schemas.Parse(x.body()); err == nil {
		p.Model, p.Route = parsed.Model, parsed.Options.Route
	}
	p.Tokens = schemas.ReadUsage(x.Response).PromptTokens
	if p.Tokens == 0 {
		p.Tokens = len(x.body()) / 4 // about
	}
	return p
}

// judgeByReference compares both answers with the expected one, where there is one.
func (j *replayJob) judgeByReference(x *record, p *evaluate.Pair) {
	reference, ok := j.references[x.ID]
	if !ok {
		ideal := x.ideal()
		if ideal == nil {
			return
		}
		var err error
		if reference, err = evaluate.NewReference(x.ID, "", ideal); err != nil {
			return
		}
	}
	for _, o := range []*evaluate.Outcome{&p.Baseline, &p.Candidate} {
		right := o.Error == "" && reference.Fits(o.Text)
		o.Correct = &right
	}
}

// outcomes reads the results of a side in order: those of the run that cost
// nothing, but where another had to follow.
type outcomes struct {
	dry, paid    *resultReader
	nextD, nextP *result
	errD, errP   error
}

func (j *replayJob) outcomes(side string) (*outcomes, error) {
	o := &outcomes{}
	var err error
	if o.dry, err = openResultReader(j.state.results(side + ".dry")); err != nil {
		return nil, err
	}
	if o.paid, err = openResultReader(j.state.results(side)); err != nil {
		o.close()
		return nil, err
	}
	o.nextD, o.errD = o.dry.next()
	o.nextP, o.errP = o.paid.next()
	return o, nil
}

func (o *outcomes) close() {
	o.dry.close()
	o.paid.close()
}

// of gives the result of a request; they must be asked for in order.
func (o *outcomes) of(index int) (*result, error) {
	var found *result
	if o.nextD != nil && o.nextD.Index == index {
		found = o.nextD
		o.nextD, o.errD = o.dry.next()
	}
	if o.nextP != nil && o.nextP.Index == index {
		if found != nil { // what was forecast is told beside what was paid
			o.nextP.Note.Forecast = found.Note.Forecast
		}
		found = o.nextP
		o.nextP, o.errP = o.paid.next()
	}
	if err := errors.Join(o.errD, o.errP); err != nil {
		return nil, err
	}
	if found == nil {
		return nil, fmt.Errorf("the results have no request %d: begin anew with --fresh", index)
	}
	return found, nil
}

// report makes the report of what was found, and writes it wherever it is wanted.
func (j *replayJob) report() error {
	preferences, judge, err := j.preferences()
	if err != nil {
		return err
	}
	b := evaluate.NewBuilder(evaluate.Options{Seed: j.cmd.Seed})
	spending := evaluate.Spending{Forecast: j.state.memo.Forecast, Paid: judge.Paid, Simulated: judge.Simulated, Judge: judge.Paid.Calls + judge.Simulated}
	unpaired := 0
	err = j.pairs(func(index int, _ *record, p *evaluate.Pair, n *note, paired bool) error {
		spending.Paid = spending.Paid.Add(n.Paid)
		spending.Cassette += n.Cassette
		spending.Simulated += n.Simulated
		if !paired {
			unpaired++
			return nil
		}
		if preference, ok := preferences[index]; ok {
			p.Preference = &preference
		}
		b.Add(*p)
		return nil
	})
	if err != nil {
		return err
	}
	r := b.Report(j.about(unpaired), spending)
	return j.write(&r)
}

func (j *replayJob) about(unpaired int) evaluate.Replay {
	memo, c := &j.state.memo, j.cmd
	about := evaluate.Replay{
		Candidate: filepath.Base(c.Candidate), Baseline: filepath.Base(c.Baseline),
		From: stamp(memo.From), To: stamp(memo.To), Filter: filterText(&c.replaySelection), Requests: memo.Requests, Unpaired: unpaired,
		Speed: c.Speed, Cassette: c.Cassette.on,
	}
	h := sha256.New()
	shown, err := shownAll(j.candidate, j.baseline)
	if err == nil {
		fmt.Fprintf(h, "%s %q %q %d", memo.Digest, shown, about.Filter, c.Seed)
		about.Digest = hex.EncodeToString(h.Sum(nil)[:16])
	}
	return about
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func filterText(s *replaySelection) string {
	var parts []string
	for _, p := range []struct{ name, value string }{
		{"since", s.Since}, {"until", s.Until}, {"tenant", s.Tenant}, {"model", s.Model}, {"route", s.Route}, {"sample", s.Sample},
	} {
		if p.value != "" {
			parts = append(parts, p.name+" "+p.value)
		}
	}
	if s.Limit > 0 {
		parts = append(parts, fmt.Sprint("limit ", s.Limit))
	}
	return strings.Join(parts, ", ")
}

func (j *replayJob) write(r *evaluate.Report) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the report: %w", err)
	}
	text = append(text, '\n')
	if path := j.cmd.ReportJSON; path != "" {
		if err := writeWhole(path, func(o *output) error { return o.write(text) }); err != nil {
			return err
		}
	}
	if path := j.cmd.Output; path != "" {
		page, err := r.HTML()
		if err != nil {
			return err
		}
		if err := writeWhole(path, func(o *output) error { return o.write(page) }); err != nil {
			return err
		}
	}
	if j.cmd.JSON {
		_, err := j.app.stdout.Write(text)
		return err
	}
	return r.WriteText(j.app.stdout)
}

// writeWhole writes a file that has its name once it is whole.
func writeWhole(path string, write func(*output) error) error {
	o, err := openOutput(path, nil)
	if err != nil {
		return err
	}
	if err := write(o); err != nil {
		return errors.Join(err, o.abandon())
	}
	return o.commit()
}

// replayTally counts how far a replay is. It is safe for concurrent use.
type replayTally struct {
	mu    sync.Mutex
	name  string
	total int
	done  int
	fails int
	began time.Time
	first int // done before this run
}

func newReplayTally() *replayTally { return &replayTally{} }

// begin begins to count a side of which some requests were done before.
func (t *replayTally) begin(name string, total, done int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.name, t.total, t.done, t.first, t.fails, t.began = sideName(name), total, done, done, 0, time.Now()
}

func (t *replayTally) add(r *result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done++
	if r.Outcome.Error != "" {
		t.fails++
	}
}

// show draws a bar on a terminal until stop is called.
func (t *replayTally) show(a *app) (stop func()) {
	columns, terminal := onTerminal(a.stderr)
	if !terminal {
		return func() {}
	}
	end := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-end:
				fmt.Fprint(a.stderr, "\r\x1b[K")
				return
			case <-ticker.C:
				fmt.Fprint(a.stderr, "\r"+t.bar(columns-1)+"\x1b[K")
			}
		}
	})
	return func() { close(end); running.Wait() }
}

func (t *replayTally) bar(columns int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total == 0 {
		return clipLine("recording what is to be replayed", columns)
	}
	rate := float64(t.done-t.first) / max(time.Since(t.began).Seconds(), 0.001)
	text := fmt.Sprintf(" %3d%%  %s: %d of %d, %d failed, %.0f/s", 100*t.done/t.total, t.name, t.done, t.total, t.fails, rate)
	width := min(columns-len(text)-2, 40)
	if width < 10 {
		return clipLine(strings.TrimSpace(text), columns)
	}
	full := width * t.done / t.total
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]" + text
}
