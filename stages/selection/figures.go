// Package selection chooses a model for a request by what was measured: how
// good, how fast and how dear each one is on requests of this kind. It is pure:
// who keeps the figures, and how replicas share them, is not its concern.
package selection

import (
	"errors"
	"math"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	// slowAnswers is after how many answers an older one counts half. 500 keeps
	// the noise of a mean near 0.015.
	slowAnswers = 500
	// quickAnswers is the same for the short memory that notices a change.
	quickAnswers = 20
	// halfLife is after what time an observation counts half, however few came since.
	halfLife = 24 * time.Hour
	// changed is by how many standard deviations the short memory must differ
	// from the long one to be believed alone.
	changed = 3
)

// Mean is a mean of numbers in 0..1 that forgets: a long memory, and a short
// one that takes over when the two disagree, as after a model has turned bad.
type Mean struct {
	N      float64 `json:"n,omitzero"` // weights that are left
	Sum    float64 `json:"s,omitzero"`
	Quick  float64 `json:"qn,omitzero"`
	QuickS float64 `json:"qs,omitzero"`
}

func (m *Mean) observe(value float64) {
	m.merge(&Mean{1, value, 1, value}, 1)
}

// merge takes in newer observations, of which there were so many.
func (m *Mean) merge(newer *Mean, count float64) {
	slow, quick := math.Exp2(-count/slowAnswers), math.Exp2(-count/quickAnswers)
	m.N, m.Sum = m.N*slow+newer.N, m.Sum*slow+newer.Sum
	m.Quick, m.QuickS = m.Quick*quick+newer.Quick, m.QuickS*quick+newer.QuickS
}

func (m *Mean) fade(by float64) {
	m.N, m.Sum, m.Quick, m.QuickS = m.N*by, m.Sum*by, m.Quick*by, m.QuickS*by
}

// current gives the weight and the sum of the memory that holds now.
func (m *Mean) current() (n, sum float64) {
	if m.Quick < 4 || m.N <= m.Quick {
		return m.N, m.Sum
	}
	long, short := m.Sum/m.N, m.QuickS/m.Quick
	// The spread is smoothed, for a model that never failed has none.
	smooth := (m.Sum + 0.5) / (m.N + 1)
	if math.Abs(long-short) > changed*math.Sqrt(smooth*(1-smooth)/m.Quick) {
		return m.Quick, m.QuickS
	}
	return m.N, m.Sum
}

// Moments are those of a number's logarithm, so that one call that hung does
// not stand for all.
type Moments struct {
	N   float64 `json:"n,omitzero"`
	Sum float64 `json:"s,omitzero"`
	Sqr float64 `json:"q,omitzero"`
}

func (m *Moments) observe(value float64) {
	if value > 0 {
		log := math.Log(value)
		m.merge(&Moments{1, log, log * log}, 1)
	}
}

func (m *Moments) merge(newer *Moments, count float64) {
	slow := math.Exp2(-count / slowAnswers)
	m.N, m.Sum, m.Sqr = m.N*slow+newer.N, m.Sum*slow+newer.Sum, m.Sqr*slow+newer.Sqr
}

func (m *Moments) fade(by float64) { m.N, m.Sum, m.Sqr = m.N*by, m.Sum*by, m.Sqr*by }

// at gives the value so many standard deviations above the median; 0 where
// nothing is known.
func (m *Moments) at(deviations float64) float64 {
	if m.N < 1e-6 {
		return 0
	}
	mean := m.Sum / m.N
	return math.Exp(mean + deviations*math.Sqrt(max(m.Sqr/m.N-mean*mean, 0)))
}

// Figures are what was measured of one model, on one route or on all. They are
// sums, so that what several processes have observed adds up in any order.
type Figures struct {
	At      int64   `json:"at"`                // milliseconds since 1970 of the newest observation
	Answers float64 `json:"answers,omitzero"`  // scores that were observed ever
	Calls   float64 `json:"calls,omitzero"`    // calls that were observed ever
	Quality Mean    `json:"quality,omitzero"`  // of scores
	Success Mean    `json:"success,omitzero"`  // of calls: 1 or 0
	Latency Moments `json:"latency,omitzero"`  // of calls that succeeded, in seconds
	First   Moments `json:"first,omitzero"`    // to the first chunk, in seconds
	Output  Moments `json:"output,omitzero"`   // tokens of the answer
	CostUSD Moments `json:"cost_usd,omitzero"` // of a call
}

// Scored takes in the score of an answer, 0 to 1.
func (f *Figures) Scored(now time.Time, score float64) {
	f.touch(now)
	f.Answers++
	f.Quality.observe(min(max(score, 0), 1))
}

