package near

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"cache", "cache", 0}, {"cach", "cache", 1}, {"", "abc", 3}, {"abc", "", 3},
		{"kitten", "sitting", 3}, {"strategy", "stratgey", 2},
	} {
		require.Equal(t, c.want, Distance(c.a, c.b), "%s, %s", c.a, c.b)
	}
}
