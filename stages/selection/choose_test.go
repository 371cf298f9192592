package selection

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// simulated is a set of models with hidden qualities.
type simulated struct {
	book       Memory
	random     *rand.Rand
	candidates []Candidate
	ask        Ask
}

func newSimulated(seed uint64, candidates []Candidate, ask Ask) *simulated {
	ask.Now = noon
	return &simulated{random: rand.New(rand.NewPCG(seed, 9)), candidates: candidates, ask: ask}
}

// run sends n requests to models of the given qualities and counts who got them.
func (s *simulated) run(n int, quality ...float64) (share []float64) {
	share = make([]float64, len(quality))
	for range n {
		s.ask.Dice = s.random.Float64()
		i := Choose(&s.book, &s.ask, s.candidates).Index
		share[i]++
		score := 0.0
		if s.random.Float64() < quality[i] {
			score = 1
		}
		Record(&s.book, s.ask.Now, s.ask.Route, s.candidates[i].Model, Call{Took: time.Second, Output: 100})
		Score(&s.book, s.ask.Now, s.ask.Route, s.candidates[i].Model, s.candidates[i].Quality, nil, score)
		s.ask.Now = s.ask.Now.Add(time.Second)
	}
	for i := range share {
		share[i] /= float64(n)
	}
	return share
}

var threeModels = []Candidate{
	{Model: "large", Quality: 0.9, OutputUSD: 10e-6},
	{Model: "middle", Quality: 0.8, OutputUSD: 2e-6},
	{Model: "small", Quality: 0.7, OutputUSD: 0.5e-6},
}

var forQuality = Ask{Route: "r", Weights: Weights{Quality: 1}, Explore: 0.05}

func TestTheFirstIsChosenUntilSomethingWasMeasured(t *testing.T) {
	s := newSimulated(1, []Candidate{threeModels[2], threeModels[1], threeModels[0]}, forQuality)
	require.Equal(t, []float64{1, 0, 0}, s.run(firstAnswers, 0.5, 1, 1), "though others are configured to be better")
	c := Choose(new(Memory), &s.ask, s.candidates)
	require.Equal(t, 1.0, c.Probability)
	require.Contains(t, c.Because, "first")
	share := s.run(500, 0.5, 0.9, 0.95)
	require.Greater(t, share[1]+share[2], 0.8)
}

// A model that turns bad loses its traffic within 200 requests and gets it back
// after its recovery.
func TestAModelThatTurnsBadLosesItsTraffic(t *testing.T) {
	for seed := range uint64(20) {
		s := newSimulated(seed, threeModels, forQuality)
		s.run(1500, 0.95, 0.88, 0.70)
		require.Greater(t, s.run(300, 0.95, 0.88, 0.70)[0], 0.7, "seed %d: the best has most of it", seed)
		s.run(200, 0.40, 0.88, 0.70)
		require.Less(t, s.run(200, 0.40, 0.88, 0.70)[0], 0.1, "seed %d: it has lost it", seed)
		s.run(1500, 0.95, 0.88, 0.70)
		require.Greater(t, s.run(500, 0.95, 0.88, 0.70)[0], 0.6, "seed %d: it has it back", seed)
	}
}

func TestAModelThatFailsLosesItsTraffic(t *testing.T) {
	s := newSimulated(3, threeModels, forQuality)
	s.run(1000, 0.95, 0.88, 0.70)
	for range 60 {
		Record(&s.book, s.ask.Now, "r", "large", Call{Failed: true})
	}
	require.Less(t, s.run(200, 0.95, 0.88, 0.70)[0], 0.3)
}

func TestTheProbabilityThatIsToldIsThatOfTheDice(t *testing.T) {
	for _, ask := range []Ask{
		forQuality,
		{Route: "r", Weights: Weights{Quality: 1, Speed: 1, Cost: 1}, Explore: 0.2},
		{Route: "r", Weights: Weights{Cost: 1}},
		{Route: "r", MinQuality: 0.8, Explore: 0.1},
	} {
		s := newSimulated(5, threeModels, ask)
		s.run(60, 0.8, 0.78, 0.75)
		const throws = 10_000
		counts, told := make([]float64, 3), make([]float64, 3)
		for i := range throws {
			s.ask.Dice = (float64(i) + 0.5) / throws
			c := Choose(&s.book, &s.ask, s.candidates)
			counts[c.Index]++
			told[c.Index] = c.Probability
			require.NotEmpty(t, c.Because)
		}
		for i := range counts {
			require.InDelta(t, told[i], counts[i]/throws, 2.0/throws)
		}
	}
}

