package compress

// The weights of the context in which a segment is read, found on the odd halves
// of Natural Questions and XQuAD, of the former also without its titles.
const (
	// contextWeight is the part of the score that the context decides; the rest
	// is what the segment and its neighbours score each for itself.
	contextWeight = 0.5
	// anywhere is how often a term counts that stands anywhere in the document,
	// for each time that it does.
	anywhere = 0.3
)

// addContext mixes into the scores those of BM25 over each segment together with
// what surrounds it, in the manner of BM25F (Robertson, Zaragoza and Taylor,
// Simple BM25 Extension to Multiple Weighted Fields, 2004): terms are counted
// over the fields, here the distances, before their weight fades. So a segment
// that has the one half of a question beside one with the other half comes
// before two that both have the same half. Dialogues are left alone.
func addContext(o *outline, score []float64, hits []hit, lengths []int32, terms int) {
	c := newSurroundings(hits, lengths, terms)
	out := make([]float64, len(score))
	for from := 0; from < len(score); {
		to := o.endOfDoc(from)
		if !o.wide(from, to) {
			c.scoreDoc(out, from, to)
		}
		from = to
	}
	top, topOut := maxOf(score), maxOf(out)
	if topOut == 0 {
		return
	}
	for from := 0; from < len(score); {
		to := o.endOfDoc(from)
		for i := from; i < to && !o.wide(from, to); i++ {
			score[i] = (1-contextWeight)*score[i] + contextWeight*top*out[i]/topOut
		}
		from = to
	}
}

// surroundings counts terms around segments.
type surroundings struct {
	hits    []hit
	first   []int32 // of each segment its first hit, and behind the last one more
	lengths []int32
	average float64
	idf     []float64
	tf      []float64 // by term, of the segment at hand; zero between segments
	inDoc   []float64 // by term, of the document at hand; zero between documents
}

func newSurroundings(hits []hit, lengths []int32, terms int) *surroundings {
	c := &surroundings{
		hits: hits, lengths: lengths, first: make([]int32, len(lengths)+1),
		tf: make([]float64, terms), inDoc: make([]float64, terms),
	}
	for _, h := range hits {
		c.first[h.segment+1]++
	}
	for i := range lengths {
		c.first[i+1] += c.first[i]
	}
	average, units := averageOf(lengths)
	c.average, c.idf = average, idfOf(hits, terms, units)
	return c
}

// scoreDoc scores the segments from up to to, which are those of one document.
func (c *surroundings) scoreDoc(out []float64, from, to int) {
	var held []int32 // the terms in the document
	for _, h := range c.hits[c.first[from]:c.first[to]] {
		if c.inDoc[h.term] == 0 {
			held = append(held, h.term)
		}
		c.inDoc[h.term] += anywhere
	}
	for i := from; i < to && len(held) > 0; i++ {
		c.count(i, 1)
		for d, w := range [...]float64{near1, near2} {
			if i-d-1 >= from {
				c.count(i-d-1, w)
			}
			if i+d+1 < to {
				c.count(i+d+1, w)
			}
		}
		norm := bm25Norm(c.lengths[i], c.average)
		for _, t := range held {
			out[i] += c.idf[t] * faded(c.tf[t]+c.inDoc[t], norm)
			c.tf[t] = 0
		}
	}
	for _, t := range held {
		c.inDoc[t] = 0
	}
}

func (c *surroundings) count(segment int, weight float64) {
	for _, h := range c.hits[c.first[segment]:c.first[segment+1]] {
		c.tf[h.term] += weight
	}
}
