package selection

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/adpa/processor/stages/selection"
)

const (
	seeds = 5
	folds = 5
)

// lambdas are the weights of cost beside one of quality of 1.
var lambdas = []float64{0.1, 0.2}

// Run prints the figures of docs/model-selection.md.
func Run(out io.Writer, dataDir string, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown argument %.64q: select takes none but -data", args[0])
	}
	if dataDir == "" {
		return errors.New("no data directory: set PROCESSOR_DATA to one that holds routellm")
	}
	files, err := filepath.Glob(filepath.Join(dataDir, "routellm", "mmlu", "*.csv"))
	if err != nil {
		return err
	}
	mmlu, err := readRows(files...)
	if err != nil {
		return err
	}
	gsm8k, err := readRows(filepath.Join(dataDir, "routellm", "gsm8k_responses.csv"))
	if err != nil {
		return err
	}
	sets := []set{
		{fmt.Sprintf("MMLU, %d subjects", len(files)), mmlu, halves},
		{"GSM8K", gsm8k, crossValidation},
	}
	levels(out, sets)
	routing(out, sets)
	trained(out, sets[0])
	online(out, sets[0])
	return nil
}

// set is data with the way it is parted for learning and for measuring.
type set struct {
	name  string
	rows  []row
	parts func(rows []row, each func(train, test []row))
}

func halves(rows []row, each func(train, test []row)) { each(rows[:len(rows)/2], rows[len(rows)/2:]) }

func crossValidation(rows []row, each func(train, test []row)) {
	for fold := range folds {
		var train, test []row
		for i, r := range rows {
			if i%folds == fold {
				test = append(test, r)
			} else {
				train = append(train, r)
			}
		}
		each(train, test)
	}
}

func levels(out io.Writer, sets []set) {
	fmt.Fprintf(out, "| rows | | weak right | strong right | either right |\n| --- | --- | --- | --- | --- |\n")
	for _, s := range sets {
		var w, g, e float64
		for _, r := range s.rows {
			w, g, e = w+r.weak, g+r.strong, e+max(r.weak, r.strong)
		}
		n := float64(len(s.rows))
		fmt.Fprintf(out, "| %s | %d | %.3f | %.3f | %.3f |\n", s.name, len(s.rows), w/n, g/n, e/n)
	}
}

// router gives for each row of test how much is to be won with the strong
// model, having learnt on train.
type router func(train, test []row, seed uint64) []float64

var routers = []struct {
	name  string
	draws int // how often it is tried on the same rows
	gain  router
}{
	{"random (mean of 100 draws)", 100, func(_, test []row, seed uint64) []float64 {
		random := rand.New(rand.NewPCG(seed, 2))
		return each(test, func(row) float64 { return random.Float64() })
	}},
	{"prompt length", 1, func(_, test []row, _ uint64) []float64 {
		return each(test, func(r row) float64 { return float64(r.length) })
	}},
	{"the product, route alone", 1, func(train, test []row, _ uint64) []float64 { return gains(learn(train), test, false) }},
	{"the product", 1, func(train, test []row, _ uint64) []float64 { return gains(learn(train), test, true) }},
	{"the mean gain of each route in the rows measured on (a bound for routes alone)", 1, hindsight},
}

func each(rows []row, f func(row) float64) []float64 {
	out := make([]float64, len(rows))
	for i, r := range rows {
		out[i] = f(r)
	}
	return out
}

// learn shows the product both answers to each prompt, one after the other.
func learn(train []row) *selection.Memory {
	book := new(selection.Memory)
	for _, r := range train {
		selection.Score(book, time.Now(), r.route, weak, 0, r.features, r.weak)
		selection.Score(book, time.Now(), r.route, strong, 0, r.features, r.strong)
	}
	return book
}

func gains(book *selection.Memory, test []row, prompts bool) []float64 {
	return each(test, func(r row) float64 {
		ask := selection.Ask{Route: r.route, Now: time.Now()}
		if prompts {
			ask.Features = r.features
		}
		return selection.Expect(book, &ask, &candidates[1]).Quality - selection.Expect(book, &ask, &candidates[0]).Quality
	})
}

func hindsight(_, test []row, _ uint64) []float64 {
	n, sum := map[string]float64{}, map[string]float64{}
	for _, r := range test {
		n[r.route]++
		sum[r.route] += r.strong - r.weak
	}
	return each(test, func(r row) float64 { return sum[r.route] / n[r.route] })
}

