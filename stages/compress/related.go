package compress

import "math"

// The thesaurus tells two things about the terms of a query in English: that a
// rare word says more than a common one, and which words of a text mean nearly
// the same. The weights were found on the odd halves of the sets, like those of
// the ranking.
const (
	// rarity is how much the weight of a term grows or shrinks, as a power of e,
	// for 100 times less or more frequent than commonWord.
	rarity     = 0.3
	commonWord = 4   // the logarithm of a frequency in a billion words
	rareWord   = 2.5 // the same, for a word that the thesaurus does not have
	// maxRelations bounds for how many terms of a query one word may stand.
	maxRelations = 4
)

// relation says that a word stands for a term of the query.
type relation struct {
	term   int
	cosine float64
}

// relatedHit is a word related to terms of the query, in a unit.
type relatedHit struct {
	unit, word int32
}

// relate reads the thesaurus for a query in English, and does nothing for
// others.
func (q *query) relate() {
	q.prior = make([]float64, q.size)
	english := q.english()
	for t, root := range q.roots {
		q.prior[t] = 1
		if !english {
			continue
		}
		e, found := lookUp(root)
		q.prior[t] = priorOf(root, e, found)
		if found {
			e.eachRelated(func(stem []byte, cosine float64) { q.addRelated(string(stem), relation{t, cosine}) })
		}
	}
}

// english reports whether most words of a query are English: in the thesaurus,
// or such that say nothing by themselves.
func (q *query) english() bool {
	known := q.stops
	for _, root := range q.roots {
		if _, found := lookUp(root); found {
			known++
		}
	}
	return known*3 >= (len(q.roots)+q.stops)*2
}

// priorOf gives the weight of a term by how common its word is in English.
func priorOf(root string, e wordEntry, found bool) float64 {
	frequency := float64(rareWord)
	switch {
	case found:
		frequency = e.frequency()
	case root[0] < 'a' || root[0] > 'z':
		frequency = commonWord // numbers
	}
	return math.Exp(rarity * max(-1, min(1, (commonWord-frequency)/2)))
}

func (q *query) addRelated(word string, r relation) {
	if _, known := q.terms[word]; known {
		return
	}
	i, known := q.related[word]
	if !known {
		i = int32(len(q.relations))
		q.related[word] = i
		q.relations = append(q.relations, nil)
		q.set.add(word)
	}
	if len(q.relations[i]) < maxRelations {
		q.relations[i] = append(q.relations[i], r)
	}
}

// addRelatedScores adds to the scores of units what stands in them for terms
// that they do not hold: of each term the best, with the weight of the less
// telling of the two words. weight is that of a related word beside the word
// itself; it fades with their cosine. Both lists of hits are sorted by unit, which counts
// n units with words.
func addRelatedScores(score []float64, hits []hit, related []relatedHit, q *query, n int, weight float64) {
	if len(related) == 0 {
		return
	}
	termIDF, wordIDF := idfOf(hits, q, n), idfOfRelated(related, len(q.relations), n)
	for len(related) > 0 {
		unit := related[0].unit
		var holds [maxQueryTerms]bool
		for len(hits) > 0 && hits[0].segment <= unit {
			holds[hits[0].term] = holds[hits[0].term] || hits[0].segment == unit
			hits = hits[1:]
		}
		var best [maxQueryTerms]float64
		for len(related) > 0 && related[0].unit == unit {
			word := related[0].word
			for _, r := range q.relations[word] {
				if !holds[r.term] {
					best[r.term] = max(best[r.term], r.cosine*min(wordIDF[word], termIDF[r.term]))
				}
			}
			related = related[1:]
		}
		for _, b := range best[:q.size] {
			score[unit] += weight * b
		}
	}
}

// idfOfRelated is idfOf for related words.
func idfOfRelated(related []relatedHit, words, n int) []float64 {
	holds, last := make([]int, words), make([]int32, words)
	for _, h := range related {
		if last[h.word] != h.unit+1 {
			last[h.word] = h.unit + 1
			holds[h.word]++
		}
	}
	weights := make([]float64, words)
	for w, d := range holds {
		weights[w] = idf(d, n)
	}
	return weights
}
