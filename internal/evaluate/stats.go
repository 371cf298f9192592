package evaluate

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
)

const (
	// Level is the error that an interval and a verdict allow: 95 % are right.
	Level = 0.05
	// power is what "how many more requests would tell" promises.
	power = 0.8

	resamples    = 1000 // of a bootstrap
	permutations = 9999 // of a test by chance
	exactSigns   = 14   // clusters up to which all signs are tried
	normalFrom   = 200  // clusters from which the sum of signs is taken for normal
)

// interval gives the 95 % bootstrap interval of a mean difference: clusters are
// drawn with replacement, and the percentiles of the means are taken (Efron and
// Tibshirani 1993, 13.3; drawing whole clusters, Davison and Hinkley 1997,
// 3.8). shrink is the root of the share of all clusters that the sample is:
// the spread of the whole is smaller by that.
func interval(parts []part, mean, shrink float64, seed uint64) (low, high float64) {
	if constant(parts) {
		return mean, mean
	}
	rng := rand.New(rand.NewPCG(seed, uint64(len(parts))))
	own := meanOf(parts)
	means := make([]float64, 0, resamples)
	for range resamples {
		sum, pairs := 0.0, 0
		for range parts {
			p := &parts[rng.IntN(len(parts))]
			sum += p.difference
			pairs += p.pairs
		}
		means = append(means, sum/float64(pairs))
	}
	sort.Float64s(means)
	low, high = percentile(means, Level/2), percentile(means, 1-Level/2)
	return mean + (low-own)*shrink, mean + (high-own)*shrink
}

func constant(parts []part) bool {
	for _, p := range parts {
		if p.difference/float64(p.pairs) != parts[0].difference/float64(parts[0].pairs) {
			return false
		}
	}
	return true
}

func meanOf(parts []part) float64 {
	sum, pairs := 0.0, 0
	for _, p := range parts {
		sum += p.difference
		pairs += p.pairs
	}
	return sum / float64(max(pairs, 1))
}

// percentile gives the value below which a share of sorted values lies,
// between two of them where that falls there.
func percentile(sorted []float64, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := share * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// signFlip tests whether differences lie around 0: were both configurations
// alike, each cluster's difference would as well have the other sign (Fisher's
// randomisation test for pairs, 1935). p is the share of all signs that give a
// sum at least as far from 0. All are tried for few clusters, drawn for some,
// and for many the sum is taken for normal; where the parts are a sample, mean is
// that of all.
func signFlip(parts []part, mean, shrink float64, seed uint64) (p float64, name string) {
	differences := make([]float64, 0, len(parts))
	sum, squares := 0.0, 0.0
	for _, part := range parts {
		if d := part.difference; d != 0 {
			differences = append(differences, math.Abs(d))
			sum += d
			squares += d * d
		}
	}
	n := len(differences)
	reached := math.Abs(sum) * (1 - 1e-12)
	switch {
	case n == 0:
		return 1, "sign-flip, no difference"
	case n <= exactSigns:
		return flipAll(differences, reached), "sign-flip, exact"
	case shrink < 1:
		return twoSided(mean / spread(parts, shrink)), "sign-flip, normal"
	case n <= normalFrom:
		return flipSome(differences, reached, seed), "sign-flip, 9,999 draws"
	}
	return twoSided(sum / math.Sqrt(squares)), "sign-flip, normal"
}

func flipAll(differences []float64, reached float64) float64 {
	far, all := 0, 1<<len(differences)
	for signs := range all {
		sum := 0.0
		for i, d := range differences {
			if signs>>i&1 == 0 {
				sum += d
			} else {
				sum -= d
			}
		}
		if math.Abs(sum) >= reached {
			far++
		}
	}
	return float64(far) / float64(all)
}

func flipSome(differences []float64, reached float64, seed uint64) float64 {
	rng := rand.New(rand.NewPCG(seed, 1))
	far := 1 // what was observed is one of them
	for range permutations {
		sum := 0.0
		for i := 0; i < len(differences); i += 64 {
			signs := rng.Uint64()
			for _, d := range differences[i:min(i+64, len(differences))] {
				if signs&1 == 0 {
					sum += d
				} else {
					sum -= d
				}
				signs >>= 1
			}
		}
		if math.Abs(sum) >= reached {
			far++
		}
	}
	return float64(far) / (permutations + 1)
}

// mcNemar tests pairs of yes and no: of those that differ, half would have gone
// either way by chance (McNemar 1947, exact by the binomial).
func mcNemar(gained, lost int) float64 {
	n, few := gained+lost, min(gained, lost)
	if n == 0 {
		return 1
	}
	sum := 0.0
	all, _ := math.Lgamma(float64(n + 1))
	for k := few; k >= 0; k-- {
		a, _ := math.Lgamma(float64(k + 1))
		b, _ := math.Lgamma(float64(n - k + 1))
		term := math.Exp(all - a - b - float64(n)*math.Ln2)
		sum += term
		if term < sum*1e-15 {
			break
		}
	}
	return min(2*sum, 1)
}

func twoSided(z float64) float64 { return math.Erfc(math.Abs(z) / math.Sqrt2) }

// quantile of the standard normal distribution.
func quantile(share float64) float64 { return math.Sqrt2 * math.Erfinv(2*share-1) }

// holm adjusts the p values of tests that are looked at together, so that any
// wrong alarm among them has at most the probability Level (Holm 1979).
func holm(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case p[a] < p[b]:
			return -1
		case p[a] > p[b]:
			return 1
		}
		return 0
	})
	adjusted, highest := make([]float64, len(p)), 0.0
	for rank, i := range order {
		highest = max(highest, min(1, p[i]*float64(len(p)-rank)))
		adjusted[i] = highest
	}
	return adjusted
}

// spread is the standard error of the mean difference over clusters.
func spread(parts []part, shrink float64) float64 {
	mean, pairs, squares := meanOf(parts), 0, 0.0
	for _, p := range parts {
		rest := p.difference - mean*float64(p.pairs)
		squares += rest * rest
		pairs += p.pairs
	}
	if len(parts) < 2 {
		return 0
	}
	k := float64(len(parts))
	return math.Sqrt(squares*k/(k-1)) / float64(pairs) * shrink
}

// reach is how many standard errors a difference must be to be told with the
// promised power, where tests are looked at together.
func reach(tests int) float64 { return quantile(1-Level/2/float64(max(tests, 1))) + quantile(power) }
