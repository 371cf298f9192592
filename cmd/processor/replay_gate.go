package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/adpa/processor/internal/evaluate"
)

// replayGateCmd fails where a report is past a bound.
type replayGateCmd struct {
	Report         string `arg:"" help:"A report, as --report-json writes it; - is standard input."`
	MaxQualityDrop string `placeholder:"0.01" help:"Of the metric that the verdict on quality rests on, in its own unit."`
	MaxFailureRise string `placeholder:"1%" help:"Of the share of failures."`
	MaxCostRise    string `placeholder:"5%" help:"Of the cost, as a share of the baseline's."`
	MaxTokenRise   string `placeholder:"5%" help:"Of the tokens of prompts and answers."`
	MaxLatencyRise string `placeholder:"10%" help:"Of the time that calls take."`
	Strict         bool   `help:"Go by the bad end of the 95 % interval: a change past a bound must be ruled out."`
}

// maxReport bounds a report that is read.
const maxReport = 64 << 20

// Run compares the report with the bounds.
func (c *replayGateCmd) Run(a *app) error {
	bounds := evaluate.Bounds{Strict: c.Strict}
	given := false
	for _, b := range []struct {
		flag, text string
		to         **float64
	}{
		{"--max-quality-drop", c.MaxQualityDrop, &bounds.QualityDrop}, {"--max-failure-rise", c.MaxFailureRise, &bounds.FailureRise},
		{"--max-cost-rise", c.MaxCostRise, &bounds.CostRise}, {"--max-token-rise", c.MaxTokenRise, &bounds.TokenRise},
		{"--max-latency-rise", c.MaxLatencyRise, &bounds.LatencyRise},
	} {
		if b.text == "" {
			continue
		}
		share, err := readShare(b.text)
		if err != nil {
			return wrongUse(fmt.Errorf("%s: %w", b.flag, err), b.flag+" 5%")
		}
		*b.to, given = &share, true
	}
	if !given {
		return wrongUse(errors.New("no bound is given"), "processor replay gate report.json --max-quality-drop 0.01 --max-cost-rise 5%")
	}
	r, err := c.read(a)
	if err != nil {
		return err
	}
	past := bounds.Check(r)
	for _, line := range past {
		fmt.Fprintln(a.stdout, line)
	}
	if len(past) > 0 {
		return errFailed
	}
	_, err = fmt.Fprintln(a.stdout, "within all bounds")
	return err
}

func (c *replayGateCmd) read(a *app) (*evaluate.Report, error) {
	in := a.stdin
	if c.Report != "-" {
		f, err := os.Open(c.Report)
		if err != nil {
			return nil, wrongUse(fmt.Errorf("opening the report: %w", err), "processor replay --candidate other.yaml --report-json report.json writes one")
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxReport))
	if err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	r := &evaluate.Report{}
	if err := json.Unmarshal(text, r); err != nil || r.Version != 1 {
		return nil, wrongUse(fmt.Errorf("%s is no report of version 1", c.Report), "processor replay --report-json report.json writes one")
	}
	return r, nil
}
