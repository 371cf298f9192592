package selection

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	// firstAnswers is how many answers must have been scored before anything
	// but the first of the list is chosen.
	firstAnswers = 20
	// lower90 is the lower bound of a one-sided interval of 90%, in standard deviations.
	lower90 = 1.2816
)

// Candidate is a model that a request may go to.
type Candidate struct {
	Model     string
	Quality   float64 // as configured, 0..1; 0 is unknown
	PromptUSD float64 // what the request's prompt costs
	OutputUSD float64 // what a token of the answer costs
	MaxOutput int     // tokens that the answer may have; 0 is unknown
}

// Weights say what a model is chosen by. Only their ratios matter.
type Weights struct{ Quality, Speed, Cost float64 }

// Ask is what a model is wanted for.
type Ask struct {
	Route    string
	Features Features
	Weights  Weights
	// MaxCostUSD and MinQuality, where they are not 0, are bounds: the cheapest
	// model is taken that surely reaches the quality, and none that is expected
	// to cost more.
	MaxCostUSD, MinQuality float64
	// Explore is the share of requests that go to some other model in turn, so
	// that what changes is noticed. 0 to 1.
	Explore float64
	// Deterministic leaves out chance: the best by the estimates, always.
	Deterministic bool
	// Dice is what decides where chance does, in [0, 1).
	Dice float64
	// Left is the time until the deadline; 0 is no deadline.
	Left time.Duration
	Now  time.Time
}

// Choice is the model that was chosen, by its index, or -1 where none is allowed.
type Choice struct {
	Index       int
	Probability float64 // with which it was: exactly that of the dice
	Because     string
	Estimate    Estimate
}

// Choose takes one of the candidates, which stand in the order of the
// configuration. It takes less than 20 µs for up to 16 of them.
//
// The best by the weights is found by Thompson sampling: each model is chosen
// with the probability that it is the best, given what was measured. That
// probability is computed instead of sampled, so that it can be told.
func Choose(s Statistics, ask *Ask, candidates []Candidate) Choice {
	var scratch [16]Estimate
	estimates := scratch[:0]
	for i := range candidates {
		estimates = append(estimates, Expect(s, ask, &candidates[i]))
	}
	c := chooser{ask: ask, estimates: estimates}
	c.open()
	if len(c.allowed) == 0 {
		return c.nothing()
	}
	switch {
	case !c.anythingMeasured(s, candidates):
		return c.take(c.allowed[0], 1, "first: too little was measured yet")
	case ask.MinQuality > 0:
		return c.cheapest()
	}
	return c.best()
}

type chooser struct {
	ask       *Ask
	estimates []Estimate
	room      [16]int
	allowed   []int // the indices of those that the bounds leave
	late      bool  // none is expected to keep the deadline
}

// open finds out which candidates the bounds leave. Where no model is fast
// enough for the deadline, the fastest may still be.
func (c *chooser) open() {
	c.allowed = c.room[:0]
	fastest := -1
	for i := range c.estimates {
		e := &c.estimates[i]
		if c.ask.MaxCostUSD > 0 && e.CostUSD > c.ask.MaxCostUSD {
			continue
		}
		if fastest < 0 || e.Slow < c.estimates[fastest].Slow {
			fastest = i
		}
		if c.ask.Left <= 0 || e.Slow <= c.ask.Left {
			c.allowed = append(c.allowed, i)
		}
	}
	if len(c.allowed) == 0 && fastest >= 0 {
		c.allowed, c.late = append(c.allowed, fastest), true
	}
}

// nothing says which model would have cost least.
func (c *chooser) nothing() Choice {
	cheapest := Choice{Index: -1}
	for i, e := range c.estimates {
		if i == 0 || e.CostUSD < cheapest.Estimate.CostUSD {
			cheapest.Estimate = e
		}
	}
	return cheapest
}

func (c *chooser) anythingMeasured(s Statistics, candidates []Candidate) bool {
	answers := 0.0
	for i := range candidates {
		if c.estimates[i].Measured {
			f, _ := s.Figures(Everywhere, candidates[i].Model)
			answers += f.Answers
		}
	}
	return answers >= firstAnswers
}

func (c *chooser) take(i int, probability float64, because string) Choice {
	if c.late {
		because = "fastest: none is expected to keep the deadline; " + because
	}
	return Choice{Index: i, Probability: probability, Because: because, Estimate: c.estimates[i]}
}

// cheapest takes the cheapest model that surely is good enough; exploration
// tries the ones that cost less.
func (c *chooser) cheapest() Choice {
	byCost := slices.Clone(c.allowed)
	slices.SortStableFunc(byCost, func(a, b int) int { return cmp.Compare(c.estimates[a].CostUSD, c.estimates[b].CostUSD) })
	at, best := -1, 0
	for i, index := range byCost {
		e := &c.estimates[index]
		if e.Known && e.Quality-lower90*e.Deviation >= c.ask.MinQuality {
			at = i
			break
		}
		if e.Known && e.Quality > c.estimates[byCost[best]].Quality || !c.estimates[byCost[best]].Known {
			best = i
		}
	}
	reason := "cheapest with a quality of at least %.2f"
	if at < 0 {
		at, reason = best, "best: none surely has a quality of %.2f"
	}
	explore := c.ask.Explore
	if at == 0 || c.ask.Deterministic {
		explore = 0
	}
	if c.ask.Dice < explore {
		share := explore / float64(at)
		i := byCost[min(int(c.ask.Dice/share), at-1)]
		return c.take(i, share, "explored: cheaper, and may have become good enough")
	}
	i := byCost[at]
	return c.take(i, 1-explore, fmt.Sprintf(reason, c.ask.MinQuality)+": "+c.estimates[i].String())
}

