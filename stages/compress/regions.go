package compress

import "strings"

// region is a part of a text: the body of a fenced block, or what lies between
// fences. A fence that is never closed reaches to the end of the text.
type region struct {
	start, end int    // the text of the region; for a fence its body
	open       int    // for a fence where its opening line starts
	fence      bool   // is the body of a fence
	closed     bool   // the fence has an end
	info       string // the language of the fence, in lower case
}

// regions cuts a text at its fences, by the rules of CommonMark: three or more
// backquotes or tildes, indented by at most three blanks, closed by at least as
// many of the same.
func regions(text string) []region {
	if !strings.Contains(text, "```") && !strings.Contains(text, "~~~") {
		return []region{{end: len(text)}}
	}
	var out []region
	prose, at := 0, 0
	for at < len(text) {
		line, next := cutLine(text, at)
		mark, info := fenceMark(line)
		if mark == "" {
			at = next
			continue
		}
		if at > prose {
			out = append(out, region{start: prose, end: at})
		}
		bodyEnd, after, closed := closeFence(text, next, mark)
		out = append(out, region{start: next, end: bodyEnd, open: at, fence: true, closed: closed, info: info})
		prose, at = after, after
	}
	if prose < len(text) {
		out = append(out, region{start: prose, end: len(text)})
	}
	return out
}

func closeFence(text string, from int, mark string) (bodyEnd, after int, closed bool) {
	for at := from; at < len(text); {
		line, next := cutLine(text, at)
		other, info := fenceMark(line)
		if info == "" && strings.HasPrefix(other, mark) {
			return at, next, true
		}
		at = next
	}
	return len(text), len(text), false
}

// fenceMark gives the backquotes or tildes that a line starts with, and the
// language behind them; "" when the line is no fence.
func fenceMark(line string) (mark, info string) {
	trimmed := strings.TrimLeft(line, " ")
	if len(line)-len(trimmed) > 3 || len(trimmed) < 3 {
		return "", ""
	}
	c := trimmed[0]
	if c != '`' && c != '~' {
		return "", ""
	}
	n := 0
	for n < len(trimmed) && trimmed[n] == c {
		n++
	}
	rest := strings.TrimSpace(trimmed[n:])
	if n < 3 || c == '`' && strings.ContainsRune(rest, '`') {
		return "", ""
	}
	info, _, _ = strings.Cut(rest, " ")
	return trimmed[:n], strings.ToLower(info)
}

// cutLine gives the line that starts at a position, without its end, and where
// the next one starts.
func cutLine(text string, at int) (line string, next int) {
	if i := strings.IndexByte(text[at:], '\n'); i >= 0 {
		return text[at : at+i], at + i + 1
	}
	return text[at:], len(text)
}