func TestProbabilitiesAreThoseOfSampling(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		means, deviations := make([]float64, 4), make([]float64, 4)
		for i := range means {
			means[i], deviations[i] = 0.8+0.1*random.Float64(), 0.01+0.05*random.Float64()
		}
		want := make([]float64, 4)
		for range 20_000 {
			best, most := 0, -1.0
			for i := range means {
				if v := means[i] + deviations[i]*random.NormFloat64(); v > most {
					best, most = i, v
				}
			}
			want[best] += 1.0 / 20_000
		}
		for i, p := range probabilitiesOfBest(make([]float64, 4), means, deviations) {
			require.InDelta(t, want[i], p, 0.03, "means %v deviations %v", means, deviations)
		}
	}
}

func TestExplorationIsBounded(t *testing.T) {
	s := newSimulated(7, threeModels, forQuality)
	s.run(3000, 0.99, 0.5, 0.3)
	share := s.run(2000, 0.99, 0.5, 0.3)
	require.InDelta(t, 0.05*2/3, share[1]+share[2], 0.015, "where the statistics are clear only the configured share is explored")
	s.ask.Deterministic = true
	require.Equal(t, 1.0, s.run(200, 0.99, 0.5, 0.3)[0])
}

func TestANewRouteBeginsWithWhatIsKnownOfTheModels(t *testing.T) {
	s := newSimulated(9, []Candidate{{Model: "a"}, {Model: "b"}}, Ask{Route: "old", Weights: Weights{Quality: 1}, Explore: 0.3})
	s.run(2000, 0.2, 0.9)
	ask := s.ask
	ask.Route, ask.Deterministic = "new", true
	require.Equal(t, 1, Choose(&s.book, &ask, s.candidates).Index)
	e := Expect(&s.book, &ask, &s.candidates[1])
	require.InDelta(t, 0.9, e.Quality, 0.07)
	require.Greater(t, e.Deviation, Expect(&s.book, &s.ask, &s.candidates[1]).Deviation, "but less surely so")
}

func TestUnknownModelsAreOnlyExplored(t *testing.T) {
	s := newSimulated(11, []Candidate{{Model: "a"}, {Model: "never-seen"}}, forQuality)
	for range 100 {
		Score(&s.book, noon, "r", "a", 0, nil, 0.4)
	}
	n := 0
	for i := range 1000 {
		s.ask.Dice = float64(i) / 1000
		c := Choose(&s.book, &s.ask, s.candidates)
		n += c.Index
		if c.Index == 1 {
			require.Contains(t, c.Because, "explored")
		}
	}
	require.InDelta(t, 25, n, 2, "half of 5%")
}

func TestTheCheapestThatIsGoodEnough(t *testing.T) {
	s := newSimulated(13, threeModels, Ask{Route: "r", Weights: Weights{Quality: 1}, Explore: 0.3})
	s.run(3000, 0.95, 0.88, 0.70)
	choose := func(least, most float64) Choice {
		ask := s.ask
		ask.MinQuality, ask.MaxCostUSD, ask.Explore, ask.Dice = least, most, 0, 0.5
		return Choose(&s.book, &ask, threeModels)
	}
	require.Equal(t, 0, choose(0.90, 0).Index)
	require.Equal(t, 1, choose(0.75, 0).Index)
	require.Equal(t, 2, choose(0.55, 0).Index)
	require.Contains(t, choose(0.55, 0).Because, "cheapest with a quality of at least 0.55")
	require.Equal(t, 0, choose(0.99, 0).Index, "none surely reaches it: the best")
	require.Contains(t, choose(0.99, 0).Because, "none surely")
	require.Equal(t, 1, choose(0, 300e-6).Index, "the best that is cheap enough: 100 tokens at $2 a million")
	require.Equal(t, 1, choose(0.99, 300e-6).Index)
	require.Equal(t, -1, choose(0, 1e-6).Index)
	require.InDelta(t, 100*0.5e-6, choose(0, 1e-6).Estimate.CostUSD, 1e-7, "what the cheapest would cost")
}

