// Command bench measures the product. Every figure in the documentation comes
// from one of its scenarios.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/adpa/processor/bench/compress"
	"github.com/adpa/processor/bench/score"
	selection "github.com/adpa/processor/bench/select"
	"github.com/adpa/processor/internal/proc"
)

var scenarios = map[string]func(ctx context.Context, out io.Writer, args []string) error{
	"batch":      runBatch,
	"budgets":    runBudgets,
	"compress":   withData("compress", compress.Run),
	"cache":      runCache,
	"cached":     runCached,
	"fairness":   runFairness,
	"generate":   runGenerate,
	"normalized": runNormalized,
	"pipeline":   runPipeline,
	"replay":     runReplay,
	"scale":      runScale,
	"score":      withData("score", score.Run),
	"stream":     runStream,
	"sync":       runSync,
	"select":     withData("select", selection.Run),
	"tokens":     withData("tokens", runTokens),
	"tune":       runTune,
}

// withData makes a scenario of one that reads real data.
func withData(name string, scenario func(out io.Writer, dataDir string, args []string) error) func(context.Context, io.Writer, []string) error {
	return func(_ context.Context, out io.Writer, args []string) error {
		flags := flag.NewFlagSet(name, flag.ContinueOnError)
		data := flags.String("data", os.Getenv("PROCESSOR_DATA"), "the directory of the data sets, else that of PROCESSOR_DATA")
		if err := flags.Parse(args); err != nil {
			return err
		}
		return scenario(out, *data, flags.Args())
	}
}

func main() {
	proc.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "error:", err)
		}
		if _, ok := errors.AsType[misuse](err); ok {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// misuse is an error of who calls: status 2.
type misuse struct{ error }

func (m misuse) Unwrap() error { return m.error }

// parse reads the flags of a scenario.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return misuse{err}
	}
	return nil
}

func run(ctx context.Context, out io.Writer, args []string) error {
	var names []string
	for name := range scenarios {
		names = append(names, name)
	}
	slices.Sort(names)
	switch {
	case len(args) > 0 && args[0] == "all":
		return runAll(ctx, out, args[1:])
	case len(args) > 0 && args[0] == "compare":
		return runCompare(ctx, out, args[1:])
	case len(args) == 0 || scenarios[args[0]] == nil:
		return misuse{fmt.Errorf("name a scenario: %s (each takes -h); all for each in a short form; or compare for two runs of all", strings.Join(names, ", "))}
	}
	return scenarios[args[0]](ctx, out, args[1:])
}
