package score

import "fmt"

// PreferenceSigns are the signs that the weights of PreferenceFeatures may have.
func PreferenceSigns() []int { return []int{1, -1, -1} }

// PreferenceFeatures gives the numbers whose differences decide between two answers to a
// request: length (the logarithm of the number of words), repetition and the number of flags.
func (s *Scorer) PreferenceFeatures(request, completion []byte, opts Options) ([]float64, error) {
	x := s.pool.Get().(*scratch)
	defer s.release(x)
	if err := x.read(request, completion, opts); err != nil {
		return nil, err
	}
	c := &x.choices[0]
	x.answer.read(c.text.of(x.output))
	var r Result
	s.flag(x, c, &r)
	f := x.preferenceFeatures(len(r.Flags))
	return f[:], nil
}

// Pair gives the probability, in 0..1, that a reader prefers the first answer to a request
// over the second; 0.5 means that nothing tells them apart. Of several choices the first
// counts. Pair(a, b) = 1 - Pair(b, a): no answer gains by its position. What it knows is that
// people prefer the longer answer unless it repeats itself or fails; it judges no content.
func (s *Scorer) Pair(request, a, b []byte, opts Options) (float64, error) {
	first, err := s.PreferenceFeatures(request, a, opts)
	if err != nil {
		return 0, fmt.Errorf("first answer: %w", err)
	}
	second, err := s.PreferenceFeatures(request, b, opts)
	if err != nil {
		return 0, fmt.Errorf("second answer: %w", err)
	}
	for i := range first {
		first[i] -= second[i]
	}
	return LogisticOf(preferenceWeights[:], first), nil
}
