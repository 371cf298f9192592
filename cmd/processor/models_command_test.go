package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func modelsOf(t *testing.T, rows ...modelRow) string {
	t.Helper()
	markFrontiers(rows)
	var out bytes.Buffer
	require.NoError(t, printModels(&out, rows))
	plotModels(&out, rows)
	for line := range strings.Lines(out.String()) {
		require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 80, "%s", line)
	}
	return out.String()
}

func measured(model string, quality, cost float64) modelRow {
	return modelRow{Model: model, Quality: &quality, Low: quality - 0.02, High: quality + 0.02, Answers: 100, Calls: 104, Success: 0.96, P50: 420, P95: 1800, CostUSD: cost}
}

func TestModelsArePlottedWithTheirFrontier(t *testing.T) {
	t.Parallel()
	out := modelsOf(t, measured("large", 0.95, 0.01), measured("openai/dear-and-bad-with-a-very-long-name", 0.70, 0.02),
		measured("middle", 0.88, 0.002), measured("small", 0.60, 0.0005), modelRow{Model: "never-scored"})
	require.Contains(t, out, "logarithmic")
	for _, want := range []string{"A  small: 0.60 at $0.0005", "B  middle: 0.88 at $0.002", "C  large: 0.95 at $0.01", "d  openai/dear-and-bad-with-a-very-long-name: 0.70 at $0.02"} {
		require.Contains(t, out, want)
	}
	require.Contains(t, out, "openai/dea…long-name  0.70 ±0.02    ", "not on the frontier, and cut")
	require.Contains(t, out, "0.95 ±0.02 *")
	lines := strings.Split(out, "\n")
	row := func(letter string) int {
		for i, line := range lines {
			if _, plotted, ok := strings.Cut(line, "|"); ok && strings.Contains(plotted, letter) {
				return i
			}
		}
		require.Fail(t, "not plotted", "%s\n%s", letter, out)
		return 0
	}
	require.Less(t, row("C"), row("B"))
	require.Less(t, row("B"), row("d"))
	require.Less(t, row("d"), row("A"))
}

func TestModelsWithoutAPlot(t *testing.T) {
	t.Parallel()
	require.Contains(t, modelsOf(t, measured("alone", 0.9, 0.01), modelRow{Model: "free"}), "no plot")
	out := modelsOf(t, measured("a", 0.9, 0.01), measured("b", 0.9, 0.01))
	require.Contains(t, out, "AB", "two at one place stand beside each other")
}
