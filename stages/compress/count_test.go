package compress

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/tokens"
)

// counter counts o200k tokens.
func counter(t testing.TB) Counter {
	t.Helper()
	encoding, err := tokens.Load("o200k_base")
	require.NoError(t, err)
	return encoding.Count
}
