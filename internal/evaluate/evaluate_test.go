package evaluate

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// trial makes a report of n pairs: both sides are right with the given
// probabilities, and the scores differ by chance around a shift.
func trial(seed uint64, n int, baseline, candidate, shift float64) Report {
	rng := rand.New(rand.NewPCG(seed, 7))
	b := NewBuilder(Options{Seed: seed})
	for i := range n {
		p := Pair{ID: fmt.Sprint(i), Tenant: "acme", Model: "m", Body: fmt.Sprint("body ", i)}
		difficulty := rng.Float64() // the same for both, so that pairs agree mostly
		p.Baseline.Correct, p.Candidate.Correct = new(0.7*difficulty+0.3*rng.Float64() < baseline), new(0.7*difficulty+0.3*rng.Float64() < candidate)
		base := 0.5 + 0.1*rng.NormFloat64()
		p.Baseline.Score, p.Candidate.Score = new(base), new(base+shift+0.05*rng.NormFloat64())
		p.Baseline.CostUSD, p.Candidate.CostUSD = 0.001*rng.ExpFloat64(), 0.001*rng.ExpFloat64()
		b.Add(p)
	}
	return b.Report(Replay{}, Spending{})
}

func TestEqualCandidatesRaiseFewAlarmsAndWorseOnesAreFound(t *testing.T) {
	const runs = 100
	alarms, plain, covered, found := map[string]int{}, map[string]int{}, 0, 0
	for seed := range uint64(runs) {
		equal := trial(seed, 400, 0.8, 0.8, 0)
		for _, m := range equal.Metrics {
			if m.Verdict != CannotTell && m.Verdict != IsEqual {
				alarms["any"]++
			}
			if m.P < Level {
				plain[m.Name]++
			}
			if m.Name == Score && m.Low <= 0 && 0 <= m.High {
				covered++
			}
		}
		worse := trial(seed, 400, 0.85, 0.75, -0.02)
		require.Equal(t, Correct, worse.Verdict.RestsOn)
		if worse.Verdict.Quality == IsWorse {
			found++
		}
		require.NotEqual(t, IsBetter, worse.Verdict.Quality)
	}
	t.Logf("false alarms of %d: %v adjusted, %v unadjusted; intervals that hold the truth: %d; power: %d", runs, alarms, plain, covered, found)
	require.LessOrEqual(t, alarms["any"], 10)
	for name, n := range plain {
		require.LessOrEqual(t, n, 10, name)
	}
	require.GreaterOrEqual(t, covered, 90)
	require.GreaterOrEqual(t, found, 80)
}

func TestEqualRequestsAreNoEvidenceOfTheirOwn(t *testing.T) {
	alarms := 0
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 3))
		b := NewBuilder(Options{Seed: seed})
		for i := range 20 { // twenty questions, each asked fifty times
			difference := 0.1 * rng.NormFloat64()
			for j := range 50 {
				b.Add(Pair{ID: fmt.Sprint(i, "-", j), Tenant: "acme", Body: fmt.Sprint(i), Baseline: Outcome{Score: new(0.5)}, Candidate: Outcome{Score: new(0.5 + difference)}})
			}
		}
		r := b.Report(Replay{}, Spending{})
		require.Equal(t, 20, r.Replay.Distinct)
		require.Equal(t, 1000, r.Replay.Pairs)
		if m, _ := r.Metric(Score); m.P < Level {
			alarms++
		}
	}
	require.LessOrEqual(t, alarms, 10)
}

func TestMemoryIsBoundedAndTheSampleSpeaksForAll(t *testing.T) {
	const pairs = 30_000
	full, part := NewBuilder(Options{Seed: 1, Clusters: pairs}), NewBuilder(Options{Seed: 1, Clusters: 2000})
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range pairs {
		p := Pair{ID: fmt.Sprint(i), Tenant: fmt.Sprint("tenant-", i%500), Body: fmt.Sprint(i)}
		base := rng.Float64()
		p.Baseline.Score, p.Candidate.Score = new(base), new(base-0.01+0.3*rng.NormFloat64())
		p.Baseline.Stages, p.Candidate.Stages = map[string]float64{"generate": base}, map[string]float64{"generate": base}
		full.Add(p)
		part.Add(p)
		require.LessOrEqual(t, len(part.sample.clusters), 2500)
		require.LessOrEqual(t, len(part.groups), maxLabels+1+3)
	}
	a, b := full.Report(Replay{}, Spending{}), part.Report(Replay{}, Spending{})
	all, _ := a.Metric(Score)
	some, _ := b.Metric(Score)
	require.InDelta(t, pairs, b.Replay.Distinct, pairs*0.1)
	require.Equal(t, all.Difference, some.Difference, "means are of all pairs")
	require.InEpsilon(t, all.High-all.Low, some.High-some.Low, 0.15, "the interval is that of all pairs")
	require.Equal(t, IsWorse, all.Verdict)
	require.Equal(t, IsWorse, some.Verdict)
}

