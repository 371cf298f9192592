package score

// relevance tells how far the answer has to do with the question, by shared words.
func (x *scratch) relevance() float64 {
	terms, found := 0, 0
	x.counts.reset(len(x.answer.words))
	for _, w := range x.answer.words {
		x.counts.add(uint64(w.stem))
	}
	for _, w := range x.query.words {
		if w.marks&isStop == 0 {
			terms++
			if x.counts.count(uint64(w.stem)) > 0 {
				found++
			}
		}
	}
	if terms == 0 {
		return 1
	}
	return float64(found) / float64(terms)
}

func (x *scratch) coherence(c *choice) float64 {
	return 1 - x.repeated()
}

func (x *scratch) groundedness() (float64, bool) { return 0, false }
