package compress

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSentence is the length in bytes from which on a sentence is cut at a blank.
const maxSentence = 800

// eachSentence calls visit for the sentences of a text; white space belongs to
// the sentence before it. A cut is made only at white space, or behind the marks
// of Chinese and Japanese, so never inside a number, an address or a name.
func eachSentence(text string, start, end int, visit func(start, end int)) {
	from := start
	for i := start; i < end; {
		c := text[i]
		stop := false
		switch {
		case c == '.' || c == '?' || c == '!':
			i++
			for i < end && strings.IndexByte(`.?!"')]`, text[i]) >= 0 {
				i++
			}
			stop = endsSentence(text, from, i, end)
		case c == 0xe3 || c == 0xef: // 。 ！ ？ ｡
			r, n := utf8.DecodeRuneInString(text[i:end])
			i += n
			stop = r == '。' || r == '！' || r == '？' || r == '｡'
			if stop {
				i = skipClosers(text, i, end)
			}
		case (c == ' ' || c == '\n') && i-from >= maxSentence:
			i++
			stop = true
		default:
			i++
		}
		if !stop {
			continue
		}
		for i < end && text[i] <= ' ' {
			i++
		}
		visit(from, i)
		from = i
	}
	if from < end {
		visit(from, end)
	}
}

func skipClosers(text string, i, end int) int {
	for i < end {
		r, n := utf8.DecodeRuneInString(text[i:end])
		if strings.ContainsRune("」』”’）)", r) {
			i += n
			continue
		}
		break
	}
	return i
}

// endsSentence reports whether the stop that ends at text[i] ends a sentence: a
// blank follows, then no small letter, and no abbreviation stands before.
func endsSentence(text string, from, i, end int) bool {
	if i >= end {
		return true
	}
	if text[i] > ' ' {
		return false
	}
	j := i
	for j < end && text[j] <= ' ' {
		j++
	}
	if j >= end {
		return true
	}
	next, _ := utf8.DecodeRuneInString(text[j:end])
	if unicode.IsLower(next) {
		return false
	}
	return text[i-1] != '.' || !isAbbreviation(text[from:i-1])
}

// isAbbreviation reports whether the last word of a text takes a stop without
// ending a sentence: an initial, or a common title.
func isAbbreviation(text string) bool {
	start := len(text)
	for start > 0 && (isLetter(text[start-1]) || text[start-1] == '.') {
		start--
	}
	word := text[start:]
	if len(word) == 1 {
		return word != "I"
	}
	switch strings.ToLower(word) {
	case "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "no", "vol", "fig", "gen", "col", "lt", "sgt", "capt",
		"rev", "c", "v", "hon", "gov", "sen", "rep", "inc", "ltd", "co", "corp", "dept", "approx", "ca", "cf", "e.g", "i.e", "al", "etc", "op", "pp", "ed":
		return true
	}
	return false
}
