package tokens

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// provider bills what its own tokenizer would count: ratio times our count,
// more or less by request.
type provider struct {
	random *rand.Rand
	ratio  float64
	noise  float64
}

func (p *provider) call() (counted, billed int) {
	counted = 20 + int(math.Exp(p.random.Float64()*7)) // 21 to 1,100, most of them short
	factor := p.ratio * (1 + p.noise*p.random.NormFloat64())
	return counted, max(1, int(math.Round(float64(counted)*factor)))
}

func TestCalibrationLearnsIn50Responses(t *testing.T) {
	for _, ratio := range []float64{1.17, 1 / 1.17, 1} {
		for seed := range uint64(100) {
			p := &provider{random: rand.New(rand.NewPCG(seed, 1)), ratio: ratio, noise: 0.05}
			var c Calibration
			for range 50 {
				c.Observe(p.call())
			}
			var predicted, billed float64
			above := 0
			for range 1000 {
				n, bill := p.call()
				predicted += float64(n) * c.Mean()
				billed += float64(bill)
				if float64(bill) > math.Ceil(float64(n)*c.High()) {
					above++
				}
			}
			require.InDeltaf(t, 1, predicted/billed, 0.03, "ratio %v, seed %d", ratio, seed)
			require.LessOrEqualf(t, above, 50, "ratio %v, seed %d: billed above High %v", ratio, seed, c.High())
		}
	}
}

func TestCalibrationFollowsAChange(t *testing.T) {
	p := &provider{random: rand.New(rand.NewPCG(1, 2)), ratio: 1.0, noise: 0.02}
	var c Calibration
	for range 5000 {
		c.Observe(p.call())
	}
	require.InDelta(t, 1, c.Mean(), 0.01)
	p.ratio = 1.35
	for range 20 {
		c.Observe(p.call())
	}
	require.Greater(t, c.High(), 1.35, "limits have to follow at once")
	for range 2500 {
		c.Observe(p.call())
	}
	require.InDelta(t, 1.35, c.Mean(), 0.01)
}

func TestCalibrationMerges(t *testing.T) {
	p := &provider{random: rand.New(rand.NewPCG(3, 4)), ratio: 1.17, noise: 0.05}
	var all, shared Calibration
	var parts [4]Calibration
	for i := range 400 {
		counted, billed := p.call()
		all.Observe(counted, billed)
		parts[i%4].Observe(counted, billed)
	}
	for i := range parts {
		shared.Merge(&parts[i])
	}
	require.InDelta(t, all.Mean(), shared.Mean(), 1e-9)
	require.InDelta(t, all.High(), shared.High(), 1e-9)
	require.InDelta(t, 400, shared.Weight(), 1e-9)

	for range 3 {
		shared.Merge(&all)
	}
	require.InDelta(t, maxWeight, shared.Weight(), 1e-9)
	require.InDelta(t, all.Mean(), shared.Mean(), 1e-3)
}

func TestCalibrationBeginsCautiously(t *testing.T) {
	var c Calibration
	require.Equal(t, 1.0, c.Mean())
	require.Equal(t, 1.25, c.High())
	c.Observe(0, 10)
	c.Observe(10, 0)
	c.Observe(-1, -1)
	require.Zero(t, c.Weight())
	c.Observe(10, 30) // one odd response is not believed at once
	require.InDelta(t, 2, c.Mean(), 1e-9)
	require.Greater(t, c.High(), 3.0)
}

func TestCalibrationIsBounded(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	var c Calibration
	for range 200_000 {
		c.Observe(1+random.IntN(1000), 1+random.IntN(1000))
	}
	c.Observe(1, math.MaxInt)
	c.Observe(math.MaxInt, 1)
	require.LessOrEqual(t, c.Weight(), float64(maxWeight))
	require.LessOrEqual(t, c.Mean(), ratioMax)
	require.False(t, math.IsNaN(c.High()))
	data, err := json.Marshal(&c)
	require.NoError(t, err)
	require.Less(t, len(data), 8<<10)
}

func TestCalibrationSurvivesTheWire(t *testing.T) {
	p := &provider{random: rand.New(rand.NewPCG(7, 8)), ratio: 1.17, noise: 0.05}
	var c, read Calibration
	for range 700 {
		c.Observe(p.call())
	}
	data, err := json.Marshal(&c)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &read))
	require.InDelta(t, c.Mean(), read.Mean(), 1e-6)
	require.InDelta(t, c.High(), read.High(), 0.011*c.High())

	for _, bad := range []string{
		`{"weight":-1}`, `{"weight":501}`, `{"counted":-1}`, `{"billed":-1}`, `{"weight":1e999}`, `[]`,
		`{"ratios":[[0.5,1]]}`, `{"ratios":[[-1,1]]}`, `{"ratios":[[278,1]]}`, `{"ratios":[[1,-1]]}`, `{"ratios":[[1,501]]}`,
	} {
		require.Errorf(t, json.Unmarshal([]byte(bad), &read), "%s", bad)
	}
	require.InDelta(t, c.Mean(), read.Mean(), 1e-6, "a bad record leaves what was learnt")
}

func FuzzCalibrationFromAnywhere(f *testing.F) {
	f.Add([]byte(`{"weight":2,"counted":20,"billed":23,"ratios":[[140,2]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Calibration
		if json.Unmarshal(data, &c) != nil {
			return
		}
		c.Observe(100, 117)
		for _, x := range []float64{c.Mean(), c.High(), c.Weight()} {
			if math.IsNaN(x) || math.IsInf(x, 0) || x <= 0 || x > maxWeight {
				t.Fatalf("%s gives %v", data, x)
			}
		}
	})
}
