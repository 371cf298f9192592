package compress

import (
	"math"
	"strings"

	"github.com/adpa/processor/stages/compress"
)

// stemmedBM25 is the recipe that the product's ranking started from: BM25 over
// stems without stop words, half of the scores of the neighbours and a quarter
// of those behind them, and half of the score of the document. A document is a
// line.
func stemmedBM25(units []string, question string) []float64 {
	const near, prior = 0.5, 0.5
	asked := compress.Terms(question)
	words := make([][]string, len(units))
	var docs [][]string
	docOf := make([]int, len(units))
	for i, u := range units {
		if i == 0 || strings.HasSuffix(units[i-1], "\n") {
			docs = append(docs, nil)
		}
		docOf[i] = len(docs) - 1
		words[i] = compress.Terms(u)
		docs[docOf[i]] = append(docs[docOf[i]], words[i]...)
	}
	own := bagScores(words, asked)
	scores := make([]float64, len(units))
	for i := range units {
		for j := max(0, i-2); j <= min(i+2, len(units)-1); j++ {
			if docOf[j] == docOf[i] {
				scores[i] += own[j] * [...]float64{1, near, near / 2}[max(i-j, j-i)]
			}
		}
	}
	ofDocs := bagScores(docs, asked)
	top, topDoc := greatest(scores), greatest(ofDocs)
	for i := range scores {
		scores[i] = scores[i]/top + prior*ofDocs[docOf[i]]/topDoc
	}
	return scores
}

// bagScores is BM25 of bags of words.
func bagScores(bags [][]string, asked []string) []float64 {
	const k1, b = 1.2, 0.75
	counts := make([]map[string]float64, len(bags))
	holders := map[string]float64{}
	units, total := 0.0, 0.0
	for i, bag := range bags {
		counts[i] = map[string]float64{}
		for _, w := range bag {
			counts[i][w]++
		}
		for w := range counts[i] {
			holders[w]++
		}
		if len(bag) > 0 {
			units++
			total += float64(len(bag))
		}
	}
	scores := make([]float64, len(bags))
	for i, bag := range bags {
		for _, w := range asked {
			f := counts[i][w]
			idf := math.Log(1 + (units-holders[w]+0.5)/(holders[w]+0.5))
			scores[i] += idf * f * (k1 + 1) / (f + k1*(1-b+b*float64(len(bag))*units/total))
		}
	}
	return scores
}

func greatest(values []float64) float64 {
	top := 1e-9
	for _, v := range values {
		top = max(top, v)
	}
	return top
}
