package compress

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// spaceEdits shortens white space in prose: blanks at the end of lines, more
// than one blank line in a row, and runs of blanks inside a line. Lines that
// may be code stay as they are, and so do runs that may line up columns.
func spaceEdits(text string, from role) []edit {
	var edits []edit
	for _, r := range regions(text) {
		if r.fence {
			continue
		}
		if out := squeeze(text[r.start:r.end]); len(out) < r.end-r.start && sameWords(text[r.start:r.end], out) {
			edits = append(edits, edit{r.start, r.end, out})
		}
	}
	return edits
}

func squeeze(text string) string {
	var b strings.Builder
	b.Grow(len(text))
	blank, before := 0, false
	for at := 0; at < len(text); {
		line, next := cutLine(text, at)
		follows, _ := cutLine(text, next)
		ended := next > at+len(line)
		at = next
		if !mayBeCode(line) {
			line = trimEnd(line)
		}
		if line == "" {
			if blank++; blank > 1 {
				continue
			}
			if ended {
				b.WriteByte('\n')
			}
			continue
		}
		blank = 0
		columns := hasGap(line)
		squeezeLine(&b, line, before || columns && hasGap(follows))
		before = columns
		if ended {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// trimEnd removes blanks at the end of a line, but not the mark of a DOS line.
func trimEnd(line string) string {
	if body, ok := strings.CutSuffix(line, "\r"); ok {
		if body = strings.TrimRight(body, " \t"); body == "" {
			return ""
		}
		return line[:len(body)] + "\r"
	}
	return strings.TrimRight(line, " \t")
}

// mayBeCode reports whether a line is indented or quotes something, so that its
// blanks may matter.
func mayBeCode(line string) bool {
	if strings.TrimSpace(line) == "" {
		return false
	}
	return isBlank(line[0]) || strings.Contains(line, repeatMiddle) || strings.ContainsAny(line, "\"`|\t") ||
		strings.Count(line, "'") > 1
}

// hasGap reports whether a line has a run of blanks inside that is not the
// usual pair behind the end of a sentence.
func hasGap(line string) bool {
	line = strings.TrimRight(line, " \t\r")
	for i := 1; i+1 < len(line); i++ {
		if isBlank(line[i]) && isBlank(line[i+1]) && !isBlank(line[i-1]) && !sentenceGap(line, i) {
			return true
		}
	}
	return false
}

func sentenceGap(line string, i int) bool {
	return strings.IndexByte(".?!:", line[i-1]) >= 0 && line[i] == ' ' && line[i+1] == ' ' && i+2 < len(line) && !isBlank(line[i+2])
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// squeezeLine writes a line with its runs of blanks as one. In columns only the
// pairs behind sentences are shortened.
func squeezeLine(b *strings.Builder, line string, columns bool) {
	if mayBeCode(line) {
		b.WriteString(line)
		return
	}
	for i := 0; i < len(line); i++ {
		b.WriteByte(line[i])
		if i == 0 || !isBlank(line[i]) || i+1 >= len(line) || !isBlank(line[i+1]) || isBlank(line[i-1]) {
			continue
		}
		if columns && !sentenceGap(line, i) {
			continue
		}
		for i+1 < len(line) && isBlank(line[i+1]) {
			i++
		}
	}
}

// sameWords reports whether two texts differ in white space only, and only in
// how much of it there is.
func sameWords(a, b string) bool {
	for {
		wordA, restA := nextWord(a)
		wordB, restB := nextWord(b)
		if wordA != wordB {
			return false
		}
		if wordA == "" {
			return true
		}
		a, b = restA, restB
	}
}

func nextWord(s string) (word, rest string) {
	s = strings.TrimLeftFunc(s, unicode.IsSpace)
	for i := 0; i < len(s); {
		if s[i] <= ' ' {
			return s[:i], s[i:]
		}
		if s[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if unicode.IsSpace(r) {
			return s[:i], s[i:]
		}
		i += n
	}
	return s, ""
}
