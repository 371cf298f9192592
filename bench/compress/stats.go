package compress

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// share is a number of successes with its 95% interval.
type share struct{ hits, of int }

func (s *share) add(hit bool) {
	s.of++
	if hit {
		s.hits++
	}
}

func (s share) percent() float64 { return 100 * float64(s.hits) / float64(max(s.of, 1)) }

// String gives the share in percent with the interval of Wilson (1927).
func (s share) String() string {
	const z = 1.96
	n, p := float64(max(s.of, 1)), s.percent()/100
	middle := (p + z*z/(2*n)) / (1 + z*z/n)
	half := z / (1 + z*z/n) * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	return fmt.Sprintf("%5.1f [%.1f, %.1f]", 100*p, 100*(middle-half), 100*(middle+half))
}

// clustered is a mean of values that come in groups, such as the queries of one
// meeting, with an interval from drawing whole groups again.
type clustered [][]float64

func (c clustered) String() string {
	random := rand.New(rand.NewPCG(5, 6))
	const draws = 2000
	means := make([]float64, draws)
	for i := range means {
		sample := make(clustered, len(c))
		for k := range sample {
			sample[k] = c[random.IntN(len(c))]
		}
		means[i] = sample.mean()
	}
	slices.Sort(means)
	return fmt.Sprintf("%5.1f [%.1f, %.1f]", c.mean(), means[draws*25/1000], means[draws*975/1000])
}

func (c clustered) mean() float64 {
	sum, n := 0.0, 0
	for _, group := range c {
		for _, v := range group {
			sum += v
			n++
		}
	}
	return sum / float64(max(n, 1))
}