// best takes the best by the weights.
func (c *chooser) best() Choice {
	var room [2 * 16]float64
	n := len(c.allowed)
	means, deviations := append(room[:0:16], make([]float64, n)...), append(room[16:16], make([]float64, n)...)
	c.utilities(means, deviations)
	top := 0
	for i := range means {
		if means[i] > means[top] {
			top = i
		}
	}
	if n == 1 || c.ask.Deterministic {
		return c.take(c.allowed[top], 1, "best: "+c.reason(c.allowed[top]))
	}
	c.drop(means, deviations)
	var probabilities [16]float64
	p := probabilitiesOfBest(append(probabilities[:0], make([]float64, n)...), means, deviations)
	explore := c.ask.Explore
	for i := range p {
		p[i] = (1-explore)*p[i] + explore/float64(n)
	}
	i := draw(p, c.ask.Dice)
	word := "best: "
	switch {
	case i != top && !c.estimates[c.allowed[i]].Known:
		word = "explored, for nothing is known of it: "
	case i != top && p[i] < 2*explore/float64(n):
		word = "explored: "
	case i != top:
		word = "may be the best: "
	}
	return c.take(c.allowed[i], p[i], word+c.reason(c.allowed[i]))
}

// drop leaves the most promising 16 in the draw, which takes time with the
// square of their number; the others are found by exploration.
func (c *chooser) drop(means, deviations []float64) {
	const most = 16
	if len(means) <= most {
		return
	}
	promise := make([]float64, len(means))
	for i := range means {
		promise[i] = means[i] + 2*deviations[i]
	}
	bar := slices.Sorted(slices.Values(promise))[len(means)-most]
	for i := range means {
		if promise[i] < bar {
			means[i] = math.Inf(-1)
		}
	}
}

// utilities gives what each allowed model is worth: quality, less its cost and
// its time, both relative to the dearest and the slowest of them. So a weight of
// cost of 0.1 beside one of quality of 1 means that the dearest must be better
// by 0.1 than one that costs nothing.
func (c *chooser) utilities(means, deviations []float64) {
	w := c.ask.Weights
	sum := w.Quality + w.Speed + w.Cost
	if sum <= 0 {
		w, sum = Weights{Quality: 1}, 1
	}
	var dearest float64
	var slowest, total time.Duration
	known := 0
	for _, i := range c.allowed {
		e := &c.estimates[i]
		dearest, slowest = max(dearest, e.CostUSD), max(slowest, e.Latency)
		if e.Latency > 0 {
			total += e.Latency
			known++
		}
	}
	for at, i := range c.allowed {
		e := &c.estimates[i]
		if !e.Known { // nothing speaks for it: only exploration takes it
			means[at], deviations[at] = math.Inf(-1), 0
			continue
		}
		u := w.Quality * e.Quality
		if dearest > 0 {
			u -= w.Cost * e.CostUSD / dearest
		}
		if slowest > 0 {
			latency := e.Latency
			if latency == 0 {
				latency = total / time.Duration(known)
			}
			u -= w.Speed * float64(latency) / float64(slowest)
		}
		means[at], deviations[at] = u/sum, w.Quality*e.Deviation/sum
	}
}

func (c *chooser) reason(i int) string {
	w := c.ask.Weights
	return fmt.Sprintf("%s; weights %.2g quality, %.2g speed, %.2g cost", c.estimates[i].String(), w.Quality, w.Speed, w.Cost)
}

func (e *Estimate) String() string {
	if !e.Known {
		return "unknown"
	}
	text := fmt.Sprintf("quality %.2f of %.0f answers", e.Quality, e.Answers)
	if e.CostUSD > 0 {
		text += fmt.Sprintf(", $%.2g", e.CostUSD)
	}
	if e.Latency >= time.Millisecond {
		text += fmt.Sprintf(", %v", round(e.Latency))
	}
	return text
}

func round(d time.Duration) time.Duration {
	if d >= time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}

// Better gives the candidate that is expected to answer best, of those that are
// expected to be better than all that were tried; -1 if there is none. A model
// of which nothing is known counts as better than one that costs no more.
func Better(s Statistics, ask *Ask, candidates []Candidate, tried []string) Choice {
	var bar Estimate
	for i := range candidates {
		if slices.Contains(tried, candidates[i].Model) {
			e := Expect(s, ask, &candidates[i])
			bar.Quality, bar.CostUSD = max(bar.Quality, e.Quality), max(bar.CostUSD, e.CostUSD)
		}
	}
	best := Choice{Index: -1}
	for i := range candidates {
		e := Expect(s, ask, &candidates[i])
		better := e.Quality > bar.Quality || !e.Known && e.CostUSD >= bar.CostUSD
		if !better || slices.Contains(tried, candidates[i].Model) || ask.MaxCostUSD > 0 && e.CostUSD > ask.MaxCostUSD {
			continue
		}
		if best.Index < 0 || e.Quality > best.Estimate.Quality {
			best = Choice{Index: i, Probability: 1, Estimate: e}
		}
	}
	if best.Index >= 0 {
		best.Because = "escalated, for what was tried did not do: " + best.Estimate.String()
	}
	return best
}
