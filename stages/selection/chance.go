package selection

import "math"

// quantiles are the middles of equally probable parts of the normal distribution.
var quantiles = func() (z [16]float64) {
	for i := range z {
		z[i] = math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/float64(len(z))-1)
	}
	return z
}()

const (
	// tableEnd is beyond which the normal distribution function is taken for 0 or 1.
	tableEnd   = 4
	tableSteps = 64 // for each standard deviation
)

// below tabulates the normal distribution function: the choice needs some
// hundred values of it.
var below = func() (table [2*tableEnd*tableSteps + 2]float64) {
	for i := range table {
		table[i] = 0.5 * math.Erfc((tableEnd-float64(i)/tableSteps)/math.Sqrt2)
	}
	return table
}()

func normal(z float64) float64 {
	at := (z + tableEnd) * tableSteps
	switch {
	case !(at > 0): // NaN too, of the difference of two that are out of the question
		return 0
	case at >= 2*tableEnd*tableSteps:
		return 1
	}
	i := int(at)
	return below[i] + (at-float64(i))*(below[i+1]-below[i])
}

// probabilitiesOfBest fills p with the probability of each model to be the best
// of all, where what each is worth is normally distributed: for each of 16
// equally probable values of one, the probability that all others are below it.
// What this is off is made up by scaling; models are drawn with exactly these
// probabilities.
func probabilitiesOfBest(p, means, deviations []float64) []float64 {
	sum := 0.0
	for i := range p {
		p[i] = 0
		if math.IsInf(means[i], -1) {
			continue
		}
		for _, z := range quantiles {
			value, all := means[i]+deviations[i]*z, 1.0
			for j := range p {
				if j != i && !math.IsInf(means[j], -1) {
					all *= normal((value - means[j]) / max(deviations[j], 1e-9))
					if all == 0 {
						break
					}
				}
			}
			p[i] += all
		}
		sum += p[i]
	}
	if sum == 0 { // nothing is known of any
		p[0] = 1
		return p
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// draw takes an index with its probability; dice is in [0, 1).
func draw(p []float64, dice float64) int {
	last := 0
	for i, share := range p {
		if share <= 0 {
			continue
		}
		last = i
		if dice < share {
			return i
		}
		dice -= share
	}
	return last
}
