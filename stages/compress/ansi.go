package compress

import "strings"

// ansiEdits removes what is never seen: terminal escape sequences (ECMA-48 CSI
// and OSC) and the zero-width characters that mean nothing in any script. The
// zero-width joiners are kept: emoji and several scripts are written with them.
// In a fence of code zero-width characters stay, since a string may hold them.
func ansiEdits(text string, _ role) []edit {
	if !strings.ContainsAny(text, "\x1b\u200b\u2060\ufeff") {
		return nil
	}
	var edits []edit
	for _, r := range regions(text) {
		code := r.fence && !plainFence(r.info)
		for i := r.start; i < r.end; {
			n := invisible(text[i:r.end], code)
			if n == 0 {
				i++
				continue
			}
			if last := len(edits) - 1; last >= 0 && edits[last].end == i {
				edits[last].end = i + n
			} else {
				edits = append(edits, edit{start: i, end: i + n})
			}
			i += n
		}
	}
	return edits
}

// plainFence reports whether the language of a fence is none, or a plain
// recording of what a terminal or a log showed.
func plainFence(info string) bool {
	switch info {
	case "", "text", "txt", "plain", "log", "logs", "console", "terminal", "output", "ansi":
		return true
	}
	return false
}

// invisible gives the length of the invisible sequence at the start of a text.
func invisible(text string, code bool) int {
	switch text[0] {
	case 0x1b:
		return escapeLen(text)
	case 0xe2, 0xef:
		if code {
			return 0
		}
		for _, mark := range []string{"\u200b", "\u2060", "\ufeff"} {
			if strings.HasPrefix(text, mark) {
				return len(mark)
			}
		}
	}
	return 0
}

// maxEscape bounds an escape sequence; what is longer is no sequence.
const maxEscape = 256

func escapeLen(text string) int {
	text = text[:min(len(text), maxEscape)]
	if len(text) < 3 {
		return 0
	}
	switch text[1] {
	case '[':
		for i := 2; i < len(text); i++ {
			switch c := text[i]; {
			case c >= 0x40 && c <= 0x7e:
				return i + 1
			case c < 0x20 || c > 0x3f:
				return 0
			}
		}
	case ']':
		for i := 2; i < len(text); i++ {
			if text[i] == 0x07 {
				return i + 1
			}
			if text[i] == 0x1b && i+1 < len(text) && text[i+1] == '\\' {
				return i + 2
			}
		}
	}
	return 0
}
