package compress

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// plan is which segments of an outline stay.
type plan struct {
	keep []bool
	// kept is an estimate of the tokens that stay, with the marks for what is
	// missing. Tokens join across borders, so only counting tells exactly.
	kept int
	// preservation is the estimated preservation of what stays.
	preservation float64
}

// markTokens is the price of the mark for what was left out.
const markTokens = 1

// goal is what a choice has to reach.
type goal struct {
	// budget is how many tokens may stay.
	budget int
	// floor is the preservation that must be reached, even beyond the budget.
	floor float64
	// always are segments that stay whatever they cost, rescue such that stay
	// if they fit.
	always, rescue []int
}

// worth is how much each segment adds to the preservation: shares that sum up
// to 1, and the order in which segments are taken.
type worth struct {
	share       []float64
	order       []int
	calibration calibration
}

// calibration turns the sum of the shares into a preservation: what is missing
// counts by the power missing, and what is left then by the power kept.
type calibration struct{ missing, kept float64 }

// choose takes segments in their order while they fit in the budget, and beyond
// it until the floor is reached. That is the same as removing the least
// relevant until the budget is met, but for removals that the floor forbids.
func choose(o *outline, w worth, g goal) plan {
	p := plan{keep: make([]bool, len(o.segments))}
	sum := 0.0
	take := func(i int) {
		if !p.keep[i] {
			p.kept += p.price(o, i)
			p.take(o, i)
			sum += w.share[i]
		}
	}
	for _, i := range g.always {
		take(i)
	}
	for _, i := range g.rescue {
		if p.kept+p.price(o, i) <= g.budget {
			take(i)
		}
	}
	for _, i := range w.order {
		if w.preservation(sum) < g.floor || !p.keep[i] && p.kept+p.price(o, i) <= g.budget {
			take(i)
		}
	}
	p.preservation = w.preservation(sum)
	return p
}

func (w worth) preservation(sum float64) float64 {
	// The shares are rounded, so their sum may miss 1 when everything stays.
	if sum > 1-1e-9 {
		return 1
	}
	c := w.calibration
	return math.Pow(1-math.Pow(1-max(0, sum), c.missing), c.kept)
}

// relevancePower lets the best segments decide, since that predicts best whether
// an answer survives.
const relevancePower = 4

// The calibrations put 98 of 100 answers at 0.9. Prose without titles needs a
// stricter one: nothing says which of its sentences speak of the matter, and an
// answer that shares no word with the question may stand in any of them.
var (
	counted  = calibration{1, 1}
	titled   = calibration{1, 6}
	untitled = calibration{0.6, 8}
)

// worthOf gives the worth of segments by their relevance.
func worthOf(o *outline, score []float64) worth {
	share := make([]float64, len(score))
	total := 0.0
	for i, s := range score {
		share[i] = math.Pow(s, relevancePower)
		total += share[i]
	}
	scale(share, total)
	c := titled
	if o.plainProse() {
		c = untitled
	}
	return worth{share, byScore(o, score), c}
}

// plainProse reports whether most segments are sentences or items of documents
// whose titles say nothing. Dialogues, tables, JSON and code are no prose.
func (o *outline) plainProse() bool {
	named := make([]bool, len(o.groups))
	for g := range o.groups {
		if h := o.groups[g].header; h >= 0 && o.groups[g].doc == int32(g) {
			named[g] = isName(o.of(int(h)))
		}
	}
	plain := 0
	for i, s := range o.segments {
		if doc := o.doc(i); (s.kind == sentence || s.kind == item) && !named[doc] && !o.groups[doc].dialogue {
			plain++
		}
	}
	return plain*2 > len(o.segments)
}

// isName reports whether a title tells what its document is about: it has a word
// beyond "Document 3".
func isName(title string) bool {
	r := termReader{text: title}
	for {
		term, _, ok := r.next()
		if !ok {
			return false
		}
		word := title[r.start:r.at]
		if carries(string(term)) && !digits(word) && !isDocName(word) && !strings.EqualFold(word, "title") {
			return true
		}
	}
}

// worthOfFacts gives the worth of segments by the facts that no segment before
// them in the order holds.
func worthOfFacts(o *outline, score []float64, facts [][]uint64) worth {
	share := make([]float64, len(score))
	order := byScore(o, score)
	seen := map[uint64]bool{}
	for _, i := range order {
		for _, f := range facts[i] {
			if !seen[f] {
				seen[f] = true
				share[i]++
			}
		}
	}
	scale(share, float64(len(seen)))
	return worth{share, order, counted}
}

func scale(share []float64, total float64) {
	if total == 0 {
		return
	}
	for i := range share {
		share[i] /= total
	}
}

// byScore gives the segments from the most relevant down; of two that are
// equal the earlier first.
func byScore(o *outline, score []float64) []int {
	order := make([]int, 0, len(score))
	for i := range o.segments {
		if o.segments[i].kind != glue {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int {
		if c := cmp.Compare(score[b], score[a]); c != 0 {
			return c
		}
		return cmp.Compare(a, b)
	})
	return order
}

// price is what a segment costs beside those that stay already: its tokens,
// those of the headers that it needs, and the marks that it adds or saves.
func (p *plan) price(o *outline, i int) int {
	tokens := int(o.segments[i].tokens)
	for g := o.segments[i].group; g >= 0; g = o.groups[g].parent {
		for _, end := range [...]int32{o.groups[g].header, o.groups[g].footer} {
			if end >= 0 && !p.keep[end] {
				tokens += int(o.segments[end].tokens)
			}
		}
	}
	if i > 0 && !p.keep[i-1] && o.doc(i-1) == o.doc(i) {
		tokens += markTokens
	}
	if i+1 < len(p.keep) && p.keep[i+1] && o.doc(i+1) == o.doc(i) {
		tokens -= markTokens
	}
	return tokens
}

func (p *plan) take(o *outline, i int) {
	p.keep[i] = true
	for g := o.segments[i].group; g >= 0; g = o.groups[g].parent {
		for _, end := range [...]int32{o.groups[g].header, o.groups[g].footer} {
			if end >= 0 {
				p.keep[end] = true
			}
		}
	}
}
