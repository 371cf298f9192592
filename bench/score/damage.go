package score

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/adpa/processor/stages/score"
)

// exchange is a prompt with an answer.
type exchange struct{ prompt, answer string }

// A damage breaks an answer in one way, and names the flag that should tell.
type damage struct {
	name, flag string
	breaks     func(random *rand.Rand, e exchange) string
}

var damages = []damage{
	{"cut in the middle, not reported", score.Truncated, func(random *rand.Rand, e exchange) string {
		words := strings.Fields(e.answer)
		n := len(words)/4 + random.IntN(len(words)/2)
		return strings.Join(strings.Split(e.answer, " ")[:min(n, strings.Count(e.answer, " "))], " ")
	}},
	{"last sentence 8 times more", score.Repetition, func(_ *rand.Rand, e exchange) string {
		sentences := strings.SplitAfter(strings.TrimSpace(e.answer), ". ")
		return e.answer + strings.Repeat(" "+sentences[len(sentences)-1], 8)
	}},
	{"last 3 words 20 times more", score.Repetition, func(_ *rand.Rand, e exchange) string {
		words := strings.Fields(e.answer)
		return e.answer + strings.Repeat(" "+strings.Join(words[len(words)-3:], " "), 20)
	}},
	{"the prompt instead", score.Echo, func(_ *rand.Rand, e exchange) string { return e.prompt }},
	{"nothing but white space", score.Empty, func(*rand.Rand, exchange) string { return " \n " }},
	{"French instead", score.Language, func(*rand.Rand, exchange) string { return frenchAnswer }},
	{"Russian instead", score.Language, func(*rand.Rand, exchange) string { return russianAnswer }},
}

const (
	frenchAnswer  = "Le port est calme le matin et les premiers bateaux partent avant le jour. Quand ils reviennent, le poisson est vendu sur le quai à ceux qui ont attendu."
	russianAnswer = "Утром в гавани тихо, и первые лодки уходят до рассвета. Когда они возвращаются, рыбу продают прямо на причале."
)

// failures breaks good answers on purpose: at least 25 words that end in a full stop.
// What they are flagged for as they are counts as a false alarm; some are not.
func failures(w io.Writer, dir string) error {
	var good []exchange
	cases, err := loadPandaLM(dir)
	if err != nil {
		return err
	}
	for _, c := range cases {
		for _, answer := range []text{c.Response1, c.Response2} {
			if a := strings.TrimSpace(string(answer)); !c.develop && strings.HasSuffix(a, ".") && len(strings.Fields(a)) >= 25 {
				good = append(good, exchange{c.prompt(), a})
			}
		}
	}
	scorer := score.New(score.DefaultConfig())
	flagged := func(flag, prompt, answer string) (bool, error) {
		r, err := scorer.Score(request(prompt, ""), completion(answer), score.Options{})
		return r.Has(flag), err
	}
	fmt.Fprintln(w, "\nFailures: answers of PandaLM's held-out part, as they are and broken on purpose.")
	fmt.Fprintf(w, "  %-34s %-11s found          false alarms\n", "broken by", "flag")
	random := rand.New(rand.NewPCG(5, 6))
	for _, d := range damages {
		var found, alarms []float64
		for _, e := range good {
			broken, err := flagged(d.flag, e.prompt, d.breaks(random, e))
			if err != nil {
				return err
			}
			whole, err := flagged(d.flag, e.prompt, e.answer)
			if err != nil {
				return err
			}
			found, alarms = append(found, number(broken)), append(alarms, number(whole))
		}
		fmt.Fprintf(w, "  %-34s %-11s %s of %d   %s\n", d.name, d.flag, share(found), len(good), share(alarms))
	}
	return nil
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// share writes the mean of values with its 95% interval.
func share(values []float64) string {
	low, high := interval(len(values), func(sample []int) float64 { return mean(values, sample) })
	return fmt.Sprintf("%.3f [%.3f, %.3f]", mean(values, all(len(values))), low, high)
}
