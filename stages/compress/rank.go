package compress

import (
	"cmp"
	"math"
	"slices"
	"unicode"
	"unicode/utf8"
)

// The weights of the ranking, found on the odd halves of Natural Questions and
// QMSum; docs/prompt-optimization.md has the figures of the other halves.
const (
	bm25K1 = 1.2 // how fast the weight of a term that comes again fades
	bm25B  = 0.4 // how much long segments pay for their length
	// pairWeight is the weight of two terms of the query side by side.
	pairWeight = 1.5
	// titleWeight is how often a term in a document's title counts more.
	titleWeight = 4
	// titledWeight is the weight of a document beside that of its segments;
	// paragraphWeight that of a paragraph of a text without titles, which says
	// less about its sentences.
	titledWeight    = 1.5
	paragraphWeight = 0.5
	// near is what a segment gets of its neighbours at a distance of 1 and 2.
	near1, near2 = 0.4, 0.15
	// sigma is the width in turns of the kernel that smooths dialogues, in which
	// a matter is spoken of for many turns; ownWeight is what a turn's own
	// score adds to it.
	sigma     = 20
	ownWeight = 0.25
	// minWide is how many turns a dialogue must have for the wide kernel.
	minWide = 24
)

// hit is a term of the query in a segment, at a position counted in terms.
type hit struct {
	segment, term, at int32
}

// rank gives the relevance of each segment: BM25 (Robertson and Zaragoza, The
// Probabilistic Relevance Framework, 2009) smoothed over the neighbours, with a
// prior for the document. It reports false when no term of the query occurs.
func rank(o *outline, q *query) (score []float64, matched bool) {
	q.relate()
	hits, related, lengths := readHits(o, q)
	if len(hits) == 0 {
		return nil, false
	}
	score = bm25(hits, lengths, nil, q)
	addPairs(score, hits, idfOf(hits, q, len(lengths)))
	addRelatedScores(score, hits, related, q, len(lengths))
	score = smooth(o, score)
	docs := docScores(o, hits, related, lengths, q)
	top, topDoc := maxOf(score), maxOf(docs)
	for i := range score {
		if o.segments[i].kind == glue {
			score[i] = 0
			continue
		}
		score[i] = score[i]/top + o.docWeight(i)*docs[o.doc(i)]/topDoc
	}
	return score, true
}

func (o *outline) docWeight(i int) float64 {
	if o.groups[o.doc(i)].header >= 0 {
		return titledWeight
	}
	return paragraphWeight
}

// readHits finds the query's terms in the segments, in order, and the words that
// are related to them. A term that occurs nowhere is found in words that begin
// as it does: "evolve" in "evolution".
func readHits(o *outline, q *query) (hits []hit, related []relatedHit, lengths []int32) {
	lengths = make([]int32, len(o.segments))
	hits = make([]hit, 0, len(o.segments))
	occurs := make([]bool, q.size)
	var alike []hit
	for i := range o.segments {
		r := termReader{text: o.of(i), accept: &q.set}
		for {
			term, wanted, ok := r.next()
			if !ok {
				break
			}
			lengths[i]++
			if !wanted {
				continue
			}
			if t, found := q.terms[string(term)]; found {
				occurs[t] = true
				hits = append(hits, hit{int32(i), int32(t), lengths[i]})
			} else if t, found := q.begins(term); found && !occurs[t] {
				alike = append(alike, hit{int32(i), int32(t), lengths[i]})
			} else if word, found := q.related[string(term)]; found {
				related = append(related, relatedHit{int32(i), word})
			}
		}
	}
	alike = slices.DeleteFunc(alike, func(h hit) bool { return occurs[h.term] })
	if len(alike) == 0 {
		return hits, related, lengths
	}
	hits = append(hits, alike...)
	slices.SortFunc(hits, func(a, b hit) int {
		return cmp.Or(cmp.Compare(a.segment, b.segment), cmp.Compare(a.at, b.at))
	})
	return hits, related, lengths
}

// idfOf gives the weight of each term by how few of n units hold it, and by how
// rare it is anyway.
func idfOf(hits []hit, q *query, n int) []float64 {
	holds := make([]int, q.size)
	last := make([]int32, q.size)
	for _, h := range hits {
		if last[h.term] != h.segment+1 {
			last[h.term] = h.segment + 1
			holds[h.term]++
		}
	}
	weights := make([]float64, q.size)
	for t, d := range holds {
		weights[t] = q.prior[t] * idf(d, n)
	}
	return weights
}

// idf is the weight of a word that d of n units hold.
func idf(d, n int) float64 {
	return math.Log(1 + (float64(n)-float64(d)+0.5)/(float64(d)+0.5))
}

// bm25 scores units (segments or documents) of the given lengths. extra, unless
// nil, says how often a hit counts beyond once.
func bm25(hits []hit, lengths []int32, extra []float64, q *query) []float64 {
	units, total := 0, 0.0
	for _, l := range lengths {
		if l > 0 {
			units++
			total += float64(l)
		}
	}
	weights := idfOf(hits, q, units)
	average := total / float64(max(units, 1))
	score := make([]float64, len(lengths))
	tf := make([]float64, q.size)
	for from := 0; from < len(hits); {
		unit, to := hits[from].segment, from
		for ; to < len(hits) && hits[to].segment == unit; to++ {
			tf[hits[to].term]++
			if extra != nil {
				tf[hits[to].term] += extra[to]
			}
		}
		norm := bm25K1 * (1 - bm25B + bm25B*float64(lengths[unit])/average)
		for _, h := range hits[from:to] {
			f := tf[h.term]
			score[unit] += weights[h.term] * f * (bm25K1 + 1) / (f + norm)
			tf[h.term] = 0
		}
		from = to
	}
	return score
}

