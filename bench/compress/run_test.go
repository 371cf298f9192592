package compress

import (
	"fmt"
	"os"
	"path/filepath"
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
	require.GreaterOrEqual(t, b.retention(paragraphs, processor, 0.1).percent(), 95.0, "the aim of 98 is missed")
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
	require.ErrorContains(t, Run(&strings.Builder{}, "x", []string{"fast"}), "give none, develop")
	require.ErrorContains(t, Run(&strings.Builder{}, t.TempDir(), nil), "nq-open-oracle")
}

func TestSQuADIsRead(t *testing.T) {
	paragraph := func(n int) string {
		return fmt.Sprintf(`{"context": "The thing number %d is %d0 years old. Nobody knows why.", "qas": [
			{"question": "How old is the thing number %d?", "answers": [{"text": "%d0 years"}]}, {"question": "Who is it?", "answers": []}]}`, n, n, n, n)
	}
	var articles []string
	for a := range 4 {
		var paragraphs []string
		for p := range 7 {
			paragraphs = append(paragraphs, paragraph(1+10*a+p))
		}
		articles = append(articles, `{"paragraphs": [`+strings.Join(paragraphs, ",")+`]}`)
	}
	path := filepath.Join(t.TempDir(), "train.json")
	require.NoError(t, os.WriteFile(path, []byte(`{"data": [`+strings.Join(articles, ",")+`]}`), 0o600))
	list, err := loadSQuAD(path)
	require.NoError(t, err)
	tasks := squadTasks(list, 1)
	require.Len(t, tasks, 2*5, "a run of five of each article, without what has no answer")
	for _, task := range tasks {
		require.True(t, holds(task.documents, task.answers))
		require.Equal(t, 14, strings.Count(task.documents, "\n\n"))
	}
	require.Empty(t, squadTasks(list[:2], 1), "no other article")
	var out strings.Builder
	require.NoError(t, Run(&out, "x", []string{"develop", "-squad", path}))
	require.Regexp(t, `processor +100\.0`, out.String())
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
