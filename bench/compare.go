package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// runCompare says what became slower from one run of all to another.
func runCompare(_ context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "Usage of compare: [-tolerance 0.2] [OLD.json] NEW.json\nWithout OLD, the newest of bench/results/*.json is compared with.\nStatus: 0 nothing became slower, 1 something did, 2 wrong use, or a file that cannot be read.")
		flags.PrintDefaults()
	}
	tolerance := flags.Float64("tolerance", 0.2, "a figure may be worse by this share; by more it is slower only if all turns of the one run are worse than all of the other")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *tolerance < 0 || *tolerance >= 1 {
		return misuse{fmt.Errorf("-tolerance: %v is not within 0 and 1", *tolerance)}
	}
	files := flags.Args()
	if len(files) == 1 {
		newest, err := newestResults("bench/results")
		if err != nil {
			return misuse{err}
		}
		files = []string{newest, files[0]}
	}
	if len(files) != 2 {
		return misuse{errors.New("name the results to compare: go run ./bench compare OLD.json NEW.json")}
	}
	before, err := readResults(files[0])
	if err != nil {
		return misuse{err}
	}
	after, err := readResults(files[1])
	if err != nil {
		return misuse{err}
	}
	if before.CPUs != after.CPUs || before.System != after.System {
		fmt.Fprintf(out, "The runs are of different machines: the bare loop makes up for that only in part.\n\n")
	}
	fmt.Fprintf(out, "%s (%s, %d CPUs) and %s (%s, %d CPUs), tolerance %.0f%%\n\n", files[0], before.Go, before.CPUs, files[1], after.Go, after.CPUs, 100**tolerance)
	return compare(out, before, after, *tolerance)
}

// newestResults gives the committed results with the latest date in their name.
func newestResults(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("%s holds no results to compare with", dir)
	}
	return slices.Max(files), nil
}

func readResults(file string) (r results, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: is no file that all -json has written: %w", file, err)
	}
	if len(r.Figures) == 0 {
		return r, fmt.Errorf("%s holds no figures", file)
	}
	return r, nil
}

// compare prints each figure of both runs, and in a sentence what became slower:
// by more than the tolerance at the median, and in every turn. A figure that is
// missing is no failure: scenarios may have been left out.
func compare(out io.Writer, before, after results, tolerance float64) error {
	var slower []string
	fmt.Fprintf(out, "| figure | before | after | speed (least to most by the turns) | |\n| --- | --- | --- | --- | --- |\n")
	for _, b := range before.Figures {
		at := slices.IndexFunc(after.Figures, func(f figure) bool { return f.Name == b.Name })
		if at < 0 {
			fmt.Fprintf(out, "| %s | %.3g | | | not measured |\n", b.Name, b.Value)
			continue
		}
		a := after.Figures[at]
		c := changeOf(b, a)
		verdict := c.verdict(tolerance)
		if verdict == isSlower {
			slower = append(slower, fmt.Sprintf("%s: %v of the speed before", b.Name, c))
		}
		fmt.Fprintf(out, "| %s | %.3g | %.3g | %v | %s |\n", b.Name, b.Value, a.Value, c, verdict)
	}
	for _, a := range after.Figures {
		if !slices.ContainsFunc(before.Figures, func(f figure) bool { return f.Name == a.Name }) {
			fmt.Fprintf(out, "| %s | | %.3g | | new |\n", a.Name, a.Value)
		}
	}
	if len(slower) > 0 {
		return fmt.Errorf("%d of %d figures became slower by more than %.0f%%:\n  %s", len(slower), len(before.Figures), 100*tolerance, strings.Join(slower, "\n  "))
	}
	fmt.Fprintf(out, "\nNothing became slower by more than %.0f%%.\n", 100*tolerance)
	return nil
}

// change is how fast something is to how fast it was: by the medians of the
// turns, and by the turns that differ most.
type change struct{ speed, least, most float64 }

func changeOf(b, a figure) change {
	c := change{a.Value / b.Value, a.worst() / b.best(), a.best() / b.worst()}
	if b.Less {
		c = change{b.Value / a.Value, b.best() / a.worst(), b.worst() / a.best()}
	}
	return c
}

func (c change) String() string { return fmt.Sprintf("x%.2f (%.2f to %.2f)", c.speed, c.least, c.most) }

const isSlower = "SLOWER"

func (c change) verdict(tolerance float64) string {
	switch {
	case !(c.speed >= 1-tolerance) && !(c.most >= 1): // written so that NaN is slower
		return isSlower
	case c.speed < 1-tolerance:
		return "slower, but not in every turn"
	case c.speed > 1/(1-tolerance) && c.least > 1:
		return "faster"
	}
	return ""
}