func TestCriteria(t *testing.T) {
	book := new(Memory)
	for _, m := range []struct {
		name    string
		quality float64
		took    time.Duration
	}{{"large", 0.95, 4 * time.Second}, {"middle", 0.88, 2 * time.Second}, {"small", 0.70, time.Second / 2}} {
		for range 300 {
			Score(book, noon, "r", m.name, 0, nil, m.quality)
			Record(book, noon, "r", m.name, Call{Took: m.took, Output: 100})
		}
	}
	ask := Ask{Route: "r", Now: noon, Deterministic: true}
	for want, w := range map[int]Weights{0: {Quality: 1}, 1: {Quality: 1, Cost: 0.15}, 2: {Speed: 1}} {
		ask.Weights = w
		require.Equal(t, want, Choose(book, &ask, threeModels).Index, "%+v", w)
	}
	ask.Weights = Weights{Quality: 1}
	ask.Left = 3 * time.Second
	require.Equal(t, 1, Choose(book, &ask, threeModels).Index, "the best that keeps the deadline")
	ask.Left = time.Millisecond
	c := Choose(book, &ask, threeModels)
	require.Equal(t, 2, c.Index, "none does: the fastest")
	require.Contains(t, c.Because, "deadline")
}

func TestBetter(t *testing.T) {
	book := new(Memory)
	for _, m := range threeModels {
		for range 100 {
			Score(book, noon, "r", m.Model, m.Quality, nil, m.Quality)
		}
	}
	ask := Ask{Route: "r", Now: noon}
	require.Equal(t, 0, Better(book, &ask, threeModels, []string{"small"}).Index, "the best of the rest")
	require.Equal(t, 0, Better(book, &ask, threeModels, []string{"small", "middle"}).Index)
	require.Equal(t, -1, Better(book, &ask, threeModels, []string{"large"}).Index, "nothing better is left")
	require.Equal(t, -1, Better(book, &ask, threeModels, []string{"large", "middle", "small"}).Index)
	unknown := []Candidate{{Model: "cheap", OutputUSD: 1e-6}, {Model: "dear", OutputUSD: 2e-6}}
	require.Equal(t, 1, Better(new(Memory), &ask, unknown, []string{"cheap"}).Index, "what costs more is thought to be better")
	require.Equal(t, -1, Better(new(Memory), &ask, unknown, []string{"dear"}).Index)
}

// Half of the prompts are easy for all models. At the quality of the best model
// alone, choosing costs at least 40% less.
func TestTheEasyHalfIsLeftToTheCheapModel(t *testing.T) {
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 4))
		book := new(Memory)
		ask := Ask{Route: "r", MinQuality: 0.85, Weights: Weights{Quality: 1}, Explore: 0.1, Now: noon}
		price := []float64{10, 2, 0.5}
		var cost, best, quality, bestQuality float64
		const requests, warm = 12_000, 6_000
		for i := range requests {
			easy := i%2 == 0
			text := fmt.Sprintf("Prove that the %d-th lemma holds in the general case, step by step", random.IntN(1000))
			right := []float64{0.90, 0.76, 0.40}
			if easy {
				text = fmt.Sprintf("Translate the word number %d into French, please", random.IntN(1000))
				right = []float64{1, 1, 1}
			}
			ask.Features, ask.Dice = Describe(nil, []byte(text)), random.Float64()
			c := Choose(book, &ask, threeModels)
			score := 0.0
			if random.Float64() < right[c.Index] {
				score = 1
			}
			Record(book, noon, "r", threeModels[c.Index].Model, Call{Took: time.Second, Output: 100})
			Score(book, noon, "r", threeModels[c.Index].Model, 0, ask.Features, score)
			if i >= warm {
				cost, best = cost+price[c.Index], best+price[0]
				quality, bestQuality = quality+right[c.Index], bestQuality+right[0]
			}
		}
		n := float64(requests - warm)
		t.Logf("seed %d: quality %.3f at %.0f%% of the cost of the best alone, which has %.3f", seed, quality/n, 100*cost/best, bestQuality/n)
		require.Greater(t, quality/n, bestQuality/n-0.04)
		require.Less(t, cost/best, 0.6)
	}
}

func BenchmarkSelect(b *testing.B) {
	s := newSimulated(1, threeModels, forQuality)
	s.run(2000, 0.95, 0.88, 0.70)
	body := []byte(`{"model":"auto","messages":[{"role":"system","content":"Answer briefly."},{"role":"user","content":"`)
	for i := range 90 {
		body = fmt.Appendf(body, "Word%d follows ", i)
	}
	body = append(body, `"}]}`...)
	for range 400 {
		Score(&s.book, noon, "r", "large", 0, Describe(nil, body), 1)
	}
	b.ReportAllocs()
	for b.Loop() {
		need := Read(body)
		s.ask.Route = Cluster(&need)
		s.ask.Features = Describe(make(Features, 0, 256), need.Prompt)
		Choose(&s.book, &s.ask, s.candidates)
	}
}
