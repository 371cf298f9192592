package compress

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRun holds the bars of compression on the halves of the data that were not
// looked at while it was made.
func TestRun(t *testing.T) {
	dir := os.Getenv("PROCESSOR_DATA")
	if dir == "" {
		t.Skip("PROCESSOR_DATA names no directory with the data")
	}
	var out strings.Builder
	require.NoError(t, Run(&out, dir, nil))
	t.Log(out.String())
}

func TestRunSaysWhatIsMissing(t *testing.T) {
	require.ErrorContains(t, Run(&strings.Builder{}, "", nil), "PROCESSOR_DATA")
	require.ErrorContains(t, Run(&strings.Builder{}, "x", []string{"fast"}), "give none, or develop")
	require.ErrorContains(t, Run(&strings.Builder{}, t.TempDir(), nil), "nq-open-oracle")
}

func TestIntervals(t *testing.T) {
	require.Equal(t, " 50.0 [40.4, 59.6]", share{50, 100}.String())
	require.Equal(t, "100.0 [96.3, 100.0]", share{100, 100}.String())
	require.Equal(t, 2.0, clustered{{1, 2}, {3}}.mean())
}
