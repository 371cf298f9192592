package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
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
		for _, args := range [][]string{s.args, s.quick} {
			err := scenarios[s.scenario](t.Context(), io.Discard, append(append([]string{}, args...), "-h"))
			require.ErrorIs(t, err, flag.ErrHelp, "%s %v", s.scenario, args)
		}
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
	shorts = []short{{"broken", nil, nil, false, "", nil}, {name, nil, nil, false, "", []wanted{
		{"rate", rate, false, `(\d+)/s`}, {"time", span, true, `, (\S+),`}, {"share", ratio, false, `x([\d.]+)`},
	}}, {"tokens", nil, nil, true, "", nil}}
	defer func() { shorts = before; delete(scenarios, name); delete(scenarios, "broken") }()
	var out bytes.Buffer
	file := filepath.Join(t.TempDir(), "new.json")
	err := runAll(t.Context(), &out, []string{"-json", file, "-data", "", "-quick"})
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
	slow := filepath.Join(filepath.Dir(file), "slow.json")
	by := func(times float64, f *figure) {
		f.Value *= times
		for i := range f.Turns {
			f.Turns[i] *= times
		}
	}
	by(0.01, &r.Figures[0])
	by(100, &r.Figures[1])
	by(0.85, &r.Figures[2])
	require.NoError(t, r.write(slow))
	out.Reset()
	err = runCompare(t.Context(), &out, []string{file, slow})
	require.ErrorContains(t, err, "2 of 3 figures became slower by more than 20%")
	require.ErrorContains(t, err, name+": rate: x0.01 (")
	require.Contains(t, out.String(), ") | SLOWER |")
	require.ErrorContains(t, runCompare(t.Context(), &out, []string{"-tolerance", "0.1", file, slow}), "3 of 3")
	out.Reset()
	require.NoError(t, runCompare(t.Context(), &out, []string{slow, file}))
	require.Contains(t, out.String(), ") | faster |")
	require.Contains(t, out.String(), "Nothing became slower by more than 20%.")
}

// What is slower at the median is told as slower only if all turns are.
func TestNoiseIsNotSlower(t *testing.T) {
	before := figure{Value: 10, Turns: []float64{6, 10, 11}}
	slower := changeOf(before, figure{Value: 5, Turns: []float64{4, 5, 5.9}})
	require.Equal(t, isSlower, slower.verdict(0.2))
	require.Equal(t, "x0.50 (0.36 to 0.98)", slower.String())
	require.Equal(t, "slower, but not in every turn", changeOf(before, figure{Value: 5, Turns: []float64{4, 5, 7}}).verdict(0.2))
	require.Empty(t, changeOf(before, figure{Value: 9, Turns: []float64{8, 9, 9}}).verdict(0.2))
	require.Equal(t, "faster", changeOf(before, figure{Value: 20, Turns: []float64{19, 20, 21}}).verdict(0.2))
	less := func(f figure) figure { f.Less = true; return f }
	require.Equal(t, isSlower, changeOf(less(before), less(figure{Value: 20, Turns: []float64{19, 20, 21}})).verdict(0.2))
	require.Equal(t, isSlower, changeOf(figure{Value: 10}, figure{Value: 7}).verdict(0.2), "results of one turn")
	require.Equal(t, isSlower, changeOf(figure{Value: 10}, figure{Value: math.NaN()}).verdict(0.2))
}

func TestComparingWhatIsNoResult(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty.json": "{}", "text.json": "no JSON"} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		require.ErrorAs(t, runCompare(t.Context(), io.Discard, []string{file, file}), new(misuse))
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
