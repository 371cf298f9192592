package evaluate

import "fmt"

// Bounds are what a gate lets pass. Nil sets no bound.
type Bounds struct {
	QualityDrop *float64 // of the metric that the verdict on quality rests on
	FailureRise *float64 // of the share of failures
	CostRise    *float64 // relative to the baseline
	TokenRise   *float64 // of prompts and answers, relative
	LatencyRise *float64 // of calls, relative
	// Strict goes by the bad end of the interval: a bound holds only where a
	// change past it is ruled out.
	Strict bool
}

// Check lists the bounds that a report is past. A bound on what the report does
// not hold is one of them: nobody knows.
func (b Bounds) Check(r *Report) []string {
	var past []string
	check := func(what string, bound *float64, change float64, known bool) {
		switch {
		case bound == nil:
		case !known:
			past = append(past, fmt.Sprintf("%s: the report says nothing of it", what))
		case change > *bound+1e-12:
			past = append(past, fmt.Sprintf("%s: %.4g is past the bound of %.4g", what, change, *bound))
		}
	}
	quality, known := r.Metric(r.Verdict.RestsOn)
	drop := -quality.Difference
	if b.Strict {
		drop = -quality.Low
	}
	check("quality drop ("+r.Verdict.RestsOn+")", b.QualityDrop, drop, known)
	failed, known := r.Metric(Failed)
	check("failure rise", b.FailureRise, b.absolute(failed), known)
	check2 := func(what string, bound *float64, names ...string) {
		change, known := b.relative(r, names...)
		check(what, bound, change, known)
	}
	check2("cost rise", b.CostRise, Cost)
	check2("token rise", b.TokenRise, TokensIn, TokensOut)
	check2("latency rise", b.LatencyRise, Latency)
	return past
}

func (b Bounds) absolute(m Result) float64 {
	if b.Strict {
		return m.High
	}
	return m.Difference
}

// relative gives the change of the sum of metrics as a share of the baseline.
func (b Bounds) relative(r *Report, names ...string) (change float64, known bool) {
	baseline := 0.0
	for _, name := range names {
		m, ok := r.Metric(name)
		if !ok {
			return 0, false
		}
		baseline += m.Baseline
		change += b.absolute(m)
	}
	if baseline == 0 {
		if change > 0 {
			return 1e9, true // from nothing to something is past any bound
		}
		return 0, true
	}
	return change / baseline, true
}
