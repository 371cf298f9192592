package compress

import "strings"

// tableEdits takes the padding out of Markdown tables: the blanks around cells
// and the surplus dashes of the line under the header.
func tableEdits(text string, _ role) []edit {
	if !strings.Contains(text, "-|") && !strings.Contains(text, "- |") && !strings.Contains(text, ":|") && !strings.Contains(text, ": |") {
		return nil
	}
	var edits []edit
	for _, r := range regions(text) {
		if r.fence {
			continue
		}
		for at := r.start; at < r.end; {
			if text[at] != '|' {
				_, at = cutLine(text[:r.end], at)
				continue
			}
			end, out, ok := unpadTable(text[:r.end], at)
			if ok {
				edits = append(edits, edit{at, end, out})
			}
			at = end
		}
	}
	return edits
}

// unpadTable rewrites the lines from a position on that start with '|'. It
// reports false when they are no table, which needs a line of dashes as its second.
func unpadTable(text string, at int) (end int, out string, ok bool) {
	var b strings.Builder
	start, lines := at, 0
	for at < len(text) && text[at] == '|' {
		line, next := cutLine(text, at)
		row := unpadRow(line)
		if lines == 1 {
			if !isDashes(row) {
				row = line
			} else {
				ok = true
				row = shortDashes(row)
			}
		}
		b.WriteString(row)
		if next > at+len(line) {
			b.WriteByte('\n')
		}
		lines++
		at = next
	}
	out = b.String()
	return at, out, ok && lines > 2 && sameCells(text[start:at], out)
}

// unpadRow removes blanks beside the bars of a row and at its end. A bar behind
// a backslash is part of a cell.
func unpadRow(line string) string {
	var b strings.Builder
	b.Grow(len(line))
	at := 0
	for at < len(line) {
		bar := nextBar(line, at)
		b.WriteString(strings.Trim(line[at:bar], " \t\r"))
		if bar < len(line) {
			b.WriteByte('|')
		}
		at = bar + 1
	}
	return b.String()
}

func nextBar(line string, at int) int {
	for i := at; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '|':
			return i
		}
	}
	return len(line)
}

func isDashes(row string) bool {
	return strings.Contains(row, "-") && strings.Trim(row, "|-:") == ""
}

// shortDashes leaves one dash to each column beside the marks of alignment.
func shortDashes(row string) string {
	var b strings.Builder
	for i := range len(row) {
		if row[i] != '-' || i == 0 || row[i-1] != '-' {
			b.WriteByte(row[i])
		}
	}
	return b.String()
}

// sameCells reports whether two tables have the same cells; dashes of the
// second line count as one.
func sameCells(a, b string) bool {
	linesA, linesB := strings.Split(a, "\n"), strings.Split(b, "\n")
	if len(linesA) != len(linesB) {
		return false
	}
	for i := range linesA {
		x, y := linesA[i], linesB[i]
		for {
			barX, barY := nextBar(x, 0), nextBar(y, 0)
			cellX, cellY := strings.TrimSpace(x[:barX]), y[:barY]
			if i == 1 {
				cellX, cellY = shortDashes(cellX), shortDashes(cellY)
			}
			if cellX != cellY || (barX < len(x)) != (barY < len(y)) {
				return false
			}
			if barX == len(x) {
				break
			}
			x, y = x[barX+1:], y[barY+1:]
		}
	}
	return true
}
