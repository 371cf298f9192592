package compress

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBars holds what docs/prompt-optimization.md promises, on the halves of the
// data that were not looked at while the compressor was made.
func TestBars(t *testing.T) {
	dir := os.Getenv("PROCESSOR_DATA")
	if dir == "" {
		t.Skip("PROCESSOR_DATA names no directory with the data")
	}
	b, err := newBench(dir, report)
	require.NoError(t, err)
	passages, err := loadNQ(dir)
	require.NoError(t, err)
	articles, err := loadXQuAD(dir)
	require.NoError(t, err)
	meetings, err := loadQMSum(dir)
	require.NoError(t, err)
	all := methods(b.count, b.semantic, turnsOf)
	processor := all[len(all)-1]
	hard, paragraphs := nqTasks(passages, report, true), xquadTasks(articles, report)
	require.GreaterOrEqual(t, b.retention(hard, processor, 0.25).percent(), 95.0)
	require.GreaterOrEqual(t, b.retention(hard, processor, 0.1).percent(), 87.0)
	require.GreaterOrEqual(t, b.retention(paragraphs, processor, 0.1).percent(), 95.0)
	chosen, _ := b.half(meetings)
	require.GreaterOrEqual(t, b.turnsKept(chosen, processor, 0.25).mean(), 69.0)
	for _, tasks := range [][]task{hard, withoutTitles(hard), paragraphs} {
		kept, ratio := b.withFloor(tasks, 0.9)
		require.GreaterOrEqual(t, kept.percent(), 98.0)
		require.Greater(t, kept.hits, b.retention(tasks, processor, ratio).hits, "a floor beats a fixed ratio")
	}
}

func TestRunSaysWhatIsMissing(t *testing.T) {
	require.ErrorContains(t, Run(&strings.Builder{}, "", nil), "PROCESSOR_DATA")
	require.ErrorContains(t, Run(&strings.Builder{}, "x", []string{"fast"}), "give none, or develop")
	require.ErrorContains(t, Run(&strings.Builder{}, t.TempDir(), nil), "nq-open-oracle")
}

func TestIntervals(t *testing.T) {
	require.Equal(t, " 50.0 [40.4, 59.6]", share{50, 100}.String())
	require.Equal(t, "100.0 [96.3, 100.0]", share{100, 100}.String())
	require.Equal(t, 2.0, clustered{{1, 2}, {3}}.mean())
}

func TestTurnsAreFoundInTheirOrder(t *testing.T) {
	turns := []string{"A: yes", "B: no", "A: yes", "B: well"}
	require.Equal(t, []bool{false, true, true, false}, keptTurns(turns, "[… parts omitted]\n… B: no\nA: yes\n"))
}