// Call is how a call went.
type Call struct {
	Failed  bool // through the provider's fault
	Took    time.Duration
	First   time.Duration // to the first chunk; 0 is unknown
	Output  int           // tokens of the answer
	CostUSD float64
}

// Called takes in how a call went.
func (f *Figures) Called(now time.Time, c Call) {
	f.touch(now)
	f.Calls++
	if c.Failed {
		f.Success.observe(0)
		return
	}
	f.Success.observe(1)
	f.Latency.observe(c.Took.Seconds())
	f.First.observe(c.First.Seconds())
	f.Output.observe(float64(c.Output))
	f.CostUSD.observe(c.CostUSD)
}

// Merge takes in what was observed elsewhere, or later.
func (f *Figures) Merge(other *Figures) {
	o := *other
	if o.At > f.At {
		f.touch(time.UnixMilli(o.At))
	} else {
		o.touch(time.UnixMilli(f.At))
	}
	f.Quality.merge(&o.Quality, o.Answers)
	f.Success.merge(&o.Success, o.Calls)
	for _, m := range []struct{ into, from *Moments }{
		{&f.Latency, &o.Latency}, {&f.First, &o.First}, {&f.Output, &o.Output}, {&f.CostUSD, &o.CostUSD},
	} {
		m.into.merge(m.from, o.Calls)
	}
	f.Answers += o.Answers
	f.Calls += o.Calls
}

// touch lets what is known fade until now.
func (f *Figures) touch(now time.Time) {
	at := now.UnixMilli()
	if f.At != 0 && at > f.At {
		by := math.Exp2(-float64(at-f.At) / float64(halfLife.Milliseconds()))
		f.Quality.fade(by)
		f.Success.fade(by)
		for _, m := range []*Moments{&f.Latency, &f.First, &f.Output, &f.CostUSD} {
			m.fade(by)
		}
	}
	f.At = max(f.At, at)
}

var errFigures = errors.New("a model's figures are damaged")

// MarshalBinary writes the figures as JSON, for people to read.
func (f *Figures) MarshalBinary() ([]byte, error) { return json.Marshal(f) }

// UnmarshalBinary reads what MarshalBinary wrote. On an error f is as before.
func (f *Figures) UnmarshalBinary(data []byte) error {
	var read Figures
	if err := json.Unmarshal(data, &read); err != nil {
		return errors.Join(errFigures, err)
	}
	for _, m := range []*Mean{&read.Quality, &read.Success} {
		if !within(m.N, 0, 1e9) || !within(m.Sum, 0, m.N) || !within(m.Quick, 0, 1e9) || !within(m.QuickS, 0, m.Quick) {
			return errFigures
		}
	}
	for _, m := range []*Moments{&read.Latency, &read.First, &read.Output, &read.CostUSD} {
		if !within(m.N, 0, 1e9) || !within(m.Sum, -1e12, 1e12) || !within(m.Sqr, 0, 1e15) {
			return errFigures
		}
	}
	if !within(read.Answers, 0, 1e15) || !within(read.Calls, 0, 1e15) || !within(float64(read.At), 0, 1e14) {
		return errFigures
	}
	*f = read
	return nil
}

// within is false for what is no number, too. Sums may be off by rounding.
func within(x, least, most float64) bool { return x >= least && x <= most*(1+1e-9)+1e-9 }

// Summary is figures as people read them.
type Summary struct {
	Quality, Low, High float64 // the mean score, and a 90% interval of it
	Success            float64 // the share of calls
	Latency, Slow      time.Duration
	First              time.Duration
	Output             float64 // tokens
	CostUSD            float64
}

// Summary gives what the figures say at a time.
func (f Figures) Summary(now time.Time) Summary {
	f.touch(now)
	s := Summary{
		Success: 1, Latency: seconds(f.Latency.at(0)), Slow: seconds(f.Latency.at(p95)), First: seconds(f.First.at(0)),
		Output: f.Output.at(0), CostUSD: f.CostUSD.at(0),
	}
	if n, sum := f.Quality.current(); n > 0 {
		smooth := (sum + 0.5) / (n + 1) // so that an interval of few answers is not a point
		half := p95 * math.Sqrt(smooth*(1-smooth)/(n+1))
		s.Quality = sum / n
		s.Low, s.High = max(s.Quality-half, 0), min(s.Quality+half, 1)
	}
	if n, sum := f.Success.current(); n > 0 {
		s.Success = sum / n
	}
	return s
}
