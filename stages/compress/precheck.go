package compress

import "bytes"

// Most prompts hold nothing that a structural pass could shorten. promising
// finds that out in one pass over the raw JSON string, before anything is
// unquoted or allocated. It may say yes for nothing, never no where a lossless
// pass would save tokens.

const (
	// minLines is from how many lines on repeated blocks and logs are possible.
	minLines = 2 * minRepeatLines
	// lineSlots is the size of the table that remembers lines; a text with more
	// lines than half of it is promising.
	lineSlots = 256
)

// eventful marks the bytes at which promising looks closer.
var eventful = func() (t [256]bool) {
	for _, c := range []byte("\\ \t{[|`~\xe2\xef\r\n\x1b") {
		t[c] = true
	}
	return t
}()

// promising reports whether a text may get shorter. raw is the inside of a JSON
// string, escapes as they are.
func promising(raw []byte) bool {
	lines, lineStart := 1, 0
	blank := false // the line before is empty
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if !eventful[c] {
			continue
		}
		switch c {
		case ' ':
			// Blanks at the start of a line are indentation.
			if i+1 < len(raw) && (raw[i+1] == ' ' && i > lineStart && raw[i-1] != ' ' || newlineAt(raw, i+1)) {
				return true
			}
		case '\\':
			switch raw[i+1] {
			case 'n':
				if i == lineStart && blank {
					return true
				}
				blank = i == lineStart
				lines++
				lineStart = i + 2
			case 't':
				if i > lineStart {
					return true
				}
			case 'u':
				return true // a control character, or worth a look
			}
			i++
		case '{', '[':
			if i == lineStart && i+1 < len(raw) && opensJSON(raw[i+1:]) {
				return true
			}
		case '|', '`', '~':
			if i == lineStart && i+1 < len(raw) && (c == '|' || raw[i+1] == c) {
				return true
			}
		case 0xe2, 0xef:
			if i+2 < len(raw) && isZeroWidth(raw[i:i+3]) {
				return true
			}
		}
	}
	return lines >= minLines && (lines > lineSlots/2 || promisingLines(raw))
}

func newlineAt(raw []byte, i int) bool {
	return i+1 < len(raw) && raw[i] == '\\' && (raw[i+1] == 'n' || raw[i+1] == 'r')
}

// opensJSON reports whether what follows a bracket can be the inside of JSON,
// rather than "[1] a footnote" or "[Name]".
func opensJSON(raw []byte) bool {
	switch raw[0] {
	case '{', '[', '\\', ' ', '"':
		return true
	}
	return bytes.IndexByte(raw[:min(len(raw), 128)], ',') >= 0
}

func isZeroWidth(b []byte) bool {
	s := string(b)
	return s == "\u200b" || s == "\u2060" || s == "\ufeff"
}

// promisingLines reports whether a line of some length occurs twice, or many
// lines look like a log.
func promisingLines(raw []byte) bool {
	var seen [lineSlots]uint32
	logs := 0
	for len(raw) > 0 {
		line := raw
		if i := bytes.Index(raw, escapedNewline); i >= 0 {
			line, raw = raw[:i], raw[i+2:]
		} else {
			raw = nil
		}
		if len(line) < minRepeatBytes/8 {
			continue
		}
		if looksLikeLog(line) {
			if logs++; logs >= minLogLines/2 {
				return true
			}
		}
		h := hashLine(line)
		slot := h % lineSlots
		for seen[slot] != 0 && seen[slot] != h {
			slot = (slot + 1) % lineSlots
		}
		if seen[slot] == h {
			return true
		}
		seen[slot] = h
	}
	return false
}

var escapedNewline = []byte(`\n`)

// hashLine is FNV-1a; never 0, which marks a free slot.
func hashLine(line []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range line {
		h = (h ^ uint32(c)) * 16777619
	}
	return h | 1
}
