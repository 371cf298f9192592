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
)

// runCompare says what became slower from one run of all to another.
func runCompare(_ context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "Usage of compare: [-tolerance 0.3] [OLD.json] NEW.json\nWithout OLD, the newest of bench/results/*.json is compared with.")
		flags.PrintDefaults()
	}
	tolerance := flags.Float64("tolerance", 0.3, "a figure may be worse by this share")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *tolerance < 0 || *tolerance >= 1 {
		return fmt.Errorf("-tolerance: %v is not within 0 and 1", *tolerance)
	}
	files := flags.Args()
	if len(files) == 1 {
		newest, err := newestResults("bench/results")
		if err != nil {
			return err
		}
		files = []string{newest, files[0]}
	}
	if len(files) != 2 {
		return errors.New("name the results to compare: go run ./bench compare OLD.json NEW.json")
	}
	before, err := readResults(files[0])
	if err != nil {
		return err
	}
	after, err := readResults(files[1])
	if err != nil {
		return err
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

// compare prints each figure of both runs. The error counts those that became
// worse by more than the tolerance. A figure that is missing is none: scenarios
// may have been left out.
func compare(out io.Writer, before, after results, tolerance float64) error {
	slower := 0
	fmt.Fprintf(out, "| figure | before | after | speed | |\n| --- | --- | --- | --- | --- |\n")
	for _, b := range before.Figures {
		at := slices.IndexFunc(after.Figures, func(f figure) bool { return f.Name == b.Name })
		if at < 0 {
			fmt.Fprintf(out, "| %s | %.3g | | | not measured |\n", b.Name, b.Value)
			continue
		}
		a := after.Figures[at]
		speed := a.Value / b.Value
		if b.Less {
			speed = b.Value / a.Value
		}
		verdict := ""
		switch {
		case !(speed >= 1-tolerance): // written so that NaN is slower
			verdict = "SLOWER"
			slower++
		case speed > 1/(1-tolerance):
			verdict = "faster"
		}
		fmt.Fprintf(out, "| %s | %.3g | %.3g | x%.2f | %s |\n", b.Name, b.Value, a.Value, speed, verdict)
	}
	for _, a := range after.Figures {
		if !slices.ContainsFunc(before.Figures, func(f figure) bool { return f.Name == a.Name }) {
			fmt.Fprintf(out, "| %s | | %.3g | | new |\n", a.Name, a.Value)
		}
	}
	if slower > 0 {
		return fmt.Errorf("%d of %d figures became slower by more than %.0f%%", slower, len(before.Figures), 100*tolerance)
	}
	return nil
}
