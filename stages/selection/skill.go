package selection

import (
	"encoding/binary"
	"errors"
	"math"
)

const (
	weights = 1 << featureBits
	// learningRate and shrink were chosen on one half of the rows of the data
	// sets that bench select reports on.
	learningRate = 0.05
	shrink       = 1e-3
	// enoughLabels is from how many answers on a model's regression is used, and
	// at how many it counts half.
	enoughLabels = 300
	// mostSquares bounds the sums by which steps get smaller, so that learning never ends.
	mostSquares = 64
)

// Skill is how much better or worse than usual a model is on a prompt: a hashed
// logistic regression (16,384 weights, AdaGrad) on top of what is known of the
// model on the route. The gain of the stronger of two models is the difference
// of their regressions, so every answer is a label, whoever gave it, and no
// request has to be answered twice to learn.
type Skill struct {
	Labels  float64
	weight  [weights]float32
	squares [weights]float32
}

// Shift gives the log-odds to add to a model's usual quality for a prompt; 0
// before enough was learnt. It takes about 1 µs.
func (s *Skill) Shift(f Features) float64 {
	if s.Labels < enoughLabels || len(f) == 0 {
		return 0
	}
	return s.score(f) * s.Labels / (s.Labels + enoughLabels)
}

func (s *Skill) score(f Features) float64 {
	var sum float32
	for _, i := range f {
		sum += s.weight[i&(weights-1)]
	}
	return float64(sum) / math.Sqrt(float64(len(f)))
}

// Learn takes in the score of an answer to a prompt, where usual is the quality
// that was expected before the prompt was looked at. The same steps are added
// to delta, which is what others are told; it may be nil.
func (s *Skill) Learn(f Features, usual, score float64, delta *Skill) {
	s.Labels++
	if delta != nil {
		delta.Labels++
	}
	if len(f) == 0 {
		return
	}
	expected := logistic(logit(usual) + s.score(f))
	slope := float32((score - expected) / math.Sqrt(float64(len(f))))
	for _, i := range f {
		i &= weights - 1
		g := slope - shrink*s.weight[i]
		squares := min(g*g, mostSquares-s.squares[i])
		s.squares[i] += squares
		step := learningRate * g / float32(math.Sqrt(float64(s.squares[i])+0.01))
		s.weight[i] += step
		if delta != nil {
			delta.weight[i] += step
			delta.squares[i] += squares
		}
	}
}

// Merge adds steps that were made elsewhere.
func (s *Skill) Merge(delta *Skill) {
	s.Labels += delta.Labels
	for i := range s.weight {
		s.weight[i] += delta.weight[i]
		s.squares[i] = min(s.squares[i]+delta.squares[i], mostSquares)
	}
}

func logit(p float64) float64 {
	p = min(max(p, 0.01), 0.99)
	return math.Log(p / (1 - p))
}

func logistic(z float64) float64 { return 1 / (1 + math.Exp(-z)) }

const (
	skillHead = 9  // a version and the number of labels
	skillItem = 10 // an index, a weight and its squares
)

var errSkill = errors.New("a regression's weights are damaged")

// MarshalBinary writes what is not zero: at most 160 KB.
func (s *Skill) MarshalBinary() ([]byte, error) {
	out := append(make([]byte, 0, skillHead+64*skillItem), 1)
	out = binary.LittleEndian.AppendUint64(out, math.Float64bits(s.Labels))
	for i, w := range s.weight {
		if w == 0 && s.squares[i] == 0 {
			continue
		}
		out = binary.LittleEndian.AppendUint16(out, uint16(i))
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(w))
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(s.squares[i]))
	}
	return out, nil
}

// UnmarshalBinary reads what MarshalBinary wrote. On an error s is as before.
func (s *Skill) UnmarshalBinary(data []byte) error {
	if len(data) < skillHead || data[0] != 1 || (len(data)-skillHead)%skillItem != 0 {
		return errSkill
	}
	read := Skill{Labels: math.Float64frombits(binary.LittleEndian.Uint64(data[1:]))}
	if !(read.Labels >= 0 && read.Labels < 1e15) {
		return errSkill
	}
	for item := data[skillHead:]; len(item) > 0; item = item[skillItem:] {
		i := binary.LittleEndian.Uint16(item)
		w := math.Float32frombits(binary.LittleEndian.Uint32(item[2:]))
		q := math.Float32frombits(binary.LittleEndian.Uint32(item[6:]))
		if i >= weights || !(w > -1e3 && w < 1e3) || !(q >= 0 && q <= 2*mostSquares) {
			return errSkill
		}
		read.weight[i], read.squares[i] = w, q
	}
	*s = read
	return nil
}
