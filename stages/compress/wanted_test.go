package compress

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWantedBy(t *testing.T) {
	for _, question := range []string{"When did it open?", "In what year was it built?", "which century saw it fall"} {
		wants := wantedBy(question)
		require.NotNil(t, wants, question)
		for _, text := range []string{"It opened in 1853.", "In the 1990s.", "Late in October.", "Two centuries before."} {
			require.True(t, wants(text), "%s %s", question, text)
		}
		for _, text := range []string{"It opened.", "It has 12 doors.", "It may march 10,00.", ""} {
			require.False(t, wants(text), "%s %s", question, text)
		}
	}
	for _, question := range []string{"How many doors has it?", "what percentage is left?", "Find out the number of doors."} {
		wants := wantedBy(question)
		require.NotNil(t, wants, question)
		for _, text := range []string{"It has 12 doors.", "Twelve of them.", "Some thousands."} {
			require.True(t, wants(text), "%s %s", question, text)
		}
		require.False(t, wants("It has doors, and not one window."))
	}
	for _, question := range []string{"", "Who opened it?", "Where is it?", "Is it much?", "how", "what", "何年ですか", strings.Repeat("x ", 1<<10) + "when"} {
		require.Nil(t, wantedBy(question), question)
	}
}

// TestWantedAnswerComesFirst: of two sentences that match alike the one with the
// kind of answer stays, even where the other would win by standing first.
func TestWantedAnswerComesFirst(t *testing.T) {
	score := func(question string) []float64 {
		o := &outline{}
		text := "The bridge opened with a feast for everyone in town.\n\nThe bridge opened in 1853 for everyone in the town."
		o.addText(text, 0, len(text))
		s, matched := rank(o, newQuery(question))
		require.True(t, matched)
		require.Len(t, s, 2)
		return s
	}
	asked, other := score("When was the bridge opened?"), score("Was the bridge opened?")
	require.Greater(t, asked[1], asked[0])
	require.InDelta(t, other[0], asked[0], 1e-9)
	require.InDelta(t, (1+wantedBonus)*other[1], asked[1], 1e-9)
}
