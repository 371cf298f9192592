package compress

import (
	"cmp"
	"math"
	"slices"
	"unicode"
	"unicode/utf8"
)

// The weights of the ranking, found on the odd halves of Natural Questions, QMSum
// and XQuAD and on paragraphs of SQuAD's training set;
// docs/prompt-optimization.md has the figures of the other halves.
const (
	bm25K1 = 1.2 // how fast the weight of a term that comes again fades
	bm25B  = 0.4 // how much long segments pay for their length
	// docK1 and docB are the same for documents.
	docK1 = 1.8
	docB  = 0.75
	// titleWeight is how often a term in a document's title counts more.
	titleWeight = 5
	// titledWeight is the weight of a document beside that of its segments;
	// paragraphWeight that of a paragraph of a text without titles, which says
	// less about its sentences.
	titledWeight    = 2.25
	paragraphWeight = 0.5
	// firstWeight is what the first sentence of a document has over the others.
	firstWeight = 0.1
	// lengthPower is how much long sentences pay beside short ones, of which more
	// fit into the same budget; lengthBase is added to the length in terms.
	lengthPower = 0.12
	lengthBase  = 8
	// sigma is the width in turns of the kernel that smooths dialogues, in which
	// a matter is spoken of for many turns; ownWeight is what a turn's own
	// score adds to it.
	sigma     = 20
	ownWeight = 0.25
	// minWide is how many turns a dialogue must have for the wide kernel.
	minWide = 24
)

// matching is how much it counts, beside the terms of the query themselves, when
// two of them stand side by side, and when a related word stands for one.
// rarePairs is how much less pairs count that come often, as a power.
type matching struct{ pair, rarePairs, related float64 }

var (
	inDocuments = matching{pair: 0.8, rarePairs: 2, related: 0.85}
	inDialogues = matching{pair: 1.5, rarePairs: 0, related: 0.5}
)

// matching gives what holds for most of the segments.
func (o *outline) matching() matching {
	turns := 0
	for i := range o.segments {
		if o.groups[o.doc(i)].dialogue {
			turns++
		}
	}
	if turns*2 > len(o.segments) {
		return inDialogues
	}
	return inDocuments
}

// hit is a term of the query in a segment, at a position counted in terms.
type hit struct {
	segment, term, at int32
}

// rank gives the relevance of each segment: BM25 (Robertson and Zaragoza, The
// Probabilistic Relevance Framework, 2009), with what stands near it, a prior for
// the document, and preferences among sentences. It reports false when no term of
// the query occurs.
func rank(o *outline, q *query) (score []float64, matched bool) {
	q.relate()
	hits, related, lengths := readHits(o, q)
	if len(hits) == 0 {
		return nil, false
	}
	m := o.matching()
	n := len(lengths)
	weights, wordIDF := idfOf(hits, q, n), idfOfRelated(related, len(q.relations), n)
	score = bm25(hits, lengths, nil, q)
	addPairs(score, hits, weights, m, q.size)
	addRelatedScores(score, hits, related, q, n, m.related)
	score = smooth(o, score, evidenceOf(hits, related, weights, wordIDF, q, m.related), q.size)
	docs := docScores(o, hits, related, lengths, q, m.related)
	top, topDoc := maxOf(score), maxOf(docs)
	for i := range score {
		if o.segments[i].kind == glue {
			score[i] = 0
			continue
		}
		score[i] = score[i]/top + o.docWeight(i)*docs[o.doc(i)]/topDoc
	}
	preferSentences(o, score, lengths, q)
	return score, true
}

// preferSentences favours among sentences those that hold a year or number where
// the question asks for one, those that open a document, and the short ones.
func preferSentences(o *outline, score []float64, lengths []int32, q *query) {
	total := 0.0
	for _, l := range lengths {
		total += float64(l)
	}
	average := total / float64(len(lengths))
	for i := range score {
		kind := o.segments[i].kind
		if kind != sentence && kind != item || o.groups[o.doc(i)].dialogue {
			continue
		}
		if i == 0 || o.doc(i-1) != o.doc(i) || o.segments[i-1].kind == glue {
			score[i] += firstWeight
		}
		score[i] += q.wants.bonus(o.of(i))
		score[i] /= math.Pow((float64(lengths[i])+lengthBase)/average, lengthPower)
	}
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

// bm25 scores units of the given lengths: segments, or documents where extra says
// how often a hit counts beyond once.
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
	k1, b := bm25K1, bm25B
	if extra != nil {
		k1, b = docK1, docB
	}
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
		norm := k1 * (1 - b + b*float64(lengths[unit])/average)
		for _, h := range hits[from:to] {
			f := tf[h.term]
			score[unit] += weights[h.term] * f * (k1 + 1) / (f + norm)
			tf[h.term] = 0
		}
		from = to
	}
	return score
}

// addPairs rewards terms of the query that stand side by side. weights are those
// of the terms, of which there are so many. A pair that comes in many segments,
// such as the name that a text is all about, says little.
func addPairs(score []float64, hits []hit, weights []float64, m matching, terms int) {
	holds, last := make([]int, terms*terms), make([]int32, terms*terms)
	eachPair(hits, func(a, b hit) {
		if k := int(a.term)*terms + int(b.term); last[k] != a.segment+1 {
			last[k] = a.segment + 1
			holds[k]++
		}
	})
	n := len(score)
	eachPair(hits, func(a, b hit) {
		rare := math.Pow(idf(holds[int(a.term)*terms+int(b.term)], n)/idf(1, n), m.rarePairs)
		score[b.segment] += m.pair * rare * min(weights[a.term], weights[b.term])
	})
}

// eachPair calls visit for hits of two terms in a segment with at most one term
// between them.
func eachPair(hits []hit, visit func(a, b hit)) {
	for i := 1; i < len(hits); i++ {
		if a, b := hits[i-1], hits[i]; a.segment == b.segment && b.at-a.at <= 2 && a.term != b.term {
			visit(a, b)
		}
	}
}

// docScores gives the relevance of the documents, by the number of their group.
func docScores(o *outline, hits []hit, related []relatedHit, lengths []int32, q *query, relatedWeight float64) []float64 {
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
	addRelatedScores(docs, docHits, docRelated, q, unitsOf(docLengths), relatedWeight)
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

// smooth lets each segment share in what stands near it in the same document: a
// long dialogue by its score, anything else by the terms that it lacks.
func smooth(o *outline, score []float64, found []evidence, terms int) []float64 {
	out := make([]float64, len(score))
	near := newVicinity(terms)
	for from := 0; from < len(score); {
		to := from + 1
		for to < len(score) && o.doc(to) == o.doc(from) {
			to++
		}
		n := 0
		for n < len(found) && int(found[n].segment) < to {
			n++
		}
		if o.groups[o.doc(from)].dialogue && to-from >= minWide {
			smoothWide(out[from:to], score[from:to])
		} else {
			copy(out[from:to], score[from:to])
			near.add(out, from, to, found[:n])
		}
		from, found = to, found[n:]
	}
	return out
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
