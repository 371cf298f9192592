package score

import (
	"fmt"
	"io"
	"math"

	"github.com/adpa/processor/stages/score"
)

// fitGrounded fits the probability that one of the three annotators of QAGS-CNN calls a
// summary consistent. The set gives the share of the three.
func fitGrounded(dir string) ([]float64, error) {
	cases, err := loadRated(dir, "qags_cnndm.json")
	if err != nil {
		return nil, err
	}
	var rows [][]float64
	var labels []bool
	for _, c := range cases {
		if !c.develop {
			continue
		}
		yes := int(math.Round(3 * c.Scores["consistency"]))
		for vote := range 3 {
			rows = append(rows, score.GroundednessFeatures([]byte(c.Source), []byte(c.Output)))
			labels = append(labels, vote < yes)
		}
	}
	return logistic(rows, labels, 1), nil
}

// correlation prints Spearman's and Pearson's correlation of a measure with human scores.
func correlation(w io.Writer, name string, measured, human []float64) {
	of := func(sample []int) float64 { return spearman(pick(measured, sample), pick(human, sample)) }
	low, high := interval(len(human), of)
	fmt.Fprintf(w, "  %-34s n %4d  Spearman %.3f [%.3f, %.3f]  Pearson %.3f\n", name, len(human), spearman(measured, human), low, high, pearson(measured, human))
}

// consistency measures the groundedness of the summaries of QAGS-CNN, in the part that
// was fitted on or in the other.
func consistency(dir string, develop bool) (measured, human []float64, err error) {
	cases, err := loadRated(dir, "qags_cnndm.json")
	if err != nil {
		return nil, nil, err
	}
	scorer := score.New(score.Config{Metrics: []string{score.Groundedness}, MaxAttempts: 1})
	for _, c := range cases {
		if c.develop != develop {
			continue
		}
		r, err := scorer.Score(request("Summarise the article.", ""), completion(c.Output), score.Options{Context: []byte(c.Source)})
		if err != nil {
			return nil, nil, err
		}
		v, _ := r.Metric(score.Groundedness)
		measured, human = append(measured, v), append(human, c.Scores["consistency"])
	}
	return measured, human, nil
}

func groundednesses(w io.Writer, dir string) error {
	measured, human, err := consistency(dir, false)
	if err != nil {
		return err
	}
	fitted, fittedHuman, err := consistency(dir, true)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\nGroundedness, QAGS-CNN: against the share of annotators who call the summary consistent.")
	fmt.Fprintln(w, "Published on all 235: UniEval Spearman 0.66, Pearson 0.68 (recalled from its paper).")
	correlation(w, "held out", measured, human)
	correlation(w, "looked at and fitted on", fitted, fittedHuman)
	correlation(w, "all", append(measured, fitted...), append(human, fittedHuman...))
	return nil
}

// reply is a reply of Topical-Chat as it is measured, by name; a metric may not apply.
type reply struct{ measured, human map[string]float64 }

func measureReplies(dir string) ([]reply, error) {
	cases, err := loadRated(dir, "topical_chat.json")
	if err != nil {
		return nil, err
	}
	scorer := score.New(score.Config{Metrics: []string{score.Relevance, score.Coherence, score.Groundedness}, MaxAttempts: 1})
	var replies []reply
	for _, c := range cases {
		r, err := scorer.Score(request(c.Source, c.Context), completion(c.Output), score.Options{Context: []byte(c.Context)})
		if err != nil {
			return nil, err
		}
		measured := map[string]float64{"score": r.Score, "length": float64(len(c.Output))}
		for _, m := range r.Metrics {
			measured[m.Name] = m.Value
		}
		replies = append(replies, reply{measured, c.Scores})
	}
	return replies, nil
}

func dialogues(w io.Writer, dir string) error {
	replies, err := measureReplies(dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\nTopical-Chat: replies in a dialogue about a given fact; nothing was fitted on its ratings.")
	fmt.Fprintln(w, "Published, Spearman: UniEval overall 0.663, engagingness 0.605, groundedness 0.575, coherence 0.613; USR 0.40 and G-Eval-4 0.588 on average.")
	for _, pair := range [][2]string{
		{"score", "overall"}, {"length", "overall"}, {"coherence", "overall"}, {"score", "engagingness"},
		{"relevance", "coherence"}, {"coherence", "coherence"}, {"groundedness", "groundedness"},
	} {
		var measured, human []float64
		for _, r := range replies {
			if v, ok := r.measured[pair[0]]; ok {
				measured, human = append(measured, v), append(human, r.human[pair[1]])
			}
		}
		correlation(w, pair[0]+" with human "+pair[1], measured, human)
	}
	return nil
}
