package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/adpa/processor/stages/cache"
)

// questionPair is two questions and whether people found that they ask the same.
type questionPair struct {
	A     string `json:"text_a"`
	B     string `json:"text_b"`
	Label int    `json:"label"`
}

// runNormalized measures match: normalized on labelled pairs of questions: how
// often it takes two questions for the same, and how often that is right. The
// pairs are similiar_qqp_full.json.gz of zilliztech/GPTCache (MIT), 80,854 pairs
// of Quora's questions. Even pairs are to develop on, odd ones to report.
func runNormalized(_ context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("normalized", flag.ContinueOnError)
	file := flags.String("pairs", os.Getenv("PROCESSOR_QQP"), "similiar_qqp_full.json.gz of zilliztech/GPTCache (examples/benchmark)")
	half := flags.String("half", "second", "half of the pairs to use: first (to develop on) or second (to report)")
	show := flags.Bool("show", false, "print the pairs that are taken for the same and are not")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *file == "" {
		return errors.New("--pairs or PROCESSOR_QQP: name the file similiar_qqp_full.json.gz of zilliztech/GPTCache")
	}
	pairs, err := readPairs(*file)
	if err != nil {
		return fmt.Errorf("reading %s: %w", *file, err)
	}
	var n, same, code, matches, right float64
	for i, p := range pairs {
		if (i%2 == 1) != (*half == "second") {
			continue
		}
		n++
		same += float64(p.Label)
		a, ok := cache.Normalize(p.A)
		b, also := cache.Normalize(p.B)
		if !ok || !also {
			code++
		}
		if !ok || !also || a != b {
			continue
		}
		matches++
		right += float64(p.Label)
		if *show && p.Label == 0 {
			fmt.Fprintf(out, "- %s | %s\n", p.A, p.B)
		}
	}
	low, high := wilson(right, matches)
	fmt.Fprintf(out, "Half of the pairs: %s. %.0f pairs, %.0f labelled the same, %.0f left alone as code or mathematics: %.0f taken for the same, %.1f %% of them rightly [%.1f, %.1f], %.1f %% of all that are the same.\n",
		*half, n, same, code, matches, 100*right/matches, 100*low, 100*high, 100*right/same)
	return nil
}

// wilson gives the 95 % interval of a share.
func wilson(right, of float64) (low, high float64) {
	const z = 1.96
	p := right / of
	mid := (p + z*z/(2*of)) / (1 + z*z/of)
	wide := z * math.Sqrt(p*(1-p)/of+z*z/(4*of*of)) / (1 + z*z/of)
	return mid - wide, mid + wide
}

// readPairs reads a JSON list of pairs out of a gzipped tar archive.
func readPairs(file string) ([]questionPair, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	archive := tar.NewReader(unzipped)
	for {
		header, err := archive.Next()
		if err != nil {
			return nil, err
		}
		if header.Typeflag == tar.TypeReg && header.Size > 1<<20 {
			break
		}
	}
	var pairs []questionPair
	return pairs, json.NewDecoder(archive).Decode(&pairs)
}
