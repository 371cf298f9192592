package score

import (
	"fmt"
	"io"

	"github.com/adpa/processor/stages/score"
)

// fitPreference fits on the difference of each pair in both orders, so that no position is preferred.
func fitPreference(dir string) ([]float64, error) {
	pairs, err := loadPandaLM(dir)
	if err != nil {
		return nil, err
	}
	scorer := score.New(score.DefaultConfig())
	var rows [][]float64
	var labels []bool
	for _, p := range pairs {
		if !p.develop || p.vote() == 0 {
			continue
		}
		a, err := scorer.PreferenceFeatures(request(p.prompt(), ""), completion(string(p.Response1)), score.Options{})
		if err != nil {
			return nil, err
		}
		b, err := scorer.PreferenceFeatures(request(p.prompt(), ""), completion(string(p.Response2)), score.Options{})
		if err != nil {
			return nil, err
		}
		forth, back := make([]float64, len(a)), make([]float64, len(a))
		for i := range a {
			forth[i], back[i] = a[i]-b[i], b[i]-a[i]
		}
		rows, labels = append(rows, forth, back), append(labels, p.vote() == 1, p.vote() != 1)
	}
	weights := signed(rows, labels, 10, score.PreferenceSigns())
	weights[0] = 0 // as it must be by symmetry, up to rounding
	return weights, nil
}

// agreement gives 1 for agreeing with the vote, 0.5 for no preference, else 0.
func agreement(preference float64, vote int) float64 {
	switch {
	case preference == 0:
		return 0.5
	case preference > 0 == (vote == 1):
		return 1
	}
	return 0
}

// compared holds for each pair whether a way to choose agrees with the vote.
type compared struct{ byPair, byScore, byLength, gain []float64 }

// compareAnswers decides the pairs that were not fitted on and have no tie.
func compareAnswers(dir string) (out compared, err error) {
	pairs, err := loadPandaLM(dir)
	if err != nil {
		return out, err
	}
	scorer := score.New(score.DefaultConfig())
	for _, p := range pairs {
		if p.develop || p.vote() == 0 {
			continue
		}
		ask, a, b := request(p.prompt(), ""), completion(string(p.Response1)), completion(string(p.Response2))
		preferred, err := scorer.Pair(ask, a, b, score.Options{})
		if err != nil {
			return out, err
		}
		first, err := scorer.Score(ask, a, score.Options{})
		if err != nil {
			return out, err
		}
		second, err := scorer.Score(ask, b, score.Options{})
		if err != nil {
			return out, err
		}
		pair := agreement(preferred-0.5, p.vote())
		length := agreement(float64(len(p.Response1)-len(p.Response2)), p.vote())
		out.byPair = append(out.byPair, pair)
		out.byScore = append(out.byScore, agreement(first.Score-second.Score, p.vote()))
		out.byLength = append(out.byLength, length)
		out.gain = append(out.gain, pair-length)
	}
	return out, nil
}

func preferences(w io.Writer, dir string) error {
	c, err := compareAnswers(dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\nPreference, PandaLM: agreement with the majority of three humans, ties left out. Part not fitted on.")
	fmt.Fprintln(w, "Published on all 999 pairs, recomputed from the released outputs: PandaLM-7B 0.775 and GPT-3.5 0.815 where neither says tie.")
	for _, line := range []struct {
		name   string
		values []float64
	}{{"Pair", c.byPair}, {"the greater Score", c.byScore}, {"the longer answer", c.byLength}, {"Pair minus the longer answer", c.gain}} {
		fmt.Fprintf(w, "  %-34s n %4d  %s\n", line.name, len(line.values), share(line.values))
	}
	return nil
}
