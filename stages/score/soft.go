package score

import "math"

// How coherence weighs repetition and length.
const (
	halfLength   = 20  // words, repetitions left out, at which half of what length can show is shown
	usualRepeats = 0.3 // share of repeated wording that tables, lists and code may have
)

// coherence is 1 for a text without loops and garbage. It falls with the share of
// repeated wording and of characters that no text has, and an answer of a few words, in
// which neither can show, lies near 0.5. It says nothing of logic, style or truth.
func (x *scratch) coherence() float64 {
	repeated := x.repeated()
	n := float64(len(x.answer.words)) * (1 - repeated)
	loops := max(0, repeated-usualRepeats) / (1 - usualRepeats)
	return (1 - loops) * (1 - x.garbage()) * (0.5 + 0.5*n/(n+halfLength))
}

// garbage gives the share of control characters and undecodable bytes, times ten:
// a text with a tenth of them is none.
func (x *scratch) garbage() float64 {
	return min(1, 10*float64(x.answer.controls)/float64(max(1, x.answer.runes)))
}

const (
	groundedGram   = 3   // runs of so many words of the answer are looked for in the context
	contextMinimum = 100 // words from which a prompt counts as a context to keep to
)

// grounded gives the share of the answer's runs of three words that stand in the context,
// and false if there is no context or no such run.
func (x *scratch) grounded() (float64, bool) {
	context, answer := x.given.words, x.answer.words
	if len(answer) < groundedGram || len(context) < groundedGram {
		return 0, false
	}
	x.counts.reset(len(context))
	grams(context, groundedGram, func(_ int, key uint64) { x.counts.add(key) })
	found := 0
	grams(answer, groundedGram, func(_ int, key uint64) {
		if x.counts.count(key) > 0 {
			found++
		}
	})
	return float64(found) / float64(len(answer)-groundedGram+1), true
}

// groundedness gives the probability that a reader calls the answer consistent with the
// context, by the wording they share. A paraphrase shares little and scores low.
func (x *scratch) groundedness() (float64, bool) {
	share, ok := x.grounded()
	return LogisticOf(groundedWeights[:], []float64{share}), ok
}

// GroundednessFeatures gives the number from which groundedness is computed. It is
// exported so that the table can be fitted anew on other answers.
func GroundednessFeatures(context, answer []byte) []float64 {
	var x scratch
	x.given.read(context)
	x.answer.read(answer)
	share, _ := x.grounded()
	return []float64{share}
}

// preferenceFeatures give the numbers by which two answers are compared.
func (x *scratch) preferenceFeatures(flags int) [3]float64 {
	return [3]float64{math.Log1p(float64(len(x.answer.words))), x.repeated(), float64(flags)}
}
