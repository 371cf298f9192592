package compress

import (
	"fmt"
	"strings"
)

const (
	// minSummaryBytes is the size of a tool result from which on its logs are
	// summed up.
	minSummaryBytes = 8 << 10
	// maxErrorLines bounds the error lines that are kept beside the first and
	// last of each template.
	maxErrorLines = 20
)

// logSummaryEdits keeps of the logs in a long tool result the first and last
// line of each template, different lines that report an error, and how many
// lines of each template there were.
func logSummaryEdits(text string, from role) []edit {
	if from != roleTool || len(text) < minSummaryBytes {
		return nil
	}
	var edits []edit
	for _, block := range logBlocks(text) {
		out := summarizeLog(text[block.start:block.end])
		edits = append(edits, edit{block.start, block.end, out})
	}
	return edits
}

func summarizeLog(block string) string {
	templates, lines := templatesOf(block, "\x00")
	keep := make([]bool, len(lines))
	first := make([]int, len(templates))
	last := make([]int, len(templates))
	for i, l := range lines {
		if last[l.template] == 0 {
			first[l.template] = i
		}
		last[l.template] = i + 1
	}
	for t := range templates {
		keep[first[t]], keep[last[t]-1] = true, true
	}
	keepErrors(lines, keep)
	var b strings.Builder
	for i, l := range lines {
		if !keep[i] {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(l.line)
		if uses := templates[l.template].uses; i == first[l.template] && uses > 2 {
			fmt.Fprintf(&b, "\n[%d lines like it]", uses)
		}
	}
	return b.String()
}

func keepErrors(lines []logLine, keep []bool) {
	seen := map[string]bool{}
	for i, l := range lines {
		if len(seen) == maxErrorLines {
			return
		}
		if !seen[l.line] && reportsError(l.line) {
			seen[l.line] = true
			keep[i] = true
		}
	}
}

func reportsError(line string) bool {
	for _, word := range []string{"ERROR", "FATAL", "PANIC", "Error", "Exception", "error:", "fatal", "panic:", "failed"} {
		if strings.Contains(line, word) {
			return true
		}
	}
	return false
}
