package selection

import (
	"math"
	"time"
)

const (
	// priorAnswers is how many answers what was configured, or what is known of
	// a model on all routes, counts for on a route.
	priorAnswers = 8
	// guessAnswers is the same where no quality was configured: next to nothing.
	guessAnswers = 2
	// guessedOutput is how many tokens an answer has where none was seen.
	guessedOutput = 256
	// p95 is the 95th percentile, in standard deviations.
	p95 = 1.645
)

// Everywhere is the route of the figures of a model over all routes.
const Everywhere = ""

// Statistics is where figures come from. It must be quick and safe for
// concurrent use.
type Statistics interface {
	// Figures gives what is known of a model on a route, or Everywhere; false
	// where that is nothing.
	Figures(route, model string) (Figures, bool)
	// Shift gives that of the model's Skill for a prompt.
	Shift(model string, f Features) float64
}

// Book takes observations in, besides.
type Book interface {
	Statistics
	// Update changes the figures of a model on a route.
	Update(route, model string, change func(*Figures))
	// Learn teaches the model's Skill.
	Learn(model string, f Features, usual, score float64)
}

// Score takes in the score of a model's answer, 0 to 1, to a prompt with these
// features on a route. prior is the model's configured quality, 0 for none.
func Score(b Book, now time.Time, route, model string, prior float64, f Features, score float64) {
	usual := estimateQuality(b, now, route, model, prior)
	b.Learn(model, f, usual.mean, score)
	for _, at := range []string{route, Everywhere} {
		b.Update(at, model, func(f *Figures) { f.Scored(now, score) })
	}
}

// Record takes in how a call to a model went.
func Record(b Book, now time.Time, route, model string, c Call) {
	for _, at := range []string{route, Everywhere} {
		b.Update(at, model, func(f *Figures) { f.Called(now, c) })
	}
}

// Estimate is what is expected of a model's answer to one request.
type Estimate struct {
	Quality   float64 // of an answer, failed calls counted as 0
	Deviation float64 // how uncertain that is
	Answers   float64 // that it rests on, on the route; older ones count less
	Known     bool    // whether anything was measured or configured
	Measured  bool    // whether anything was measured
	CostUSD   float64
	Latency   time.Duration // the median; 0 is unknown
	Slow      time.Duration // the 95th percentile; 0 is unknown
}

// believed is a mean with its weight, in answers.
type believed struct {
	mean, weight, answers float64
	measured              bool
}

// estimateQuality sets a route's figures on the model's own, and those on what
// was configured: where little was seen the level above decides.
func estimateQuality(s Statistics, now time.Time, route, model string, prior float64) believed {
	b := believed{mean: prior, weight: priorAnswers}
	if prior == 0 {
		b = believed{mean: 0.5, weight: guessAnswers}
	}
	levels := []string{Everywhere, route}
	if route == Everywhere {
		levels = levels[:1]
	}
	for _, at := range levels {
		f, ok := s.Figures(at, model)
		if !ok {
			continue
		}
		f.touch(now)
		n, sum := f.Quality.current()
		above := min(b.weight, priorAnswers)
		b.mean, b.weight = (sum+above*b.mean)/(n+above), n+above
		b.answers, b.measured = n, b.measured || f.Answers > 0
	}
	return b
}

// Expect gives what is expected of a candidate.
func Expect(s Statistics, ask *Ask, c *Candidate) Estimate {
	b := estimateQuality(s, ask.Now, ask.Route, c.Model, c.Quality)
	e := Estimate{Quality: b.mean, Answers: b.answers, Known: b.measured || c.Quality > 0, Measured: b.measured}
	if shift := s.Shift(c.Model, ask.Features); shift != 0 {
		e.Quality = logistic(logit(e.Quality) + shift)
	}
	e.Deviation = math.Sqrt(e.Quality * (1 - e.Quality) / (b.weight + 1))
	output := float64(guessedOutput)
	for _, at := range []string{ask.Route, Everywhere} {
		f, ok := s.Figures(at, c.Model)
		if !ok || f.Calls == 0 {
			continue
		}
		f.touch(ask.Now)
		n, succeeded := f.Success.current()
		e.Quality *= (succeeded + priorAnswers) / (n + priorAnswers)
		e.Latency = seconds(f.Latency.at(0))
		e.Slow = seconds(f.Latency.at(p95))
		if tokens := f.Output.at(0); tokens > 0 {
			output = tokens
		}
		break
	}
	if c.MaxOutput > 0 {
		output = min(output, float64(c.MaxOutput))
	}
	e.CostUSD = c.PromptUSD + output*c.OutputUSD
	return e
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e6) * float64(time.Second))
}
