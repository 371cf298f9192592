package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/proc"
)

func TestMain(m *testing.M) {
	proc.Main()
	os.Exit(m.Run())
}

// Every scenario has a short form, whose flags it takes.
func TestAllRunsEveryScenario(t *testing.T) {
	var names []string
	for _, s := range shorts {
		names = append(names, s.scenario)
		require.Contains(t, scenarios, s.scenario)
		err := scenarios[s.scenario](t.Context(), io.Discard, append(append([]string{}, s.args...), "-h"))
		require.ErrorIs(t, err, flag.ErrHelp, "%s %v", s.scenario, s.args)
	}
	for name := range scenarios {
		require.Contains(t, names, name)
	}
}

// The scenario is in the table of bench/README.md.
func TestEveryScenarioIsDescribed(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for name := range scenarios {
		require.Contains(t, string(text), fmt.Sprintf("| `%s` |", name))
	}
}

func TestFiguresAreReadFromWhatScenariosPrint(t *testing.T) {
	f, err := wanted{"x", rate, false, `\| a \| (\d+)`}.find("| a | 500 |", 2000)
	require.NoError(t, err)
	require.InDelta(t, 0.25, f.Value, 1e-9)
	f, err = wanted{"x", span, true, `took (\S+ ms)`}.find("it took 2.5 ms", 2000)
	require.NoError(t, err)
	require.InDelta(t, 5, f.Value, 1e-9)
	require.InDelta(t, 0.0025, f.Raw, 1e-9)
	_, err = wanted{"x", ratio, false, `nothing (\d)`}.find("| a | 500 |", 2000)
	require.ErrorContains(t, err, "has its form changed?")
}

func TestASmallRunIsWrittenAndCompared(t *testing.T) {
	const name = "a scenario of the test"
	scenarios[name] = func(_ context.Context, out io.Writer, _ []string) error {
		fmt.Fprintln(out, "10000/s, 1ms, x0.5")
		return nil
	}
	scenarios["broken"] = func(context.Context, io.Writer, []string) error { return errors.New("it does not work") }
	before := shorts
	shorts = []short{{"broken", nil, false, "", nil}, {name, nil, false, "", []wanted{
		{"rate", rate, false, `(\d+)/s`}, {"time", span, true, `, (\S+),`}, {"share", ratio, false, `x([\d.]+)`},
	}}, {"tokens", nil, true, "", nil}}
	defer func() { shorts = before; delete(scenarios, name); delete(scenarios, "broken") }()
	var out bytes.Buffer
	file := filepath.Join(t.TempDir(), "new.json")
	err := runAll(t.Context(), &out, []string{"-json", file, "-data", ""})
	require.ErrorContains(t, err, "broken: it does not work")
	require.Contains(t, out.String(), "tokens: left out")
	require.Contains(t, out.String(), "10000/s")
	r, err := readResults(file)
	require.NoError(t, err)
	require.Len(t, r.Figures, 3)
	require.Positive(t, r.Bare)
	require.InDelta(t, 10, r.Figures[0].Value*r.Figures[1].Value, 1e-6, "both by the same bare loop")
	require.InDelta(t, 0.5, r.Figures[2].Value, 1e-9)

	require.NoError(t, runCompare(t.Context(), &out, []string{file, file}))
	r.Figures[0].Value /= 2
	r.Figures[1].Value *= 2
	r.Figures[2].Value *= 0.8
	slow := filepath.Join(filepath.Dir(file), "slow.json")
	require.NoError(t, r.write(slow))
	out.Reset()
	require.ErrorContains(t, runCompare(t.Context(), &out, []string{file, slow}), "2 of 3 figures became slower by more than 30%")
	require.Contains(t, out.String(), "x0.50 | SLOWER")
	require.ErrorContains(t, runCompare(t.Context(), &out, []string{"-tolerance", "0.1", file, slow}), "3 of 3")
	out.Reset()
	require.NoError(t, runCompare(t.Context(), &out, []string{slow, file}))
	require.Contains(t, out.String(), "x2.00 | faster")
}

func TestComparingWhatIsNoResult(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty.json": "{}", "text.json": "no JSON"} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		require.Error(t, runCompare(t.Context(), io.Discard, []string{file, file}))
	}
	require.Error(t, runCompare(t.Context(), io.Discard, nil))
	require.Error(t, runCompare(t.Context(), io.Discard, []string{"-tolerance", "2", "a", "b"}))
	_, err := newestResults(dir + "/none")
	require.Error(t, err)
}

// The committed results can be read, and every figure in them is one that all
// still measures.
func TestCommittedResults(t *testing.T) {
	files, err := filepath.Glob("results/*.json")
	require.NoError(t, err)
	for _, file := range files {
		r, err := readResults(file)
		require.NoError(t, err)
		for _, f := range r.Figures {
			require.Positive(t, f.Value, "%s: %s", file, f.Name)
		}
	}
}

func TestBetweenLeavesOutStartAndEnd(t *testing.T) {
	begin := time.Now()
	var marks []mark
	for i := range 101 {
		at := begin.Add(time.Duration(i) * 10 * time.Millisecond)
		if i < 10 {
			at = at.Add(-time.Hour)
		}
		marks = append(marks, mark{at, uint64(i)})
	}
	require.InDelta(t, 100, between(marks, 0.15, 0.85), 1e-6)
	_, err := numbers("1,x")
	require.Error(t, err)
	text, err := json.Marshal(figure{Kind: rate, Value: 1})
	require.NoError(t, err)
	require.Contains(t, string(text), `"rate"`)
}
