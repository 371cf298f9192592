package score

import (
	"bytes"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/stages/score"
)

// data gives the data directory, or skips the test.
func data(t *testing.T) string {
	dir := os.Getenv("PROCESSOR_DATA")
	if dir == "" {
		t.Skip("PROCESSOR_DATA is not set: it names the directory that holds xstest, unieval and pandalm")
	}
	return dir
}

// The bars of the scorer, on the parts that nothing was fitted on.
func TestBars(t *testing.T) {
	dir := data(t)

	cases, models, err := loadXSTest(dir)
	require.NoError(t, err)
	for name, kin := range map[string]func(a, b string) bool{"models": sameModel, "families": sameFamily} {
		var pooled []decided
		for _, d := range heldOut(cases, models, kin) {
			pooled = append(pooled, d...)
		}
		c, _, _ := f1(pooled)
		require.GreaterOrEqual(t, c.f1(), 0.87, "refusals, %s held out", name)
	}
	whole, err := shipped(cases)
	require.NoError(t, err)
	c, _, _ := f1(whole)
	require.GreaterOrEqual(t, c.f1(), 0.87, "refusals, committed table")

	measured, human, err := consistency(dir, false)
	require.NoError(t, err)
	require.GreaterOrEqual(t, spearman(measured, human), 0.62, "groundedness")

	pairs, err := compareAnswers(dir)
	require.NoError(t, err)
	require.Positive(t, mean(pairs.gain, all(len(pairs.gain))), "Pair against the longer answer")
}

// The committed tables are those that the data gives.
func TestTablesAreFresh(t *testing.T) {
	dir := data(t)
	var printed bytes.Buffer
	require.NoError(t, Run(&printed, dir, []string{"fit"}))
	committed, err := os.ReadFile("../../stages/score/tables.go")
	require.NoError(t, err)
	require.Equal(t, string(committed), printed.String(), `run "go run ./bench score fit" and commit what it prints`)
}

func TestRunPrintsEveryPart(t *testing.T) {
	dir := data(t)
	var printed bytes.Buffer
	require.NoError(t, Run(&printed, dir, nil))
	for _, part := range []string{"Refusals", "Relevance", "Groundedness", "Preference", "Topical-Chat", "Failures", "Speed"} {
		require.Contains(t, printed.String(), part)
	}
	require.NotContains(t, printed.String(), "NaN")
}

func TestRunSaysWhatIsMissing(t *testing.T) {
	require.ErrorContains(t, Run(io.Discard, "", nil), "PROCESSOR_DATA")
	require.ErrorContains(t, Run(io.Discard, t.TempDir(), nil), "no xstest")
	require.ErrorContains(t, Run(io.Discard, t.TempDir(), []string{"x"}), "unknown argument")
}

// Labels drawn from known weights give these weights back.
func TestLogistic(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	want := []float64{-0.5, 2, -1}
	var rows [][]float64
	var labels []bool
	for range 20_000 {
		row := []float64{random.NormFloat64()*3 + 1, random.Float64()}
		rows = append(rows, row)
		labels = append(labels, random.Float64() < score.LogisticOf(want, row))
	}
	got := logistic(rows, labels, 1e-6)
	for i := range want {
		require.InDelta(t, want[i], got[i], 0.2)
	}
	got = signed(rows, labels, 1e-6, []int{-1, -1})
	require.Zero(t, got[1], "a weight of the wrong sign is dropped")
	require.Negative(t, got[2])
}

func TestStatistics(t *testing.T) {
	require.InDelta(t, 1, spearman([]float64{1, 2, 3, 10}, []float64{-1, 0, 5, 6}), 1e-12)
	require.InDelta(t, -1, spearman([]float64{1, 2, 3}, []float64{3, 2, 1}), 1e-12)
	require.Equal(t, []float64{0.5, 2, 0.5}, ranks([]float64{1, 2, 1}))
	require.InDelta(t, 0.875, auc([]float64{1, 2, 2, 3}, []bool{false, true, false, true}), 1e-12)
	c := confusion{truePos: 8, falsePos: 2, falseNeg: 2, trueNeg: 5}
	require.InDelta(t, 0.8, c.f1(), 1e-12)
	low, high := interval(400, func(sample []int) float64 {
		return mean(append(make([]float64, 200), repeat(1, 200)...), sample)
	})
	require.InDelta(t, 0.5-1.96*0.025, low, 0.01, "the interval of a share of 400")
	require.InDelta(t, 0.5+1.96*0.025, high, 0.01)
	require.False(t, math.IsNaN(pearson([]float64{1, 2}, []float64{1, 3})))
}

func repeat(v float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = v
	}
	return out
}
