package main

import "strings"

const (
	// maxDiffed bounds the lines on either side for which the shortest
	// difference is looked for, in time that grows with their product.
	maxDiffed = 4000
	// diffContext is how many equal lines are shown around a change.
	diffContext = 3
)

// diffLine is a line that both texts have (' '), only the first ('-') or only the second ('+').
type diffLine struct {
	sign byte
	text string
}

// lineDiff writes how text b differs from a, line by line, with some equal lines
// around each change and ... for those left out.
func lineDiff(a, b string) string {
	lines := compare(splitLines(a), splitLines(b))
	near := make([]bool, len(lines))
	for i, l := range lines {
		if l.sign != ' ' {
			for j := max(0, i-diffContext); j <= min(len(lines)-1, i+diffContext); j++ {
				near[j] = true
			}
		}
	}
	var out strings.Builder
	for i, l := range lines {
		switch {
		case near[i]:
			out.WriteByte(l.sign)
			out.WriteString(l.text + "\n")
		case i == 0 || near[i-1]:
			out.WriteString("...\n")
		}
	}
	return out.String()
}

func splitLines(text string) []string { return strings.Split(strings.TrimSuffix(text, "\n"), "\n") }

// compare lines up two texts along their longest common subsequence of lines.
func compare(a, b []string) (lines []diffLine) {
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		lines = append(lines, diffLine{' ', a[start]})
		start++
	}
	endA, endB := len(a), len(b)
	for endA > start && endB > start && a[endA-1] == b[endB-1] {
		endA, endB = endA-1, endB-1
	}
	lines = append(lines, middle(a[start:endA], b[start:endB])...)
	for _, text := range a[endA:] {
		lines = append(lines, diffLine{' ', text})
	}
	return lines
}

// middle lines up what stands between the equal beginning and the equal end.
func middle(a, b []string) (lines []diffLine) {
	i, j := 0, 0
	if len(a) <= maxDiffed && len(b) <= maxDiffed {
		common := commonLengths(a, b)
		for i < len(a) && j < len(b) {
			switch {
			case a[i] == b[j]:
				lines = append(lines, diffLine{' ', a[i]})
				i, j = i+1, j+1
			case common[i+1][j] >= common[i][j+1]:
				lines = append(lines, diffLine{'-', a[i]})
				i++
			default:
				lines = append(lines, diffLine{'+', b[j]})
				j++
			}
		}
	}
	for ; i < len(a); i++ {
		lines = append(lines, diffLine{'-', a[i]})
	}
	for ; j < len(b); j++ {
		lines = append(lines, diffLine{'+', b[j]})
	}
	return lines
}

// commonLengths gives, for each pair of places, how many lines what follows both has in common.
func commonLengths(a, b []string) [][]uint16 {
	common := make([][]uint16, len(a)+1)
	for i := range common {
		common[i] = make([]uint16, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	return common
}
