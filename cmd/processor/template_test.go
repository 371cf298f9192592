package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLineDiff(t *testing.T) {
	t.Parallel()
	numbered := func(n int) []string {
		var lines []string
		for i := range n {
			lines = append(lines, fmt.Sprint(i))
		}
		return lines
	}
	text := func(lines []string) string { return strings.Join(lines, "\n") + "\n" }
	long, changed := numbered(20), numbered(20)
	changed[10] = "ten"
	for name, c := range map[string]struct{ a, b, want string }{
		"changed":  {"a\nb\nc\n", "a\nx\nc\n", " a\n-b\n+x\n c\n"},
		"added":    {"a\nc\n", "a\nb\nc\n", " a\n+b\n c\n"},
		"removed":  {"a\nb\nc\n", "a\nc\n", " a\n-b\n c\n"},
		"moved":    {"a\nb\nc\nd\n", "b\nc\na\nd\n", "-a\n b\n c\n+a\n d\n"},
		"far away": {text(long), text(changed), "...\n 7\n 8\n 9\n-10\n+ten\n 11\n 12\n 13\n...\n"},
		"equal":    {"a\n", "a\n", "...\n"},
	} {
		require.Equal(t, c.want, lineDiff(c.a, c.b), name)
	}
	huge := lineDiff(text(append(numbered(maxDiffed), "x")), text(append([]string{"y"}, numbered(maxDiffed+5)...)))
	require.Equal(t, 2*maxDiffed+1+1+5, strings.Count(huge, "\n"), "past the bound everything has changed")
}
