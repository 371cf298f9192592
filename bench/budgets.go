package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
)

// threeBudgets hold for every request of the load and refuse none. They are hard,
// so each request is also counted and gets a bound on its answer.
const threeBudgets = `budgets:
  - {tenant: bench, minute_limit: 1000000000000}
  - {tenant: bench, daily_limit: 1000000000000}
  - {tenant: bench, monthly_limit_usd: 100000000}
`

// budgetsBar is the least share of its rate that the pipeline has to keep.
const budgetsBar = 0.85

// runBudgets measures what budgets cost: the pipeline without any and with three
// on every request, in turns, so that both meet the same machine.
func runBudgets(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("budgets", flag.ContinueOnError)
	b := pipelineBench{out: out}
	flags.IntVar(&b.requests, "requests", 20_000, "requests a turn")
	flags.BoolVar(&b.cpu, "cpu", false, "print the processor time of each process, in microseconds a request")
	turns := flags.Int("turns", 5, "turns of each")
	upstream := flags.Bool("http", true, "a real upstream, else the simulated provider")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *turns < 1 || b.requests < 100 {
		return errors.New("-turns is at least 1, -requests at least 100")
	}
	remove, err := b.build(ctx, "budgets")
	if err != nil {
		return err
	}
	defer remove()
	without := scenario{"five groups, no budget", *upstream, fiveGroups, true, ""}
	with := scenario{"five groups, three budgets", *upstream, fiveGroups, true, threeBudgets}
	return b.compare(ctx, without, with, *turns)
}

// compare prints the rates of two scenarios in turns, and the median of the
// ratios, each of a turn and the one beside it. Which comes first alternates.
func (b *pipelineBench) compare(ctx context.Context, without, with scenario, turns int) error {
	fmt.Fprintf(b.out, "| turn | %s, requests/s | %s, requests/s | ratio |\n| --- | --- | --- | --- |\n", without.name, with.name)
	var ratios []float64
	for turn := range turns {
		order := []scenario{without, with}
		if turn%2 == 1 {
			slices.Reverse(order)
		}
		rates := map[string]float64{}
		for _, s := range order {
			rate, err := b.throughput(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			rates[s.name] = rate
		}
		ratio := rates[with.name] / rates[without.name]
		ratios = append(ratios, ratio)
		fmt.Fprintf(b.out, "| %d | %.0f | %.0f | %.2f |\n", turn+1, rates[without.name], rates[with.name], ratio)
	}
	slices.Sort(ratios)
	median := ratios[len(ratios)/2]
	verdict := "reached"
	if median < budgetsBar {
		verdict = "missed"
	}
	fmt.Fprintf(b.out, "\nMedian ratio %.2f; the bar of %.2f is %s.\n", median, budgetsBar, verdict)
	return nil
}
