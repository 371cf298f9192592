package selection

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The quality after 0, 1, ... calls of the strong model is 1, 2, 2, 1, 2 of 4
// rows where they are made in the given order: the area below is 1.625, of which
// 1 is the weak model's, and the gap is 1.
func TestArea(t *testing.T) {
	rows := []row{{weak: 0, strong: 1}, {weak: 0, strong: 0}, {weak: 1, strong: 0}, {weak: 0, strong: 1}}
	require.InDelta(t, 0.625, apgr(rows, []float64{4, 3, 2, 1}), 1e-12)
	require.InDelta(t, 0.625, apgr(rows, []float64{1, 1, 1, 1}), 1e-12, "equal gains keep the order")
	require.InDelta(t, 1.375, apgr(rows, []float64{4, 2, 1, 3}), 1e-12, "the best order")
	require.InDelta(t, -0.375, apgr(rows, []float64{1, 3, 4, 2}), 1e-12, "the worst order")
}
