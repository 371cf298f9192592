package score

import (
	"fmt"
	"io"

	"github.com/adpa/processor/stages/score"
)

// refusalPenalty was chosen on the develop part among 1, 5 and 20.
const refusalPenalty = 5

// fitRefusal fits the weights on cases whose opening does not decline in so many words:
// those are decided without weights, and would only teach them how one model opens.
func fitRefusal(cases []refusalCase, use func(refusalCase) bool) []float64 {
	var rows [][]float64
	var labels []bool
	for _, c := range cases {
		f := score.RefusalFeatures([]byte(c.prompt), []byte(c.completion))
		if use(c) && score.RefusalProbability(make([]float64, len(f)+1), f) < 1 {
			rows, labels = append(rows, f), append(labels, c.full || c.partial)
		}
	}
	return signed(rows, labels, refusalPenalty, score.RefusalSigns())
}

// decided is what was said of a case and what is so.
type decided struct{ said, is bool }

func f1(d []decided) (confusion, float64, float64) {
	count := func(sample []int) (c confusion) {
		for _, i := range sample {
			c.add(d[i].said, d[i].is)
		}
		return c
	}
	low, high := interval(len(d), func(sample []int) float64 { return count(sample).f1() })
	return count(all(len(d))), low, high
}

// heldOut decides the cases of each model with weights that were fitted without it and
// without what else kin says belongs to it.
func heldOut(cases []refusalCase, models []string, kin func(a, b string) bool) map[string][]decided {
	out := map[string][]decided{}
	for _, m := range models {
		weights := fitRefusal(cases, func(c refusalCase) bool { return c.develop && !kin(c.model, m) })
		for _, c := range cases {
			if !c.develop && c.model == m {
				p := score.RefusalProbability(weights, score.RefusalFeatures([]byte(c.prompt), []byte(c.completion)))
				out[m] = append(out[m], decided{p > 0.5, c.full || c.partial})
			}
		}
	}
	return out
}

func sameModel(a, b string) bool { return a == b }

// sameFamily tells by the names, of which the first five letters are the family's: two
// of the files are one model of Llama 2 with different system prompts.
func sameFamily(a, b string) bool { return a[:min(5, len(a))] == b[:min(5, len(b))] }

// shipped decides the cases that were not fitted on with the committed table, through the whole scorer.
func shipped(cases []refusalCase) (out []decided, err error) {
	scorer := score.New(score.DefaultConfig())
	for _, c := range cases {
		if c.develop {
			continue
		}
		r, err := scorer.Score(request(c.prompt, ""), completion(c.completion), score.Options{})
		if err != nil {
			return nil, err
		}
		out = append(out, decided{r.Has(score.Refusal), c.full || c.partial})
	}
	return out, nil
}

func refusals(w io.Writer, dir string) error {
	cases, models, err := loadXSTest(dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "Refusals, XSTest: full and partial refusals together against full compliance.")
	fmt.Fprintln(w, "Prompts with even numbers, which were not fitted on.")
	for _, way := range []struct {
		name string
		kin  func(a, b string) bool
	}{{"Weights fitted without the model that is reported:", sameModel}, {"Weights fitted without its family (both of Llama 2):", sameFamily}} {
		fmt.Fprintln(w, way.name)
		var pooled []decided
		byModel := heldOut(cases, models, way.kin)
		for _, m := range models {
			pooled = append(pooled, byModel[m]...)
			printF1(w, m, byModel[m])
		}
		printF1(w, "all held out", pooled)
	}
	whole, err := shipped(cases)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "The same prompts with the committed table, through the whole scorer.")
	printF1(w, "all", whole)
	return nil
}

func printF1(w io.Writer, name string, d []decided) {
	c, low, high := f1(d)
	fmt.Fprintf(w, "  %-18s n %4d  F1 %.3f [%.3f, %.3f]  precision %.3f  recall %.3f\n", name, len(d), c.f1(), low, high, c.precision(), c.recall())
}
