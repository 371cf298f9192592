package score

import "math"

// The features of relevance, over the different content words of question and answer.
const (
	featCovered   = iota // share of the question's words that the answer takes up
	featKnown            // share of the answer's words that the question holds
	featShared           // logarithm of the number of words that both hold
	featSharesAny        // whether there is one
	featNewWords         // logarithm of the number of words that only the answer holds, if none is shared
	featAsked            // logarithm of the number of words of the question
	relevanceWidth
)

// RelevanceFeatures gives the numbers from which relevance is computed. It is exported
// so that the table can be fitted anew on other questions and answers.
func RelevanceFeatures(prompt, answer []byte) []float64 {
	var x scratch
	x.query.read(prompt)
	x.answer.read(answer)
	f := x.relevanceFeatures()
	return f[:]
}

func (x *scratch) relevanceFeatures() (f [relevanceWidth]float64) {
	x.counts.reset(len(x.query.words))
	for _, w := range x.query.words {
		if w.marks&isStop == 0 {
			x.counts.add(uint64(w.stem))
		}
	}
	x.counts2.reset(len(x.answer.words))
	shared := 0
	for _, w := range x.answer.words {
		if w.marks&isStop == 0 && x.counts2.add(uint64(w.stem)) == 1 && x.counts.count(uint64(w.stem)) > 0 {
			shared++
		}
	}
	asked, said := float64(x.counts.len), float64(x.counts2.len)
	both := float64(shared)
	f[featCovered] = both / max(asked, 1)
	f[featKnown] = both / max(said, 1)
	f[featShared] = math.Log1p(both)
	f[featAsked] = math.Log1p(asked)
	if shared > 0 {
		f[featSharesAny] = 1
	} else {
		f[featNewWords] = math.Log1p(said)
	}
	return f
}

// relevance is three times the probability that the answer belongs to this question rather than
// to another of its kind, as far as the words tell, and at most 1: it falls below 1 only
// when they speak against it by two to one. A short answer that shares no word with its question is
// left undecided; synonyms and other languages are not seen through.
func (x *scratch) relevance() float64 {
	f := x.relevanceFeatures()
	return min(1, 3*LogisticOf(relevanceWeights[:], f[:]))
}

// LogisticOf evaluates a logistic regression; weights begin with the intercept.
func LogisticOf(weights, features []float64) float64 {
	z := weights[0]
	for i, v := range features {
		z += weights[i+1] * v
	}
	return 1 / (1 + math.Exp(-z))
}
