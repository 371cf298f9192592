package compress

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSurroundingsAsDefined compares the scores with the formula worked out term
// by term.
func TestSurroundingsAsDefined(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const terms, docs, inDoc = 5, 4, 7
	var hits []hit
	lengths := make([]int32, docs*inDoc)
	tf := make([][terms]float64, docs*inDoc)
	for i := range lengths {
		lengths[i] = int32(random.IntN(30)) // some hold no words
		for at := range lengths[i] {
			if term := random.IntN(3 * terms); term < terms {
				hits = append(hits, hit{int32(i), int32(term), at})
				tf[i][term]++
			}
		}
	}
	c := newSurroundings(hits, lengths, terms)
	got := make([]float64, len(lengths))
	for d := range docs {
		c.scoreDoc(got, d*inDoc, (d+1)*inDoc)
	}
	average, units := averageOf(lengths)
	idf := idfOf(hits, terms, units)
	for i := range lengths {
		want := 0.0
		for term := range terms {
			f := 0.0
			for j := i / inDoc * inDoc; j < (i/inDoc+1)*inDoc; j++ {
				f += anywhere * tf[j][term]
				f += map[int]float64{0: 1, 1: near1, 2: near2}[max(i-j, j-i)] * tf[j][term]
			}
			want += idf[term] * faded(f, bm25Norm(lengths[i], average))
		}
		require.InDelta(t, want, got[i], 1e-9)
	}
	require.Equal(t, make([]float64, terms), c.tf, "nothing is left over")
	require.Equal(t, make([]float64, terms), c.inDoc, "nothing is left over")
}

// TestHalvesOfAQuestionSideBySide: of two sentences that score alike, with
// neighbours that score alike, the one whose neighbours have the other half of
// the question comes first.
func TestHalvesOfAQuestionSideBySide(t *testing.T) {
	o := &outline{}
	text := "A crane there. A crane there. A crane there.\n\nA lighthouse there. A crane there. A lighthouse there.\n\n" +
		"A lighthouse there. Nothing else. A lighthouse there."
	o.addText(text, 0, len(text))
	q := newQuery("Which lighthouse has a crane?")
	hits, lengths := readHits(o, q)
	score := smooth(o, bm25(hits, lengths, nil, q.size))
	require.Len(t, score, 9)
	require.InDelta(t, score[1], score[4], 1e-9)
	addContext(o, score, hits, lengths, q.size)
	require.Greater(t, score[4], 1.05*score[1])
}

// TestDialoguesKeepTheirScores: the wide kernel has read their context.
func TestDialoguesKeepTheirScores(t *testing.T) {
	o := &outline{}
	text := strings.Repeat("Ann: a crane there\nBob: yes\n", minWide)
	o.addText(text, 0, len(text))
	q := newQuery("crane")
	hits, lengths := readHits(o, q)
	score := smooth(o, bm25(hits, lengths, nil, q.size))
	before := slices.Clone(score)
	addContext(o, score, hits, lengths, q.size)
	require.Equal(t, before, score)
}
