package tune

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

// trial plays requests against settings with these means and a noise of 0.2.
type trial struct {
	random   *rand.Rand
	means    []float64
	use, own Learner
}

func newTrial(seed uint64, means ...float64) *trial {
	return &trial{random: rand.New(rand.NewPCG(seed, 1)), means: means}
}

func (p *trial) play(n int) (until int) {
	for i := range n {
		if p.use.Frozen {
			return i
		}
		arm := p.use.Choose(len(p.means), p.random.Float64)
		Observe(&p.use, &p.own, len(p.means), arm, p.means[arm]+0.2*p.random.NormFloat64())
	}
	return n
}

func ten(best int) []float64 {
	means := slices.Repeat([]float64{0.7}, 10)
	means[best] = 0.75
	return means
}

func TestTheBestSettingIsFound(t *testing.T) {
	found := 0
	for seed := range uint64(50) {
		p := newTrial(seed, ten(int(seed)%10)...)
		p.play(4000)
		if p.use.Frozen && p.use.Best == int(seed)%10 {
			found++
		}
		for i := range p.means {
			require.GreaterOrEqual(t, p.use.Arms[i].N, 30.0, "each gets its trials")
		}
		if p.use.Frozen {
			require.GreaterOrEqual(t, p.use.Certainty(), surely)
		}
	}
	require.GreaterOrEqual(t, found, 45)
}

func TestSettingsThatAreAlikeEndTheSearch(t *testing.T) {
	p := newTrial(1, 0.5, 0.5, 0.5)
	p.play(100_000)
	require.True(t, p.use.Frozen)
	constant := newTrial(2, 0, 0, 0)
	for i := 0; !constant.use.Frozen; i++ {
		require.Less(t, i, 500)
		arm := constant.use.Choose(3, constant.random.Float64)
		Observe(&constant.use, &constant.own, 3, arm, 1)
	}
	require.Equal(t, 0, constant.use.Best, "nothing is changed for nothing")
}

func TestASearchBeginsAnewOnDrift(t *testing.T) {
	p := newTrial(3, ten(4)...)
	p.play(4000)
	require.True(t, p.use.Frozen)
	require.Equal(t, 4, p.use.Best)
	for range 20 * driftBlock { // nothing changes
		Observe(&p.use, &p.own, 10, 4, 0.75+0.2*p.random.NormFloat64())
	}
	require.True(t, p.use.Frozen)
	require.Zero(t, p.use.Epoch)
	p.means = ten(7)
	p.means[4] = 0.6
	n := 0
	for ; p.use.Frozen; n++ {
		require.Less(t, n, 2*driftBlock)
		Observe(&p.use, &p.own, 10, 4, 0.6+0.2*p.random.NormFloat64())
	}
	require.EqualValues(t, 1, p.use.Epoch)
	p.play(4000)
	require.Equal(t, 7, p.use.Best)
}

// Two processes that observe and share end with what one that sees all has.
func TestWhatIsSharedIsTheSum(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	var shared, whole, unused Learner
	processes := make([]struct{ use, own Learner }, 2)
	for i := range 400 {
		p := &processes[i%2]
		arm, reward := i%4, float64(random.IntN(2))
		Observe(&p.use, &p.own, 4, arm, reward)
		Observe(&whole, &unused, 4, arm, reward)
		if i%20 == 19 { // one shares, as the store does
			data, err := p.own.MarshalBinary()
			require.NoError(t, err)
			var sent Learner
			require.NoError(t, sent.UnmarshalBinary(data))
			shared.Merge(&sent)
			p.own, p.use = Learner{}, Learner{}
			p.use.Merge(&shared)
		}
	}
	for i := range processes {
		shared.Merge(&processes[i].own)
	}
	require.Empty(t, cmp.Diff(whole.Arms, shared.Arms))
	require.Equal(t, whole.Frozen, shared.Frozen)
}

func TestObservationsOfAnEarlierSearchAreLeftOut(t *testing.T) {
	old, now := Learner{Arms: make([]Moments, 3)}, Learner{Epoch: 2, Arms: make([]Moments, 3)}
	old.Arms[1].add(1)
	now.Merge(&old)
	require.Zero(t, now.trials())
	old.Merge(&Learner{Epoch: 3, Arms: []Moments{{N: 1}, {}, {}}})
	require.EqualValues(t, 3, old.Epoch)
	require.Equal(t, 1.0, old.trials())
}

func TestHostileObservations(t *testing.T) {
	var use, own Learner
	for _, arm := range []int{-1, 3, 1 << 40} {
		Observe(&use, &own, 3, arm, 1)
	}
	Observe(&use, &own, 100, 70, 1)
	require.Empty(t, use.Arms)
	require.Error(t, use.UnmarshalBinary([]byte("x")))
}

func BenchmarkChoose(b *testing.B) {
	p := newTrial(1, ten(3)...)
	p.play(500)
	p.use.Frozen = false
	b.ReportAllocs()
	for b.Loop() {
		p.use.Choose(10, p.random.Float64)
	}
}
