package tokens

import (
	"encoding/json"
	"fmt"
	"math"
)

// Calibration learns, for one provider and model, how what is billed relates
// to what was counted. The zero value has learnt nothing. It is plain data: it
// can be copied, and is not safe for concurrent use.
//
// It keeps two things of each observation. The sums of tokens counted and
// billed give Mean, for cost: over many requests the counts times Mean are the
// bill. In the sums a request weighs as the square root of its tokens: were it
// its tokens, a few long requests would decide; were it 1, the fixed tokens
// that providers add to short ones would. A histogram of the ratios, in steps of a hundredth, gives High, for
// limits. Observations weigh 1 until there are maxWeight of them; from then on
// the older ones fade, each new one taking 1/maxWeight of the whole, so that a
// change of the provider's tokenizer is learnt too.
//
// To share one, each process collects observations in a Calibration of its
// own, and now and then merges it into the shared one and begins anew.
type Calibration struct {
	weight          float64 // observations
	counted, billed float64 // tokens, over the square root of those counted
	ratios          [ratioSteps]float64
}

const (
	maxWeight = 500

	// Ratios from 1/4 to 4 are told apart; others count as the nearest.
	ratioStep  = 0.01 // of the natural logarithm
	ratioMax   = 4.0
	ratioSteps = 278 // 2 ln(4) / ratioStep, rounded up

	// High is the ratio that this part of the requests stays below.
	highQuantile = 0.99
	// What is added to High before anything is observed. It shrinks as
	// observations come in: the rarest ratios have not been seen then.
	highMargin = 0.25
)

// Observe takes in a response: the tokens that were counted before the call
// and those that the provider billed. Numbers below 1 are ignored, for they
// mean that one of them is not known.
func (c *Calibration) Observe(counted, billed int) {
	if counted < 1 || billed < 1 {
		return
	}
	c.weight++
	root := math.Sqrt(float64(counted))
	c.counted += root
	c.billed += float64(billed) / root
	c.ratios[ratioIndex(float64(billed)/float64(counted))]++
	c.fade()
}

// Merge takes in the observations of other.
func (c *Calibration) Merge(other *Calibration) {
	c.weight += other.weight
	c.counted += other.counted
	c.billed += other.billed
	for i, weight := range other.ratios {
		c.ratios[i] += weight
	}
	c.fade()
}

func (c *Calibration) fade() {
	if c.weight <= maxWeight {
		return
	}
	by := maxWeight / c.weight
	c.weight = maxWeight
	c.counted *= by
	c.billed *= by
	for i := range c.ratios {
		c.ratios[i] *= by
	}
}

// Weight is the number of observations that count, at most 500.
func (c *Calibration) Weight() float64 { return c.weight }

// Mean is what to multiply a count with to get what will be billed on average.
// It begins at 1, which weighs as much as one observation.
func (c *Calibration) Mean() float64 {
	if c.counted == 0 {
		return 1
	}
	mean := min(max(c.billed/c.counted, 1/ratioMax), ratioMax)
	return 1 + (mean-1)*c.weight/(c.weight+1)
}

// High is what to multiply a count with to get what hardly any request is
// billed above: the 99th percentile of the ratios, and a margin of a quarter
// that shrinks to a twentieth over 16 observations and to nothing over hundreds.
func (c *Calibration) High() float64 {
	return max(c.quantile(highQuantile), c.Mean()) * (1 + highMargin/(1+c.weight/4))
}

// quantile returns the upper end of the step in which that part of the ratios
// is reached; 0 if there are none.
func (c *Calibration) quantile(part float64) float64 {
	left := c.weight * part
	last := 0.0
	for i, weight := range c.ratios {
		if weight == 0 {
			continue
		}
		last = math.Exp(float64(i+1)*ratioStep) / ratioMax
		if left -= weight; left <= 0 {
			break
		}
	}
	return last
}

func ratioIndex(ratio float64) int {
	i := int(math.Log(ratio*ratioMax) / ratioStep)
	return min(max(i, 0), ratioSteps-1)
}

// calibrationJSON is a Calibration on the wire. Most steps of the histogram
// are empty, so it is a list of [step, weight].
type calibrationJSON struct {
	Weight  float64      `json:"weight"`
	Counted float64      `json:"counted"`
	Billed  float64      `json:"billed"`
	Ratios  [][2]float64 `json:"ratios"`
}

// MarshalJSON writes what UnmarshalJSON reads, 8 KB at most.
func (c *Calibration) MarshalJSON() ([]byte, error) {
	wire := calibrationJSON{
		Weight: round(c.weight), Counted: round(c.counted), Billed: round(c.billed),
		Ratios: [][2]float64{},
	}
	for i, weight := range c.ratios {
		if weight = round(weight); weight > 0 {
			wire.Ratios = append(wire.Ratios, [2]float64{float64(i), weight})
		}
	}
	return json.Marshal(wire)
}

func round(x float64) float64 { return math.Round(x*1e4) / 1e4 }

// UnmarshalJSON reads a Calibration, which may come from anywhere: numbers
// that no Calibration can have are an error, and leave c as it is.
func (c *Calibration) UnmarshalJSON(data []byte) error {
	var wire calibrationJSON
	if err := json.Unmarshal(data, &wire); err != nil {
		return fmt.Errorf("reading a calibration: %w", err)
	}
	read := Calibration{weight: wire.Weight, counted: wire.Counted, billed: wire.Billed}
	if wire.Weight < 0 || wire.Weight > maxWeight || wire.Counted < 0 || wire.Billed < 0 {
		return fmt.Errorf("reading a calibration: weight %v, counted %v, billed %v: want none below 0 and a weight of %d at most",
			wire.Weight, wire.Counted, wire.Billed, maxWeight)
	}
	for _, entry := range wire.Ratios {
		step, weight := entry[0], entry[1]
		if step != math.Trunc(step) || step < 0 || step >= ratioSteps || weight < 0 || weight > maxWeight {
			return fmt.Errorf("reading a calibration: ratio %v: want a step from 0 to %d and a weight from 0 to %d",
				entry, ratioSteps-1, maxWeight)
		}
		read.ratios[int(step)] = weight
	}
	*c = read
	return nil
}