func TestTheOrderOfPairsChangesNothing(t *testing.T) {
	build := func(order []int) string {
		b := NewBuilder(Options{Seed: 5, Clusters: 50})
		for _, i := range order {
			b.Add(Pair{ID: fmt.Sprint(i), Tenant: "acme", Body: fmt.Sprint(i % 150), Baseline: Outcome{Score: new(0.5), Error: ""}, Candidate: Outcome{Score: new(float64(i%8) / 8), CostUSD: float64(i % 4)}})
		}
		text, err := json.Marshal(b.Report(Replay{}, Spending{}))
		require.NoError(t, err)
		return string(text)
	}
	order := rand.New(rand.NewPCG(2, 2)).Perm(400)
	require.Equal(t, build(order), build(rand.New(rand.NewPCG(3, 3)).Perm(400)))
}

func TestTestsAgreeWithTables(t *testing.T) {
	require.InDelta(t, 0.03516, mcNemar(3, 12), 0.00001) // 2 * P(X <= 3), X ~ B(15, 1/2) = 2 * 576 / 32768
	require.Equal(t, 1.0, mcNemar(0, 0))
	require.Equal(t, 1.0, mcNemar(4, 4))
	require.InDelta(t, 0.0002, mcNemar(400, 520), 0.0002)
	require.Equal(t, []float64{0.03, 0.06, 0.06}, holm([]float64{0.01, 0.04, 0.03}))
	p, name := signFlip([]part{{1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}}, 3, 1, 1)
	require.Equal(t, 2.0/32, p)
	require.Equal(t, "sign-flip, exact", name)
	require.InDelta(t, 1.96, quantile(0.975), 0.001)
	require.InDelta(t, 0.05, twoSided(1.96), 0.001)
}

func TestMoreRequestsWouldTell(t *testing.T) {
	small := trial(3, 200, 0.8, 0.79, -0.002)
	m, _ := small.Metric(Score)
	require.Equal(t, CannotTell, m.Verdict)
	require.NotNil(t, m.More)
	found := 0
	for seed := range uint64(20) { // with so many, and the difference what it seemed
		large := trial(seed, 200+*m.More, 0.8, 0.79, m.Difference)
		if m, _ := large.Metric(Score); m.Verdict != CannotTell {
			found++
		}
	}
	require.GreaterOrEqual(t, found, 12, "the promise is four of five")
}

func TestReferences(t *testing.T) {
	for _, c := range []struct {
		line, answer string
		fits         bool
	}{
		{`{"id":"a","expected":"up"}`, " Up. ", true},
		{`{"id":"a","expected":"up"}`, "The price is up", false},
		{`{"id":"a","expected":"up","match":"contains"}`, "The price is up!", true},
		{`{"id":"a","expected":"up","match":"contains"}`, "The group of supporters", false},
		{`{"id":"a","expected":18}`, "9 * $2 = $18 every day", true},
		{`{"id":"a","expected":"#### 1,018.50","match":"number"}`, "It is 1018.5.", true},
		{`{"id":"a","expected":18}`, "18 of 20", false},
		{`{"id":"a","ideal":["yes","yeah"]}`, "Yeah!", true},
		{`{"id":"a","expected":{"b":1.0,"a":[2]}}`, "```json\n{\"a\":[2],\"b\":1}\n```", true},
		{`{"id":"a","expected":{"b":1}}`, "{\"b\":1,\"b\":2}", false},
		{`{"id":"a","expected":[1,2],"match":"json"}`, "[1, 2]", true},
		{`{"id":"a","expected":{"b":1}}`, "no JSON", false},
		{`{"id":"a","expected":true}`, "true", true},
	} {
		r, err := ParseReference([]byte(c.line))
		require.NoError(t, err, c.line)
		require.Equal(t, c.fits, r.Fits(c.answer), "%s: %s", c.line, c.answer)
	}
	for _, bad := range []string{`{}`, `x`, `{"id":"a"}`, `{"id":"a","expected":"x","match":"fuzzy"}`, `{"id":"a","expected":""}`, `{"id":"a","expected":[]}`, `{"id":"a","expected":"x","match":"number"}`} {
		_, err := ParseReference([]byte(bad))
		require.Error(t, err, bad)
	}
}

func TestGate(t *testing.T) {
	r := trial(1, 400, 0.85, 0.75, -0.02)
	require.NotEmpty(t, Bounds{QualityDrop: new(0.01)}.Check(&r))
	require.Empty(t, Bounds{QualityDrop: new(0.3), CostRise: new(0.5)}.Check(&r))
	same := trial(1, 400, 0.8, 0.8, 0)
	m, _ := same.Metric(Correct)
	bound := math.Abs(m.Difference) + 0.001
	require.Empty(t, Bounds{QualityDrop: &bound}.Check(&same))
	require.NotEmpty(t, Bounds{QualityDrop: &bound, Strict: true}.Check(&same), "the interval does not rule it out")
	empty := NewBuilder(Options{}).Report(Replay{}, Spending{})
	require.Len(t, Bounds{QualityDrop: new(1.0), CostRise: new(1.0)}.Check(&empty), 2, "what is not known is not within a bound")
}

func TestTextIsOneTableForATerminal(t *testing.T) {
	r := trial(1, 300, 0.85, 0.7, -0.02)
	r.Groups[0].Name = "\x1b[31mred"
	var b strings.Builder
	require.NoError(t, r.WriteText(&b))
	require.Contains(t, b.String(), "correct")
	require.Contains(t, b.String(), "worse")
	require.NotContains(t, b.String(), "\x1b")
}
