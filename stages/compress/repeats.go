package compress

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// minRepeatLines and minRepeatBytes are what a block must have to be
	// replaced by a reference.
	minRepeatLines = 3
	minRepeatBytes = 80
	// maxRepeatName bounds the line that names the block in a reference.
	maxRepeatName = 160
)

// repeatEdits replaces a block of lines that stood before by
//
//	[12 lines again from: <the first line of the block>]
//
// where the first line is found at its first place in the text. Blocks in
// fences of code stay.
func repeatEdits(text string, _ role) []edit {
	if strings.Count(text, "\n") < 2*minRepeatLines {
		return nil
	}
	lines := linesOf(text)
	first := make(map[string]int, len(lines))
	areas := regions(text)
	var edits []edit
	for j := 0; j < len(lines); {
		line := lines[j].of(text)
		i, seen := first[line]
		if !seen {
			first[line] = j
			j++
			continue
		}
		for len(areas) > 0 && areas[0].end <= lines[j].start {
			areas = areas[1:]
		}
		n := 0
		if len(areas) > 0 && lines[j].start >= areas[0].start && (!areas[0].fence || plainFence(areas[0].info)) {
			n = sameBlock(text, lines, i, j, areas[0].end)
		}
		if n == 0 {
			j++
			continue
		}
		edits = append(edits, edit{lines[j].start, lines[j+n-1].end, repeatMark(n, line)})
		j += n
	}
	if len(edits) == 0 {
		return nil
	}
	if back, err := DecodeRepeats(splice(text, edits)); err != nil || back != text {
		return nil
	}
	return edits
}

// sameBlock gives the number of lines from j on that equal those from i on,
// or 0 when they are too few to be worth a reference.
func sameBlock(text string, lines []lineSpan, i, j, limit int) int {
	first := lines[j].of(text)
	if len(first) > maxRepeatName || strings.TrimSpace(first) == "" {
		return 0
	}
	n := 0
	for i+n < j && j+n < len(lines) && lines[j+n].end <= limit && lines[i+n].of(text) == lines[j+n].of(text) {
		n++
	}
	for n > minRepeatLines && strings.TrimSpace(lines[j+n-1].of(text)) == "" {
		n-- // blank lines at the end may stay
	}
	if n < minRepeatLines || lines[j+n-1].end-lines[j].start < minRepeatBytes {
		return 0
	}
	return n
}

const repeatMiddle = " lines again from: "

func repeatMark(n int, line string) string {
	return fmt.Sprintf("[%d%s%s]", n, repeatMiddle, line)
}

// readRepeatMark reads what repeatMark wrote.
func readRepeatMark(line string) (n int, first string, ok bool) {
	if !strings.HasPrefix(line, "[") || !strings.HasSuffix(line, "]") {
		return 0, "", false
	}
	number, first, ok := strings.Cut(line[1:len(line)-1], repeatMiddle)
	if !ok {
		return 0, "", false
	}
	n, err := strconv.Atoi(number)
	return n, first, err == nil && n > 0
}

// DecodeRepeats puts the blocks back for which references stand.
func DecodeRepeats(text string) (string, error) {
	var out []string
	size := 0
	first := map[string]int{}
	add := func(line string) {
		size += len(line) + 1
		if _, seen := first[line]; !seen {
			first[line] = len(out)
		}
		out = append(out, line)
	}
	for line := range strings.SplitSeq(text, "\n") {
		n, name, ok := readRepeatMark(line)
		if !ok {
			add(line)
			continue
		}
		from, seen := first[name]
		if !seen || from+n > len(out) {
			return "", fmt.Errorf("reference to %d lines from %q: no such lines before it", n, name)
		}
		for i := range n {
			if size > maxDecoded {
				return "", errDecoded
			}
			add(out[from+i])
		}
	}
	return strings.Join(out, "\n"), nil
}

// maxDecoded bounds what a decoder writes: references can be written by hand
// so that each doubles what stood before.
const maxDecoded = 64 << 20

var errDecoded = errors.New("the decoded text is larger than 64 MB")

// lineSpan is a line without its end.
type lineSpan struct{ start, end int }

func (l lineSpan) of(text string) string { return text[l.start:l.end] }

func linesOf(text string) []lineSpan {
	lines := make([]lineSpan, 0, strings.Count(text, "\n")+1)
	at := 0
	for {
		i := strings.IndexByte(text[at:], '\n')
		if i < 0 {
			return append(lines, lineSpan{at, len(text)})
		}
		lines = append(lines, lineSpan{at, at + i})
		at += i + 1
	}
}