// routing prints the area under the curve of the quality gap that is recovered
// against the share of calls to the strong model (APGR): 0.5 is chance.
func routing(out io.Writer, sets []set) {
	fmt.Fprintf(out, "\n| APGR, mean ± deviation of %d seeds |", seeds)
	for _, s := range sets {
		fmt.Fprintf(out, " %s |", s.name)
	}
	fmt.Fprintf(out, "\n| --- |%s\n", map[int]string{1: " --- |", 2: " --- | --- |"}[len(sets)])
	for _, r := range routers {
		fmt.Fprintf(out, "| %s |", r.name)
		for _, s := range sets {
			var areas []float64
			for seed := range uint64(seeds) {
				var parts []float64
				s.parts(shuffled(s.rows, seed), func(train, test []row) {
					for draw := range uint64(r.draws) {
						parts = append(parts, apgr(test, r.gain(train, test, seed+seeds*draw)))
					}
				})
				mean, _ := meanDeviation(parts)
				areas = append(areas, mean)
			}
			mean, deviation := meanDeviation(areas)
			fmt.Fprintf(out, " %.3f ± %.3f |", mean, deviation)
		}
		fmt.Fprintln(out)
	}
}

func apgr(rows []row, gain []float64) float64 {
	order := make([]int, len(rows))
	var low, high float64
	for i, r := range rows {
		order[i] = i
		low, high = low+r.weak, high+r.strong
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case gain[a] > gain[b]:
			return -1
		case gain[a] < gain[b]:
			return 1
		}
		return 0
	})
	area, now := 0.0, low
	for _, i := range order {
		next := now + rows[i].strong - rows[i].weak
		area, now = area+(now+next)/2, next
	}
	return (area/float64(len(rows)) - low) / (high - low)
}

// meanDeviation gives the mean and the standard deviation.
func meanDeviation(values []float64) (mean, deviation float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		deviation += (v - mean) * (v - mean) / float64(max(len(values)-1, 1))
	}
	return mean, math.Sqrt(deviation)
}

// gained is what choices were worth: quality less cost, by weight.
type gained struct {
	chosen, weak, strong []float64
	share                []float64 // of calls to the strong model
}

func (g *gained) print(out io.Writer, lambda float64) {
	fmt.Fprintf(out, "| %.1f |", lambda)
	for _, values := range [][]float64{g.chosen, g.weak, g.strong, g.share} {
		mean, deviation := meanDeviation(values)
		fmt.Fprintf(out, " %.4f ± %.4f |", mean, deviation)
	}
	least := math.Inf(1)
	for i := range g.chosen {
		least = min(least, g.chosen[i]-max(g.weak[i], g.strong[i]))
	}
	fmt.Fprintf(out, " %+.4f |\n", least)
}

const gainedHead = "| cost weight | the product | always weak | always strong | share of strong calls | least lead of a seed over the better fixed one |\n| --- | --- | --- | --- | --- | --- |\n"

// pass goes through rows and chooses for each; taught shows the answer to the product.
func pass(book *selection.Memory, rows []row, lambda float64, seed uint64, ask selection.Ask, taught bool, g *gained) {
	random := rand.New(rand.NewPCG(seed, 3))
	var chosen, w, s, share float64
	for _, r := range rows {
		ask.Route, ask.Features, ask.Dice, ask.Now = r.route, r.features, random.Float64(), time.Now()
		ask.Weights = selection.Weights{Quality: 1, Cost: lambda}
		choice := selection.Choose(book, &ask, candidates)
		worth := [2]float64{r.weak - lambda*weakCost, r.strong - lambda}
		chosen, w, s = chosen+worth[choice.Index], w+worth[0], s+worth[1]
		share += float64(choice.Index)
		if taught {
			selection.Score(book, ask.Now, r.route, candidates[choice.Index].Model, 0, r.features, [2]float64{r.weak, r.strong}[choice.Index])
		}
	}
	n := float64(len(rows))
	g.chosen, g.weak, g.strong, g.share = append(g.chosen, chosen/n), append(g.weak, w/n), append(g.strong, s/n), append(g.share, share/n)
}

func trained(out io.Writer, s set) {
	fmt.Fprintf(out, "\nUtility (quality less cost, the strong model's being 1), %s, learnt on one half, chosen on the other:\n\n%s", s.name, gainedHead)
	for _, lambda := range lambdas {
		var g gained
		for seed := range uint64(seeds) {
			s.parts(shuffled(s.rows, seed), func(train, test []row) {
				pass(learn(train), test, lambda, seed, selection.Ask{Deterministic: true}, false, &g)
			})
		}
		g.print(out, lambda)
	}
}

func online(out io.Writer, s set) {
	fmt.Fprintf(out, "\nThe same from nothing, over all rows once, seeing only the chosen model's answer, %.0f %% explored:\n\n%s", 100*explore, gainedHead)
	for _, lambda := range lambdas {
		var g gained
		for seed := range uint64(seeds) {
			pass(new(selection.Memory), shuffled(s.rows, seed), lambda, seed, selection.Ask{Explore: explore}, true, &g)
		}
		g.print(out, lambda)
	}
}

// explore is as configured by default.
const explore = 0.05
