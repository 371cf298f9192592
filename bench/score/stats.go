package score

import (
	"math"
	"math/rand/v2"
	"slices"
)

// confusion counts a yes-or-no decision against its label.
type confusion struct{ truePos, falsePos, falseNeg, trueNeg float64 }

func (c *confusion) add(said, is bool) {
	switch {
	case said && is:
		c.truePos++
	case said:
		c.falsePos++
	case is:
		c.falseNeg++
	default:
		c.trueNeg++
	}
}

func (c confusion) f1() float64 {
	return 2 * c.truePos / (2*c.truePos + c.falsePos + c.falseNeg)
}
func (c confusion) precision() float64 { return c.truePos / (c.truePos + c.falsePos) }
func (c confusion) recall() float64    { return c.truePos / (c.truePos + c.falseNeg) }

// resamples is how many bootstrap samples an interval rests on.
const resamples = 2000

// interval gives the 95% percentile bootstrap interval of a statistic of n cases, which
// is called with the indices of a sample drawn with replacement. The seed is fixed.
func interval(n int, statistic func(sample []int) float64) (low, high float64) {
	random := rand.New(rand.NewPCG(1, 2))
	sample, values := make([]int, n), make([]float64, 0, resamples)
	for range resamples {
		for i := range sample {
			sample[i] = random.IntN(n)
		}
		if v := statistic(sample); !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	return values[len(values)*25/1000], values[len(values)*975/1000]
}

// all gives the indices 0..n-1: the sample that is the data itself.
func all(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// ranks gives each value's rank; equal values share the mean of theirs.
func ranks(v []float64) []float64 {
	order := all(len(v))
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case v[a] < v[b]:
			return -1
		case v[a] > v[b]:
			return 1
		}
		return 0
	})
	r := make([]float64, len(v))
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && v[order[j]] == v[order[i]] {
			j++
		}
		for k := i; k < j; k++ {
			r[order[k]] = float64(i+j-1) / 2
		}
		i = j
	}
	return r
}

func pearson(a, b []float64) float64 {
	n := float64(len(a))
	var sa, sb, saa, sbb, sab float64
	for i := range a {
		sa, sb = sa+a[i], sb+b[i]
		saa, sbb, sab = saa+a[i]*a[i], sbb+b[i]*b[i], sab+a[i]*b[i]
	}
	return (sab - sa*sb/n) / math.Sqrt((saa-sa*sa/n)*(sbb-sb*sb/n))
}

func spearman(a, b []float64) float64 { return pearson(ranks(a), ranks(b)) }

// pick gives the values at the indices of a sample.
func pick(v []float64, sample []int) []float64 {
	out := make([]float64, len(sample))
	for i, k := range sample {
		out[i] = v[k]
	}
	return out
}

// mean gives the mean of the values at the indices of a sample.
func mean(v []float64, sample []int) (sum float64) {
	for _, i := range sample {
		sum += v[i] / float64(len(sample))
	}
	return sum
}

func pickBool(v []bool, sample []int) []bool {
	out := make([]bool, len(sample))
	for i, k := range sample {
		out[i] = v[k]
	}
	return out
}

// auc gives the probability that a positive case has a greater value than a negative one.
func auc(values []float64, positive []bool) float64 {
	sum, n := 0.0, 0.0
	for i, r := range ranks(values) {
		if positive[i] {
			sum += r + 1
			n++
		}
	}
	return (sum - n*(n+1)/2) / (n * (float64(len(values)) - n))
}
