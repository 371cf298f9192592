package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/adpa/processor/stages/cache"
)

// runNormalized measures match: normalized on labelled pairs of questions: how
// often it takes two questions for the same, and how often that is right. Half
// of the pairs are to develop on, the others to report.
func runNormalized(_ context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("normalized", flag.ContinueOnError)
	files := flags.String("pairs", os.Getenv("PROCESSOR_QQP"), "files of pairs, with commas between them: .tsv, or similiar_qqp_full.json.gz of zilliztech/GPTCache")
	but := flags.String("but", "", "leave out the pairs that are in these files, with commas between them")
	half := flags.String("half", "second", "half of the pairs to use: first (to develop on), second (to report) or both")
	share := flags.Float64("share", 0, "weigh the pairs as if this share of them were labelled the same (0: as they are)")
	show := flags.Bool("show", false, "print the pairs that are taken for the same and are not")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *files == "" {
		return errors.New("--pairs or PROCESSOR_QQP: name files of pairs")
	}
	pairs, err := readPairs(names(*files), names(*but))
	if err != nil {
		return err
	}
	var sum pairSum
	for _, p := range pairs {
		if *half != "both" && p.second != (*half == "second") {
			continue
		}
		if sum.add(p) && !p.same && *show {
			fmt.Fprintf(out, "- %s | %s\n", p.a, p.b)
		}
	}
	if *share == 0 {
		*share = sum.same / sum.n
	}
	fmt.Fprintf(out, "Half of the pairs: %s. %s.\n", *half, sum.describe(*share))
	return nil
}

func names(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// pairSum counts pairs, those labelled the same, those left alone as code or
// mathematics, those taken for the same and those of them that are. Plain counts
// those of them whose letters and digits are the same: where people find that
// two of those ask different things, that is how far their labels can be trusted.
type pairSum struct{ n, same, code, matches, right, plain, plainRight float64 }

// add counts a pair and reports whether its questions are taken for the same.
func (s *pairSum) add(p questionPair) (match bool) {
	a, ok := cache.Normalize(p.a)
	b, also := cache.Normalize(p.b)
	match = ok && also && a == b
	s.n++
	if p.same {
		s.same++
	}
	if !ok || !also {
		s.code++
	}
	if !match {
		return false
	}
	right := 0.0
	if p.same {
		right = 1
	}
	s.matches++
	s.right += right
	if plainText(p.a) == plainText(p.b) {
		s.plain++
		s.plainRight += right
	}
	return true
}

// describe gives the figures as they are where so great a share of all pairs is
// labelled the same.
func (s *pairSum) describe(share float64) string {
	of := s.same / s.n
	odds := share / (1 - share) / (of / (1 - of))
	weigh := func(p float64) float64 { return 100 * p * odds / (p*odds + 1 - p) }
	rate := func(right, of float64) string {
		low, high := wilson(right, of)
		return fmt.Sprintf("%.0f of %.0f rightly, %.1f %% [%.1f, %.1f]", right, of, weigh(right/of), weigh(low), weigh(high))
	}
	return fmt.Sprintf("%.0f pairs, %.0f labelled the same, %.0f left alone as code, mathematics or a task with a text. Taken for the same: %s where %.1f %% of all pairs are the same, %.1f %% of which are found. Of the same letters and digits: %s",
		s.n, s.same, s.code, rate(s.right, s.matches), 100*share, 100*s.right/s.same, rate(s.plainRight, s.plain))
}

// wilson gives the 95 % interval of a share.
func wilson(right, of float64) (low, high float64) {
	const z = 1.96
	p := right / of
	mid := (p + z*z/(2*of)) / (1 + z*z/of)
	wide := z * math.Sqrt(p*(1-p)/of+z*z/(4*of*of)) / (1 + z*z/of)
	return mid - wide, mid + wide
}