// addPairs rewards terms of the query that stand side by side.
func addPairs(score []float64, hits []hit, weights []float64) {
	for i := 1; i < len(hits); i++ {
		a, b := hits[i-1], hits[i]
		if a.segment == b.segment && b.at-a.at <= 2 && a.term != b.term {
			score[b.segment] += pairWeight * min(weights[a.term], weights[b.term])
		}
	}
}

// docScores gives the relevance of the documents, by the number of their group.
func docScores(o *outline, hits []hit, related []relatedHit, lengths []int32, q *query) []float64 {
	docLengths := make([]int32, len(o.groups))
	for i := range o.segments {
		docLengths[o.doc(i)] += lengths[i]
	}
	docHits := make([]hit, len(hits))
	extra := make([]float64, len(hits))
	for i, h := range hits {
		docHits[i] = hit{o.doc(int(h.segment)), h.term, h.at}
		if o.segments[h.segment].kind == glue {
			extra[i] = titleWeight
		}
	}
	docRelated := make([]relatedHit, len(related))
	for i, h := range related {
		docRelated[i] = relatedHit{o.doc(int(h.unit)), h.word}
	}
	docs := bm25(docHits, docLengths, extra, q)
	addRelatedScores(docs, docHits, docRelated, q, unitsOf(docLengths))
	return docs
}

// unitsOf gives how many units have words.
func unitsOf(lengths []int32) int {
	n := 0
	for _, l := range lengths {
		if l > 0 {
			n++
		}
	}
	return n
}

// smooth lets each segment share in what its neighbours in the same document
// score.
func smooth(o *outline, score []float64) []float64 {
	out := make([]float64, len(score))
	for from := 0; from < len(score); {
		to := from + 1
		for to < len(score) && o.doc(to) == o.doc(from) {
			to++
		}
		if o.groups[o.doc(from)].dialogue && to-from >= minWide {
			smoothWide(out[from:to], score[from:to])
		} else {
			smoothNear(out[from:to], score[from:to])
		}
		from = to
	}
	return out
}

func smoothNear(out, score []float64) {
	weights := [...]float64{1, near1, near2}
	for i := range score {
		for d, w := range weights {
			if i-d >= 0 {
				out[i] += w * score[i-d]
			}
			if d > 0 && i+d < len(score) {
				out[i] += w * score[i+d]
			}
		}
	}
}

// smoothWide spreads each score by a Gaussian over the turns around it.
func smoothWide(out, score []float64) {
	width := min(sigma, float64(len(score))/8)
	reach := int(3 * width)
	kernel := make([]float64, reach+1)
	for d := range kernel {
		kernel[d] = math.Exp(-float64(d*d) / (2 * width * width))
	}
	for i, s := range score {
		if s == 0 {
			continue
		}
		for d, k := range kernel {
			if i-d >= 0 {
				out[i-d] += k * s
			}
			if d > 0 && i+d < len(out) {
				out[i+d] += k * s
			}
		}
	}
	top, topOwn := maxOf(out), maxOf(score)
	if top == 0 {
		return
	}
	// The scale of the scores stays, so that documents remain comparable.
	for i := range out {
		out[i] = topOwn * (out[i]/top + ownWeight*score[i]/topOwn)
	}
}

func maxOf(values []float64) float64 {
	top := 0.0
	for _, v := range values {
		top = max(top, v)
	}
	return top
}

// rankWithoutQuery prefers segments that hold many facts for their length, and
// the beginnings of documents.
func rankWithoutQuery(o *outline, facts [][]uint64) []float64 {
	score := make([]float64, len(o.segments))
	place := 0
	for i := range o.segments {
		if i == 0 || o.doc(i) != o.doc(i-1) {
			place = 0
		}
		if o.segments[i].kind == glue {
			continue
		}
		place++
		score[i] = float64(len(facts[i]))/(5+float64(o.segments[i].tokens)) + 1/float64(1+place)
	}
	return score
}

// factsOf gives what a segment states that a summary must not lose: its numbers,
// its names, and that it denies something. Facts are hashes.
func factsOf(o *outline) [][]uint64 {
	facts := make([][]uint64, len(o.segments))
	for i := range o.segments {
		if o.segments[i].kind != glue {
			facts[i] = segmentFacts(o.of(i), uint64(i))
		}
	}
	return facts
}

func segmentFacts(text string, segment uint64) []uint64 {
	var facts []uint64
	r := termReader{text: text}
	first := true
	for {
		term, _, ok := r.next()
		if !ok {
			return facts
		}
		if len(term) == 0 {
			continue
		}
		head, _ := utf8.DecodeRuneInString(text[r.start:])
		switch {
		case isNegation(string(term)):
			facts = append(facts, segment) // no two segments deny the same
		case unicode.IsDigit(head) || unicode.IsUpper(head) && !first && len(term) > 1 && !stopStems[string(term)]:
			facts = append(facts, hashFact(term))
		}
		first = false
	}
}

func isNegation(term string) bool {
	switch term {
	case "not", "no", "never", "none", "nor", "without", "cannot", "t":
		return true
	}
	return false
}

// hashFact is FNV-1a with the top bit set, which segment numbers do not have.
func hashFact[T string | []byte](term T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(term) {
		h = (h ^ uint64(term[i])) * 1099511628211
	}
	return h | 1<<63
}
