package score

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/adpa/processor/stages/score"
)

// matched is a prompt with an answer that was given to it, or to another of its set.
type matched struct {
	set, prompt, answer string
	own, develop        bool
}

// loadMatched takes every set's answers once with their own prompt and once with another
// of the same part. Refusals are left out: most belong to any prompt.
func loadMatched(dir string) ([]matched, error) {
	var own []matched
	refusals, _, err := loadXSTest(dir)
	if err != nil {
		return nil, err
	}
	for _, c := range refusals {
		if !c.full && !c.partial {
			own = append(own, matched{"XSTest", c.prompt, c.completion, true, c.develop})
		}
	}
	pairs, err := loadPandaLM(dir)
	if err != nil {
		return nil, err
	}
	for _, p := range pairs {
		own = append(own, matched{"PandaLM", p.prompt(), string(p.Response1), true, p.develop},
			matched{"PandaLM", p.prompt(), string(p.Response2), true, p.develop})
	}
	for name, file := range map[string]string{"QAGS-CNN": "qags_cnndm.json", "Topical-Chat": "topical_chat.json"} {
		rated, err := loadRated(dir, file)
		if err != nil {
			return nil, err
		}
		for _, c := range rated {
			own = append(own, matched{name, c.Source, c.Output, true, c.develop})
		}
	}
	slices.SortStableFunc(own, func(a, b matched) int { return strings.Compare(a.set, b.set) })
	random := rand.New(rand.NewPCG(3, 4))
	cases := slices.Clone(own)
	for _, c := range own {
		for {
			other := own[random.IntN(len(own))]
			if other.set == c.set && other.develop == c.develop && other.prompt != c.prompt {
				cases = append(cases, matched{c.set, other.prompt, c.answer, false, c.develop})
				break
			}
		}
	}
	return cases, nil
}

const relevancePenalty = 5

func fitRelevance(cases []matched) []float64 {
	var rows [][]float64
	var labels []bool
	for _, c := range cases {
		if c.develop {
			rows = append(rows, score.RelevanceFeatures([]byte(c.prompt), []byte(c.answer)))
			labels = append(labels, c.own)
		}
	}
	return logistic(rows, labels, relevancePenalty)
}

func relevances(w io.Writer, dir string) error {
	cases, err := loadMatched(dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\nRelevance: an answer's own prompt against another prompt of the set; parts not fitted on. Area under the curve.")
	weights := fitRelevance(cases)
	for _, set := range []string{"XSTest", "PandaLM", "QAGS-CNN", "Topical-Chat"} {
		var values []float64
		var own []bool
		brier := 0.0
		for _, c := range cases {
			if c.set == set && !c.develop {
				v := score.LogisticOf(weights, score.RelevanceFeatures([]byte(c.prompt), []byte(c.answer)))
				values, own = append(values, v), append(own, c.own)
				if c.own {
					v--
				}
				brier += v * v
			}
		}
		area := func(sample []int) float64 {
			return auc(pick(values, sample), pickBool(own, sample))
		}
		low, high := interval(len(values), area)
		fmt.Fprintf(w, "  %-18s n %4d  %.3f [%.3f, %.3f]  Brier score %.3f\n", set, len(values), area(all(len(values))), low, high, brier/float64(len(values)))
	}
	return nil
}
