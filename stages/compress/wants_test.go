package compress

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatAQuestionWants(t *testing.T) {
	for question, expected := range map[string]want{
		"When did it open?": aYear, "In what year was the library built?": aYear, "Which month was the driest?": aYear,
		"How many people live there?": aNumber, "What percentage of students row?": aNumber,
		"Who opened it?": anything, "How did the year end?": anything, "Wann war das?": anything, "": anything,
	} {
		require.Equal(t, expected, wantOf(question), question)
	}
	for text, year := range map[string]bool{"Built in 1950.": true, "the 50s": true, "of 3000 men": false, "12,500": false, "it is 20 km": false, "": false} {
		require.Equal(t, year, holdsYear(text), text)
	}
	require.Zero(t, anything.bonus("Built in 1950."))
	require.Positive(t, aNumber.bonus("It has 3 doors."))
	require.Zero(t, aNumber.bonus("It has doors."))
}

func TestTermsNearbyCountOnlyWhereTheyLack(t *testing.T) {
	score := make([]float64, 4)
	newVicinity(2).add(score, 0, 3, []evidence{{0, 0, 2}, {1, 0, 2}, {1, 1, 1}})
	require.InDelta(t, behindWeight, score[0], 1e-9, "the second term, behind")
	require.Zero(t, score[1], "it has both")
	require.InDelta(t, 3*beforeWeight, score[2], 1e-9, "both stand before")
	require.Zero(t, score[3], "another document")
}

func TestPairsThatComeOftenSayLittle(t *testing.T) {
	rare, common := make([]float64, 8), make([]float64, 8)
	weights := []float64{1, 1}
	addPairs(rare, []hit{{0, 0, 1}, {0, 1, 2}}, weights, inDocuments, 2)
	var all []hit
	for i := range int32(8) {
		all = append(all, hit{i, 0, 1}, hit{i, 1, 2})
	}
	addPairs(common, all, weights, inDocuments, 2)
	require.InDelta(t, inDocuments.pair, rare[0], 1e-9)
	require.Less(t, common[0], rare[0]/100)
}
