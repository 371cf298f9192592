package compress

// What a sentence leaves to the ones around it counts for it too: "In 1950 it was
// raised to an institute" answers a question about the laboratory that the
// sentence before names. A term that a segment has itself counts no more for
// standing around it as well, or else the words that a text is full of would
// outweigh the one that matters.
const (
	// beforeWeight is the weight of a term in the segment before, beforeFade what
	// is left of it with each segment further; the others are the same for what
	// comes behind.
	beforeWeight, beforeFade = 0.5, 0.8
	behindWeight, behindFade = 0.35, 0.5
)

// evidence is the weight of a term of the query in a segment.
type evidence struct {
	segment, term int32
	weight        float64
}

// evidenceOf lists what the segments hold, in their order. weights are those of
// the terms, wordIDF those of the related words.
func evidenceOf(hits []hit, related []relatedHit, weights, wordIDF []float64, q *query, relatedWeight float64) []evidence {
	found := make([]evidence, 0, len(hits)+len(related))
	for len(hits)+len(related) > 0 {
		if len(related) == 0 || len(hits) > 0 && hits[0].segment <= related[0].unit {
			found = append(found, evidence{hits[0].segment, hits[0].term, weights[hits[0].term]})
			hits = hits[1:]
			continue
		}
		word := related[0].word
		for _, r := range q.relations[word] {
			weight := relatedWeight * r.cosine * min(wordIDF[word], weights[r.term])
			found = append(found, evidence{related[0].unit, int32(r.term), weight})
		}
		related = related[1:]
	}
	return found
}

// vicinity adds to segments what stands around them.
type vicinity struct {
	own    []float64 // by term, of the segment that is looked at
	around []float64 // by term, of those that were looked at before
}

func newVicinity(terms int) *vicinity {
	return &vicinity{make([]float64, terms), make([]float64, terms)}
}

// add adds to the scores of the segments from to to, which are those of one
// document; found is the evidence in them.
func (v *vicinity) add(score []float64, from, to int, found []evidence) {
	if len(found) == 0 {
		return
	}
	clear(v.around)
	rest := found
	for i := from; i < to; i++ {
		n := 0
		for n < len(rest) && int(rest[n].segment) == i {
			n++
		}
		score[i] += v.step(rest[:n], beforeWeight, beforeFade)
		rest = rest[n:]
	}
	clear(v.around)
	for i := to - 1; i >= from; i-- {
		n := len(found)
		for n > 0 && int(found[n-1].segment) == i {
			n--
		}
		score[i] += v.step(found[n:], behindWeight, behindFade)
		found = found[:n]
	}
}

// step gives what the segments looked at before add to one with the evidence
// here, and goes on to the next.
func (v *vicinity) step(here []evidence, weight, fade float64) (sum float64) {
	for _, e := range here {
		v.own[e.term] = max(v.own[e.term], e.weight)
	}
	for t, a := range v.around {
		sum += max(0, a-v.own[t])
		v.around[t] = max(a*fade, v.own[t]*weight)
	}
	for _, e := range here {
		v.own[e.term] = 0
	}
	return sum
}
